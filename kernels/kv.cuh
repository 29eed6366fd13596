// How keys and values lie in device memory.
//
// A layer has two pools, keys and values, each [block][kv_head][token of the block][head_dim]. The
// tokens of a block are a power of two, at least 16: `block_bits` is its logarithm. A block table
// has the blocks of a sequence in order; a slot is block · tokens + token.
//
// Elements are f16, bf16, i8 or e4m3. The 8-bit forms have a scale for each token and head, f32
// [block][kv_head][token of the block], beside keys and beside values: largest magnitude of the
// head's elements over 127 or 448. k(n) of the formulas in src/cost is 2n, or n + 4n / head_dim.
//
// Products of attention are taken in bf16 where the cache is bf16, else in f16, which holds every
// code of both 8-bit forms times its scale with 11 bits.
#pragma once

#include "common.cuh"

struct KvF16 {
    typedef f16 math;
    static constexpr int bytes = 2;
    static constexpr bool scaled = false;
};
struct KvBf16 {
    typedef bf16 math;
    static constexpr int bytes = 2;
    static constexpr bool scaled = false;
};
struct KvI8 {
    typedef f16 math;
    static constexpr int bytes = 1;
    static constexpr bool scaled = true;
    static constexpr float largest = 127.0f;
};
struct KvE4m3 {
    typedef f16 math;
    static constexpr int bytes = 1;
    static constexpr bool scaled = true;
    static constexpr float largest = 448.0f;
};

// Where a token's head is, counted in heads.
DEVICE i64 kv_place(int block, int token, int kv_heads, int head, int block_bits) {
    return ((static_cast<i64>(block) * kv_heads + head) << block_bits) + token;
}
DEVICE i64 kv_place_of_slot(int slot, int kv_heads, int head, int block_bits) {
    return kv_place(slot >> block_bits, slot & ((1 << block_bits) - 1), kv_heads, head, block_bits);
}

// Bytes 2i and 2i + 1 of a word as floats.
DEVICE float2 codes_to_floats(KvI8, u32 word, int i) {
    const u32 flipped = word ^ 0x80808080u;
    const float low = bits_float(permute(flipped, 0x4b000000u, i == 0 ? 0x7440u : 0x7442u));
    const float high = bits_float(permute(flipped, 0x4b000000u, i == 0 ? 0x7441u : 0x7443u));
    return make_float2(low - 8388736.0f, high - 8388736.0f);
}
DEVICE float2 codes_to_floats(KvE4m3, u32 word, int i) {
    const u32 spread = permute(word, 0, i == 0 ? 0x1404u : 0x3424u);
    const u32 value = (spread & 0x80008000u) | (spread & 0x7f007f00u) >> 1;
    const u32 pair = fma2(f16{}, value, 0x5c005c00u, 0x80008000u);
    return make_float2(low2(f16{}, pair), high2(f16{}, pair));
}

// `pairs` pairs of elements at `place`, stored as they are multiplied, times `scale`.
template <class Kv, int pairs>
DEVICE void load_pairs(const u8* place, float scale, u32 (&into)[pairs]) {
    static_assert(pairs == 1 || pairs == 2 || pairs == 4, "a load of 2 to 16 bytes");
    if constexpr (!Kv::scaled) {
        if constexpr (pairs == 4) {
            const uint4 v = load16(place);
            into[0] = v.x, into[1] = v.y, into[2] = v.z, into[3] = v.w;
        } else if constexpr (pairs == 2) {
            const uint2 v = load8(place);
            into[0] = v.x, into[1] = v.y;
        } else {
            into[0] = load4(place);
        }
    } else {
        u32 words[2] = {0, 0};
        if constexpr (pairs == 4) {
            const uint2 v = load8(place);
            words[0] = v.x, words[1] = v.y;
        } else if constexpr (pairs == 2) {
            words[0] = load4(place);
        } else {
            words[0] = load2(place);
        }
#pragma unroll
        for (int i = 0; i < pairs; i++) {
            const float2 x = codes_to_floats(Kv{}, words[i / 2], i % 2);
            into[i] = pack_f16(x.x * scale, x.y * scale);
        }
    }
}

// One element times its scale, for the naive forms.
template <class Kv>
DEVICE float load_element(const u8* pool, i64 element, float scale) {
    if constexpr (Kv::scaled) {
        const u8 byte = __ldg(pool + element);
        const float2 x = codes_to_floats(Kv{}, byte, 0);
        return x.x * scale;
    } else {
        return low2(typename Kv::math{}, load2(pool + 2 * element));
    }
}
template <class Kv>
DEVICE float load_scale(const float* scales, i64 place) {
    return Kv::scaled ? __ldg(scales + place) : 1.0f;
}

// Two neighbours at `element`, divided by their scale before; `inverse` is one over it.
template <class Kv>
DEVICE void store_pair(u8* pool, i64 element, float low, float high, float inverse) {
    if constexpr (Kv::scaled) {
        u32 a, b;
        if constexpr (Kv::largest == 127.0f) {
            a = static_cast<u8>(to_i8(low * inverse));
            b = static_cast<u8>(to_i8(high * inverse));
        } else {
            a = to_e4m3(low * inverse).bits;
            b = to_e4m3(high * inverse).bits;
        }
        store2(pool + element, static_cast<u16>(a | b << 8));
    } else {
        store4(pool + 2 * element, pack_saturated(typename Kv::math{}, low, high));
    }
}
