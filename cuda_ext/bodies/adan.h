// One step of Adan (2208.06677), algorithm 1, as engine/training/adan.py has it: each number is read and written once.
// rate_m, rate_v: learning rate over the moments' corrections; correct_n: what the square's is divided by. Kept rates b1, b2, b3.

KERNEL NAME(adan_step)(REAL* __restrict__ p, const REAL* __restrict__ grad, REAL* __restrict__ last, REAL* __restrict__ m,
                       REAL* __restrict__ v, REAL* __restrict__ n, REAL b1, REAL b2, REAL b3, REAL rate_m, REAL rate_v, REAL correct_n,
                       REAL eps, REAL shrink, int64 begin, int64 end) {
    FOR_EACH(i) {
        const REAL g = grad[i], diff = g - last[i], ahead = g + b2 * diff;
        const REAL m_new = m[i] + (1 - b1) * (g - m[i]), v_new = v[i] + (1 - b2) * (diff - v[i]);
        const REAL n_new = b3 * n[i] + (1 - b3) * (ahead * ahead);
        last[i] = g;
        m[i] = m_new;
        v[i] = v_new;
        n[i] = n_new;
        p[i] = (p[i] - (rate_m * m_new + rate_v * v_new) / (sqrt_of(n_new / correct_n) + eps)) / shrink;
    }
}
