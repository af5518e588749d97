// Volume compositing along packed rays. w_i = T_i (1 - exp(-s_i d_i)), T_i = exp(-sum_{j<i} s_j d_j); sums = sum_i w_i v_i.
// NeRF (2003.08934), eq. 3. One thread takes whole rays: [begin, end) counts rays.

KERNEL NAME(composite_forward)(const REAL* densities, const REAL* deltas, const REAL* values, int64 channels, const int64* packed_info,
                               REAL* weights, REAL* sums, int64 begin, int64 end) {
    FOR_EACH(ray) {
        const int64 first = packed_info[2 * ray], last = first + packed_info[2 * ray + 1];
        REAL* sum = sums + ray * channels;
        for (int64 c = 0; c < channels; ++c) sum[c] = 0;
        REAL depth = 0;  // optical depth so far
        for (int64 s = first; s < last; ++s) {
            const REAL here = densities[s] * deltas[s];
            const REAL weight = exp_of(-depth) * -expm1_of(-here);
            depth += here;
            weights[s] = weight;
            for (int64 c = 0; c < channels; ++c) sum[c] += weight * values[s * channels + c];
        }
    }
}

// With g_i = dL/dw_i + dL/dsums . v_i:  dL/d(s_i d_i) = T_{i+1} g_i - sum_{j>i} w_j g_j. The suffix sum is the whole less what
// has passed, so one more walk replaces any memory of the first.
KERNEL NAME(composite_backward)(const REAL* densities, const REAL* deltas, const REAL* values, int64 channels, const int64* packed_info,
                                const REAL* weights, const REAL* d_weights, const REAL* d_sums, REAL* d_densities, REAL* d_values,
                                int64 begin, int64 end) {
    FOR_EACH(ray) {
        const int64 first = packed_info[2 * ray], last = first + packed_info[2 * ray + 1];
        const REAL* d_sum = d_sums + ray * channels;
        REAL behind = 0;
        for (int64 s = first; s < last; ++s) {
            REAL gain = d_weights[s];
            for (int64 c = 0; c < channels; ++c) {
                gain += d_sum[c] * values[s * channels + c];
                d_values[s * channels + c] = weights[s] * d_sum[c];
            }
            d_densities[s] = gain;  // kept here until the second walk
            behind += weights[s] * gain;
        }
        REAL depth = 0;
        for (int64 s = first; s < last; ++s) {
            const REAL gain = d_densities[s];
            depth += densities[s] * deltas[s];
            behind -= weights[s] * gain;
            d_densities[s] = (exp_of(-depth) * gain - behind) * deltas[s];
        }
    }
}
