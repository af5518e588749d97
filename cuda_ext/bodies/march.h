// Samples of rays in occupied cells of [-1, 1]^3, on a fixed lattice of distances t(k + shift). [begin, end) counts rays.
// One walk finds out which lattice points are samples, a bit each, and counts them; another turns these bits into samples, which so lie in
// ray order whoever computes them.
//
// cells: bits [cascades, P^3 / 8] in Morton order, P the power of two >= resolution; cascade c covers [-2^-c, 2^-c]^3.
// t(u) is u * step for angle 0. Else so only up to step / angle; from there on a step is angle * t, so that t grows by e^angle from one
// lattice point to the next, until steps are `largest`, which takes `curved` of them; further out they stay so.

#define HITS_IN_WORD 16

struct NAME(Lattice) { REAL step, angle, largest, curved; };

DEVICE REAL NAME(distance_at)(REAL u, NAME(Lattice) lattice) {
    const REAL bend = 1 / lattice.angle, beyond = most(u - bend, (REAL)0);
    return lattice.step * least(u, bend) + lattice.step * bend * expm1_of(lattice.angle * least(beyond, lattice.curved)) +
           lattice.largest * most(beyond - lattice.curved, (REAL)0);
}

// The other way round: u for a distance.
DEVICE REAL NAME(place_of)(REAL t, NAME(Lattice) lattice) {
    if (lattice.angle == 0) return t / lattice.step;
    const REAL bend = lattice.step / lattice.angle, end = lattice.largest / lattice.angle;
    return least(t, bend) / lattice.step + log_of(least(most(t, bend), end) / bend) / lattice.angle + most(t - end, (REAL)0) / lattice.largest;
}

// Where a ray crosses the box `bounds`: the first lattice point in there, and its far end.
DEVICE bool NAME(crosses)(const REAL* o, const REAL* d, const REAL* bounds, REAL shift, NAME(Lattice) lattice, REAL* first, REAL* far_end) {
    REAL near_t = 0, far_t = (REAL)1e30;
    for (int axis = 0; axis < 3; ++axis) {
        // A tiny number instead of zero: the slab is then crossed at +-huge, which is right inside and a miss outside.
        const REAL slope = (d[axis] < 0 ? -d[axis] : d[axis]) < (REAL)1e-9 ? (REAL)1e-9 : d[axis];
        const REAL low = (bounds[axis] - o[axis]) / slope, high = (bounds[3 + axis] - o[axis]) / slope;
        near_t = most(near_t, least(low, high));
        far_t = least(far_t, most(low, high));
    }
    *far_end = far_t;
    if (!(far_t > near_t)) return false;
    *first = ceil_of(NAME(place_of)(near_t, lattice) - shift);
    return true;
}

// Where the samples of lattice points first + k, first + k + 1, … begin and end: half a step before and behind, so that they tile.
DEVICE void NAME(samples_along)(REAL first, REAL shift, NAME(Lattice) lattice, int k, REAL* t_starts, REAL* t_ends) {
    if (lattice.angle == 0)
        FOR_EACH_LANE(lane, BLOCK) {
            const REAL t = (first + (REAL)(k + lane) + shift) * lattice.step;
            t_starts[lane] = t - lattice.step / 2;
            t_ends[lane] = t + lattice.step / 2;
        }
    else
        FOR_EACH_LANE(lane, BLOCK) {
            t_starts[lane] = NAME(distance_at)(first + (REAL)(k + lane) + (shift - (REAL)0.5), lattice);
            t_ends[lane] = NAME(distance_at)(first + (REAL)(k + lane + 1) + (shift - (REAL)0.5), lattice);
        }
}

// The samples' middles, and the bits of the cells that these lie in. IS_PLAIN: there is one cascade and one size of steps.
template <bool IS_PLAIN>
DEVICE void NAME(cells_along)(const REAL* o, const REAL* d, REAL first, REAL shift, NAME(Lattice) lattice, int k, int resolution,
                              int cascades, int n_bits, REAL* t, int* bit) {
    const REAL half = (REAL)resolution / 2, last = (REAL)resolution - (REAL)0.5;
    if constexpr (IS_PLAIN) {
        const REAL start[3] = {(o[0] + 1) * half, (o[1] + 1) * half, (o[2] + 1) * half}, slope[3] = {d[0] * half, d[1] * half, d[2] * half};
        FOR_EACH_LANE(lane, BLOCK) {
            t[lane] = (first + (REAL)(k + lane) + shift) * lattice.step;
            int cell[3];
            for (int axis = 0; axis < 3; ++axis) cell[axis] = (int)least(most(start[axis] + slope[axis] * t[lane], (REAL)0), last);
            bit[lane] = morton_code(cell[0], cell[1], cell[2]);
        }
        return;
    }
    if (lattice.angle == 0)
        FOR_EACH_LANE(lane, BLOCK) t[lane] = (first + (REAL)(k + lane) + shift) * lattice.step;
    else {
        REAL t_starts[BLOCK], t_ends[BLOCK];
        NAME(samples_along)(first, shift, lattice, k, t_starts, t_ends);
        FOR_EACH_LANE(lane, BLOCK) t[lane] = (t_starts[lane] + t_ends[lane]) / 2;
    }
    FOR_EACH_LANE(lane, BLOCK) {
        const REAL at[3] = {o[0] + d[0] * t[lane], o[1] + d[1] * t[lane], o[2] + d[2] * t[lane]};
        const REAL length = least(most(lattice.angle * t[lane], lattice.step), lattice.largest);
        REAL reach = 0, scale = 1;
        for (int axis = 0; axis < 3; ++axis) reach = most(reach, most(at[axis], -at[axis]));
        reach = most(reach, length * half);  // scale times this is below 1 where both are so
        int cascade = 0;  // the finest that the sample's middle is in, and whose cells are longer than it
        for (int c = 1; c < 4; ++c) {
            const bool is_finer = (c < cascades) & (2 * scale * reach < 1);
            cascade += is_finer;
            scale = is_finer ? 2 * scale : scale;
        }
        int cell[3];
        for (int axis = 0; axis < 3; ++axis) cell[axis] = (int)least(most((scale * at[axis] + 1) * half, (REAL)0), last);
        bit[lane] = cascade * n_bits + morton_code(cell[0], cell[1], cell[2]);
    }
}

template <bool IS_PLAIN>
CALLED int NAME(find_hits)(const REAL* o, const REAL* d, REAL shift, const byte* cells, int cascades, int resolution, NAME(Lattice) lattice,
                           REAL first, REAL far_t, unsigned short* hits, int64 n_words) {
    int n = 0, side = 1;
    while (side < resolution) side *= 2;
    bool is_inside = true;
    UNROLL_IF_KNOWN(0)
    for (int word = 0; is_inside && word < n_words; ++word) {
        unsigned found = 0;
        UNROLL_IF_KNOWN(0)
        for (int k = 0; k < HITS_IN_WORD && is_inside; k += BLOCK) {
            REAL t[BLOCK];
            int bit[BLOCK];
            unsigned eight[BLOCK];
            NAME(cells_along)<IS_PLAIN>(o, d, first, shift, lattice, HITS_IN_WORD * word + k, resolution, cascades, side * side * side, t, bit);
            FOR_EACH_LANE(lane, BLOCK) eight[lane] = cells[bit[lane] >> 3];
            FOR_EACH_LANE(lane, BLOCK) found |= (eight[lane] >> (bit[lane] & 7) & (t[lane] < far_t)) << (k + lane);
            is_inside = t[BLOCK - 1] < far_t;
        }
        hits[word] = (unsigned short)found;
        n += count_of_16(found);
    }
    return n;
}

// counts [R], firsts [R]: a ray's first lattice point, hits [R, n_words]: which of those from there on are samples.
KERNEL NAME(march_count)(const REAL* rays_o, const REAL* rays_d, const REAL* shifts, const REAL* bounds, const byte* cells,
                         int64 cascades, int64 resolution, REAL step, REAL angle, REAL largest, REAL curved, int64* counts, REAL* firsts,
                         unsigned short* hits, int64 n_words, int64 begin, int64 end) {
    const NAME(Lattice) lattice = {step, angle, largest, curved};
    const int c = (int)cascades, g = (int)resolution;
    const bool is_plain = BLOCK > 1 && angle == 0 && cascades == 1;  // a GPU has one loop for all: it waits for memory, not for arithmetic
    FOR_EACH(ray) {
        const REAL *o = rays_o + 3 * ray, *d = rays_d + 3 * ray, shift = shifts[ray];
        unsigned short* words = hits + n_words * ray;
        REAL first = 0, far_t;
        int n = 0;
        if (NAME(crosses)(o, d, bounds, shift, lattice, &first, &far_t)) {
            if (is_plain)
                n = NAME(find_hits)<(BLOCK > 1)>(o, d, shift, cells, c, g, lattice, first, far_t, words, n_words);
            else
                n = NAME(find_hits)<false>(o, d, shift, cells, c, g, lattice, first, far_t, words, n_words);
        }
        counts[ray] = n;
        firsts[ray] = first;
    }
}

// As many samples of each ray as packed_info [R, 2] has room for, from its front.
KERNEL NAME(march_write)(const REAL* shifts, REAL step, REAL angle, REAL largest, REAL curved, const int64* packed_info,
                         const REAL* firsts, const unsigned short* hits, int64 n_words, int64* ray_indices, REAL* all_starts, REAL* all_ends,
                         int64 begin, int64 end) {
    const NAME(Lattice) lattice = {step, angle, largest, curved};
    FOR_EACH(ray) {
        int64 at = packed_info[2 * ray];
        const int64 last = at + packed_info[2 * ray + 1];
        UNROLL_IF_KNOWN(0)
        for (int word = 0; at < last; ++word) {
            const unsigned found = hits[n_words * ray + word];
            if (!found) continue;
            UNROLL_IF_KNOWN(0)
            for (int k = 0; k < HITS_IN_WORD; k += BLOCK) {
                REAL t_starts[BLOCK], t_ends[BLOCK];
                NAME(samples_along)(firsts[ray], shifts[ray], lattice, HITS_IN_WORD * word + k, t_starts, t_ends);
                if (BLOCK > 1 && found >> k == (1u << BLOCK) - 1 && at + BLOCK <= last) {  // all of them: whole vectors
                    FOR_EACH_LANE(lane, BLOCK) ray_indices[at + lane] = ray;
                    FOR_EACH_LANE(lane, BLOCK) all_starts[at + lane] = t_starts[lane];
                    FOR_EACH_LANE(lane, BLOCK) all_ends[at + lane] = t_ends[lane];
                    at += BLOCK;
                    continue;
                }
                FOR_EACH_LANE(lane, BLOCK) {
                    if (at == last || !(found >> (k + lane) & 1)) continue;
                    ray_indices[at] = ray;
                    all_starts[at] = t_starts[lane];
                    all_ends[at] = t_ends[lane];
                    ++at;
                }
            }
        }
    }
}
