// Products of 8-bit rows with 8-bit weights in integers, on tensor cores.
//
// Shapes. x [rows, k] i8 with a scale per row, as the norms and quantize_i8 leave them; w [n, k] i8
// with a scale per output; y [rows, n] act or f32. A block has 64 outputs by 64 rows; the grid is
// [⌈n / 64⌉, ⌈rows / 64⌉]. k is divisible by 16 and at most 2¹⁷, so that no sum overflows.
//
// Budget (products in src/cost): nk + 4n weight bytes, rows · (k + 4 + 2n) bytes of
// activations, 2 · rows · k · n operations.
//
// How. As gemm.cu, with mma.m16n8k32: lane t has 16 consecutive bytes of each 64 of a row, two mma
// per 16-byte load; 256 inputs of 64 rows at a time pass through shared memory, copied one step
// ahead, [64 inputs][row][lane t], free of bank conflicts. Sums are integers, so the result is the
// same whatever the order: the scales are its only roundings.
//
// Versions considered. Weights of the next step loaded into the registers of this one, as in
// gemm.cu: here the compiler then wants all 255 registers and spills.
//
// Share of the measured ceiling: not measured yet: no GPU at hand.

#include "common.cuh"

namespace {

constexpr int WARPS = 4;
constexpr int ROWS = 64;
constexpr int TILES = ROWS / 8;
constexpr int PIECES = 4;  // of 64 inputs in a step
constexpr int STEP = PIECES * ROWS * 4;

DEVICE void copy_step(const i8* x, int rows, int k, int first_row, int step, uint4* into) {
#pragma unroll
    for (int i = 0; i < STEP / (WARPS * 32); i++) {
        const int at = i * WARPS * 32 + threadIdx.x;
        const int row = first_row + at / 4 % ROWS;
        const int input = (step * PIECES + at / 4 / ROWS) * 64 + at % 4 * 16;
        const bool valid = row < rows && input < k;
        copy16_async(into + at, valid ? x + static_cast<i64>(row) * k + input : x, valid);
    }
    copy_commit();
}

}  // namespace

KERNEL(128, 2, gemm_i8_i8, void* out, const i8* x, const float* x_scale, const i8* weights,
       const float* scales, const act* bias, const act* residual, int rows, int n, int k,
       int wide) {
    SHARED(uint4, steps, 2 * STEP);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int g = lane / 4, t = lane % 4;
    const int first = (blockIdx.x * WARPS + warp) * 16, first_row = blockIdx.y * ROWS;
    const i8* low = weights + static_cast<i64>(least(first + g, n - 1)) * k;
    const i8* high = weights + static_cast<i64>(least(first + g + 8, n - 1)) * k;
    const int all_steps = ceil_div(k, 64 * PIECES);
    uint4 next_low[PIECES], next_high[PIECES];
    const auto load = [&](int step) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const int input = (step * PIECES + i) * 64 + t * 16;
            next_low[i] = next_high[i] = make_uint4(0, 0, 0, 0);
            if (input < k) {
                next_low[i] = load16_once(low + input);
                next_high[i] = load16_once(high + input);
            }
        }
    };
    int sum[TILES][4] = {};
    load(0);
    copy_step(x, rows, k, first_row, 0, steps);
    for (int step = 0; step < all_steps; step++) {
        uint4 a[PIECES], b[PIECES];
#pragma unroll
        for (int i = 0; i < PIECES; i++) a[i] = next_low[i], b[i] = next_high[i];
        copy_wait<0>();
        // The step has come, and nobody reads the other half any more.
        barrier();
        if (step + 1 < all_steps) {
            copy_step(x, rows, k, first_row, step + 1, steps + (step + 1) % 2 * STEP);
            load(step + 1);
        }
        const uint4* here = steps + step % 2 * STEP;
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const u32 first_half[4] = {a[i].x, b[i].x, a[i].y, b[i].y};
            const u32 second_half[4] = {a[i].z, b[i].z, a[i].w, b[i].w};
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                const uint4 v = fetch16(here + (i * ROWS + tile * 8 + g) * 4 + t);
                mma_i8(sum[tile], first_half, v.x, v.y);
                mma_i8(sum[tile], second_half, v.z, v.w);
            }
        }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int row = first_row + tile * 8 + 2 * t + j % 2;
            const int output = first + g + j / 2 * 8;
            if (row >= rows || output >= n) continue;
            const i64 at = static_cast<i64>(row) * n + output;
            const float scale = __ldg(x_scale + row) * __ldg(scales + output);
            float y = static_cast<float>(sum[tile][j]) * scale;
            if (bias) y += to_float(bias[output]);
            if (residual) y += to_float(residual[at]);
            if (wide) {
                static_cast<float*>(out)[at] = y;
            } else {
                static_cast<act*>(out)[at] = from_float<act>(y);
            }
        }
    }
}
