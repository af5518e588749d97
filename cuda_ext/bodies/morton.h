// Cells of a cube numbered by Morton codes: the bits of x, y and z in turn, x lowest, so that eight cells in a row are a cube of 2 x 2 x 2
// and those close in space lie close in memory. Coordinates below 256. Products and masks: with a table no loop would become vectors.

#ifndef DREAMFUSION_MORTON
#define DREAMFUSION_MORTON

// Two zeros between any two bits.
DEVICE int bits_apart(int x) {
    x = x * 0x101 & 0x00F00F;
    x = x * 0x11 & 0x0C30C3;
    return x * 0x5 & 0x249249;
}
DEVICE int morton_code(int x, int y, int z) { return bits_apart(x) | bits_apart(y) << 1 | bits_apart(z) << 2; }

#endif
