// A new look at which cells are worth sampling: the running maximum of their densities, and a bit for each cell whose own density or
// that of one of its 26 neighbours is at or above a threshold.
//
// before, found and densities [cascades, n, n, n]; threshold [1] lies on the device, so that nobody waits for it; bits [cascades, P^3 / 8] in
// Morton order, zero where nothing is written. [begin, end) counts bytes of it, which are cubes of 2 x 2 x 2 cells, z fastest.
// A block is a piece of a row of cubes. Its four rows of cells have sixteen rows round them; first the greatest of the nine round each,
// then of three neighbours within those. No more than one index writes to a place, and none reads what another writes.

KERNEL NAME(occupancy_update)(const REAL* before, const REAL* found, REAL decay, const REAL* threshold, int64 n, REAL* densities, byte* bits,
                              int64 begin, int64 end) {
    const int64 half = (n + 1) / 2;
    int64 side = 1;
    while (side < n) side *= 2;
    FOR_EACH_BLOCK(i, count) {
        const int64 cascade = i / (half * half * half), cube_x = i / (half * half) % half, cube_y = i / half % half, cube_z = i % half;
        const int64 x = 2 * cube_x, y = 2 * cube_y, z = 2 * cube_z;
        count = least(count, half - cube_z);
        const bool is_whole = z + 2 * BLOCK <= n;
        REAL most_of[4][2 * BLOCK + 2];  // at z - 1, z, …, z + 2 BLOCK, round the rows (x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1)
        for (int row = 0; row < 4; ++row)
            for (int j = 0; j < 2 * BLOCK + 2; ++j) most_of[row][j] = (REAL)-1e30;
        for (int dx = -1; dx < 3; ++dx)
            for (int dy = -1; dy < 3; ++dy) {
                // Beyond the grid's faces its last row or cell again, which is a neighbour too.
                const int64 row_x = least(most(x + dx, (int64)0), n - 1), row_y = least(most(y + dy, (int64)0), n - 1);
                const int64 from = ((cascade * n + row_x) * n + row_y) * n;
                REAL row[2 * BLOCK + 2];
                for (int j = 0; j < 2 * BLOCK + 2; j += is_whole ? 2 * BLOCK + 1 : 1) {
                    const int64 at = from + least(most(z + j - 1, (int64)0), n - 1);
                    row[j] = most(before[at] * decay, found[at]);
                }
                if (is_whole)
                    for (int j = 0; j < 2 * BLOCK; ++j) row[1 + j] = most(before[from + z + j] * decay, found[from + z + j]);
                for (int k = 0; k < 4; ++k) {
                    const int to_x = dx - (k & 1), to_y = dy - (k >> 1);
                    if (to_x < -1 || to_x > 1 || to_y < -1 || to_y > 1) continue;
                    for (int j = 0; j < 2 * BLOCK + 2; ++j) most_of[k][j] = most(row[j], most_of[k][j]);
                }
                if (dx < 0 || dx > 1 || dy < 0 || dy > 1 || x + dx >= n || y + dy >= n) continue;
                const int own = (int)least(2 * count, n - z);
                for (int j = 0; j < own; ++j) densities[from + z + j] = row[1 + j];
            }
        int eight[BLOCK];
        FOR_EACH_LANE(k, BLOCK) eight[k] = 0;
        for (int row = 0; row < 4; ++row) {
            if (x + (row & 1) >= n || y + (row >> 1) >= n) continue;
            const REAL* near = most_of[row];
            FOR_EACH_LANE(k, BLOCK) {
                const int j = 2 * k;
                const REAL middle = most(near[j + 1], near[j + 2]);
                const int low = most(near[j], middle) >= threshold[0], high = most(middle, near[j + 3]) >= threshold[0] && z + j + 1 < n;
                eight[k] |= (low | high << 4) << row;
            }
        }
        byte* of_cascade = bits + cascade * side * side * side / 8;
        FOR_EACH_LANE(k, count) of_cascade[morton_code((int)cube_x, (int)cube_y, (int)cube_z + k)] = (byte)eight[k];
    }
}
