// Frequency encoding (NeRF, 2003.08934, eq. 4, without its pi): x [M, 3] to features [M, W], W = 3 + 6 bands: x itself, then for each band
// k openness * sin 2^k x and openness * cos 2^k x. [begin, end) counts samples.
//
// Derivatives read sine and cosine from the features, so only the first kernel computes any; each is linear in both of what it is given.

// columns [5, W - 3] say what each number is: by how much to multiply x, y, z, 0 for two of them; sine 0 or cosine 1/2; openness. So a row
// is one loop over numbers that lie side by side.
KERNEL NAME(frequency_encode)(const REAL* __restrict__ x, const REAL* __restrict__ columns, int64 bands, REAL* __restrict__ features,
                              int64 begin, int64 end) {
    const int n = 6 * (int)bands;
    const REAL *by_x = columns, *by_y = by_x + n, *by_z = by_y + n, *shift = by_z + n, *openness = shift + n;
    FOR_EACH(i) {
        const REAL a = x[3 * i], b = x[3 * i + 1], c = x[3 * i + 2];
        REAL* out = features + i * (3 + n);
        out[0] = a;
        out[1] = b;
        out[2] = c;
        UNROLL_IF_KNOWN(0)
        for (int j = 0; j < n; ++j) out[3 + j] = openness[j] * wave_of(a * by_x[j] + (b * by_y[j] + c * by_z[j]), shift[j]);
    }
}

// d_x [M, 3]: the sum over features of their derivatives by x times g [M, W].
KERNEL NAME(frequency_pull)(const REAL* features, const REAL* g, int64 bands, REAL* d_x, int64 begin, int64 end) {
    const int64 width = 3 + 6 * bands;
    FOR_EACH(i) {
        const REAL *f = features + i * width, *d = g + i * width;
        REAL sum[3] = {d[0], d[1], d[2]}, scale = 1;
        UNROLL_IF_KNOWN(0)
        for (int64 k = 0; k < bands; ++k) {
            f += 3;
            d += 3;
            for (int axis = 0; axis < 3; ++axis) sum[axis] += scale * (f[3 + axis] * d[axis] - f[axis] * d[3 + axis]);
            f += 3;
            d += 3;
            scale *= 2;
        }
        for (int axis = 0; axis < 3; ++axis) d_x[3 * i + axis] = sum[axis];
    }
}

// out [M, W]: the features' derivatives along v [M, 3]. With `turned` the same without x itself and of the other sign, which is what pull
// says about its features where `features` is its g.
KERNEL NAME(frequency_push)(const REAL* __restrict__ features, const REAL* __restrict__ v, int64 bands, int64 turned,
                            REAL* __restrict__ out, int64 begin, int64 end) {
    const int64 width = 3 + 6 * bands;
    FOR_EACH(i) {
        const REAL* f = features + i * width;
        REAL* to = out + i * width;
        REAL along[3];
        for (int axis = 0; axis < 3; ++axis) {
            along[axis] = turned ? -v[3 * i + axis] : v[3 * i + axis];
            to[axis] = turned ? 0 : along[axis];
        }
        UNROLL_IF_KNOWN(0)
        for (int64 k = 0; k < bands; ++k) {
            f += 3;
            to += 3;
            for (int axis = 0; axis < 3; ++axis) {
                to[axis] = f[3 + axis] * along[axis];
                to[3 + axis] = -f[axis] * along[axis];
            }
            for (int axis = 0; axis < 3; ++axis) along[axis] *= 2;
            f += 3;
            to += 3;
        }
    }
}
