// The feed-forward layer's activation by itself, and biases by themselves: what the products do in
// their epilogues, as a separate pass for comparison.
//
// Shapes. silu_mul: gate_up [rows, 2F] act, gate before up, to out [rows, F]; F divisible by 8.
// bias_add: y [rows, width] += bias [width].
//
// Budget. silu_mul: 3TFa bytes, 5TF operations, all of it saved by the product with a
// SwiGLU epilogue. bias_add: 2T·width·a + width·a bytes, T·width operations.
//
// How. Eight elements per thread, 16-byte loads and stores; nothing to gain beyond that.
//
// Share of the measured ceiling: not measured yet: no GPU at hand.

#include "common.cuh"

KERNEL(256, 4, silu_mul, act* out, const act* gate_up, int rows, int width) {
    const i64 at = (static_cast<i64>(blockIdx.x) * 256 + threadIdx.x) * 8;
    if (at >= static_cast<i64>(rows) * width) return;
    const i64 row = at / width, column = at % width;
    float gate[8], up[8];
    unpack8<act>(load16(gate_up + row * 2 * width + column), gate);
    unpack8<act>(load16(gate_up + row * 2 * width + width + column), up);
#pragma unroll
    for (int i = 0; i < 8; i++) gate[i] = silu(gate[i]) * up[i];
    store16(out + at, pack8<act>(gate));
}

KERNEL(256, 4, bias_add, act* y, const act* bias, int rows, int width) {
    const i64 at = (static_cast<i64>(blockIdx.x) * 256 + threadIdx.x) * 8;
    if (at >= static_cast<i64>(rows) * width) return;
    float x[8], b[8];
    unpack8<act>(fetch16(y + at), x);
    unpack8<act>(load16(bias + at % width), b);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] += b[i];
    store16(y + at, pack8<act>(x));
}
