// Attention as three kernels with the scores in memory between them: what the fused forms save.
//
// attn_scores_*: scores[row][head][token] = scale · q · k for every token of the table's first
//                `tokens`, attended to or not
// attn_softmax:  over the tokens a row attends to; zeros elsewhere
// attn_values_*: out = Σ probability · v
//
// Shapes. q rows of act `q_stride` elements apart; scores [rows][heads][tokens] f32; out [rows,
// heads, head_dim] act. positions and sequences [rows]: a row's position and its row of the tables.
// Pools, scales and tables as in kv.cuh. `tokens` is at least the longest context.
//
// Budget: the fused form's, and 16 · Hq · rows · tokens bytes of
// excess: scores written and read twice. No tile is skipped: 4Hq·D · rows · tokens operations, and
// 5 per score.
//
// How. As one would write it first: a thread per score, a warp per softmax row, a thread per
// element of the output.
//
// Share of the measured ceiling: not measured yet: no GPU at hand.

#include "kv.cuh"

namespace {

template <class Kv>
DEVICE void scores_of(float* scores, const act* q, int q_stride, const u8* keys,
                      const float* key_scales, const int* tables, int table_stride,
                      const int* positions, const int* sequences, int tokens, int heads,
                      int kv_heads, int head_dim, int block_bits, float scale) {
    const int token = blockIdx.x * 128 + threadIdx.x, head = blockIdx.y, row = blockIdx.z;
    if (token >= tokens) return;
    float sum = 0.0f;
    // Beyond the row's context there may be no block to read.
    if (token <= positions[row]) {
        const int block =
            tables[static_cast<i64>(sequences[row]) * table_stride + (token >> block_bits)];
        const i64 place = kv_place(block, token & ((1 << block_bits) - 1), kv_heads,
                                   head / (heads / kv_heads), block_bits);
        const float k_scale = load_scale<Kv>(key_scales, place);
        const act* query = q + static_cast<i64>(row) * q_stride + head * head_dim;
        for (int i = 0; i < head_dim; i++) {
            sum += to_float(query[i]) * load_element<Kv>(keys, place * head_dim + i, k_scale);
        }
    }
    scores[(static_cast<i64>(row) * heads + head) * tokens + token] = sum * scale;
}

template <class Kv>
DEVICE void values_of(act* out, const float* scores, const u8* values, const float* value_scales,
                      const int* tables, int table_stride, const int* positions,
                      const int* sequences, int tokens, int heads, int kv_heads, int head_dim,
                      int block_bits) {
    const int head = blockIdx.x, row = blockIdx.y, element = threadIdx.x;
    if (element >= head_dim) return;
    const i64 of_row = static_cast<i64>(row) * heads + head;
    float sum = 0.0f;
    for (int token = 0; token <= least(positions[row], tokens - 1); token++) {
        const float probability = scores[of_row * tokens + token];
        // Behind a window there may be no block any more.
        if (probability == 0.0f) continue;
        const int block =
            tables[static_cast<i64>(sequences[row]) * table_stride + (token >> block_bits)];
        const i64 place = kv_place(block, token & ((1 << block_bits) - 1), kv_heads,
                                   head / (heads / kv_heads), block_bits);
        sum += probability * load_element<Kv>(values, place * head_dim + element,
                                              load_scale<Kv>(value_scales, place));
    }
    out[of_row * head_dim + element] = from_float<act>(sum);
}

}  // namespace

KERNEL(128, 4, attn_softmax, float* scores, const int* positions, int rows, int heads, int tokens,
       int window) {
    const int at = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (at >= rows * heads) return;
    const int end = positions[at / heads] + 1;
    const int begin = window > 0 ? most(end - window, 0) : 0;
    float* row = scores + static_cast<i64>(at) * tokens;
    float largest = -INFINITY;
    for (int i = begin + lane; i < end; i += 32) largest = fmaxf(largest, row[i]);
    largest = warp_max(largest);
    float sum = 0.0f;
    for (int i = begin + lane; i < end; i += 32) sum += expf(row[i] - largest);
    sum = warp_sum(sum);
    for (int i = lane; i < tokens; i += 32) {
        const bool counts = i >= begin && i < end;
        row[i] = counts ? expf(row[i] - largest) / sum : 0.0f;
    }
}

#define NAIVE(kv, Kv)                                                                              \
    KERNEL(128, 4, attn_scores_##kv, float* scores, const act* q, int q_stride, const u8* keys,    \
           const float* key_scales, const int* tables, int table_stride, const int* positions,     \
           const int* sequences, int tokens, int heads, int kv_heads, int head_dim,                  \
           int block_bits, float scale) {                                                          \
        scores_of<Kv>(scores, q, q_stride, keys, key_scales, tables, table_stride, positions,      \
                      sequences, tokens, heads, kv_heads, head_dim, block_bits, scale);            \
    }                                                                                              \
    KERNEL(256, 4, attn_values_##kv, act* out, const float* scores, const u8* values,              \
           const float* value_scales, const int* tables, int table_stride, const int* positions,   \
           const int* sequences, int tokens, int heads, int kv_heads, int head_dim,                \
           int block_bits) {                                                                       \
        values_of<Kv>(out, scores, values, value_scales, tables, table_stride, positions,          \
                      sequences, tokens, heads, kv_heads, head_dim, block_bits);                   \
    }

NAIVE(f16, KvF16)
NAIVE(bf16, KvBf16)
NAIVE(i8, KvI8)
NAIVE(e4m3, KvE4m3)
