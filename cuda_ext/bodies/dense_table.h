// A volume [4, n, n, n] as a table [n^3, width] whose rows lie together in memory. Width 4: as it is. Width 7: and scale times the
// gradient of the first volume in world units of [-1, 1]^3, by central differences, one-sided on the faces.
// [begin, end) counts grid points; every point writes its own row, so no two threads meet.

// What a difference is divided by at point p of n along an axis: one spacing on a face, two inside.
DEVICE REAL NAME(per_length)(int64 p, int64 n, REAL scale) {
    const REAL spacing = 2 / (REAL)(n - 1);
    return scale / (p == 0 || p == n - 1 ? spacing : 2 * spacing);
}

KERNEL NAME(dense_table_forward)(const REAL* volume, int64 n, int64 width, REAL scale, REAL* table, int64 begin, int64 end) {
    const int64 all = n * n * n;
    FOR_EACH(i) {
        REAL* row = table + i * width;
        for (int f = 0; f < 4; ++f) row[f] = volume[f * all + i];
        if (width == 4) continue;
        const int64 at[3] = {i / (n * n), i / n % n, i % n}, stride[3] = {n * n, n, 1};
        for (int axis = 0; axis < 3; ++axis) {
            const int64 p = at[axis], after = p < n - 1 ? stride[axis] : 0, before = p > 0 ? stride[axis] : 0;
            row[4 + axis] = (volume[i + after] - volume[i - before]) * NAME(per_length)(p, n, scale);
        }
    }
}

// The transpose: each point gathers from the rows in whose differences it stands.
KERNEL NAME(dense_table_backward)(const REAL* d_table, int64 n, int64 width, REAL scale, REAL* d_volume, int64 begin, int64 end) {
    const int64 all = n * n * n;
    FOR_EACH(i) {
        REAL first = d_table[i * width];
        for (int f = 1; f < 4; ++f) d_volume[f * all + i] = d_table[i * width + f];
        if (width == 7) {
            const int64 at[3] = {i / (n * n), i / n % n, i % n}, stride[3] = {n * n, n, 1};
            for (int axis = 0; axis < 3; ++axis) {
                const int64 p = at[axis];
                // It is "after" for the point before it, or for itself on the last face; "before" likewise.
                const int64 lower = p > 0 ? p - 1 : -1, upper = p < n - 1 ? p + 1 : -1;
                const REAL* d = d_table + i * width + 4 + axis;
                if (lower >= 0) first += d[-stride[axis] * width] * NAME(per_length)(lower, n, scale);
                if (upper >= 0) first -= d[stride[axis] * width] * NAME(per_length)(upper, n, scale);
                if (p == n - 1) first += d[0] * NAME(per_length)(p, n, scale);
                if (p == 0) first -= d[0] * NAME(per_length)(p, n, scale);
            }
        }
        d_volume[i] = first;
    }
}
