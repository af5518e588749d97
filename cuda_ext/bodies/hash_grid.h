// Multi-resolution hash grid (Instant NGP, 2201.05989). Level l has resolutions[l] cells per axis and sizes[l] rows of `width`
// numbers, a dense grid where its points fit, else shared by hash; its rows begin at first[l] of the table. Positions lie in [0, 1]^3,
// what lies outside is moved to the nearest face. smooth 1 reads t^2 (3 - 2 t) in place of t along each axis.
//
// All three kernels know one form, the sum over corners of weight(x) * table[row] . features. With `directions` v [M, 3] the weight
// is its derivative along v; so these three are also each other's derivatives, to second order in the position.
//
// With a `mirror`, the table in half precision, that is read in place of the table; sums and gradients are REAL either way.
//
// Index i runs through the samples in chunks (one for each thread of a CPU), within a chunk through the levels, within a level through
// the chunk's samples: neighbours work in one level, whose rows stay in the cache.

struct NAME(Cubes) {
    unsigned row[8][BLOCK];
    REAL part[3][2][BLOCK];                // weight of the lower and the upper point of each axis
    REAL slope[3][BLOCK], bend[3][BLOCK];  // first and second derivative of the upper one's by the position
};

struct NAME(Place) {
    int64 level, sample, left;  // left: how many samples from there on lie in the same level and chunk
};

// To index i, from the block before if there was one. Only at a chunk's end is it divided.
DEVICE void NAME(move_on)(NAME(Place)& at, int64 i, int64 n_samples, int64 n_levels, int64 chunk) {
    if (BLOCK > 1 && at.left > BLOCK) {
        at.sample += BLOCK;
        at.left -= BLOCK;
        return;
    }
    const int64 start = chunk < n_samples ? i / (chunk * n_levels) * chunk : 0, length = least(chunk, n_samples - start);
    const int64 rest = i - start * n_levels, level = rest / length, sample = rest - level * length;
    at = {level, start + sample, length - sample};
}

// Derivatives only where they are asked for.
template <bool with_slopes>
DEVICE void NAME(cubes_at)(const REAL (*x)[BLOCK], int64 resolution, int64 size, int64 smooth, NAME(Cubes)& cubes) {
    const int64 n = resolution + 1;
    const bool is_dense = n * n * n <= size;
    // 32 bits are enough: fewer rows than 2^31, and of a hash only the low bits count.
    const unsigned stride[3] = {is_dense ? (unsigned)(n * n) : 1u, is_dense ? (unsigned)n : 2654435761u, is_dense ? 1u : 805459861u};
    // Both kinds of rows by arithmetic: a choice would become masked stores, which cost more than all the rest.
    const unsigned dense_bits = is_dense ? ~0u : 0u, hash_bits = is_dense ? 0u : (unsigned)size - 1;
    const int last = (int)resolution - 1;
    const REAL cells = (REAL)resolution;
    FOR_EACH_LANE(k, BLOCK) {
        unsigned at[3][2];
        for (int axis = 0; axis < 3; ++axis) {
            const REAL given = x[axis][k], inside = least(most(given, (REAL)0), (REAL)1);
            const int low = least((int)(inside * cells), last);
            const REAL t = inside * cells - (REAL)low;
            const REAL upper = smooth ? t * t * (3 - 2 * t) : t;
            at[axis][0] = (unsigned)low * stride[axis];
            at[axis][1] = at[axis][0] + stride[axis];
            cubes.part[axis][0][k] = 1 - upper;
            cubes.part[axis][1][k] = upper;
            if (with_slopes) {
                const REAL slope = inside == given ? cells : 0;
                cubes.slope[axis][k] = smooth ? slope * 6 * t * (1 - t) : slope;
                cubes.bend[axis][k] = smooth ? slope * slope * (6 - 12 * t) : 0;
            }
        }
        for (int corner = 0; corner < 8; ++corner) {
            const unsigned a = at[0][corner >> 2], b = at[1][(corner >> 1) & 1], c = at[2][corner & 1];
            cubes.row[corner][k] = ((a + b + c) & dense_bits) | ((a ^ b ^ c) & hash_bits);
        }
    }
}

// Derivative of a corner's weight by one axis.
DEVICE REAL NAME(slope_of)(const NAME(Cubes)& cubes, int corner, int axis, int k) {
    REAL product = (corner >> (2 - axis)) & 1 ? cubes.slope[axis][k] : -cubes.slope[axis][k];
    for (int other = 0; other < 3; ++other)
        if (other != axis) product *= cubes.part[other][(corner >> (2 - other)) & 1][k];
    return product;
}

// Rows and weights of all corners of a block, times openness; with directions v the weights' derivatives along v.
DEVICE void NAME(corners_of)(const REAL* positions, const REAL* directions, int64 resolution, int64 size, int64 smooth, REAL openness,
                             int64 count, NAME(Cubes)& cubes, REAL (*weights)[BLOCK]) {
    REAL x[3][BLOCK], v[3][BLOCK];
    load_lanes(positions, count, x);
    if (directions) {
        load_lanes(directions, count, v);
        NAME(cubes_at)<true>(x, resolution, size, smooth, cubes);
        FOR_EACH_LANE(k, BLOCK)
            for (int corner = 0; corner < 8; ++corner) {
                REAL sum = 0;
                for (int axis = 0; axis < 3; ++axis) sum += v[axis][k] * NAME(slope_of)(cubes, corner, axis, k);
                weights[corner][k] = openness * sum;
            }
    } else {
        NAME(cubes_at)<false>(x, resolution, size, smooth, cubes);
        FOR_EACH_LANE(k, BLOCK)
            for (int corner = 0; corner < 8; ++corner)
                weights[corner][k] = openness * (cubes.part[0][corner >> 2][k] * cubes.part[1][(corner >> 1) & 1][k]) *
                                     cubes.part[2][corner & 1][k];
    }
}

// What lies between two samples' features is `stride` numbers. Stored: REAL or half.
template <int fixed_width, typename Stored>
DEVICE void NAME(hash_read)(const Stored* rows, int64 any_width, const NAME(Cubes)& cubes, const REAL (*weights)[BLOCK], int64 count,
                            REAL* features, int64 stride) {
    const int64 width = fixed_width ? fixed_width : any_width;
    FOR_EACH_LANE(k, count) {
        REAL sum[fixed_width ? fixed_width : 32];
        UNROLL_IF_KNOWN(fixed_width)
        for (int64 f = 0; f < width; ++f) sum[f] = 0;
        for (int corner = 0; corner < 8; ++corner) {
            const Stored* row = rows + cubes.row[corner][k] * width;
            Row<fixed_width, Stored> whole;
            if (is_row<fixed_width, Stored>) whole = *(const Row<fixed_width, Stored>*)row, row = whole.number;
            UNROLL_IF_KNOWN(fixed_width)
            for (int64 f = 0; f < width; ++f) sum[f] += weights[corner][k] * number_of(row[f]);
        }
        UNROLL_IF_KNOWN(fixed_width)
        for (int64 f = 0; f < width; ++f) features[k * stride + f] = sum[f];
    }
}

template <typename Stored>
DEVICE void NAME(hash_read_any)(const Stored* rows, int64 width, const NAME(Cubes)& cubes, const REAL (*weights)[BLOCK], int64 count,
                                REAL* features, int64 stride) {
    if (width == 2) NAME(hash_read)<2>(rows, width, cubes, weights, count, features, stride);
    else if (width == 4) NAME(hash_read)<4>(rows, width, cubes, weights, count, features, stride);
    else NAME(hash_read)<0>(rows, width, cubes, weights, count, features, stride);
}

template <int fixed_width>
DEVICE void NAME(hash_add)(REAL* rows, int64 any_width, const NAME(Cubes)& cubes, const REAL (*weights)[BLOCK], int64 count,
                           const REAL* d_features, int64 stride) {
    const int64 width = fixed_width ? fixed_width : any_width;
    FOR_EACH_LANE(k, count) {
        REAL d_out[fixed_width ? fixed_width : 32];  // a copy: the compiler cannot know that d_features is no part of rows
        UNROLL_IF_KNOWN(fixed_width)
        for (int64 f = 0; f < width; ++f) d_out[f] = d_features[k * stride + f];
        for (int corner = 0; corner < 8; ++corner) {
            REAL* row = rows + cubes.row[corner][k] * width;
            UNROLL_IF_KNOWN(fixed_width)
            for (int64 f = 0; f < width; ++f) ADD(row + f, weights[corner][k] * d_out[f]);
        }
    }
}

// What the corners' numbers `dot` say about the position: sum over the four edges along an axis of (upper - lower), and over the two
// sides of that axis of the twist in the other two, each with the weights of the remaining axes.
template <int axis> DEVICE REAL NAME(edges_along)(const REAL (*dot)[BLOCK], const NAME(Cubes)& cubes, int k) {
    const int b = (axis + 1) % 3, c = (axis + 2) % 3, upper = 4 >> axis;
    REAL sum = 0;
    for (int side = 0; side < 4; ++side) {
        const int bit_b = side >> 1, bit_c = side & 1, lower = bit_b * (4 >> b) + bit_c * (4 >> c);
        sum += (dot[lower + upper][k] - dot[lower][k]) * (cubes.part[b][bit_b][k] * cubes.part[c][bit_c][k]);
    }
    return sum;
}

template <int axis> DEVICE REAL NAME(twist_across)(const REAL (*dot)[BLOCK], const NAME(Cubes)& cubes, int k) {
    const int b = 4 >> ((axis + 1) % 3), c = 4 >> ((axis + 2) % 3), a = 4 >> axis;
    return cubes.part[axis][0][k] * (dot[b + c][k] - dot[b][k] - dot[c][k] + dot[0][k]) +
           cubes.part[axis][1][k] * (dot[a + b + c][k] - dot[a + b][k] - dot[a + c][k] + dot[a][k]);
}

// The form's derivative by the position along one axis, or (along) that one's derivative along v.
template <int axis>
DEVICE REAL NAME(pull_along)(const REAL (*dot)[BLOCK], const NAME(Cubes)& cubes, bool along, const REAL (*v)[BLOCK], int k) {
    const int b = (axis + 1) % 3, c = (axis + 2) % 3;
    const REAL edges = NAME(edges_along)<axis>(dot, cubes, k);
    if (!along) return cubes.slope[axis][k] * edges;
    const REAL along_b = cubes.slope[b][k] * NAME(twist_across)<c>(dot, cubes, k) * v[b][k];
    const REAL along_c = cubes.slope[c][k] * NAME(twist_across)<b>(dot, cubes, k) * v[c][k];
    return cubes.bend[axis][k] * edges * v[axis][k] + cubes.slope[axis][k] * (along_b + along_c);
}

// Adds all three to sums.
template <int fixed_width, typename Stored>
DEVICE void NAME(hash_pull)(const Stored* rows, int64 any_width, const NAME(Cubes)& cubes, bool along, const REAL (*v)[BLOCK],
                            REAL openness, int64 count, const REAL* d_features, int64 stride, REAL (*sums)[BLOCK]) {
    const int64 width = fixed_width ? fixed_width : any_width;
    REAL dot[8][BLOCK];
    // Levels follow each other in each block, so that most rows come from afar: all are asked for before the first is computed with.
    Row<fixed_width, Stored> fetched[8][BLOCK];
    if (is_row<fixed_width, Stored>)
        FOR_EACH_LANE(k, BLOCK)
            for (int corner = 0; corner < 8; ++corner) fetched[corner][k] = ((const Row<fixed_width, Stored>*)rows)[cubes.row[corner][k]];
    FOR_EACH_LANE(k, BLOCK) {
        const REAL* d_out = d_features + least(k, (int)count - 1) * stride;
        for (int corner = 0; corner < 8; ++corner) {
            const Stored* row = is_row<fixed_width, Stored> ? fetched[corner][k].number : rows + cubes.row[corner][k] * width;
            REAL sum = 0;
            UNROLL_IF_KNOWN(fixed_width)
            for (int64 f = 0; f < width; ++f) sum += number_of(row[f]) * d_out[f];
            dot[corner][k] = openness * sum;
        }
    }
    FOR_EACH_LANE(k, BLOCK) {
        sums[0][k] += NAME(pull_along)<0>(dot, cubes, along, v, k);
        sums[1][k] += NAME(pull_along)<1>(dot, cubes, along, v, k);
        sums[2][k] += NAME(pull_along)<2>(dot, cubes, along, v, k);
    }
}

template <typename Stored>
DEVICE void NAME(hash_pull_any)(const Stored* rows, int64 width, const NAME(Cubes)& cubes, bool along, const REAL (*v)[BLOCK],
                                REAL openness, int64 count, const REAL* d_features, int64 stride, REAL (*sums)[BLOCK]) {
    if (width == 2) NAME(hash_pull)<2>(rows, width, cubes, along, v, openness, count, d_features, stride, sums);
    else if (width == 4) NAME(hash_pull)<4>(rows, width, cubes, along, v, openness, count, d_features, stride, sums);
    else NAME(hash_pull)<0>(rows, width, cubes, along, v, openness, count, d_features, stride, sums);
}

// features [M, L * width]. Closed levels give zeros.
KERNEL NAME(hash_encode)(const REAL* table, const half* mirror, int64 width, const int64* resolutions, const int64* sizes,
                         const int64* first, const REAL* openness, int64 n_levels, int64 smooth, const REAL* positions,
                         const REAL* directions, int64 n_samples, int64 chunk, REAL* features, int64 begin, int64 end) {
    const int64 stride = n_levels * width;
    NAME(Place) at = {0, 0, 0};
    FOR_EACH_BLOCK(i, count) {
        NAME(move_on)(at, i, n_samples, n_levels, chunk);
        const int64 level = at.level;
        count = least(count, at.left);
        REAL* out = features + at.sample * stride + level * width;
        if (openness[level] == 0) {
            FOR_EACH_LANE(k, count)
                for (int64 f = 0; f < width; ++f) out[k * stride + f] = 0;
            continue;
        }
        NAME(Cubes) cubes;
        REAL weights[8][BLOCK];
        NAME(corners_of)(positions + 3 * at.sample, directions ? directions + 3 * at.sample : 0, resolutions[level], sizes[level],
                         smooth, openness[level], count, cubes, weights);
        const int64 at_level = first[level] * width;
        if (mirror) NAME(hash_read_any)(mirror + at_level, width, cubes, weights, count, out, stride);
        else NAME(hash_read_any)(table + at_level, width, cubes, weights, count, out, stride);
    }
}

// Adds to d_table. Reads levels [level_0, level_0 + n_levels) of n_all; on a CPU each thread has levels of its own: then no two add to one
// row.
KERNEL NAME(hash_table_grad)(const int64* resolutions, const int64* sizes, const int64* first, const REAL* openness, int64 n_levels,
                             int64 smooth, const REAL* positions, const REAL* directions, int64 n_samples,
                             const REAL* d_features, int64 width, int64 level_0, int64 n_all, REAL* d_table, int64 begin, int64 end) {
    const int64 stride = n_all * width;
    NAME(Place) at = {0, 0, 0};
    FOR_EACH_BLOCK(i, count) {
        NAME(move_on)(at, i, n_samples, n_levels, n_samples);
        const int64 level = level_0 + at.level;
        count = least(count, at.left);
        if (openness[level] == 0) continue;
        NAME(Cubes) cubes;
        REAL weights[8][BLOCK];
        NAME(corners_of)(positions + 3 * at.sample, directions ? directions + 3 * at.sample : 0, resolutions[level], sizes[level],
                         smooth, openness[level], count, cubes, weights);
        const REAL* d_out = d_features + at.sample * stride + level * width;
        REAL* rows = d_table + first[level] * width;
        if (width == 2) NAME(hash_add)<2>(rows, width, cubes, weights, count, d_out, stride);
        else if (width == 4) NAME(hash_add)<4>(rows, width, cubes, weights, count, d_out, stride);
        else NAME(hash_add)<0>(rows, width, cubes, weights, count, d_out, stride);
    }
}

// d_positions [M, 3]; [begin, end) counts samples.
KERNEL NAME(hash_position_grad)(const REAL* table, const half* mirror, int64 width, const int64* resolutions, const int64* sizes,
                                const int64* first, const REAL* openness, int64 n_levels, int64 smooth, const REAL* positions,
                                const REAL* directions, const REAL* d_features, REAL* d_positions, int64 begin, int64 end) {
    const int64 stride = n_levels * width;
    FOR_EACH_BLOCK(sample, count) {
        REAL x[3][BLOCK], v[3][BLOCK], sums[3][BLOCK];
        load_lanes(positions + 3 * sample, count, x);
        const bool along = directions != 0;
        load_lanes(along ? directions + 3 * sample : positions + 3 * sample, count, v);
        FOR_EACH_LANE(k, BLOCK) sums[0][k] = sums[1][k] = sums[2][k] = 0;
        for (int64 level = 0; level < n_levels; ++level) {
            const REAL open = openness[level];
            if (open == 0) continue;
            NAME(Cubes) cubes;
            NAME(cubes_at)<true>(x, resolutions[level], sizes[level], smooth, cubes);
            const REAL* d_out = d_features + sample * stride + level * width;
            const int64 at_level = first[level] * width;
            if (mirror) NAME(hash_pull_any)(mirror + at_level, width, cubes, along, v, open, count, d_out, stride, sums);
            else NAME(hash_pull_any)(table + at_level, width, cubes, along, v, open, count, d_out, stride, sums);
        }
        FOR_EACH_LANE(k, count)
            for (int axis = 0; axis < 3; ++axis) d_positions[3 * (sample + k) + axis] = sums[axis][k];
    }
}
