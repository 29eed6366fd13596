// What the two forms of sampling share: the likeliest token, masks, weights and sums over a block.
#pragma once

#include "common.cuh"

constexpr int NO_TOKEN = 0x7fffffff;

struct Best {
    float logit;
    int token;
};
// The larger; of equals the first.
DEVICE Best better(Best a, Best b) {
    const bool second = b.logit > a.logit || (b.logit == a.logit && b.token < a.token);
    return second ? b : a;
}
DEVICE Best warp_best(Best best) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        best = better(best, {shuffle_xor(best.logit, lanes), shuffle_xor(best.token, lanes)});
    }
    return best;
}
// The best of a block; `room` has one place per warp.
template <int threads>
DEVICE Best block_best(Best best, Best* room) {
    best = warp_best(best);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = best;
    barrier();
    best = room[0];
#pragma unroll
    for (int warp = 1; warp < threads / 32; warp++) best = better(best, room[warp]);
    return best;
}

DEVICE bool allowed(const u32* mask, int token) {
    return !mask || (__ldg(mask + token / 32) >> token % 32 & 1u);
}

DEVICE const u32* mask_of_row(const u32* masks, const int* mask_of, int row, int vocab) {
    if (!mask_of || mask_of[row] < 0) return nullptr;
    return masks + static_cast<i64>(mask_of[row]) * ceil_div(vocab, 32);
}

// Inclusive sum over the threads of a block; `room` has one place per warp and may be used again
// after the next barrier.
DEVICE u64 block_scan(u64 x, u64* room) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) {
        const u64 before = shuffle_up(x, lanes);
        if (lane >= lanes) x += before;
    }
    if (lane == 31) room[warp] = x;
    barrier();
    for (int i = 0; i < warp; i++) x += room[i];
    return x;
}

// The weight of a token: e^((logit − largest) / temperature), `factor` one over the temperature; its
// bits order as the weights do. False for what is not a number or not allowed.
DEVICE bool weight_of(float logit, float largest, float factor, bool allowed, u32& key) {
    if (!(logit == logit) || !allowed) return false;
    key = float_bits(expf(fminf((logit - largest) * factor, 0.0f)));
    return true;
}
// A weight in units of 2⁻⁴⁰, so that sums do not depend on their order.
DEVICE u64 mass_of(u32 key) { return static_cast<u64>(bits_float(key) * 1099511627776.0f); }
