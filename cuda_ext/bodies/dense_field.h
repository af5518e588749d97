// A dense grid that holds density and colour themselves, read trilinearly. table [n^3, width], width 4 (raw density, raw colour) or
// 7 (and the gradient of the scaled raw density in world units). One thread per sample; [begin, end) counts samples.
//
// logit = scale * raw + blob(x);  density = softplus(logit) or exp(logit), 0 outside the box;  albedo = sigmoid(raw colour);
// normal = -(gradient + gradient of the blob), of unit length.

enum { NAME(SOFTPLUS) = 0, NAME(EXP) = 1 };

struct NAME(Cell) {
    int64 row[8];
    REAL weight[8];
};

DEVICE NAME(Cell) NAME(cell_at)(const REAL* x, int64 n) {
    NAME(Cell) cell;
    int64 low[3];
    REAL part[3];
    for (int axis = 0; axis < 3; ++axis) {
        const REAL unit = least(most(x[axis] * (REAL)0.5 + (REAL)0.5, (REAL)0), (REAL)1) * (REAL)(n - 1);
        low[axis] = least((int64)unit, n - 2);
        part[axis] = unit - (REAL)low[axis];
    }
    for (int corner = 0; corner < 8; ++corner) {
        const int ix = corner >> 2, iy = (corner >> 1) & 1, iz = corner & 1;
        cell.row[corner] = ((low[0] + ix) * n + low[1] + iy) * n + low[2] + iz;
        cell.weight[corner] = (ix ? part[0] : 1 - part[0]) * (iy ? part[1] : 1 - part[1]) * (iz ? part[2] : 1 - part[2]);
    }
    return cell;
}

DEVICE void NAME(read_cell)(const REAL* table, int64 width, const NAME(Cell)& cell, REAL* raw) {
    for (int f = 0; f < width; ++f) raw[f] = 0;
    for (int corner = 0; corner < 8; ++corner) {
        const REAL* row = table + cell.row[corner] * width;
        for (int f = 0; f < width; ++f) raw[f] += cell.weight[corner] * row[f];
    }
}

DEVICE bool NAME(is_inside)(const REAL* x) {
    return x[0] >= -1 && x[0] <= 1 && x[1] >= -1 && x[1] <= 1 && x[2] >= -1 && x[2] <= 1;
}

// Softplus: b (1 - |x| / r).  Exp: log(b exp(-2 |x|^2 / r^2) + mist).  `slope` gets the gradient.
DEVICE REAL NAME(blob)(const REAL* x, int64 activation, REAL density, REAL radius, REAL mist, REAL* slope) {
    const REAL square = x[0] * x[0] + x[1] * x[1] + x[2] * x[2];
    REAL value, factor;
    if (activation == NAME(SOFTPLUS)) {
        const REAL length = sqrt_of(square);
        value = density * (1 - length / radius);
        factor = length > 0 ? -density / (radius * length) : 0;
    } else {
        const REAL gaussian = density * exp_of(-2 * square / (radius * radius));
        value = log_of(gaussian + mist);
        factor = gaussian / (gaussian + mist) * (-4 / (radius * radius));
    }
    for (int axis = 0; axis < 3; ++axis) slope[axis] = factor * x[axis];
    return value;
}

DEVICE REAL NAME(activated)(REAL logit, int64 activation) {
    if (activation == NAME(EXP)) return exp_of(logit);
    return logit > 20 ? logit : log1p_of(exp_of(logit));
}

// exp's slope is cut at exp(15), as the twin's.
DEVICE REAL NAME(activation_slope)(REAL logit, int64 activation) {
    if (activation == NAME(EXP)) return exp_of(least(logit, (REAL)15));
    return logit > 20 ? (REAL)1 : 1 / (1 + exp_of(-logit));
}

template <int width>
DEVICE void NAME(dense_forward_one)(const REAL* table, int64 n, const REAL* x, int64 activation, REAL scale, REAL blob_density,
                                    REAL blob_radius, REAL mist, REAL* density, REAL* albedo, REAL* normal) {
    REAL raw[width], slope[3];
    NAME(read_cell)(table, width, NAME(cell_at)(x, n), raw);
    const REAL logit = scale * raw[0] + NAME(blob)(x, activation, blob_density, blob_radius, mist, slope);
    *density = NAME(is_inside)(x) ? NAME(activated)(logit, activation) : 0;
    for (int c = 0; c < 3; ++c) albedo[c] = 1 / (1 + exp_of(-raw[1 + c]));
    if (width == 7) {
        REAL g[3], square = 0;
        for (int axis = 0; axis < 3; ++axis) {
            g[axis] = raw[width - 3 + axis] + slope[axis];
            square += g[axis] * g[axis];
        }
        const REAL length = most(sqrt_of(square), (REAL)1e-6);
        for (int axis = 0; axis < 3; ++axis) normal[axis] = -g[axis] / length;
    }
}

KERNEL NAME(dense_field_forward)(const REAL* table, int64 width, int64 n, const REAL* positions, int64 activation, REAL scale,
                                 REAL blob_density, REAL blob_radius, REAL mist, REAL* densities, REAL* albedo, REAL* normals,
                                 int64 begin, int64 end) {
    FOR_EACH(i) {
        const REAL* x = positions + 3 * i;
        if (width == 7)
            NAME(dense_forward_one)<7>(table, n, x, activation, scale, blob_density, blob_radius, mist, densities + i, albedo + 3 * i,
                                       normals + 3 * i);
        else
            NAME(dense_forward_one)<4>(table, n, x, activation, scale, blob_density, blob_radius, mist, densities + i, albedo + 3 * i, 0);
    }
}

template <int width>
DEVICE void NAME(dense_backward_one)(const REAL* table, int64 n, const REAL* x, int64 activation, REAL scale, REAL blob_density,
                                     REAL blob_radius, REAL mist, REAL d_density, const REAL* d_albedo, const REAL* d_normal,
                                     REAL* d_table) {
    REAL raw[width], slope[3], d_raw[width];
    const NAME(Cell) cell = NAME(cell_at)(x, n);
    NAME(read_cell)(table, width, cell, raw);
    const REAL logit = scale * raw[0] + NAME(blob)(x, activation, blob_density, blob_radius, mist, slope);
    d_raw[0] = NAME(is_inside)(x) ? d_density * scale * NAME(activation_slope)(logit, activation) : 0;
    for (int c = 0; c < 3; ++c) {
        const REAL color = 1 / (1 + exp_of(-raw[1 + c]));
        d_raw[1 + c] = d_albedo[c] * color * (1 - color);
    }
    if (width == 7) {  // through -g / |g|
        REAL g[3], square = 0, along = 0;
        for (int axis = 0; axis < 3; ++axis) {
            g[axis] = raw[width - 3 + axis] + slope[axis];
            square += g[axis] * g[axis];
            along += g[axis] * d_normal[axis];
        }
        const REAL length = sqrt_of(square);
        for (int axis = 0; axis < 3; ++axis)
            d_raw[width - 3 + axis] =
                length > (REAL)1e-6 ? -(d_normal[axis] - g[axis] * along / square) / length : -d_normal[axis] / (REAL)1e-6;
    }
    for (int corner = 0; corner < 8; ++corner) {
        REAL* row = d_table + cell.row[corner] * width;
        for (int f = 0; f < width; ++f) ADD(row + f, cell.weight[corner] * d_raw[f]);
    }
}

// On a CPU every thread adds into a table of its own.
KERNEL NAME(dense_field_backward)(const REAL* table, int64 width, int64 n, const REAL* positions, int64 activation, REAL scale,
                                  REAL blob_density, REAL blob_radius, REAL mist, const REAL* d_densities, const REAL* d_albedo,
                                  const REAL* d_normals, REAL* d_table, int64 begin, int64 end) {
    FOR_EACH(i) {
        const REAL* x = positions + 3 * i;
        if (width == 7)
            NAME(dense_backward_one)<7>(table, n, x, activation, scale, blob_density, blob_radius, mist, d_densities[i], d_albedo + 3 * i,
                                        d_normals + 3 * i, d_table);
        else
            NAME(dense_backward_one)<4>(table, n, x, activation, scale, blob_density, blob_radius, mist, d_densities[i], d_albedo + 3 * i,
                                        0, d_table);
    }
}
