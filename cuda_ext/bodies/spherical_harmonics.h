// Real spherical harmonics of directions x [M, 3], all l < degree: features [M, degree^2], of which number l^2 + l + m is
//
//   Q_l^m(z) Re (x + iy)^m  for m = 0..l,   Q_l^|m|(z) Im (x + iy)^|m|  for m = -l..-1,
//
// orthonormal on the unit sphere, with the Condon-Shortley sign: l = 1 is 0.4886 (-y, z, -x). Q_l^m is (-1)^m d^m P_l / dz^m times a
// constant, by the recurrence of associated Legendre functions (Sloan, "Efficient Spherical Harmonic Evaluation", 2013). Order, signs and
// polynomials are tiny-cuda-nn's and torch-ngp's. Derivatives are those of the polynomials in x, y, z: nothing is projected to the sphere.
//
// steps [degree, degree, 2] has for m and l >= m what makes Q_l of the two before, see `climb`. A part is Re (0) or Im (1), and m = 0 has no
// Im. Degrees up to 8. [begin, end) counts samples.

typedef REAL NAME(Lanes)[BLOCK];

// q[n], n = 0..orders: the n-th derivatives by z of Q_l^m, by Leibniz' rule from those of l - 1 in q and l - 2 in before. The highest is
// first, for each needs the one below it as it was.
template <int orders> DEVICE void NAME(climb)(const REAL* step, const REAL* z, NAME(Lanes)* q, NAME(Lanes)* before) {
    const REAL up = step[0], down = step[1];
    for (int n = orders; n >= 0; --n)
        FOR_EACH_LANE(k, BLOCK) {
            const REAL below = n ? n * q[n ? n - 1 : 0][k] : 0, last = q[n][k];
            q[n][k] = up * (z[k] * last + below) - down * before[n][k];
            before[n][k] = last;
        }
}

// Before l = m: the first step of each m multiplies nothing but this one.
template <int orders> DEVICE void NAME(start_climb)(NAME(Lanes)* q, NAME(Lanes)* before) {
    for (int n = 0; n <= orders; ++n)
        FOR_EACH_LANE(k, BLOCK) {
            q[n][k] = 0;
            before[n][k] = n ? 0 : 1;
        }
}

// p[n][part]: the n-th derivative of c^m by c = x + iy, from those of m - 1; begun with m = 0 by p[0] = 1 and zeros.
template <int orders> DEVICE void NAME(turn)(const NAME(Lanes)* x, NAME(Lanes) (*p)[2]) {
    for (int n = orders; n >= 0; --n)
        FOR_EACH_LANE(k, BLOCK) {
            const REAL re = p[n][0][k], im = p[n][1][k];
            p[n][0][k] = x[0][k] * re - x[1][k] * im + (n ? n * p[n ? n - 1 : 0][0][k] : 0);
            p[n][1][k] = x[0][k] * im + x[1][k] * re + (n ? n * p[n ? n - 1 : 0][1][k] : 0);
        }
}

DEVICE void NAME(fill)(NAME(Lanes)* lanes, int n, REAL value) {
    for (int j = 0; j < n; ++j)
        FOR_EACH_LANE(k, BLOCK) lanes[j][k] = value;
}

template <int orders> DEVICE void NAME(start_turn)(NAME(Lanes) (*p)[2]) {
    NAME(fill)(p[0], 2 * (orders + 1), 0);
    NAME(fill)(p[0], 1, 1);
}

// A block's features number by number: columns [degree^2], lanes each. In memory they lie sample by sample. A CPU turns them round in a
// tile, row by row, which takes half the time of going down each column; where a block is one sample, its row is its columns already.
#define SPHERICAL_TILE (BLOCK == 1 ? 1 : 64)

DEVICE NAME(Lanes)* NAME(columns_of)(REAL* row, NAME(Lanes)* tile) { return BLOCK == 1 ? (NAME(Lanes)*)row : tile; }

DEVICE const NAME(Lanes)* NAME(read_columns)(const REAL* rows, int width, int64 count, NAME(Lanes)* tile) {
    if (BLOCK == 1) return (const NAME(Lanes)*)rows;
    FOR_EACH_LANE(k, BLOCK)
        for (int j = 0; j < width; ++j) tile[j][k] = rows[least(k, (int)count - 1) * width + j];
    return tile;
}

DEVICE void NAME(write_columns)(const NAME(Lanes)* columns, int width, int64 count, REAL* rows) {
    if (BLOCK == 1) return;
    FOR_EACH_LANE(k, count)
        for (int j = 0; j < width; ++j) rows[k * width + j] = columns[j][k];
}

KERNEL NAME(spherical_encode)(const REAL* __restrict__ x, const REAL* __restrict__ steps, int64 degree, REAL* __restrict__ features,
                              int64 begin, int64 end) {
    const int d = (int)degree, width = d * d;
    FOR_EACH_BLOCK(i, count) {
        NAME(Lanes) at[3], p[1][2], q[1], before[1], tile[SPHERICAL_TILE], *columns = NAME(columns_of)(features + i * width, tile);
        load_lanes(x + 3 * i, count, at);
        NAME(start_turn)<0>(p);
        UNROLL_IF_KNOWN(0)
        for (int m = 0; m < d; ++m) {
            NAME(start_climb)<0>(q, before);
            UNROLL_IF_KNOWN(0)
            for (int l = m; l < d; ++l) {
                NAME(climb)<0>(steps + 2 * (m * d + l), at[2], q, before);
                for (int part = 0; part < 2; ++part) {
                    if (part > m) continue;
                    REAL* to = columns[l * l + l + (part ? -m : m)];
                    FOR_EACH_LANE(k, BLOCK) to[k] = p[0][part][k] * q[0][k];
                }
            }
            NAME(turn)<0>(at, p);
        }
        NAME(write_columns)(columns, width, count, features + i * width);
    }
}

// sums[n][part]: over l of q[n] times the gradient g of that part. So for each m the features times g are
// Re (c^m (sums[0][0] - i sums[0][1])), a function of c and, by the sums, of z.
template <int orders> DEVICE void NAME(add_up)(const NAME(Lanes)* q, const REAL* g, int part, NAME(Lanes) (*sums)[2]) {
    for (int n = 0; n <= orders; ++n)
        FOR_EACH_LANE(k, BLOCK) sums[n][part][k] += q[n][k] * g[k];
}

// Re and -Im of a (s[0] - i s[1]): the derivatives by x and by y where a is one by c.
DEVICE REAL NAME(along_x)(const NAME(Lanes)* a, const NAME(Lanes)* s, int k) { return a[0][k] * s[0][k] + a[1][k] * s[1][k]; }
DEVICE REAL NAME(along_y)(const NAME(Lanes)* a, const NAME(Lanes)* s, int k) { return a[0][k] * s[1][k] - a[1][k] * s[0][k]; }

// d_x [M, 3]: the sum over features of their derivatives by x times g [M, degree^2].
KERNEL NAME(spherical_pull)(const REAL* __restrict__ x, const REAL* __restrict__ g, const REAL* __restrict__ steps, int64 degree,
                            REAL* __restrict__ d_x, int64 begin, int64 end) {
    const int d = (int)degree, width = d * d;
    FOR_EACH_BLOCK(i, count) {
        NAME(Lanes) at[3], p[2][2], q[2], before[2], sums[2][2], out[3], tile[SPHERICAL_TILE];
        const NAME(Lanes)* given = NAME(read_columns)(g + i * width, width, count, tile);
        load_lanes(x + 3 * i, count, at);
        NAME(start_turn)<1>(p);
        NAME(fill)(out, 3, 0);
        UNROLL_IF_KNOWN(0)
        for (int m = 0; m < d; ++m) {
            NAME(start_climb)<1>(q, before);
            NAME(fill)(sums[0], 4, 0);
            UNROLL_IF_KNOWN(0)
            for (int l = m; l < d; ++l) {
                NAME(climb)<1>(steps + 2 * (m * d + l), at[2], q, before);
                for (int part = 0; part < 2; ++part) {
                    if (part > m) continue;
                    NAME(add_up)<1>(q, given[l * l + l + (part ? -m : m)], part, sums);
                }
            }
            FOR_EACH_LANE(k, BLOCK) {
                out[0][k] += NAME(along_x)(p[1], sums[0], k);
                out[1][k] += NAME(along_y)(p[1], sums[0], k);
                out[2][k] += NAME(along_x)(p[0], sums[1], k);
            }
            NAME(turn)<1>(at, p);
        }
        store_lanes(out, count, d_x + 3 * i);
    }
}

// What pull's result times v [M, 3] says about its x and g: d_x [M, 3], the second derivatives of the features, once along v, times g;
// d_g [M, degree^2], their first derivatives along v.
KERNEL NAME(spherical_pull_backward)(const REAL* __restrict__ x, const REAL* __restrict__ g, const REAL* __restrict__ v,
                                     const REAL* __restrict__ steps, int64 degree, REAL* __restrict__ d_x, REAL* __restrict__ d_g,
                                     int64 begin, int64 end) {
    const int d = (int)degree, width = d * d;
    FOR_EACH_BLOCK(i, count) {
        NAME(Lanes) at[3], by[3], p[3][2], q[3], before[3], sums[3][2], out[3], tile[SPHERICAL_TILE], second[SPHERICAL_TILE];
        NAME(Lanes) moved[2][2];  // how p[0] and p[1] move with c
        NAME(Lanes)* along = NAME(columns_of)(d_g + i * width, second);
        const NAME(Lanes)* given = NAME(read_columns)(g + i * width, width, count, tile);
        load_lanes(x + 3 * i, count, at);
        load_lanes(v + 3 * i, count, by);
        NAME(start_turn)<2>(p);
        NAME(fill)(out, 3, 0);
        UNROLL_IF_KNOWN(0)
        for (int m = 0; m < d; ++m) {
            NAME(start_climb)<2>(q, before);
            NAME(fill)(sums[0], 6, 0);
            for (int n = 0; n < 2; ++n)
                FOR_EACH_LANE(k, BLOCK) {
                    moved[n][0][k] = p[n + 1][0][k] * by[0][k] - p[n + 1][1][k] * by[1][k];
                    moved[n][1][k] = p[n + 1][0][k] * by[1][k] + p[n + 1][1][k] * by[0][k];
                }
            UNROLL_IF_KNOWN(0)
            for (int l = m; l < d; ++l) {
                NAME(climb)<2>(steps + 2 * (m * d + l), at[2], q, before);
                for (int part = 0; part < 2; ++part) {
                    if (part > m) continue;
                    const int number = l * l + l + (part ? -m : m);
                    NAME(add_up)<2>(q, given[number], part, sums);
                    FOR_EACH_LANE(k, BLOCK)
                        along[number][k] = moved[0][part][k] * q[0][k] + by[2][k] * (p[0][part][k] * q[1][k]);
                }
            }
            FOR_EACH_LANE(k, BLOCK) {
                out[0][k] += NAME(along_x)(moved[1], sums[0], k) + by[2][k] * NAME(along_x)(p[1], sums[1], k);
                out[1][k] += NAME(along_y)(moved[1], sums[0], k) + by[2][k] * NAME(along_y)(p[1], sums[1], k);
                out[2][k] += NAME(along_x)(moved[0], sums[1], k) + by[2][k] * NAME(along_x)(p[0], sums[2], k);
            }
            NAME(turn)<2>(at, p);
        }
        NAME(write_columns)(along, width, count, d_g + i * width);
        store_lanes(out, count, d_x + 3 * i);
    }
}
