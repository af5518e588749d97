// Real spherical harmonics of directions x [M, 3], all l < degree: features [M, degree^2], of which number l^2 + l + m is
//
//   Q_l^m(z) Re (x + iy)^m  for m = 0..l,   Q_l^|m|(z) Im (x + iy)^|m|  for m = -l..-1,
//
// orthonormal on the unit sphere, with the Condon-Shortley sign: l = 1 is 0.4886 (-y, z, -x). Q_l^m is (-1)^m d^m P_l / dz^m times a
// constant, by the recurrence of associated Legendre functions (Sloan, "Efficient Spherical Harmonic Evaluation", 2013). Order, signs and
// polynomials are tiny-cuda-nn's and torch-ngp's. Derivatives are those of the polynomials in x, y, z: nothing is projected to the sphere.
//
// steps [degree, degree, 2] has for m and l >= m what makes Q_l of the two before, see `climb`. A part is Re (0) or Im (1), and m = 0 has no
// Im. [begin, end) counts samples.

// q[n], n = 0..orders: the n-th derivatives by z of Q_l^m, by Leibniz' rule from those of l - 1 in q and l - 2 in before. The highest is
// first, for each needs the one below it as it was.
template <int orders> DEVICE void NAME(climb)(const REAL* step, const REAL* z, REAL (*q)[BLOCK], REAL (*before)[BLOCK]) {
    const REAL up = step[0], down = step[1];
    for (int n = orders; n >= 0; --n)
        FOR_EACH_LANE(k, BLOCK) {
            const REAL below = n ? n * q[n ? n - 1 : 0][k] : 0, last = q[n][k];
            q[n][k] = up * (z[k] * last + below) - down * before[n][k];
            before[n][k] = last;
        }
}

// Before l = m: the first step of each m multiplies nothing but this one.
template <int orders> DEVICE void NAME(start_climb)(REAL (*q)[BLOCK], REAL (*before)[BLOCK]) {
    for (int n = 0; n <= orders; ++n)
        FOR_EACH_LANE(k, BLOCK) {
            q[n][k] = 0;
            before[n][k] = n ? 0 : 1;
        }
}

// p[n]: Re and Im of the n-th derivative of c^m by c = x + iy, from those of m - 1; begun with m = 0 by p[0] = 1 and zeros.
template <int orders> DEVICE void NAME(turn)(const REAL (*x)[BLOCK], REAL (*p)[2][BLOCK]) {
    for (int n = orders; n >= 0; --n)
        FOR_EACH_LANE(k, BLOCK) {
            const REAL re = p[n][0][k], im = p[n][1][k];
            p[n][0][k] = x[0][k] * re - x[1][k] * im + (n ? n * p[n ? n - 1 : 0][0][k] : 0);
            p[n][1][k] = x[0][k] * im + x[1][k] * re + (n ? n * p[n ? n - 1 : 0][1][k] : 0);
        }
}

template <int orders> DEVICE void NAME(start_turn)(REAL (*p)[2][BLOCK]) {
    for (int n = 0; n <= orders; ++n)
        for (int part = 0; part < 2; ++part)
            FOR_EACH_LANE(k, BLOCK) p[n][part][k] = n + part ? 0 : 1;
}

// A column of rows [., width] to lanes and back.
DEVICE void NAME(read_column)(const REAL* column, int width, int64 count, REAL* lanes) {
    FOR_EACH_LANE(k, BLOCK) lanes[k] = column[least(k, (int)count - 1) * width];
}

DEVICE void NAME(write_column)(REAL* column, int width, int64 count, const REAL* lanes) {
    FOR_EACH_LANE(k, count) column[k * width] = lanes[k];
}

KERNEL NAME(spherical_encode)(const REAL* __restrict__ x, const REAL* __restrict__ steps, int64 degree, REAL* __restrict__ features,
                              int64 begin, int64 end) {
    const int d = (int)degree, width = d * d;
    FOR_EACH_BLOCK(i, count) {
        REAL at[3][BLOCK], p[1][2][BLOCK], q[1][BLOCK], before[1][BLOCK], value[BLOCK];
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
                    FOR_EACH_LANE(k, BLOCK) value[k] = p[0][part][k] * q[0][k];
                    NAME(write_column)(features + i * width + l * l + l + (part ? -m : m), width, count, value);
                }
            }
            NAME(turn)<0>(at, p);
        }
    }
}

// sums[n][part]: over l of q[n] times the gradient g of the Re (0) or Im (1) part. So for each m the features times g are
// Re (c^m (sums[0][0] - i sums[0][1])), a function of c and, by the sums, of z.
template <int orders> DEVICE void NAME(add_up)(const REAL (*q)[BLOCK], const REAL* g, int part, REAL (*sums)[2][BLOCK]) {
    for (int n = 0; n <= orders; ++n)
        FOR_EACH_LANE(k, BLOCK) sums[n][part][k] += q[n][k] * g[k];
}

template <int orders> DEVICE void NAME(start_sums)(REAL (*sums)[2][BLOCK]) {
    for (int n = 0; n <= orders; ++n)
        for (int part = 0; part < 2; ++part)
            FOR_EACH_LANE(k, BLOCK) sums[n][part][k] = 0;
}

// Re and -Im of a (s[0] - i s[1]): the derivatives by x and by y where a is one by c.
DEVICE REAL NAME(along_x)(const REAL (*a)[BLOCK], const REAL (*s)[BLOCK], int k) { return a[0][k] * s[0][k] + a[1][k] * s[1][k]; }
DEVICE REAL NAME(along_y)(const REAL (*a)[BLOCK], const REAL (*s)[BLOCK], int k) { return a[0][k] * s[1][k] - a[1][k] * s[0][k]; }

// d_x [M, 3]: the sum over features of their derivatives by x times g [M, degree^2].
KERNEL NAME(spherical_pull)(const REAL* __restrict__ x, const REAL* __restrict__ g, const REAL* __restrict__ steps, int64 degree,
                            REAL* __restrict__ d_x, int64 begin, int64 end) {
    const int d = (int)degree, width = d * d;
    FOR_EACH_BLOCK(i, count) {
        REAL at[3][BLOCK], p[2][2][BLOCK], q[2][BLOCK], before[2][BLOCK], sums[2][2][BLOCK], given[BLOCK], out[3][BLOCK];
        load_lanes(x + 3 * i, count, at);
        NAME(start_turn)<1>(p);
        for (int axis = 0; axis < 3; ++axis)
            FOR_EACH_LANE(k, BLOCK) out[axis][k] = 0;
        UNROLL_IF_KNOWN(0)
        for (int m = 0; m < d; ++m) {
            NAME(start_climb)<1>(q, before);
            NAME(start_sums)<1>(sums);
            UNROLL_IF_KNOWN(0)
            for (int l = m; l < d; ++l) {
                NAME(climb)<1>(steps + 2 * (m * d + l), at[2], q, before);
                for (int part = 0; part < 2; ++part) {
                    if (part > m) continue;
                    NAME(read_column)(g + i * width + l * l + l + (part ? -m : m), width, count, given);
                    NAME(add_up)<1>(q, given, part, sums);
                }
            }
            FOR_EACH_LANE(k, BLOCK) {
                out[0][k] += NAME(along_x)(p[1], sums[0], k);
                out[1][k] += NAME(along_y)(p[1], sums[0], k);
                out[2][k] += NAME(along_x)(p[0], sums[1], k);
            }
            NAME(turn)<1>(at, p);
        }
        for (int axis = 0; axis < 3; ++axis) NAME(write_column)(d_x + 3 * i + axis, 3, count, out[axis]);
    }
}

// What pull's result times v [M, 3] says about its x and g: d_x [M, 3], the second derivatives of the features, once along v, times g;
// d_g [M, degree^2], their first derivatives along v.
KERNEL NAME(spherical_pull_backward)(const REAL* __restrict__ x, const REAL* __restrict__ g, const REAL* __restrict__ v,
                                     const REAL* __restrict__ steps, int64 degree, REAL* __restrict__ d_x, REAL* __restrict__ d_g,
                                     int64 begin, int64 end) {
    const int d = (int)degree, width = d * d;
    FOR_EACH_BLOCK(i, count) {
        REAL at[3][BLOCK], by[3][BLOCK], p[3][2][BLOCK], q[3][BLOCK], before[3][BLOCK], sums[3][2][BLOCK], given[BLOCK], out[3][BLOCK];
        REAL moved[2][2][BLOCK];  // how p[0] and p[1] move with c
        load_lanes(x + 3 * i, count, at);
        load_lanes(v + 3 * i, count, by);
        NAME(start_turn)<2>(p);
        for (int axis = 0; axis < 3; ++axis)
            FOR_EACH_LANE(k, BLOCK) out[axis][k] = 0;
        UNROLL_IF_KNOWN(0)
        for (int m = 0; m < d; ++m) {
            NAME(start_climb)<2>(q, before);
            NAME(start_sums)<2>(sums);
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
                    const int64 place = i * width + l * l + l + (part ? -m : m);
                    NAME(read_column)(g + place, width, count, given);
                    NAME(add_up)<2>(q, given, part, sums);
                    FOR_EACH_LANE(k, BLOCK) given[k] = moved[0][part][k] * q[0][k] + by[2][k] * (p[0][part][k] * q[1][k]);
                    NAME(write_column)(d_g + place, width, count, given);
                }
            }
            FOR_EACH_LANE(k, BLOCK) {
                out[0][k] += NAME(along_x)(moved[1], sums[0], k) + by[2][k] * NAME(along_x)(p[1], sums[1], k);
                out[1][k] += NAME(along_y)(moved[1], sums[0], k) + by[2][k] * NAME(along_y)(p[1], sums[1], k);
                out[2][k] += NAME(along_x)(moved[0], sums[1], k) + by[2][k] * NAME(along_x)(p[0], sums[2], k);
            }
            NAME(turn)<2>(at, p);
        }
        for (int axis = 0; axis < 3; ++axis) NAME(write_column)(d_x + 3 * i + axis, 3, count, out[axis]);
    }
}
