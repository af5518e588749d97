// A dense grid that holds density and colour themselves, read trilinearly. table [n^3, width], width 4 (raw density, raw colour) or
// 7 (and the gradient of the scaled raw density in world units). [begin, end) counts samples.
//
// logit = scale * raw + blob(x);  density = softplus(logit) or exp(logit), 0 outside the box;  albedo = sigmoid(raw colour);
// normal = -(gradient + gradient of the blob), of unit length; `lengths` is what it was divided by.
//
// Two corners that differ in z are neighbours in the table, so a cell is four pieces of 2 * width numbers.

enum { NAME(SOFTPLUS) = 0, NAME(EXP) = 1 };

struct NAME(Cells) {
    int plane[BLOCK], row[BLOCK];  // of the lowest corner: its x, and its row
    REAL part[3][2][BLOCK];        // weight of the lower and the upper point of each axis
};

DEVICE void NAME(cells_at)(const REAL (*x)[BLOCK], int n, NAME(Cells)& cells) {
    FOR_EACH_LANE(k, BLOCK) {
        int low[3];
        for (int axis = 0; axis < 3; ++axis) {
            const REAL unit = least(most(x[axis][k] * (REAL)0.5 + (REAL)0.5, (REAL)0), (REAL)1) * (REAL)(n - 1);
            low[axis] = least((int)unit, n - 2);
            cells.part[axis][1][k] = unit - (REAL)low[axis];
            cells.part[axis][0][k] = 1 - cells.part[axis][1][k];
        }
        cells.plane[k] = low[0];
        cells.row[k] = (low[0] * n + low[1]) * n + low[2];
    }
}

template <int width>
DEVICE void NAME(read_cells)(const REAL* table, int n, const NAME(Cells)& cells, REAL (*raw)[BLOCK]) {
    FOR_EACH_LANE(k, BLOCK) {
        REAL both[2 * width] = {};
        for (int corner = 0; corner < 4; ++corner) {
            const int ix = corner >> 1, iy = corner & 1;
            const REAL weight = cells.part[0][ix][k] * cells.part[1][iy][k];
            const REAL* rows = table + (int64)(cells.row[k] + (ix * n + iy) * n) * width;
            for (int f = 0; f < 2 * width; ++f) both[f] += weight * rows[f];
        }
        for (int f = 0; f < width; ++f) raw[f][k] = cells.part[2][0][k] * both[f] + cells.part[2][1][k] * both[width + f];
    }
}

// Only rows of planes first <= x < last: on a CPU each thread has planes of its own.
template <int width>
DEVICE void NAME(add_cells)(REAL* d_table, int n, const NAME(Cells)& cells, int64 count, int first, int last, const REAL (*d_raw)[BLOCK]) {
    FOR_EACH_LANE(k, count) {
        REAL both[2 * width];
        for (int f = 0; f < width; ++f) {
            both[f] = cells.part[2][0][k] * d_raw[f][k];
            both[width + f] = cells.part[2][1][k] * d_raw[f][k];
        }
        for (int corner = 0; corner < 4; ++corner) {
            const int ix = corner >> 1, iy = corner & 1, plane = cells.plane[k] + ix;
            if (plane < first || plane >= last) continue;
            const REAL weight = cells.part[0][ix][k] * cells.part[1][iy][k];
            REAL* rows = d_table + (int64)(cells.row[k] + (ix * n + iy) * n) * width;
            for (int f = 0; f < 2 * width; ++f) ADD(rows + f, weight * both[f]);
        }
    }
}

// Softplus: b (1 - |x| / r).  Exp: log(b exp(-2 |x|^2 / r^2) + mist).  Its gradient is x times `slope`.
template <bool is_exp>
DEVICE void NAME(blob_at)(const REAL (*x)[BLOCK], REAL density, REAL radius, REAL mist, REAL* value, REAL* slope) {
    FOR_EACH_LANE(k, BLOCK) {
        const REAL square = x[0][k] * x[0][k] + x[1][k] * x[1][k] + x[2][k] * x[2][k];
        if (is_exp) {
            const REAL gaussian = density * exp_of(-2 * square / (radius * radius));
            value[k] = log_of(gaussian + mist);
            slope[k] = gaussian / (gaussian + mist) * (-4 / (radius * radius));
        } else {
            const REAL length = sqrt_of(square);
            value[k] = density * (1 - length / radius);
            slope[k] = length > 0 ? -density / (radius * length) : 0;
        }
    }
}

DEVICE REAL NAME(softplus)(REAL x) {
    const REAL size = x < 0 ? -x : x;
    return x > 20 ? x : most(x, (REAL)0) + log1p_of(exp_of(-size));
}

template <int width>
DEVICE void NAME(dense_forward)(const REAL* table, int n, const REAL* positions, int64 activation, REAL scale, REAL blob_density,
                                REAL blob_radius, REAL mist, int64 count, REAL* densities, REAL* albedo, REAL* normals, REAL* lengths) {
    NAME(Cells) cells;
    REAL x[3][BLOCK], raw[width][BLOCK], blob[BLOCK], slope[BLOCK];
    load_lanes(positions, count, x);
    NAME(cells_at)(x, n, cells);
    NAME(read_cells)<width>(table, n, cells, raw);
    if (activation == NAME(EXP)) {
        NAME(blob_at)<true>(x, blob_density, blob_radius, mist, blob, slope);
        FOR_EACH_LANE(k, BLOCK) raw[0][k] = exp_of(scale * raw[0][k] + blob[k]);
    } else {
        NAME(blob_at)<false>(x, blob_density, blob_radius, mist, blob, slope);
        FOR_EACH_LANE(k, BLOCK) raw[0][k] = NAME(softplus)(scale * raw[0][k] + blob[k]);
    }
    FOR_EACH_LANE(k, BLOCK) {
        const bool is_inside = (x[0][k] >= -1) & (x[0][k] <= 1) & (x[1][k] >= -1) & (x[1][k] <= 1) & (x[2][k] >= -1) & (x[2][k] <= 1);
        raw[0][k] = is_inside ? raw[0][k] : 0;
        for (int c = 1; c < 4; ++c) raw[c][k] = 1 / (1 + exp_of(-raw[c][k]));
    }
    FOR_EACH_LANE(k, count) {
        densities[k] = raw[0][k];
        for (int c = 0; c < 3; ++c) albedo[3 * k + c] = raw[1 + c][k];
    }
    if (width == 7) {
        REAL length[BLOCK];
        FOR_EACH_LANE(k, BLOCK) {
            REAL square = 0;
            for (int axis = 0; axis < 3; ++axis) {
                raw[width - 3 + axis][k] += x[axis][k] * slope[k];
                square += raw[width - 3 + axis][k] * raw[width - 3 + axis][k];
            }
            length[k] = most(sqrt_of(square), (REAL)1e-6);
        }
        FOR_EACH_LANE(k, count) {
            lengths[k] = length[k];
            for (int axis = 0; axis < 3; ++axis) normals[3 * k + axis] = -raw[width - 3 + axis][k] / length[k];
        }
    }
}

KERNEL NAME(dense_field_forward)(const REAL* table, int64 width, int64 n, const REAL* positions, int64 activation, REAL scale,
                                 REAL blob_density, REAL blob_radius, REAL mist, REAL* densities, REAL* albedo, REAL* normals,
                                 REAL* lengths, int64 begin, int64 end) {
    FOR_EACH_BLOCK(i, count) {
        const REAL* x = positions + 3 * i;
        if (width == 7)
            NAME(dense_forward)<7>(table, (int)n, x, activation, scale, blob_density, blob_radius, mist, count, densities + i,
                                   albedo + 3 * i, normals + 3 * i, lengths + i);
        else
            NAME(dense_forward)<4>(table, (int)n, x, activation, scale, blob_density, blob_radius, mist, count, densities + i,
                                   albedo + 3 * i, 0, 0);
    }
}

// All slopes come from what forward returned: the table is not read again. exp's slope is cut at exp(15), as the twin's.
template <int width>
DEVICE void NAME(dense_backward)(int64 count, int64 activation, REAL scale, const REAL* densities, const REAL* albedo,
                                 const REAL* normals, const REAL* lengths, const REAL* d_densities, const REAL* d_albedo,
                                 const REAL* d_normals, REAL (*d_raw)[BLOCK]) {
    FOR_EACH_LANE(k, BLOCK) {
        const int at = least(k, (int)count - 1);
        const REAL density = densities[at];
        const REAL slope = activation == NAME(EXP) ? least(density, (REAL)3269017.3724721107)
                                                   : (density > 20 ? (REAL)1 : -expm1_of(-density));
        d_raw[0][k] = d_densities[at] * scale * slope;
        for (int c = 0; c < 3; ++c) {
            const REAL color = albedo[3 * at + c];
            d_raw[1 + c][k] = d_albedo[3 * at + c] * color * (1 - color);
        }
        if (width == 7) {  // through -g / |g|
            const REAL *normal = normals + 3 * at, *d = d_normals + 3 * at, length = lengths[at];
            const REAL along = length > (REAL)1e-6 ? normal[0] * d[0] + normal[1] * d[1] + normal[2] * d[2] : 0;
            for (int axis = 0; axis < 3; ++axis) d_raw[width - 3 + axis][k] = (normal[axis] * along - d[axis]) / length;
        }
    }
}

// Adds to d_table the rows of planes [first, last). On a CPU each thread walks over all samples and has planes of its own: then no two
// add to one row, and the sum is the same for any number of threads.
KERNEL NAME(dense_field_backward)(int64 width, int64 n, const REAL* positions, int64 activation, REAL scale, const REAL* densities,
                                  const REAL* albedo, const REAL* normals, const REAL* lengths, const REAL* d_densities,
                                  const REAL* d_albedo, const REAL* d_normals, int64 first, int64 last, REAL* d_table, int64 begin,
                                  int64 end) {
    FOR_EACH_BLOCK(i, count) {
        NAME(Cells) cells;
        REAL x[3][BLOCK], d_raw[7][BLOCK];
        load_lanes(positions + 3 * i, count, x);
        NAME(cells_at)(x, (int)n, cells);
        int met = 0;
        FOR_EACH_LANE(k, BLOCK) met |= (cells.plane[k] + 1 >= first) & (cells.plane[k] < last);
        if (!met) continue;
        if (width == 7) {
            NAME(dense_backward)<7>(count, activation, scale, densities + i, albedo + 3 * i, normals + 3 * i, lengths + i,
                                    d_densities + i, d_albedo + 3 * i, d_normals + 3 * i, d_raw);
            NAME(add_cells)<7>(d_table, (int)n, cells, count, (int)first, (int)last, d_raw);
        } else {
            NAME(dense_backward)<4>(count, activation, scale, densities + i, albedo + 3 * i, 0, 0, d_densities + i, d_albedo + 3 * i,
                                    0, d_raw);
            NAME(add_cells)<4>(d_table, (int)n, cells, count, (int)first, (int)last, d_raw);
        }
    }
}
