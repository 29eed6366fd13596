// Queries and keys to where attention finds them: biases, a norm of each head, rotation by
// position, keys and values into the cache.
//
// rope_append_*: all of it in one pass over the rows of the qkv product
// head_norm, rope, kv_append_*: the same as three passes (biases: bias_add of activation.cu)
//
// Shapes. qkv [rows, (heads + 2 kv_heads) · head_dim] act: queries, keys, values. bias of that
// width, q_norm and k_norm [head_dim] act, null for none. turns [positions][head_dim] f32: half a
// head of cosines, then of sines; element i turns with element i + head_dim / 2. positions and
// slots [rows]; a slot below zero stores nothing (a row that pads a graph's batch). Pools as in
// kv.cuh. head_dim is divisible by 4 and at most 256. Queries are not scaled: attention does that
// in f32.
//
// Budget (rope, append in src/cost): norms 2Da weight bytes, k(2T·Hkv·D) KV bytes,
// T(2Hq + 2Hkv)Da activation bytes, 3T(Hq + Hkv)D operations and 4T(Hq + Hkv)D for norms. Unfused:
// norm and rotation 2T(Hq + Hkv)Da each, append 2T·Hkv·D(a + k).
//
// How. A warp has one head of one row in registers: lane l holds elements 2l, 2l + 1 and their
// partners half a head away, so that a head's norm and largest magnitude are warp reductions and
// rotation needs no exchange. Keys and values are not written back: attention reads them from the
// cache. Fused results differ from unfused ones by the two roundings to act between the passes.
//
// Versions considered. A thread per pair over all heads: the norm then needs shared memory and the
// block a barrier.
//
// Share of the measured ceiling: not measured yet: no GPU at hand.

#include "kv.cuh"

namespace {

// A lane's part of a head: pairs j at 2 · lane + 64 j, of the lower and of the upper half.
constexpr int PAIRS = 2;
struct Head {
    float low[PAIRS][2], high[PAIRS][2];
};

template <class Body>
DEVICE void each_pair(int half, Body body) {
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        const int at = 2 * (threadIdx.x % 32) + 64 * j;
        if (at < half) body(j, at);
    }
}

DEVICE void load_pair(const act* from, float (&into)[2]) {
    const u32 pair = fetch4(from);
    into[0] = low2(act{}, pair);
    into[1] = high2(act{}, pair);
}

DEVICE Head load_head(const act* from, int half) {
    Head head = {};
    each_pair(half, [&](int j, int at) {
        load_pair(from + at, head.low[j]);
        load_pair(from + half + at, head.high[j]);
    });
    return head;
}

DEVICE void store_head(act* to, const Head& head, int half) {
    each_pair(half, [&](int j, int at) {
        store4(to + at, pack2(act{}, head.low[j][0], head.low[j][1]));
        store4(to + half + at, pack2(act{}, head.high[j][0], head.high[j][1]));
    });
}

DEVICE void add_bias(Head& head, const act* bias, int half) {
    const Head b = load_head(bias, half);
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            head.low[j][i] += b.low[j][i];
            head.high[j][i] += b.high[j][i];
        }
    }
}

DEVICE void norm_head(Head& head, const act* weight, int half, float epsilon) {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            sum += head.low[j][i] * head.low[j][i] + head.high[j][i] * head.high[j][i];
        }
    }
    sum = warp_sum(sum);
    const float factor = 1.0f / sqrtf(sum / static_cast<float>(2 * half) + epsilon);
    const Head w = load_head(weight, half);
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            head.low[j][i] *= factor * w.low[j][i];
            head.high[j][i] *= factor * w.high[j][i];
        }
    }
}

DEVICE void turn_head(Head& head, const float* turns, int half) {
    each_pair(half, [&](int j, int at) {
        const uint2 cosines = load8(turns + at), sines = load8(turns + half + at);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float cosine = bits_float(i == 0 ? cosines.x : cosines.y);
            const float sine = bits_float(i == 0 ? sines.x : sines.y);
            const float x = head.low[j][i], y = head.high[j][i];
            head.low[j][i] = x * cosine - y * sine;
            head.high[j][i] = y * cosine + x * sine;
        }
    });
}

// Stores a head and, for the 8-bit forms, its scale.
template <class Kv>
DEVICE void append(const Head& head, u8* pool, float* scales, i64 place, int half) {
    float inverse = 1.0f;
    if constexpr (Kv::scaled) {
        float largest = 0.0f;
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                largest = fmaxf(largest, fmaxf(fabsf(head.low[j][i]), fabsf(head.high[j][i])));
            }
        }
        largest = warp_max(largest);
        inverse = largest > 0.0f ? Kv::largest / largest : 0.0f;
        if (threadIdx.x % 32 == 0) scales[place] = largest / Kv::largest;
    }
    const i64 first = place * 2 * half;
    each_pair(half, [&](int j, int at) {
        store_pair<Kv>(pool, first + at, head.low[j][0], head.low[j][1], inverse);
        store_pair<Kv>(pool, first + half + at, head.high[j][0], head.high[j][1], inverse);
    });
}

// The layout of a row of queries, keys and values, and the head of this warp.
struct Place {
    int row, head;
    bool there;
};
DEVICE Place place_of(int rows, int heads) {
    const int at = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    return {at / heads, at % heads, at / heads < rows};
}

template <class Kv>
DEVICE void rope_append(act* qkv, const act* bias, const act* q_norm, const act* k_norm,
                        const float* turns, const int* positions, u8* keys, u8* values,
                        float* key_scales, float* value_scales, const int* slots, int rows,
                        int heads, int kv_heads, int head_dim, int block_bits, float epsilon) {
    const int all = heads + 2 * kv_heads, half = head_dim / 2;
    const Place place = place_of(rows, all);
    if (!place.there) return;
    const bool is_query = place.head < heads;
    const bool is_value = place.head >= heads + kv_heads;
    act* at = qkv + (static_cast<i64>(place.row) * all + place.head) * head_dim;
    Head head = load_head(at, half);
    if (bias) add_bias(head, bias + place.head * head_dim, half);
    if (!is_value) {
        const act* norm = is_query ? q_norm : k_norm;
        if (norm) norm_head(head, norm, half, epsilon);
        turn_head(head, turns + static_cast<i64>(positions[place.row]) * head_dim, half);
    }
    if (is_query) {
        store_head(at, head, half);
        return;
    }
    const int slot = slots[place.row];
    if (slot < 0) return;
    const int kv_head = place.head - heads - (is_value ? kv_heads : 0);
    const i64 to = kv_place_of_slot(slot, kv_heads, kv_head, block_bits);
    append<Kv>(head, is_value ? values : keys, is_value ? value_scales : key_scales, to, half);
}

template <class Kv>
DEVICE void kv_append(const act* qkv, u8* keys, u8* values, float* key_scales, float* value_scales,
                      const int* slots, int rows, int heads, int kv_heads, int head_dim,
                      int block_bits) {
    const int half = head_dim / 2;
    const Place place = place_of(rows, 2 * kv_heads);
    if (!place.there) return;
    const int slot = slots[place.row];
    if (slot < 0) return;
    const bool is_value = place.head >= kv_heads;
    const i64 from = static_cast<i64>(place.row) * (heads + 2 * kv_heads) + heads + place.head;
    const Head head = load_head(qkv + from * head_dim, half);
    const i64 to =
        kv_place_of_slot(slot, kv_heads, place.head - (is_value ? kv_heads : 0), block_bits);
    append<Kv>(head, is_value ? values : keys, is_value ? value_scales : key_scales, to, half);
}

}  // namespace

KERNEL(128, 4, head_norm, act* qkv, const act* q_norm, const act* k_norm, int rows, int heads,
       int kv_heads, int head_dim, float epsilon) {
    const int half = head_dim / 2;
    const Place place = place_of(rows, heads + kv_heads);
    if (!place.there) return;
    act* at = qkv + (static_cast<i64>(place.row) * (heads + 2 * kv_heads) + place.head) * head_dim;
    Head head = load_head(at, half);
    norm_head(head, place.head < heads ? q_norm : k_norm, half, epsilon);
    store_head(at, head, half);
}

KERNEL(128, 4, rope, act* qkv, const float* turns, const int* positions, int rows, int heads,
       int kv_heads, int head_dim) {
    const int half = head_dim / 2;
    const Place place = place_of(rows, heads + kv_heads);
    if (!place.there) return;
    act* at = qkv + (static_cast<i64>(place.row) * (heads + 2 * kv_heads) + place.head) * head_dim;
    Head head = load_head(at, half);
    turn_head(head, turns + static_cast<i64>(positions[place.row]) * head_dim, half);
    store_head(at, head, half);
}

#define CACHE(kv, Kv)                                                                             \
    KERNEL(128, 4, rope_append_##kv, act* qkv, const act* bias, const act* q_norm,                \
           const act* k_norm, const float* turns, const int* positions, u8* keys, u8* values,     \
           float* key_scales, float* value_scales, const int* slots, int rows, int heads,         \
           int kv_heads, int head_dim, int block_bits, float epsilon) {                           \
        rope_append<Kv>(qkv, bias, q_norm, k_norm, turns, positions, keys, values, key_scales,    \
                        value_scales, slots, rows, heads, kv_heads, head_dim, block_bits,         \
                        epsilon);                                                                 \
    }                                                                                             \
    KERNEL(128, 4, kv_append_##kv, const act* qkv, u8* keys, u8* values, float* key_scales,       \
           float* value_scales, const int* slots, int rows, int heads, int kv_heads, int head_dim, \
           int block_bits) {                                                                      \
        kv_append<Kv>(qkv, keys, values, key_scales, value_scales, slots, rows, heads, kv_heads,  \
                      head_dim, block_bits);                                                      \
    }

CACHE(f16, KvF16)
CACHE(bf16, KvBf16)
CACHE(i8, KvI8)
CACHE(e4m3, KvE4m3)
