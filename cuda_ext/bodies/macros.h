// One body for two machines. A kernel is a loop over [begin, end): on a CPU a thread gets a part of it, on a GPU one index each.
// No includes: NVRTC has no headers at hand, and a cross-compiler then needs no system.
// REAL is float or double, NAME(x) adds its suffix; all.h is read once for each.
//
// FOR_EACH_BLOCK hands out up to BLOCK indices at once, [i, i + count), and FOR_EACH_LANE walks over them: arithmetic in a loop of its
// own becomes vector instructions, what jumps about in memory goes into another. The body lowers count where a block must end early.
// On a GPU neighbours in a warp do that already, so a block is one index.

#ifndef DREAMFUSION_MACROS
#define DREAMFUSION_MACROS

typedef long long int64;
typedef unsigned char byte;

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)
#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__
#define CALLED DEVICE
#define FOR_EACH(i) for (int64 i = begin + blockIdx.x * (int64)blockDim.x + threadIdx.x; i < end; i += (int64)gridDim.x * blockDim.x)
#define BLOCK 1
#define FOR_EACH_BLOCK(i, count) \
    for (int64 i = begin + blockIdx.x * (int64)blockDim.x + threadIdx.x, count = 1; i < end; i += (int64)gridDim.x * blockDim.x)
#define FOR_EACH_LANE(k, count) for (int k = 0; k < 1; ++k)
#define ADD(place, value) atomicAdd((place), (value))
// Before a loop over `n` rounds if n is known when compiled (else 0): unrolled then, and not by the compiler's guess where it is not, which
// took more than a third of all compiling.
#define UNROLL_IF_KNOWN(n) PRAGMA(unroll((n) ? (n) : 1))
#define PRAGMA(text) _Pragma(#text)
DEVICE float exp_of(float x) { return expf(x); }
DEVICE double exp_of(double x) { return exp(x); }
DEVICE float expm1_of(float x) { return expm1f(x); }
DEVICE double expm1_of(double x) { return expm1(x); }
DEVICE float log1p_of(float x) { return log1pf(x); }
DEVICE double log1p_of(double x) { return log1p(x); }
DEVICE float log_of(float x) { return logf(x); }
DEVICE double log_of(double x) { return log(x); }
DEVICE float wave_of(float x, float shift) { return shift == 0 ? sinf(x) : cosf(x); }
DEVICE double wave_of(double x, double shift) { return shift == 0 ? sin(x) : cos(x); }
DEVICE float sqrt_of(float x) { return sqrtf(x); }
DEVICE double sqrt_of(double x) { return sqrt(x); }
DEVICE float ceil_of(float x) { return ceilf(x); }
DEVICE double ceil_of(double x) { return ceil(x); }
// Of half precision we have the bits: CUDA's own type is in its headers. What emulates a GPU brings its own conversion.
typedef unsigned short half;
#ifndef FLOAT_OF_HALF
DEVICE float float_of_half(half bits) {
    float number;
    asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(bits));
    return number;
}
#define FLOAT_OF_HALF(bits) float_of_half(bits)
#endif
#else
#if defined(_WIN32)
#define KERNEL extern "C" __declspec(dllexport) void
#else
#define KERNEL extern "C" __attribute__((visibility("default"))) void
#endif
#define DEVICE static inline __attribute__((always_inline))
// A loop that has all registers to itself, where whatever stands round it would take some.
#define CALLED static __attribute__((noinline))
#define FOR_EACH(i) for (int64 i = begin; i < end; ++i)
#define BLOCK 16
#define FOR_EACH_BLOCK(i, count) for (int64 i = begin, count = 0; count = least((int64)BLOCK, end - i), i < end; i += count)
#define FOR_EACH_LANE(k, count) for (int k = 0; k < (int)(count); ++k)
#define ADD(place, value) (*(place) += (value))
#define UNROLL_IF_KNOWN(n)
// e^x = 2^n e^r with |r| <= log(2) / 2: the library's own would keep a loop from becoming vector instructions. scale gets 2^n, the
// result is e^r - 1, exact to 2 units in the last place; NaN stays NaN.
DEVICE float exp_parts(float x, float* scale) {
    const float low = -87.0f, high = 88.5f, rounder = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to a whole number
    const float inside = x < low ? low : (x > high ? high : x);
    const float rounded = inside * 1.44269504f + rounder, n = rounded - rounder;
    const float r = (inside - n * 0.693359375f) + n * 2.12194440e-4f;  // log(2) in two parts, the first exact
    const float tail = 0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720 + r * (1.0f / 5040)))));
    const unsigned bits = (__builtin_bit_cast(unsigned, rounded) - 0x4B400000u + 127u) << 23;
    *scale = __builtin_bit_cast(float, bits);
    return r + r * r * tail;
}
DEVICE float exp_of(float x) {
    float scale;
    const float part = exp_parts(x, &scale);
    return scale + scale * part;
}
DEVICE double exp_of(double x) { return __builtin_exp(x); }
DEVICE float expm1_of(float x) {
    float scale;
    const float part = exp_parts(x, &scale);
    return (scale - 1.0f) + scale * part;
}
DEVICE double expm1_of(double x) { return __builtin_expm1(x); }
// log of a normal positive number, for the same reason: of 2^n m with m in [sqrt(1/2), sqrt(2)), by the polynomial of FreeBSD's logf.
// Exact to a unit in the last place; NaN stays NaN.
DEVICE float log_of(float x) {
    const unsigned bits = __builtin_bit_cast(unsigned, x) - 0x3F3504F3u;
    const float n = (float)((int)bits >> 23), f = __builtin_bit_cast(float, (bits & 0x7FFFFFu) + 0x3F3504F3u) - 1.0f;
    const float s = f / (2.0f + f), z = s * s, half = 0.5f * f * f;
    const float tail = z * (0.66666662693f + z * (0.40000972152f + z * (0.28498786688f + z * 0.24279078841f)));
    const float sum = s * (half + tail) + n * 9.0580006145e-6f - half + f + n * 0.69313812256f;
    return x == x ? sum : x;
}
DEVICE double log_of(double x) { return __builtin_log(x); }
// What 1 + x rounds away is added again.
DEVICE float log1p_of(float x) {
    const float one = 1.0f + x;
    return log_of(one) + (x - (one - 1.0f)) / one;
}
DEVICE double log1p_of(double x) { return __builtin_log1p(x); }
// sin x for shift 0, cos x for shift 1/2, by one polynomial: with t the nearest number to x / pi of the form n + shift, r = x - t pi lies
// in +-pi / 2, and both are sin r but for a sign. pi in three parts, of which t times the first is exact: within 2e-7 for |x| <= 2^15.
DEVICE float wave_of(float x, float shift) {
    const float rounder = 12582912.0f;  // as in exp_parts
    const float rounded = (x * 0.318309886f - shift) + rounder, t = (rounded - rounder) + shift;
    const float r = ((x - t * 3.140625f) - t * 9.67502594e-4f) - t * 1.50995799e-7f, z = r * r;
    const float odd = z * (-1.0f / 6 + z * (1.0f / 120 + z * (-1.0f / 5040 + z * (1.0f / 362880 + z * (-1.0f / 39916800)))));
    // sin (r + n pi) = +-sin r, and cos (r + (n + 1/2) pi) = -sin (r + n pi); odd n flip the sign.
    const unsigned flip = (__builtin_bit_cast(unsigned, rounded) << 31) ^ (shift == 0 ? 0u : 0x80000000u);
    return __builtin_bit_cast(float, __builtin_bit_cast(unsigned, r + r * odd) ^ flip);
}
DEVICE double wave_of(double x, double shift) { return shift == 0 ? __builtin_sin(x) : __builtin_cos(x); }
DEVICE float sqrt_of(float x) { return __builtin_sqrtf(x); }
DEVICE double sqrt_of(double x) { return __builtin_sqrt(x); }
DEVICE float ceil_of(float x) { return __builtin_ceilf(x); }
DEVICE double ceil_of(double x) { return __builtin_ceil(x); }
typedef _Float16 half;  // only ever read: F16C has no more, and arithmetic would call the compiler's library
#define FLOAT_OF_HALF(number) (float)(number)
#endif

template <typename T> DEVICE T least(T a, T b) { return a < b ? a : b; }
template <typename T> DEVICE T most(T a, T b) { return a > b ? a : b; }

// What a table holds, as a number to compute with.
DEVICE float number_of(float stored) { return stored; }
DEVICE double number_of(double stored) { return stored; }
DEVICE float number_of(half stored) { return FLOAT_OF_HALF(stored); }

// A table's row of n numbers, aligned as a whole: a copy of it is one load. So are rows of 2 or 4 halves read; others number by number.
template <int n, typename T> struct alignas(n ? n * sizeof(T) : sizeof(T)) Row {
    T number[n ? n : 1];
};
template <int n, typename T> constexpr bool is_row = n && sizeof(T) == sizeof(half);

// How many of the lowest sixteen bits are set, the others being zero.
DEVICE int count_of_16(unsigned bits) {
    bits -= bits >> 1 & 0x5555;
    bits = (bits & 0x3333) + (bits >> 2 & 0x3333);
    bits = (bits + (bits >> 4)) & 0x0F0F;
    return (int)((bits + (bits >> 8)) & 0x1F);
}

// The block's triples, lane by lane. Lanes from count on repeat the last one: whole blocks need no second, slower loop for what is left.
template <typename T> DEVICE void load_lanes(const T* triples, int64 count, T (*lanes)[BLOCK]) {
    FOR_EACH_LANE(k, BLOCK)
        for (int axis = 0; axis < 3; ++axis) lanes[axis][k] = triples[3 * least(k, (int)count - 1) + axis];
}

template <typename T> DEVICE void store_lanes(const T (*lanes)[BLOCK], int64 count, T* triples) {
    FOR_EACH_LANE(k, count)
        for (int axis = 0; axis < 3; ++axis) triples[3 * k + axis] = lanes[axis][k];
}

#endif
