// What the two forms of a matrix product share: which outputs a block computes, and what becomes
// of a finished sum.
#pragma once

#include "weight.cuh"

// The arguments that every product takes.
struct Product {
    // [rows, n] of act, or of f32 if `wide`.
    void* out;
    // [rows, k].
    const act* x;
    const u8* weights;
    const void* scales;
    // [n], or null. Not with SwiGLU.
    const act* bias;
    // [rows, n] of act, added to the product; may be `out`. Null for none. Not with SwiGLU.
    const act* residual;
    // Where the sums of parts of the inputs meet, if gridDim of the parts is above 1, and one
    // count per tile of outputs, zero before and after.
    float* workspace;
    u32* counts;
    int rows;
    // Outputs; with SwiGLU half the rows of the matrix: gate first, then up.
    int n;
    int k;
    bool wide;
};

// The matrix rows of places g and g + 8 of a 16-row operand whose first output is `first`. With
// SwiGLU place g is a gate and place g + 8 its up, so that one lane finishes both. Beyond the last
// output the last one stands in and its sum is dropped.
template <bool swiglu>
DEVICE int low_row(const Product& p, int first, int g) {
    return least(first + g, p.n - 1);
}
template <bool swiglu>
DEVICE int high_row(const Product& p, int first, int g) {
    return swiglu ? p.n + least(first + g, p.n - 1) : least(first + g + 8, p.n - 1);
}

template <class Format>
DEVICE float channel_scale(const Product& p, int output) {
    return Format::channel_scale ? __ldg(static_cast<const float*>(p.scales) + output) : 1.0f;
}

DEVICE void put(const Product& p, int row, int output, float sum) {
    const i64 at = static_cast<i64>(row) * p.n + output;
    if (p.wide) {
        static_cast<float*>(p.out)[at] = sum;
    } else {
        static_cast<act*>(p.out)[at] = from_float<act>(sum);
    }
}

// A finished sum of one output.
template <class Format>
DEVICE void finish(const Product& p, int row, int output, float sum) {
    if (row >= p.rows || output >= p.n) return;
    sum *= channel_scale<Format>(p, output);
    if (p.bias) sum += to_float(p.bias[output]);
    if (p.residual) sum += to_float(p.residual[static_cast<i64>(row) * p.n + output]);
    put(p, row, output, sum);
}

// The finished sums of a gate and its up.
template <class Format>
DEVICE void finish_swiglu(const Product& p, int row, int output, float gate, float up) {
    if (row >= p.rows || output >= p.n) return;
    gate *= channel_scale<Format>(p, output);
    up *= channel_scale<Format>(p, p.n + output);
    put(p, row, output, silu(gate) * up);
}

// Whether this block is the last of `parts` to finish a tile. Its threads then see what the
// others wrote before.
DEVICE bool last_to_finish(u32* count, u32 parts) {
    SHARED(u32, before, 1);
    publish();
    barrier();
    if (threadIdx.x == 0) {
        before[0] = add_atomic(count, 1u);
        if (before[0] == parts - 1) *count = 0;
    }
    barrier();
    publish();
    return before[0] == parts - 1;
}
