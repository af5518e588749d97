// Total variation of a hash grid's levels (see hash_grid.h) at drawn places: of each place's cell in a level, the squared difference
// of its lowest corner's row to the next row along x, y and z, summed, times openness squared.
//
// Number f of row r stands at table[r * row_step + f * step]: a dense grid's level, which lies number by number, is one level like any.
// Index i runs through the levels, within a level through the samples.

// The place's rows are corner 0 of its cell, and corner 4 >> axis.
template <int fixed_width>
DEVICE void NAME(tv_read)(const REAL* rows, int64 any_width, int64 row_step, int64 step, const NAME(Cubes)& cubes, REAL factor,
                          int64 count, REAL* values) {
    const int64 width = fixed_width ? fixed_width : any_width;
    FOR_EACH_LANE(k, count) {
        const REAL* here = rows + cubes.row[0][k] * row_step;
        REAL sum = 0;
        for (int axis = 0; axis < 3; ++axis) {
            const REAL* next = rows + cubes.row[4 >> axis][k] * row_step;
            UNROLL_IF_KNOWN(fixed_width)
            for (int64 f = 0; f < width; ++f) {
                const REAL difference = next[f * step] - here[f * step];
                sum += difference * difference;
            }
        }
        values[k] = factor * sum;
    }
}

template <int fixed_width>
DEVICE void NAME(tv_add)(const REAL* rows, REAL* d_rows, int64 any_width, int64 row_step, int64 step, const NAME(Cubes)& cubes,
                         REAL factor, int64 count, const REAL* d_values) {
    const int64 width = fixed_width ? fixed_width : any_width;
    FOR_EACH_LANE(k, count) {
        int64 row[4];  // the lowest corner's, then the next ones'
        for (int p = 0; p < 4; ++p) row[p] = cubes.row[p ? 8 >> p : 0][k] * row_step;
        const REAL slope = 2 * factor * d_values[k];
        UNROLL_IF_KNOWN(fixed_width)
        for (int64 f = 0; f < width; ++f) {
            // All are read before any is written: the compiler cannot know that rows and d_rows are two tables.
            REAL pull[4] = {0, 0, 0, 0};
            for (int p = 1; p < 4; ++p) {
                pull[p] = slope * (rows[row[p] + f * step] - rows[row[0] + f * step]);
                pull[0] -= pull[p];
            }
            for (int p = 0; p < 4; ++p) ADD(d_rows + row[p] + f * step, pull[p]);
        }
    }
}

// The rows alone; what else cubes_at makes is not read, so the compiler leaves it out.
DEVICE void NAME(tv_rows)(const REAL* positions, int64 resolution, int64 size, int64 count, NAME(Cubes)& cubes) {
    REAL x[3][BLOCK];
    load_lanes(positions, count, x);
    NAME(cubes_at)<false>(x, resolution, size, 0, cubes);
}

// values [L, M].
KERNEL NAME(grid_tv_forward)(const REAL* table, int64 width, int64 row_step, int64 step, const int64* resolutions, const int64* sizes,
                             const int64* first, const REAL* openness, int64 n_levels, const REAL* positions, int64 n_samples,
                             REAL* values, int64 begin, int64 end) {
    NAME(Place) at = {0, 0, 0};
    FOR_EACH_BLOCK(i, count) {
        NAME(move_on)(at, i, n_samples, n_levels, n_samples);
        const REAL open = openness[at.level], *rows = table + first[at.level] * row_step;
        count = least(count, at.left);
        if (open == 0) {
            FOR_EACH_LANE(k, count) values[i + k] = 0;
            continue;
        }
        NAME(Cubes) cubes;
        NAME(tv_rows)(positions + 3 * at.sample, resolutions[at.level], sizes[at.level], count, cubes);
        if (width == 2) NAME(tv_read)<2>(rows, width, row_step, step, cubes, open * open, count, values + i);
        else if (width == 4) NAME(tv_read)<4>(rows, width, row_step, step, cubes, open * open, count, values + i);
        else NAME(tv_read)<0>(rows, width, row_step, step, cubes, open * open, count, values + i);
    }
}

// Adds to d_table, which lies like the table. Takes levels [level_0, level_0 + n_levels): on a CPU each thread has levels of its own.
KERNEL NAME(grid_tv_backward)(const REAL* table, int64 width, int64 row_step, int64 step, const int64* resolutions, const int64* sizes,
                              const int64* first, const REAL* openness, int64 n_levels, const REAL* positions, int64 n_samples,
                              const REAL* d_values, int64 level_0, REAL* d_table, int64 begin, int64 end) {
    NAME(Place) at = {0, 0, 0};
    FOR_EACH_BLOCK(i, count) {
        NAME(move_on)(at, i, n_samples, n_levels, n_samples);
        const int64 level = level_0 + at.level, row_0 = first[level] * row_step;
        const REAL open = openness[level], *rows = table + row_0, *d = d_values + level_0 * n_samples + i;
        count = least(count, at.left);
        if (open == 0) continue;
        NAME(Cubes) cubes;
        NAME(tv_rows)(positions + 3 * at.sample, resolutions[level], sizes[level], count, cubes);
        if (width == 2) NAME(tv_add)<2>(rows, d_table + row_0, width, row_step, step, cubes, open * open, count, d);
        else if (width == 4) NAME(tv_add)<4>(rows, d_table + row_0, width, row_step, step, cubes, open * open, count, d);
        else NAME(tv_add)<0>(rows, d_table + row_0, width, row_step, step, cubes, open * open, count, d);
    }
}
