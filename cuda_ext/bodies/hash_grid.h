// Multi-resolution hash grid (Instant NGP, 2201.05989). Level l has resolutions[l] cells per axis and sizes[l] rows of `width`
// numbers, a dense grid where its points fit, else shared by hash; its rows begin at first[l] of the table. Positions lie in [0, 1]^3,
// what lies outside is moved to the nearest face. smooth 1 reads t^2 (3 - 2 t) in place of t along each axis.
//
// All three kernels know one form, the sum over corners of weight(x) * table[row] . features. With `directions` v [M, 3] the weight
// is its derivative along v; so these three are also each other's derivatives, to second order in the position.
// Index i = level * n_samples + sample: neighbours work in one level, whose rows then stay in the cache.

struct NAME(Cube) {
    int64 row[8];
    REAL part[3][2];      // weight of the lower and the upper point of each axis
    REAL slope[3], bend[3];  // first and second derivative of the upper one's by the position
};

DEVICE NAME(Cube) NAME(cube_at)(const REAL* x, int64 resolution, int64 size, int64 smooth) {
    NAME(Cube) cube;
    int64 low[3];
    for (int axis = 0; axis < 3; ++axis) {
        const REAL inside = least(most(x[axis], (REAL)0), (REAL)1), cells = (REAL)resolution;
        const REAL slope = inside == x[axis] ? cells : 0;
        low[axis] = least((int64)(inside * cells), resolution - 1);
        const REAL t = inside * cells - (REAL)low[axis];
        const REAL upper = smooth ? t * t * (3 - 2 * t) : t;
        cube.part[axis][0] = 1 - upper;
        cube.part[axis][1] = upper;
        cube.slope[axis] = smooth ? slope * 6 * t * (1 - t) : slope;
        cube.bend[axis] = smooth ? slope * slope * (6 - 12 * t) : 0;
    }
    const int64 n = resolution + 1;
    const bool is_dense = n * n * n <= size;
    for (int corner = 0; corner < 8; ++corner) {
        const int64 cx = low[0] + (corner >> 2), cy = low[1] + ((corner >> 1) & 1), cz = low[2] + (corner & 1);
        cube.row[corner] = is_dense ? (cx * n + cy) * n + cz : (cx ^ (cy * 2654435761LL) ^ (cz * 805459861LL)) & (size - 1);
    }
    return cube;
}

// Derivative of a corner's weight by one axis.
DEVICE REAL NAME(slope_of)(const NAME(Cube)& cube, int corner, int axis) {
    REAL product = (corner >> (2 - axis)) & 1 ? cube.slope[axis] : -cube.slope[axis];
    for (int other = 0; other < 3; ++other)
        if (other != axis) product *= cube.part[other][(corner >> (2 - other)) & 1];
    return product;
}

// Second derivative of a corner's weight by two axes.
DEVICE REAL NAME(bend_of)(const NAME(Cube)& cube, int corner, int a, int b) {
    REAL product = 1;
    for (int axis = 0; axis < 3; ++axis) {
        const int bit = (corner >> (2 - axis)) & 1;
        const REAL change = a == b ? cube.bend[axis] : cube.slope[axis];
        product *= axis == a || axis == b ? (bit ? change : -change) : cube.part[axis][bit];
    }
    return product;
}

// The corner's weight, or its derivative along v.
DEVICE REAL NAME(weight_of)(const NAME(Cube)& cube, int corner, const REAL* v) {
    if (!v) return cube.part[0][corner >> 2] * cube.part[1][(corner >> 1) & 1] * cube.part[2][corner & 1];
    REAL sum = 0;
    for (int axis = 0; axis < 3; ++axis) sum += v[axis] * NAME(slope_of)(cube, corner, axis);
    return sum;
}

template <int fixed_width>
DEVICE void NAME(hash_read)(const REAL* rows, int64 any_width, const NAME(Cube)& cube, const REAL* v, REAL openness, REAL* out) {
    const int64 width = fixed_width ? fixed_width : any_width;
    REAL sum[fixed_width ? fixed_width : 32];
    for (int64 f = 0; f < width; ++f) sum[f] = 0;
    for (int corner = 0; corner < 8; ++corner) {
        const REAL weight = NAME(weight_of)(cube, corner, v);
        const REAL* row = rows + cube.row[corner] * width;
        for (int64 f = 0; f < width; ++f) sum[f] += weight * row[f];
    }
    for (int64 f = 0; f < width; ++f) out[f] = openness * sum[f];
}

template <int fixed_width>
DEVICE void NAME(hash_add)(REAL* rows, int64 any_width, const NAME(Cube)& cube, const REAL* v, REAL openness, const REAL* d_out) {
    const int64 width = fixed_width ? fixed_width : any_width;
    for (int corner = 0; corner < 8; ++corner) {
        const REAL weight = openness * NAME(weight_of)(cube, corner, v);
        REAL* row = rows + cube.row[corner] * width;
        for (int64 f = 0; f < width; ++f) ADD(row + f, weight * d_out[f]);
    }
}

// Adds the form's derivative by the position, or its derivative along v, to sum.
template <int fixed_width>
DEVICE void NAME(hash_pull)(const REAL* rows, int64 any_width, const NAME(Cube)& cube, const REAL* v, REAL openness, const REAL* d_out,
                            REAL* sum) {
    const int64 width = fixed_width ? fixed_width : any_width;
    REAL dot[8];
    for (int corner = 0; corner < 8; ++corner) {
        const REAL* row = rows + cube.row[corner] * width;
        dot[corner] = 0;
        for (int64 f = 0; f < width; ++f) dot[corner] += row[f] * d_out[f];
    }
    for (int axis = 0; axis < 3; ++axis) {
        REAL change = 0;
        if (v) {
            for (int corner = 0; corner < 8; ++corner)
                for (int other = 0; other < 3; ++other) change += dot[corner] * v[other] * NAME(bend_of)(cube, corner, axis, other);
        } else {
            const int b = (axis + 1) % 3, c = (axis + 2) % 3, upper = 4 >> axis;
            for (int side = 0; side < 4; ++side) {  // the four edges along the axis
                const int bit_b = side >> 1, bit_c = side & 1, lower = bit_b * (4 >> b) + bit_c * (4 >> c);
                change += (dot[lower + upper] - dot[lower]) * cube.part[b][bit_b] * cube.part[c][bit_c];
            }
            change *= cube.slope[axis];
        }
        sum[axis] += openness * change;
    }
}

// features [M, L * width]. Closed levels give zeros.
KERNEL NAME(hash_encode)(const REAL* table, int64 width, const int64* resolutions, const int64* sizes, const int64* first,
                         const REAL* openness, int64 n_levels, int64 smooth, const REAL* positions, const REAL* directions,
                         int64 n_samples, REAL* features, int64 begin, int64 end) {
    FOR_EACH(i) {
        const int64 level = i / n_samples, sample = i - level * n_samples;
        REAL* out = features + (sample * n_levels + level) * width;
        if (openness[level] == 0) {
            for (int64 f = 0; f < width; ++f) out[f] = 0;
            continue;
        }
        const NAME(Cube) cube = NAME(cube_at)(positions + 3 * sample, resolutions[level], sizes[level], smooth);
        const REAL *rows = table + first[level] * width, *v = directions ? directions + 3 * sample : 0;
        if (width == 2) NAME(hash_read)<2>(rows, width, cube, v, openness[level], out);
        else if (width == 4) NAME(hash_read)<4>(rows, width, cube, v, openness[level], out);
        else NAME(hash_read)<0>(rows, width, cube, v, openness[level], out);
    }
}

// Adds to d_table. On a CPU a part must hold whole levels: then no two threads add to one row.
KERNEL NAME(hash_table_grad)(const int64* resolutions, const int64* sizes, const int64* first, const REAL* openness, int64 n_levels,
                             int64 smooth, const REAL* positions, const REAL* directions, int64 n_samples, const REAL* d_features,
                             int64 width, REAL* d_table, int64 begin, int64 end) {
    FOR_EACH(i) {
        const int64 level = i / n_samples, sample = i - level * n_samples;
        if (openness[level] == 0) continue;
        const NAME(Cube) cube = NAME(cube_at)(positions + 3 * sample, resolutions[level], sizes[level], smooth);
        const REAL *d_out = d_features + (sample * n_levels + level) * width, *v = directions ? directions + 3 * sample : 0;
        REAL* rows = d_table + first[level] * width;
        if (width == 2) NAME(hash_add)<2>(rows, width, cube, v, openness[level], d_out);
        else if (width == 4) NAME(hash_add)<4>(rows, width, cube, v, openness[level], d_out);
        else NAME(hash_add)<0>(rows, width, cube, v, openness[level], d_out);
    }
}

// d_positions [M, 3]; [begin, end) counts samples.
KERNEL NAME(hash_position_grad)(const REAL* table, int64 width, const int64* resolutions, const int64* sizes, const int64* first,
                                const REAL* openness, int64 n_levels, int64 smooth, const REAL* positions, const REAL* directions,
                                const REAL* d_features, REAL* d_positions, int64 begin, int64 end) {
    FOR_EACH(sample) {
        REAL sum[3] = {0, 0, 0};
        for (int64 level = 0; level < n_levels; ++level) {
            if (openness[level] == 0) continue;
            const NAME(Cube) cube = NAME(cube_at)(positions + 3 * sample, resolutions[level], sizes[level], smooth);
            const REAL *rows = table + first[level] * width, *d_out = d_features + (sample * n_levels + level) * width;
            const REAL* v = directions ? directions + 3 * sample : 0;
            if (width == 2) NAME(hash_pull)<2>(rows, width, cube, v, openness[level], d_out, sum);
            else if (width == 4) NAME(hash_pull)<4>(rows, width, cube, v, openness[level], d_out, sum);
            else NAME(hash_pull)<0>(rows, width, cube, v, openness[level], d_out, sum);
        }
        for (int axis = 0; axis < 3; ++axis) d_positions[3 * sample + axis] = sum[axis];
    }
}
