// Rows of a weight matrix back to activations: the embedding of each token, and whole matrices for
// what multiplies 16-bit weights only.
//
// Shapes. embed_*: tokens [rows] and a matrix [vocab, k] in a format of weight.cuh to [rows, k]
// act; a token below zero pads a graph's batch and gives zeros. dequantize_*: a matrix [n, k] to
// [n, k] act, row-major.
//
// Budget. embed: w(rows · k) weight bytes and 2 · rows · k bytes written, no operations (embed in
// src/cost). dequantize: w(nk) read, 2nk written, nk operations: all of it over-processing beside
// the fused products, and 2nk more are read again by the product that follows.
//
// How. A thread takes one 16-byte load's worth of a row, eight, sixteen or thirty-two weights, and
// writes it eight at a time. The permuted formats make runs of eight inputs of 16-byte stores, so
// both sides move whole sectors. The grid is [⌈k / 2048⌉, rows or n] for 16-bit weights,
// ⌈k / 4096⌉ and ⌈k / 8192⌉ for 8 and 4 bits: 256 threads of one load each.
//
// Versions considered. One thread per weight: the same bytes in 16 to 32 times the instructions.
//
// Share of the measured ceiling: not measured yet: no GPU at hand.

#include "weight.cuh"

namespace {

// Decodes this thread's part of matrix row `from` to the row at `out`.
template <class Format>
DEVICE void decode_row(act* out, const u8* weights, const void* scales, i64 from, int k) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    const int chunk = at / 4, t = at % 4;
    if (chunk >= ceil_div(k, depth<Format>)) return;
    const uint4 raw = load_chunk<Format>(weights + from * Format::row_bytes(k), chunk, t, k);
    const uint2 stored = load_scales<Format>(scales, from, chunk, k);
#pragma unroll
    for (int piece = 0; piece < Format::pieces; piece++) {
        const int input = input_of<Format>(chunk, piece, t);
        u32 pairs[4];
        Format::decode(raw, piece, pairs);
        if (input >= k) continue;
        if (Format::group > 0 || Format::channel_scale) {
            const float scale = Format::channel_scale
                                    ? __ldg(static_cast<const float*>(scales) + from)
                                    : scale_of<Format>(stored, piece);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                pairs[i] = pack2(act{}, low2(act{}, pairs[i]) * scale,
                                 high2(act{}, pairs[i]) * scale);
            }
        }
        store16(out + input, make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
    }
}

template <class Format>
DEVICE void embed(act* out, const u8* weights, const void* scales, const int* tokens, int k) {
    const int row = blockIdx.y, token = tokens[row];
    act* to = out + static_cast<i64>(row) * k;
    if (token >= 0) {
        decode_row<Format>(to, weights, scales, token, k);
        return;
    }
    const int first = (blockIdx.x * blockDim.x + threadIdx.x) * 8 * Format::pieces;
    for (int i = first; i < least(first + 8 * Format::pieces, k); i += 8) {
        store16(to + i, make_uint4(0, 0, 0, 0));
    }
}

}  // namespace

#define ROWS_OF(format, Format)                                                                 \
    KERNEL(256, 4, embed_##format, act* out, const u8* weights, const void* scales,             \
           const int* tokens, int k) {                                                          \
        embed<Format>(out, weights, scales, tokens, k);                                         \
    }                                                                                           \
    KERNEL(256, 4, dequantize_##format, act* out, const u8* weights, const void* scales, int k) { \
        const i64 row = blockIdx.y;                                                             \
        decode_row<Format>(out + row * k, weights, scales, row, k);                             \
    }

ROWS_OF(w16, W16)
ROWS_OF(e4m3, E4m3)
ROWS_OF(i8, I8)
ROWS_OF(q8_0, Q8)
ROWS_OF(q4_0, Q4)
ROWS_OF(i4, I4)
ROWS_OF(nf4, Nf4)
