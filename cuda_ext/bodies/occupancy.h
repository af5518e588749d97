// Which cells of [-1, 1]^3 are worth sampling: those with density at or above a threshold, and their 26 neighbours.
// densities and cells [n, n, n]; threshold [1] lies on the device, so that nobody waits for it. [begin, end) counts cells.
// A block is a piece of a row. First the greatest density of the nine rows around it, then of three neighbours within those.

KERNEL NAME(occupancy_mark)(const REAL* densities, int64 n, const REAL* threshold, byte* cells, int64 begin, int64 end) {
    FOR_EACH_BLOCK(i, count) {
        const int64 x = i / (n * n), y = i / n % n, z = i % n;
        count = least(count, n - z);
        REAL most_of[BLOCK + 2];  // at z - 1, z, …, z + BLOCK
        for (int j = 0; j < BLOCK + 2; ++j) most_of[j] = (REAL)-1e30;
        const bool is_whole = z + BLOCK <= n;
        // Beyond the row's ends its last cell again, which is a neighbour too.
        const int64 before = most(z - 1, (int64)0), after = least(z + BLOCK, n - 1);
        for (int64 row_x = most(x - 1, (int64)0); row_x <= least(x + 1, n - 1); ++row_x)
            for (int64 row_y = most(y - 1, (int64)0); row_y <= least(y + 1, n - 1); ++row_y) {
                const REAL *row = densities + (row_x * n + row_y) * n, *from = row + z;
                most_of[0] = most(row[before], most_of[0]);
                most_of[BLOCK + 1] = most(row[after], most_of[BLOCK + 1]);
                if (is_whole)
                    for (int j = 0; j < BLOCK; ++j) most_of[1 + j] = most(from[j], most_of[1 + j]);
                else
                    for (int j = 0; j < BLOCK; ++j) most_of[1 + j] = most(row[least(z + j, n - 1)], most_of[1 + j]);
            }
        FOR_EACH_LANE(k, count) cells[i + k] = most(most(most_of[k], most_of[k + 1]), most_of[k + 2]) >= threshold[0];
    }
}
