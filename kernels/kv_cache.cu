// Blocks of the cache from place to place.
//
// copy_blocks: block pairs[i].x of `from` to block pairs[i].y of `to`, `block_bytes` each; the
// pools may be one, or one of them pinned host memory. Pairs of one launch touch no block twice as
// a target, nor one as source and target.
//
// Budget. 2 · block_bytes per pair, no operations; over the bus where a pool is the host's.
//
// How. Four 16-byte loads in flight per thread; the grid is [⌈block_bytes / 16384⌉, pairs].
//
// Share of the measured ceiling: not measured yet: no GPU at hand.

#include "common.cuh"

KERNEL(256, 4, copy_blocks, u8* to, const u8* from, const int2* pairs, i64 block_bytes) {
    const int2 pair = pairs[blockIdx.y];
    const u8* source = from + pair.x * block_bytes;
    u8* target = to + pair.y * block_bytes;
    const i64 first = static_cast<i64>(blockIdx.x) * 16384 + threadIdx.x * 16;
    uint4 held[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const i64 at = first + i * 4096;
        if (at < block_bytes) held[i] = fetch16(source + at);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const i64 at = first + i * 4096;
        if (at < block_bytes) store16(target + at, held[i]);
    }
}
