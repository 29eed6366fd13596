// What decode and prefill attention share: the operands of the two products, and the softmax
// between them.
//
// Both products are mma.m16n8k16. Their sums may be taken in any order, so elements are given to
// lanes as they can be loaded wide, with g = lane / 4 and t = lane % 4:
//
// scores = q · kᵀ: of each 32 elements of a head, lane t has 8t … 8t + 7, of queries g and g + 8
// and of the keys of token g: one 16-byte load each, two mma. The last 16 of a head whose length
// is not divisible by 32: 4t … 4t + 3, one mma.
//
// out = p · v: of each 64 elements of a head, the lanes with the same g have 8g … 8g + 7, of four
// tokens each; pairs of tokens are brought together by byte permutes, and mma i of eight gives
// elements 8n + i for n = 0 … 7. What is left of a head the same: 32 elements with 4 each, then 16
// with 2.
// The scores come out of the first product as the second one wants them: nothing is exchanged.
#pragma once

#include "kv.cuh"

constexpr float LOG2_E = 1.4426950408889634f;

// Shape of a head of `D` elements.
template <int D>
struct HeadOf {
    static_assert(D % 16 == 0 && D <= 128, "a head that the tiles cover");
    static constexpr int wide = D / 32;        // score steps of 32 elements
    static constexpr bool tail = D % 32 != 0;  // and one of 16; the same of output
    static constexpr int blocks = D / 64;      // output blocks of 64 elements
    static constexpr bool half = D % 64 >= 32;  // and one of 32
    static constexpr int tiles = D / 8;        // mma tiles of output
};

// Queries g and g + 8, zeros where there are none.
template <class Math, int D>
struct Queries {
    u32 wide[HeadOf<D>::wide + 1][2][4];
    u32 tail[2][2];
    // From act to the type of the product.
    static DEVICE u32 convert(u32 pair) {
        return pack_saturated(Math{}, low2(act{}, pair), high2(act{}, pair));
    }
    // `from` points to lane's query g or g + 8 (`high`), null for none.
    DEVICE void load(const act* from, int high, int t) {
#pragma unroll
        for (int i = 0; i < HeadOf<D>::wide; i++) {
            uint4 v = make_uint4(0, 0, 0, 0);
            if (from) v = load16(from + 32 * i + 8 * t);
            wide[i][high][0] = convert(v.x), wide[i][high][1] = convert(v.y);
            wide[i][high][2] = convert(v.z), wide[i][high][3] = convert(v.w);
        }
        if (HeadOf<D>::tail) {
            uint2 v = make_uint2(0, 0);
            if (from) v = load8(from + D - 16 + 4 * t);
            tail[high][0] = convert(v.x), tail[high][1] = convert(v.y);
        }
    }
};

// A token's key, lane t's part.
template <int D>
struct Key {
    u32 wide[HeadOf<D>::wide + 1][4];
    u32 tail[2];
};

// score += queries · key.
template <class Math, int D>
DEVICE void score(const Queries<Math, D>& q, const Key<D>& key, float (&into)[4]) {
#pragma unroll
    for (int i = 0; i < HeadOf<D>::wide; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const u32 a[4] = {q.wide[i][0][2 * half], q.wide[i][1][2 * half],
                              q.wide[i][0][2 * half + 1], q.wide[i][1][2 * half + 1]};
            mma(Math{}, into, a, key.wide[i][2 * half], key.wide[i][2 * half + 1]);
        }
    }
    if (HeadOf<D>::tail) {
        const u32 a[4] = {q.tail[0][0], q.tail[1][0], q.tail[0][1], q.tail[1][1]};
        mma(Math{}, into, a, key.tail[0], key.tail[1]);
    }
}

// Sums over tokens for queries g and g + 8.
template <int D>
struct Sums {
    float largest[2];
    // Of this lane's tokens only; the quad's together are the row's.
    float sum[2];
    float out[HeadOf<D>::tiles][4];
    DEVICE void clear() {
#pragma unroll
        for (int i = 0; i < 2; i++) largest[i] = -INFINITY, sum[i] = 0.0f;
#pragma unroll
        for (int i = 0; i < HeadOf<D>::tiles; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) out[i][j] = 0.0f;
        }
    }
    // The element of a head that out[tile][j] belongs to.
    static DEVICE int element(int tile, int j, int t) {
        const int column = 2 * t + j % 2;
        if (tile < HeadOf<D>::blocks * 8) return tile / 8 * 64 + column * 8 + tile % 8;
        const int rest = tile % 8;
        if (HeadOf<D>::half && rest < 4) return HeadOf<D>::blocks * 64 + column * 4 + rest;
        return D - 16 + column * 2 + rest % 2;
    }
};

// Scores of `tiles` tiles of eight tokens, in powers of two, −∞ where a query does not attend, to
// probabilities; what was summed before is brought to the new largest score.
template <int D, int tiles>
DEVICE void soften(Sums<D>& sums, float (&scores)[tiles][4]) {
#pragma unroll
    for (int high = 0; high < 2; high++) {
        float largest = sums.largest[high];
#pragma unroll
        for (int i = 0; i < tiles; i++) {
            largest = fmaxf(largest, fmaxf(scores[i][2 * high], scores[i][2 * high + 1]));
        }
        largest = fmaxf(largest, shuffle_xor(largest, 1));
        largest = fmaxf(largest, shuffle_xor(largest, 2));
        // Where nothing is attended to yet, any finite shift leaves zeros.
        const float shift = largest == -INFINITY ? 0.0f : largest;
        const float factor = exp2f(sums.largest[high] - shift);
        sums.largest[high] = largest;
        sums.sum[high] *= factor;
#pragma unroll
        for (int i = 0; i < tiles; i++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float& s = scores[i][2 * high + j];
                s = exp2f(s - shift);
                sums.sum[high] += s;
            }
        }
#pragma unroll
        for (int i = 0; i < HeadOf<D>::tiles; i++) {
            sums.out[i][2 * high] *= factor;
            sums.out[i][2 * high + 1] *= factor;
        }
    }
}

// The probabilities of two tiles of eight tokens as an operand.
template <class Math>
DEVICE void probabilities(const float (&first)[4], const float (&second)[4], u32 (&a)[4]) {
    a[0] = pack2(Math{}, first[0], first[1]);
    a[1] = pack2(Math{}, first[2], first[3]);
    a[2] = pack2(Math{}, second[0], second[1]);
    a[3] = pack2(Math{}, second[2], second[3]);
}

// Adds 2 · pairs tiles of output from `pairs` pairs of elements of four tokens: those of k rows 2t,
// 2t + 1, 2t + 8 and 2t + 9.
template <class Math, int D, int pairs>
DEVICE void add_values(Sums<D>& sums, int first_tile, const u32 (&a)[4], const u32 (&v0)[pairs],
                       const u32 (&v1)[pairs], const u32 (&v2)[pairs], const u32 (&v3)[pairs]) {
#pragma unroll
    for (int i = 0; i < pairs; i++) {
        mma(Math{}, sums.out[first_tile + 2 * i], a, permute(v0[i], v1[i], 0x5410u),
            permute(v2[i], v3[i], 0x5410u));
        mma(Math{}, sums.out[first_tile + 2 * i + 1], a, permute(v0[i], v1[i], 0x7632u),
            permute(v2[i], v3[i], 0x7632u));
    }
}
