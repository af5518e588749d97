// A volume [4, n, n, n] as a table [n^3, width] whose rows lie together in memory. Width 4: as it is. Width 7: and scale times the
// gradient of the first volume in world units of [-1, 1]^3, by central differences, one-sided on the faces.
// [begin, end) counts grid points; every point writes its own row, so no two threads meet. A block is a piece of a line along z.

// A difference at point p of n along an axis, in world units: `face` is what one spacing is multiplied by; inside two are spanned.
DEVICE REAL NAME(per_length)(int p, int n, REAL face) { return p == 0 || p == n - 1 ? face : face / 2; }

KERNEL NAME(dense_table_forward)(const REAL* volume, int64 points, int64 width, REAL scale, REAL* table, int64 begin, int64 end) {
    const int n = (int)points, stride[3] = {n * n, n, 1};
    const int64 all = points * points * points;
    const REAL face = scale * (REAL)(n - 1) / 2;
    FOR_EACH_BLOCK(i, count) {
        int at[3] = {(int)i / (n * n), (int)i / n % n, (int)i % n};
        count = least(count, (int64)(n - at[2]));
        FOR_EACH_LANE(k, count) {
            const REAL* from = volume + i + k;
            REAL* row = table + (i + k) * width;
            for (int f = 0; f < 4; ++f) row[f] = from[f * all];
            if (width == 7)
                for (int axis = 0; axis < 3; ++axis) {
                    const int p = at[axis], after = p < n - 1 ? stride[axis] : 0, before = p > 0 ? stride[axis] : 0;
                    row[4 + axis] = (from[after] - from[-before]) * NAME(per_length)(p, n, face);
                }
            ++at[2];
        }
    }
}

// The transpose: each point gathers from the rows in whose differences it stands.
KERNEL NAME(dense_table_backward)(const REAL* d_table, int64 points, int64 width, REAL scale, REAL* d_volume, int64 begin, int64 end) {
    const int n = (int)points, stride[3] = {n * n * (int)width, n * (int)width, (int)width};
    const int64 all = points * points * points;
    const REAL face = scale * (REAL)(n - 1) / 2;
    FOR_EACH_BLOCK(i, count) {
        int at[3] = {(int)i / (n * n), (int)i / n % n, (int)i % n};
        count = least(count, (int64)(n - at[2]));
        FOR_EACH_LANE(k, count) {
            const REAL* row = d_table + (i + k) * width;
            REAL first = row[0];
            for (int f = 1; f < 4; ++f) d_volume[f * all + i + k] = row[f];
            if (width == 7)
                for (int axis = 0; axis < 3; ++axis) {
                    // It is "after" for the point before it, or for itself on the last face; "before" likewise.
                    const int p = at[axis], before = p > 0 ? stride[axis] : 0, after = p < n - 1 ? stride[axis] : 0;
                    const REAL* d = row + 4 + axis;
                    first += d[-before] * (p > 0 ? NAME(per_length)(p - 1, n, face) : -face);
                    first -= d[after] * (p < n - 1 ? NAME(per_length)(p + 1, n, face) : -face);
                }
            d_volume[i + k] = first;
            ++at[2];
        }
    }
}
