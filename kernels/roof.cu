// What the machine can do at most: the ceilings that every other kernel is held against.
//
// roof_read:    reads `bytes`; the sum of all 32-bit words, modulo 2³², to out[block]
// roof_copy:    copies `bytes`
// roof_fma:     f32 multiply-adds, 2 · 8 · rounds operations per thread
// roof_mma:     mma.m16n8k16 of act with f32 sums, 4096 · 8 · rounds operations per warp
// roof_mma_i8:  mma.m16n8k32 of i8 with i32 sums, 8192 · 8 · rounds operations per warp
// roof_nothing: nothing: the floor of a launch
//
// Shapes. Read and copy want `bytes` divisible by 16 and a grid of some multiple of the
// multiprocessors, 256 threads; they stride over it. The products write one float per thread, so
// that nothing can be left out.
//
// How. Eight 16-byte loads in flight per thread; eight independent chains of multiply-adds, and
// eight independent tiles for the tensor cores, so that no chain waits for itself.
//
// Share of the measured ceiling: these are it. Not measured yet: no GPU at hand.

#include "common.cuh"

namespace {
constexpr int FLIGHT = 8;
}

KERNEL(256, 2, roof_read, u32* out, const u8* data, i64 bytes) {
    SHARED(u32, sums, 1);
    if (threadIdx.x == 0) sums[0] = 0;
    barrier();
    u32 sum = 0;
    const i64 step = static_cast<i64>(gridDim.x) * 4096;
    for (i64 at = static_cast<i64>(blockIdx.x) * 4096 + threadIdx.x * 16; at < bytes;
         at += FLIGHT * step) {
        uint4 held[FLIGHT];
#pragma unroll
        for (int i = 0; i < FLIGHT; i++) {
            held[i] = make_uint4(0, 0, 0, 0);
            if (at + i * step < bytes) held[i] = load16_once(data + at + i * step);
        }
#pragma unroll
        for (int i = 0; i < FLIGHT; i++) sum += held[i].x + held[i].y + held[i].z + held[i].w;
    }
    add_atomic(sums, sum);
    barrier();
    if (threadIdx.x == 0) out[blockIdx.x] = sums[0];
}

KERNEL(256, 2, roof_copy, u8* to, const u8* from, i64 bytes) {
    const i64 step = static_cast<i64>(gridDim.x) * 4096;
    for (i64 at = static_cast<i64>(blockIdx.x) * 4096 + threadIdx.x * 16; at < bytes;
         at += FLIGHT * step) {
        uint4 held[FLIGHT];
#pragma unroll
        for (int i = 0; i < FLIGHT; i++) {
            if (at + i * step < bytes) held[i] = load16_once(from + at + i * step);
        }
#pragma unroll
        for (int i = 0; i < FLIGHT; i++) {
            if (at + i * step < bytes) store16(to + at + i * step, held[i]);
        }
    }
}

KERNEL(256, 2, roof_fma, float* out, float factor, float term, int rounds) {
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = static_cast<float>(threadIdx.x + i);
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = fmaf(x[i], factor, term);
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += x[i];
    out[blockIdx.x * 256 + threadIdx.x] = sum;
}

KERNEL(256, 2, roof_mma, float* out, u32 pair, int rounds) {
    const u32 a[4] = {pair, pair, pair, pair};
    float sums[8][4] = {};
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int i = 0; i < 8; i++) mma(act{}, sums[i], a, pair, pair);
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
    out[blockIdx.x * 256 + threadIdx.x] = sum;
}

KERNEL(256, 2, roof_mma_i8, float* out, u32 four, int rounds) {
    const u32 a[4] = {four, four, four, four};
    int sums[8][4] = {};
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int i = 0; i < 8; i++) mma_i8(sums[i], a, four, four);
    }
    int sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
    out[blockIdx.x * 256 + threadIdx.x] = static_cast<float>(sum);
}

KERNEL(32, 1, roof_nothing) {}
