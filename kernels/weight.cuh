// How weights lie in device memory, and how they become operands of a warp's product.
//
// A matrix is [n, k]: n outputs, k inputs. In a product the weights are the 16-row operand of
// mma.m16n8k16, straight from device memory into registers: with g = lane / 4 and t = lane % 4, a
// lane holds weights of outputs g and g + 8, and each of its 16-byte loads is `pieces` times eight
// weights. A sum over inputs may be taken in any order, so each format chooses which eight inputs
// t holds, and the activations are read at the same places; nothing is shuffled, and no byte
// of a matrix passes through shared memory.
//
// Four lanes together read a chunk: 64 consecutive bytes of a row, `depth` = 32 · pieces inputs.
//
// | format | chunk | bytes 16t … 16t+15 of a chunk from input c on hold | scales |
// |---|---|---|---|
// | w16 (act) | 32 | c + 8t … +7, as they come | none |
// | e4m3 | 64 | c + 16t … +15, as they come | f32 [n] |
// | i8 | 64 | c + 16t … +15, as they come | f32 [n] |
// | q8_0 | 64 | eight of c + 8t …, eight of c + 32 + 8t … | f16 [n][k/32] |
// | q4_0 | 128 | words j = 0 … 3: the eight of c + 32j + 8t …, each + 8 | f16 [n][k/32] |
// | i4 | 128 | the same | f16 [n][k/128] |
// | nf4 | 128 | the same places, codes of the 16 quantiles | f16 [n][k/64] |
//
// A word of q4_0 and i4 holds input 2i in nibble i and input 2i + 1 in nibble i + 4, so that a
// shift and a mask give two neighbours in the halves of a register. A word of nf4 holds input i in
// nibble i. Rows of w16, e4m3 and i8 are k elements, k divisible by 16 bytes' worth. Rows of the
// others are whole chunks and have whole chunks of scales; k is divisible by 32, and what lies
// behind it has scale zero. Values are those of the GGUF blocks of the same names, and of
// (nibble − 8) · scale for i4; only their places differ.
//
// Bytes per weight: 2, 1, 1, 1.0625, 0.5625, 0.515625, 0.53125.
#pragma once

#include "common.cuh"

// Two activations' worth of a constant.
DEVICE u32 both(bf16, u32 bits_bf16, u32) { return bits_bf16 | bits_bf16 << 16; }
DEVICE u32 both(f16, u32, u32 bits_f16) { return bits_f16 | bits_f16 << 16; }

// The weights that are stored as they are multiplied.
struct W16 {
    static constexpr int pieces = 1;
    // Whether the inputs of a lane's load are consecutive, or eight of each 32.
    static constexpr bool consecutive = true;
    // Pieces of a scale, 0 if none.
    static constexpr int group = 0;
    static constexpr bool channel_scale = false;
    static DEVICE i64 row_bytes(int k) { return 2 * static_cast<i64>(k); }
    static DEVICE void decode(uint4 raw, int, u32 (&pairs)[4]) {
        pairs[0] = raw.x;
        pairs[1] = raw.y;
        pairs[2] = raw.z;
        pairs[3] = raw.w;
    }
};

DEVICE u32 word_of(uint4 v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// Bytes 2i and 2i + 1 of `word` as two e4m3.
DEVICE u32 pair_e4m3(u32 word, int i) {
    // Each byte to the top of a half: sign, four bits of exponent, three of mantissa.
    const u32 spread = permute(word, 0, i == 0 ? 0x1404u : 0x3424u);
    const u32 sign = spread & 0x80008000u;
    // Moved to where act has its exponent, the value is off by a power of two. Multiplying by it
    // is exact, and makes subnormals right.
#ifdef GEMBA_ACT_F16
    const u32 value = sign | (spread & 0x7f007f00u) >> 1;
#else
    const u32 value = sign | (spread & 0x7f007f00u) >> 4;
#endif
    return fma2(act{}, value, both(act{}, 0x7b80u, 0x5c00u), 0x80008000u);
}

// Bytes 2i and 2i + 1 of `word`, each with its top bit flipped, as two i8.
DEVICE u32 pair_i8(u32 word, int i) {
#ifdef GEMBA_ACT_F16
    // 0x6400 + u is 1024 + u.
    const u32 value = permute(word, 0x64646464u, i == 0 ? 0x4140u : 0x4342u);
    return fma2(act{}, value, 0x3c003c00u, 0xe480e480u);  // −1152
#else
    // bf16 has too few bits for that; 0x4b000000 + u is 2²³ + u in a float.
    const float low = bits_float(permute(word, 0x4b000000u, i == 0 ? 0x7440u : 0x7442u));
    const float high = bits_float(permute(word, 0x4b000000u, i == 0 ? 0x7441u : 0x7443u));
    return pack_bf16(low - 8388736.0f, high - 8388736.0f);
#endif
}

struct E4m3 {
    static constexpr int pieces = 2;
    static constexpr bool consecutive = true;
    static constexpr int group = 0;
    static constexpr bool channel_scale = true;
    static DEVICE i64 row_bytes(int k) { return k; }
    static DEVICE void decode(uint4 raw, int piece, u32 (&pairs)[4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) pairs[i] = pair_e4m3(word_of(raw, 2 * piece + i / 2), i % 2);
    }
};

struct I8 {
    static constexpr int pieces = 2;
    static constexpr bool consecutive = true;
    static constexpr int group = 0;
    static constexpr bool channel_scale = true;
    static DEVICE i64 row_bytes(int k) { return k; }
    static DEVICE void decode(uint4 raw, int piece, u32 (&pairs)[4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            pairs[i] = pair_i8(word_of(raw, 2 * piece + i / 2) ^ 0x80808080u, i % 2);
        }
    }
};

struct Q8 : I8 {
    static constexpr bool consecutive = false;
    static constexpr int group = 1;
    static constexpr bool channel_scale = false;
    static DEVICE i64 row_bytes(int k) { return 64 * static_cast<i64>(ceil_div(k, 64)); }
};

struct Q4 {
    static constexpr int pieces = 4;
    static constexpr bool consecutive = false;
    static constexpr int group = 1;
    static constexpr bool channel_scale = false;
    static DEVICE i64 row_bytes(int k) { return 64 * static_cast<i64>(ceil_div(k, 128)); }
    static DEVICE void decode(uint4 raw, int piece, u32 (&pairs)[4]) {
        const u32 word = word_of(raw, piece);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            // 0x4300 + q is 128 + q in bf16, 0x6400 + q is 1024 + q in f16.
            const u32 value = (word >> 4 * i & 0x000f000fu) | both(act{}, 0x4300u, 0x6400u);
            pairs[i] = fma2(act{}, value, both(act{}, 0x3f80u, 0x3c00u),
                            both(act{}, 0xc308u, 0xe408u));  // − 8
        }
    }
};

struct I4 : Q4 {
    static constexpr int group = 4;
};

// The quantiles of a normal distribution as QLoRA defines them, rounded to act: the low bytes of
// the sixteen, and the high ones.
#define NF4_BF16_LOW 0xca063280u, 0x00ba3d92u, 0xad7c25a3u, 0x803910e2u
#define NF4_BF16_HIGH 0xbebfbfbfu, 0x00bdbebeu, 0x3e3e3e3du, 0x3f3f3f3eu
#define NF4_F16_LOW 0x52339200u, 0x00d4ea8du, 0x68e02618u, 0x00c9800du
#define NF4_F16_HIGH 0xb6b8b9bcu, 0x00adb1b4u, 0x3533312du, 0x3c393837u

struct Nf4 {
    static constexpr int pieces = 4;
    static constexpr bool consecutive = false;
    static constexpr int group = 2;
    static constexpr bool channel_scale = false;
    static DEVICE i64 row_bytes(int k) { return 64 * static_cast<i64>(ceil_div(k, 128)); }
    // Four codes, nibbles of `codes`, by a table of 16 bytes; `upper` marks codes from 8 on.
    static DEVICE u32 look_up(u32 codes, u32 upper, u32 t0, u32 t1, u32 t2, u32 t3) {
        const u32 choice = codes & 0x7777u;
        return (permute(t0, t1, choice) & ~upper) | (permute(t2, t3, choice) & upper);
    }
    static DEVICE void decode(uint4 raw, int piece, u32 (&pairs)[4]) {
        const u32 word = word_of(raw, piece);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const u32 codes = word >> 16 * half;
            // A byte of ones where bit 3 of the nibble is set.
            const u32 upper = permute_signs(codes, codes << 4, 0x9d8cu);
#ifdef GEMBA_ACT_F16
            const u32 low = look_up(codes, upper, NF4_F16_LOW);
            const u32 high = look_up(codes, upper, NF4_F16_HIGH);
#else
            const u32 low = look_up(codes, upper, NF4_BF16_LOW);
            const u32 high = look_up(codes, upper, NF4_BF16_HIGH);
#endif
            pairs[2 * half] = permute(low, high, 0x5140u);
            pairs[2 * half + 1] = permute(low, high, 0x7362u);
        }
    }
};

// Inputs of a chunk, and chunks of a unit of 128 inputs, the grain in which inputs are divided.
template <class Format>
constexpr int depth = 32 * Format::pieces;
template <class Format>
constexpr int chunks_of_unit = 4 / Format::pieces;

// Scales of a row's chunk.
template <class Format>
constexpr int scales_of_chunk = Format::group == 0 ? 0 : Format::pieces / Format::group;

// The first of the eight inputs that lane t holds in a piece of a chunk.
template <class Format>
DEVICE int input_of(int chunk, int piece, int t) {
    return chunk * depth<Format> +
           (Format::consecutive ? (t * Format::pieces + piece) * 8 : piece * 32 + t * 8);
}

// Lane t's 16 bytes of a row's chunk; zeros where they lie behind the row.
template <class Format>
DEVICE uint4 load_chunk(const u8* row, int chunk, int t, int k) {
    if (Format::consecutive && input_of<Format>(chunk, 0, t) >= k) return make_uint4(0, 0, 0, 0);
    return load16_once(row + 64 * static_cast<i64>(chunk) + 16 * t);
}

// The scales of a row's chunk, as they are stored.
template <class Format>
DEVICE uint2 load_scales(const void* scales, i64 row, int chunk, int k) {
    constexpr int count = scales_of_chunk<Format>;
    const i64 at = row * ceil_div(k, depth<Format>) + chunk;
    if constexpr (count == 4) return load8(static_cast<const u16*>(scales) + 4 * at);
    if constexpr (count == 2) return make_uint2(load4(static_cast<const u16*>(scales) + 2 * at), 0);
    if constexpr (count == 1) return make_uint2(load2(static_cast<const u16*>(scales) + at), 0);
    return make_uint2(0, 0);
}

// The scale of a piece among those of its chunk.
template <class Format>
DEVICE float scale_of(uint2 scales, int piece) {
    const int at = piece / most(Format::group, 1);
    const u32 word = at < 2 ? scales.x : scales.y;
    return f16_to_float(static_cast<u16>(word >> 16 * (at % 2)));
}
