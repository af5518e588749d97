// Triangles in a picture: which pixel centres lie in which triangle, each shared edge's exactly once, and which triangle is the nearest.
//
// corners [F, 3, 2] in pixels from the top left. The picture is cut into tiles of 16 x 16; those whose boxes meet tile t are members
// first[t] to first[t + 1], in ascending order, and rows [members, 2] the first row of the picture that each meets and the one behind its last.
// Index i counts pixels tile by tile, in a tile row by row: a block is a piece of a tile's row.
// Every pixel is written by its own index, so the order of triangles is all that decides, on every machine.

#define RASTER_TILE 16

struct NAME(RasterRow) {
    int64 row, column, count;  // count: pixels of the block that are in the picture
    int from, to;              // its tile's members
};

DEVICE NAME(RasterRow) NAME(raster_row)(int64 i, int64 count, int64 height, int64 width, const int* first) {
    const int64 across = (width + RASTER_TILE - 1) / RASTER_TILE, tile = i / (RASTER_TILE * RASTER_TILE);
    const int64 row = tile / across * RASTER_TILE + i / RASTER_TILE % RASTER_TILE;
    const int64 column = tile % across * RASTER_TILE + i % RASTER_TILE;
    return {row, column, row < height ? most(least(count, width - column), (int64)0) : 0, first[tile], first[tile + 1]};
}

// Where the line from low to high crosses y. Both triangles at an edge name its lower end first, so they round alike.
DEVICE REAL NAME(edge_x)(const REAL* low, const REAL* high, REAL y) { return low[0] + (y - low[1]) * (high[0] - low[0]) / (high[1] - low[1]); }

// The piece of the line at y that is inside: [from, to). Half open in y too: what runs through a corner belongs to what is above it.
DEVICE bool NAME(span_at)(const REAL* corners, REAL y, REAL* from, REAL* to) {
    const REAL *low = corners, *mid = corners + 2, *high = corners + 4, *other;
    if (mid[1] < low[1]) other = low, low = mid, mid = other;
    if (high[1] < mid[1]) other = mid, mid = high, high = other;
    if (mid[1] < low[1]) other = low, low = mid, mid = other;
    if (!(low[1] <= y && y < high[1])) return false;
    const bool is_lower = y < mid[1];
    const REAL far = NAME(edge_x)(low, high, y), near = NAME(edge_x)(is_lower ? low : mid, is_lower ? mid : high, y);
    *from = least(far, near);
    *to = most(far, near);
    return *from < *to;
}

// Weights of the three corners at a row's places: what they have in common, and at x. Each is in [0, 1]: rounding pushes a centre on an
// edge a hair outside, and needle triangles amplify that.
struct NAME(RasterWeights) {
    REAL x, second, second_by_x, third, third_by_x;
};

DEVICE NAME(RasterWeights) NAME(weights_along)(const REAL* corners, REAL y) {
    const REAL u[2] = {corners[2] - corners[0], corners[3] - corners[1]}, v[2] = {corners[4] - corners[0], corners[5] - corners[1]};
    const REAL area = u[0] * v[1] - u[1] * v[0], by = area == 0 ? 1 : 1 / area, down = y - corners[1];
    return {corners[0], -down * v[0] * by, v[1] * by, u[0] * down * by, -u[1] * by};
}

DEVICE void NAME(weights_at)(const NAME(RasterWeights)& along, REAL x, REAL* weights) {
    const REAL second = along.second + (x - along.x) * along.second_by_x, third = along.third + (x - along.x) * along.third_by_x;
    weights[0] = least(most(1 - second - third, (REAL)0), (REAL)1);
    weights[1] = least(most(second, (REAL)0), (REAL)1);
    weights[2] = least(most(third, (REAL)0), (REAL)1);
    const REAL scale = 1 / (weights[0] + weights[1] + weights[2]);
    for (int c = 0; c < 3; ++c) weights[c] *= scale;
}

// counts [height * width]: how many triangles a pixel's centre lies in.
KERNEL NAME(raster_count)(const REAL* corners, const int* first, const int* members, const int* rows, int64 height, int64 width, int* counts, int64 begin,
                          int64 end) {
    FOR_EACH_BLOCK(i, count) {
        count = least(count, RASTER_TILE - i % RASTER_TILE);
        const NAME(RasterRow) at = NAME(raster_row)(i, count, height, width, first);
        if (!at.count) continue;
        int found[BLOCK] = {};
        UNROLL_IF_KNOWN(0)
        for (int m = at.from; m < at.to; ++m) {
            REAL from, to;
            if (at.row < rows[2 * m] || at.row >= rows[2 * m + 1]) continue;
            if (!NAME(span_at)(corners + 6 * (int64)members[m], (REAL)at.row + (REAL)0.5, &from, &to)) continue;
            FOR_EACH_LANE(k, BLOCK) {
                const REAL x = (REAL)(at.column + k) + (REAL)0.5;
                found[k] += (from <= x) & (x < to);
            }
        }
        FOR_EACH_LANE(k, at.count) counts[at.row * width + at.column + k] = found[k];
    }
}

// Pixel after pixel, from offsets[pixel] on: the triangles faces [N] that it lies in, ascending, and their corners' weights [N, 3].
KERNEL NAME(raster_write)(const REAL* corners, const int* first, const int* members, const int* rows, int64 height, int64 width, const int* offsets,
                          int64* pixels, int64* faces, REAL* weights, int64 begin, int64 end) {
    FOR_EACH_BLOCK(i, count) {
        count = least(count, RASTER_TILE - i % RASTER_TILE);
        const NAME(RasterRow) at = NAME(raster_row)(i, count, height, width, first);
        if (!at.count) continue;
        const int64 pixel = at.row * width + at.column;
        int written[BLOCK] = {};
        UNROLL_IF_KNOWN(0)
        for (int m = at.from; m < at.to; ++m) {
            if (at.row < rows[2 * m] || at.row >= rows[2 * m + 1]) continue;
            const REAL *triangle = corners + 6 * (int64)members[m], y = (REAL)at.row + (REAL)0.5;
            REAL from, to;
            if (!NAME(span_at)(triangle, y, &from, &to)) continue;
            const NAME(RasterWeights) along = NAME(weights_along)(triangle, y);
            FOR_EACH_LANE(k, at.count) {
                const REAL x = (REAL)(at.column + k) + (REAL)0.5;
                if (!(from <= x && x < to)) continue;
                const int64 place = offsets[pixel + k] + written[k]++;
                pixels[place] = pixel + k;
                faces[place] = members[m];
                NAME(weights_at)(along, x, weights + 3 * place);
            }
        }
    }
}

// faces, depths [height * width] and weights [height * width, 3]: the triangle nearest to the camera, the last of several as near; -1,
// `far` and zeros where there is none. corner_depths [F, 3]. With perspective, one over the depth is what varies linearly over the picture.
KERNEL NAME(raster_nearest)(const REAL* corners, const REAL* corner_depths, const int* first, const int* members, const int* rows, int64 height, int64 width,
                            int64 orthographic, REAL far, int64* faces, REAL* depths, REAL* weights, int64 begin, int64 end) {
    FOR_EACH_BLOCK(i, count) {
        count = least(count, RASTER_TILE - i % RASTER_TILE);
        const NAME(RasterRow) at = NAME(raster_row)(i, count, height, width, first);
        if (!at.count) continue;
        const int64 pixel = at.row * width + at.column;
        FOR_EACH_LANE(k, at.count) {
            faces[pixel + k] = -1;
            depths[pixel + k] = far;
            for (int c = 0; c < 3; ++c) weights[3 * (pixel + k) + c] = 0;
        }
        UNROLL_IF_KNOWN(0)
        for (int m = at.from; m < at.to; ++m) {
            if (at.row < rows[2 * m] || at.row >= rows[2 * m + 1]) continue;
            const int64 face = members[m];
            const REAL *triangle = corners + 6 * face, *away = corner_depths + 3 * face, y = (REAL)at.row + (REAL)0.5;
            REAL from, to;
            if (!NAME(span_at)(triangle, y, &from, &to)) continue;
            const NAME(RasterWeights) along = NAME(weights_along)(triangle, y);
            FOR_EACH_LANE(k, at.count) {
                const REAL x = (REAL)(at.column + k) + (REAL)0.5;
                if (!(from <= x && x < to)) continue;
                REAL part[3], sum = 0;
                NAME(weights_at)(along, x, part);
                for (int c = 0; c < 3; ++c) {
                    if (!orthographic) part[c] /= away[c];
                    sum += orthographic ? part[c] * away[c] : part[c];
                }
                const REAL depth = orthographic ? sum : 1 / sum;
                if (!(depth <= depths[pixel + k])) continue;
                faces[pixel + k] = face;
                depths[pixel + k] = depth;
                for (int c = 0; c < 3; ++c) weights[3 * (pixel + k) + c] = orthographic ? part[c] : part[c] * depth;
            }
        }
    }
}
