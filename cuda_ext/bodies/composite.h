// Volume compositing along packed rays. With a_i = 1 - exp(-s_i d_i): w_i = T_i a_i, T_{i+1} = T_i (1 - a_i), T_1 = 1, and
// sums = sum_i w_i v_i. NeRF (2003.08934), eq. 3. One thread takes whole rays: [begin, end) counts rays, whose samples lie in ray order
// without gaps. Samples behind the last ray's, up to n_samples, are nobody's (a march of fixed size fills up with them): their weights
// and gradients are zero. So are those of a ray from the first i on whose T_i is below `stop`: it ends there, after kept[ray] samples.

// `channels` of values, or any number where fixed is 0. Returns where the ray ends.
template <int fixed>
DEVICE int64 NAME(composite_ray)(const REAL* densities, const REAL* deltas, const REAL* values, int64 any, int64 first, int64 last,
                                 REAL stop, REAL* weights, REAL* sum) {
    const int64 channels = fixed ? fixed : any;
    REAL kept[fixed ? fixed : 1];  // in registers, where their number is known
    REAL* total = fixed ? kept : sum;
    UNROLL_IF_KNOWN(fixed)
    for (int64 c = 0; c < channels; ++c) total[c] = 0;
    REAL transmittance = 1;
    int64 s = first;
    UNROLL_IF_KNOWN(0)
    for (; s < last && !(transmittance < stop); ++s) {
        const REAL alpha = BLOCK > 1 ? weights[s] : -expm1_of(-(densities[s] * deltas[s]));
        const REAL weight = transmittance * alpha;
        transmittance -= transmittance * alpha;
        weights[s] = weight;
        UNROLL_IF_KNOWN(fixed)
        for (int64 c = 0; c < channels; ++c) total[c] += weight * values[s * channels + c];
    }
    if (fixed)
        for (int64 c = 0; c < channels; ++c) sum[c] = kept[c];
    return s;
}

// A ray takes its share of nobody's samples: every n_rays-th.
DEVICE void NAME(clear_rest)(REAL* numbers, int64 width, int64 ray, const int64* packed_info, int64 n_rays, int64 n_samples) {
    const int64* last = packed_info + 2 * (n_rays - 1);
    UNROLL_IF_KNOWN(0)
    for (int64 s = last[0] + last[1] + ray; s < n_samples; s += n_rays)
        UNROLL_IF_KNOWN(0)
        for (int64 c = 0; c < width; ++c) numbers[s * width + c] = 0;
}

DEVICE void NAME(clear)(REAL* numbers, int64 from, int64 to) {
    UNROLL_IF_KNOWN(0)
    for (int64 j = from; j < to; ++j) numbers[j] = 0;
}

KERNEL NAME(composite_forward)(const REAL* densities, const REAL* deltas, const REAL* values, int64 channels, const int64* packed_info,
                               int64 n_rays, int64 n_samples, REAL stop, REAL* weights, REAL* sums, int* kept, int64 begin, int64 end) {
    FOR_EACH_BLOCK(block, count) {
        if (BLOCK > 1) {  // the exponentials of the whole block in vectors; `weights` keeps them meanwhile
            const int64* last_ray = packed_info + 2 * (block + count - 1);
            for (int64 s = packed_info[2 * block]; s < last_ray[0] + last_ray[1]; ++s) weights[s] = -expm1_of(-(densities[s] * deltas[s]));
        }
        FOR_EACH_LANE(k, count) {
            const int64 ray = block + k, first = packed_info[2 * ray], last = first + packed_info[2 * ray + 1];
            REAL* sum = sums + ray * channels;
            int64 s;
            if (channels == 5) s = NAME(composite_ray)<5>(densities, deltas, values, channels, first, last, stop, weights, sum);
            else if (channels == 8) s = NAME(composite_ray)<8>(densities, deltas, values, channels, first, last, stop, weights, sum);
            else s = NAME(composite_ray)<0>(densities, deltas, values, channels, first, last, stop, weights, sum);
            kept[ray] = (int)(s - first);
            NAME(clear)(weights, s, last);
            NAME(clear_rest)(weights, 1, ray, packed_info, n_rays, n_samples);
        }
    }
}

// With g_i = dL/dw_i + dL/dsums . v_i:  dL/d(s_i d_i) = T_{i+1} g_i - sum_{j>i} w_j g_j. The suffix sum is the whole less what
// has passed, so one more walk replaces any memory of the first; T is one less the weights that have passed.
template <int fixed>
DEVICE void NAME(composite_ray_backward)(const REAL* deltas, const REAL* values, int64 any, int64 first, int64 last, const REAL* weights,
                                         const REAL* d_weights, const REAL* d_sum, REAL* d_densities, REAL* d_values) {
    const int64 channels = fixed ? fixed : any;
    REAL kept[fixed ? fixed : 1];
    for (int64 c = 0; c < fixed; ++c) kept[c] = d_sum[c];
    const REAL* d_total = fixed ? kept : d_sum;
    REAL behind = 0;
    UNROLL_IF_KNOWN(0)
    for (int64 s = first; s < last; ++s) {
        const REAL weight = weights[s];
        REAL gain = d_weights[s];
        UNROLL_IF_KNOWN(fixed)
        for (int64 c = 0; c < channels; ++c) {
            gain += d_total[c] * values[s * channels + c];
            d_values[s * channels + c] = weight * d_total[c];
        }
        d_densities[s] = gain;  // kept here until the second walk
        behind += weight * gain;
    }
    REAL transmittance = 1;
    UNROLL_IF_KNOWN(0)
    for (int64 s = first; s < last; ++s) {
        const REAL gain = d_densities[s];
        transmittance = most(transmittance - weights[s], (REAL)0);
        behind -= weights[s] * gain;
        d_densities[s] = (transmittance * gain - behind) * deltas[s];
    }
}

KERNEL NAME(composite_backward)(const REAL* deltas, const REAL* values, int64 channels, const int64* packed_info, const int* kept,
                                int64 n_rays, int64 n_samples, const REAL* weights, const REAL* d_weights, const REAL* d_sums,
                                REAL* d_densities, REAL* d_values, int64 begin, int64 end) {
    FOR_EACH(ray) {
        const int64 first = packed_info[2 * ray], last = first + packed_info[2 * ray + 1], s = first + kept[ray];
        const REAL* d_sum = d_sums + ray * channels;
        if (channels == 5)
            NAME(composite_ray_backward)<5>(deltas, values, channels, first, s, weights, d_weights, d_sum, d_densities, d_values);
        else if (channels == 8)
            NAME(composite_ray_backward)<8>(deltas, values, channels, first, s, weights, d_weights, d_sum, d_densities, d_values);
        else
            NAME(composite_ray_backward)<0>(deltas, values, channels, first, s, weights, d_weights, d_sum, d_densities, d_values);
        NAME(clear)(d_densities, s, last);
        NAME(clear)(d_values, s * channels, last * channels);
        NAME(clear_rest)(d_densities, 1, ray, packed_info, n_rays, n_samples);
        NAME(clear_rest)(d_values, channels, ray, packed_info, n_rays, n_samples);
    }
}
