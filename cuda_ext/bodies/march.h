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

DEVICE bool NAME(is_occupied)(const REAL* o, const REAL* d, REAL t, const byte* cells, int64 resolution) {
    const REAL half = (REAL)resolution / 2, last = (REAL)resolution - (REAL)0.5;
    int64 flat = 0;
    for (int axis = 0; axis < 3; ++axis) {
        const REAL at = (o[axis] + 1) * half + d[axis] * half * t;
        flat = flat * resolution + (int64)least(most(at, (REAL)0), last);
    }
    return cells[flat];
}

KERNEL NAME(march_count)(const REAL* rays_o, const REAL* rays_d, const REAL* shifts, const REAL* bounds, const byte* cells,
                         int64 resolution, REAL step, int64* counts, int64 begin, int64 end) {
    FOR_EACH(ray) {
        const REAL *o = rays_o + 3 * ray, *d = rays_d + 3 * ray;
        REAL first, far_t;
        int64 n = 0;
        if (NAME(lattice)(o, d, bounds, shifts[ray], step, &first, &far_t)) {
            for (int64 k = 0;; ++k) {
                const REAL t = (first + (REAL)k + shifts[ray]) * step;
                if (!(t < far_t)) break;
                n += NAME(is_occupied)(o, d, t, cells, resolution);
            }
        }
        counts[ray] = n;
    }
}

KERNEL NAME(march_write)(const REAL* rays_o, const REAL* rays_d, const REAL* shifts, const REAL* bounds, const byte* cells,
                         int64 resolution, REAL step, const int64* packed_info, int64* ray_indices, REAL* t_mids, int64 begin, int64 end) {
    FOR_EACH(ray) {
        const REAL *o = rays_o + 3 * ray, *d = rays_d + 3 * ray;
        int64 at = packed_info[2 * ray];
        const int64 last = at + packed_info[2 * ray + 1];
        REAL first, far_t;
        if (at == last || !NAME(lattice)(o, d, bounds, shifts[ray], step, &first, &far_t)) continue;
        for (int64 k = 0; at < last; ++k) {
            const REAL t = (first + (REAL)k + shifts[ray]) * step;
            if (!(t < far_t)) break;
            if (!NAME(is_occupied)(o, d, t, cells, resolution)) continue;
            ray_indices[at] = ray;
            t_mids[at] = t;
            ++at;
        }
    }
}
