// A new look at which cells are worth sampling: the running maximum of their densities, and a bit for each cell whose own density or
// that of one of its 26 neighbours is at or above a threshold.
//
// before, found and densities [cascades, n, n, n]; threshold [1] lies on the device, so that nobody waits for it; bits [cascades, P^3 / 8] in
// Morton order, zero where nothing is written. [begin, end) counts bytes of it, which are cubes of 2 x 2 x 2 cells, z fastest.
// A block is a piece of a row of cubes, four rows of cells with sixteen rows round them: first the greatest of three neighbours along y,
// then along x, then along z. One index writes to a place, and none reads what another writes.

// At z - 1, z, …, z + 2 BLOCK; whole vectors of that.
#define OCCUPANCY_ROW (BLOCK > 1 ? 2 * BLOCK + 8 : 4)

// max(decay * before, found) of a row's piece; beyond its ends the last cell again, which is a neighbour too.
DEVICE void NAME(occupancy_row)(const REAL* before, const REAL* found, REAL decay, int64 z, int64 n, REAL* row) {
    const bool is_whole = BLOCK > 1 && z + 2 * BLOCK <= n;
    for (int j = 0; j < 2 * BLOCK + 2; j += is_whole ? 2 * BLOCK + 1 : 1) {
        const int64 at = least(most(z + j - 1, (int64)0), n - 1);
        row[j] = most(before[at] * decay, found[at]);
    }
    if (is_whole)
        for (int j = 0; j < 2 * BLOCK; ++j) row[1 + j] = most(before[z + j] * decay, found[z + j]);
}

// Four rows to the greatest of the first three of them and of the last three.
DEVICE void NAME(threes)(const REAL (*rows)[OCCUPANCY_ROW], REAL* low, REAL* high) {
    for (int j = 0; j < OCCUPANCY_ROW; ++j) {
        const REAL middle = most(rows[1][j], rows[2][j]);
        low[j] = most(rows[0][j], middle);
        high[j] = most(middle, rows[3][j]);
    }
}

KERNEL NAME(occupancy_update)(const REAL* before, const REAL* found, REAL decay, const REAL* threshold, int64 n, REAL* densities, byte* bits,
                              int64 begin, int64 end) {
    const int64 half = (n + 1) / 2;
    int64 side = 1;
    while (side < n) side *= 2;
    REAL rows[4][OCCUPANCY_ROW] = {}, along_y[2][4][OCCUPANCY_ROW];
    REAL greatest[4][OCCUPANCY_ROW];  // of the nine rows round (x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1)
    FOR_EACH_BLOCK(i, count) {
        const int64 cascade = i / (half * half * half), cube_x = i / (half * half) % half, cube_y = i / half % half, cube_z = i % half;
        const int64 x = 2 * cube_x, y = 2 * cube_y, z = 2 * cube_z;
        count = least(count, half - cube_z);
        UNROLL_IF_KNOWN(0)
        for (int dx = 0; dx < 4; ++dx) {
            UNROLL_IF_KNOWN(0)
            for (int dy = 0; dy < 4; ++dy) {
                const int64 row_x = least(most(x + dx - 1, (int64)0), n - 1), row_y = least(most(y + dy - 1, (int64)0), n - 1);
                const int64 from = ((cascade * n + row_x) * n + row_y) * n;
                NAME(occupancy_row)(before + from, found + from, decay, z, n, rows[dy]);
                const bool is_own = (dx == 1 || dx == 2) && (dy == 1 || dy == 2) && x + dx - 1 < n && y + dy - 1 < n;
                if (!is_own) continue;
                UNROLL_IF_KNOWN(0)
                for (int j = 0; j < least(2 * (int)count, (int)(n - z)); ++j) densities[from + z + j] = rows[dy][1 + j];
            }
            NAME(threes)(rows, along_y[0][dx], along_y[1][dx]);
        }
        NAME(threes)(along_y[0], greatest[0], greatest[1]);
        NAME(threes)(along_y[1], greatest[2], greatest[3]);
        int four[2 * BLOCK] = {};  // a bit for each row, at each z
        for (int row = 0; row < 4; ++row) {
            if (x + (row & 1) >= n || y + (row >> 1) >= n) continue;
            const REAL* near = greatest[row];
            for (int j = 0; j < 2 * BLOCK; ++j) four[j] |= (most(most(near[j], near[j + 1]), near[j + 2]) >= threshold[0]) << row;
        }
        byte* of_cascade = bits + cascade * side * side * side / 8;
        FOR_EACH_LANE(k, count) {
            const int high = z + 2 * k + 1 < n ? four[2 * k + 1] : 0;
            of_cascade[morton_code((int)cube_x, (int)cube_y, (int)cube_z + k)] = (byte)(four[2 * k] | high << 4);
        }
    }
}
