// Samples of rays in occupied cells of [-1, 1]^3, on a fixed lattice of distances t = (k + shift) * step. [begin, end) counts rays.
// Two walks over the same lattice: one counts, one writes, so samples lie in ray order whoever computes them.

DEVICE bool NAME(lattice)(const REAL* o, const REAL* d, const REAL* bounds, REAL shift, REAL step, REAL* first, REAL* far_end) {
    REAL near_t = 0, far_t = (REAL)1e30;
    for (int axis = 0; axis < 3; ++axis) {
        // A tiny number instead of zero: the slab is then crossed at +-huge, which is right inside and a miss outside.
        const REAL slope = (d[axis] < 0 ? -d[axis] : d[axis]) < (REAL)1e-9 ? (REAL)1e-9 : d[axis];
        const REAL low = (bounds[axis] - o[axis]) / slope, high = (bounds[3 + axis] - o[axis]) / slope;
        near_t = most(near_t, least(low, high));
        far_t = least(far_t, most(low, high));
    }
    *first = ceil_of(near_t / step - shift);
    *far_end = far_t;
    return far_t > near_t;
}

// Distances of lattice points k, k + 1, … and the cells they lie in. Both walks ask here, so that they round alike.
DEVICE void NAME(cells_along)(const REAL* o, const REAL* d, REAL first, REAL shift, REAL step, int k, int resolution, REAL* t, int* flat) {
    const REAL half = (REAL)resolution / 2, last = (REAL)resolution - (REAL)0.5;
    const REAL start[3] = {(o[0] + 1) * half, (o[1] + 1) * half, (o[2] + 1) * half}, slope[3] = {d[0] * half, d[1] * half, d[2] * half};
    FOR_EACH_LANE(lane, BLOCK) {
        t[lane] = (first + (REAL)(k + lane) + shift) * step;
        int cell = 0;
        for (int axis = 0; axis < 3; ++axis)
            cell = cell * resolution + (int)least(most(start[axis] + slope[axis] * t[lane], (REAL)0), last);
        flat[lane] = cell;
    }
}

// counts [R], and starts [R]: which lattice point is a ray's first sample.
KERNEL NAME(march_count)(const REAL* rays_o, const REAL* rays_d, const REAL* shifts, const REAL* bounds, const byte* cells,
                         int64 resolution, REAL step, int64* counts, int* starts, int64 begin, int64 end) {
    FOR_EACH(ray) {
        const REAL *o = rays_o + 3 * ray, *d = rays_d + 3 * ray;
        REAL first, far_t, t[BLOCK];
        int flat[BLOCK], n = 0, start = 0;
        if (NAME(lattice)(o, d, bounds, shifts[ray], step, &first, &far_t)) {
            for (int k = 0;; k += BLOCK) {
                NAME(cells_along)(o, d, first, shifts[ray], step, k, (int)resolution, t, flat);
                if (!(t[0] < far_t)) break;
                int found = 0;
                FOR_EACH_LANE(lane, BLOCK) found += cells[flat[lane]] & (t[lane] < far_t);
                if (n == 0 && found) start = k;
                n += found;
            }
        }
        counts[ray] = n;
        starts[ray] = start;
    }
}

KERNEL NAME(march_write)(const REAL* rays_o, const REAL* rays_d, const REAL* shifts, const REAL* bounds, const byte* cells,
                         int64 resolution, REAL step, const int64* packed_info, const int* starts, int64* ray_indices, REAL* t_mids,
                         int64 begin, int64 end) {
    FOR_EACH(ray) {
        const REAL *o = rays_o + 3 * ray, *d = rays_d + 3 * ray;
        int64 at = packed_info[2 * ray];
        const int64 last = at + packed_info[2 * ray + 1];
        REAL first, far_t, t[BLOCK];
        int flat[BLOCK];
        if (at == last || !NAME(lattice)(o, d, bounds, shifts[ray], step, &first, &far_t)) continue;
        for (int k = starts[ray]; at < last; k += BLOCK) {
            NAME(cells_along)(o, d, first, shifts[ray], step, k, (int)resolution, t, flat);
            if (!(t[0] < far_t)) break;
            FOR_EACH_LANE(lane, BLOCK) {
                if (at == last || !cells[flat[lane]]) continue;
                ray_indices[at] = ray;
                t_mids[at] = t[lane];
                ++at;
            }
        }
    }
}
