// Attention of sequences with one row each over their paged context.
//
// attn_decode_d*_*: partial softmax and values of a piece of a context, for all query heads of a KV
// head; the result itself where the context is one piece.
// attn_combine: the pieces of a context to the result.
//
// Shapes. q rows of act, `q_stride` elements apart, heads · head_dim of each; out [seqs, heads,
// head_dim] act. Pools, scales and block tables as in kv.cuh; tables [seqs][table_stride].
// kv_len [seqs]: tokens of the context with the row's own; 0 for a row that pads a graph's batch,
// which gives zeros. A head is 16, 32, 48, 64, 80, 96 or 128 elements; at most 16 query heads share a
// KV head. partial [seqs][pieces][heads][head_dim + 2] f32: values, largest score, sum. `window` is
// how far a row looks back with itself, 0 for all.
//
// Budget (attention, decode in src/cost), S the tokens a row attends to: k(2Hkv·D·ΣS) KV bytes,
// 2T·Hq·D·a + 4 · blocks activation bytes, 4Hq·D·ΣS operations; excess 2 · 4 · pieces · Hq(D + 2)
// for contexts of more than one piece.
//
// How. The context is cut at multiples of `piece_tokens`, so that a row's result depends on its own
// length alone and not on the batch; the grid is [pieces, kv_heads, seqs]. With 8 KV heads, pieces
// of 128 tokens are two blocks for each of 132 multiprocessors from 4224 tokens on. A block's four
// warps take tiles of 16 tokens in turn: a lane may have all sixteen 16-byte loads of a tile in
// flight, and all query heads of the group share them as rows of one mma, so that keys and values
// are read once. No shared memory until the warps' sums meet.
//
// Versions considered. Multiply-adds on CUDA cores: at 8 query heads per KV head and 4.3 TB/s of bf16
// they need half the issue slots of an H200 for the products alone, all of them at 8 bits. Values
// through shared memory and ldmatrix.trans: a barrier per tile, for what eight permutes do.
//
// Share of the measured ceiling: not measured yet: no GPU at hand.

#include "attention.cuh"

namespace {

constexpr int WARPS = 4;
constexpr int TILE = 16;

// The pieces of a context that are attended to.
struct Pieces {
    int start, first, count;
};
DEVICE Pieces pieces_of(int length, int window, int piece_tokens) {
    const int start = window > 0 ? most(length - window, 0) : 0;
    const int first = start / piece_tokens;
    return {start, first, length > 0 ? (length - 1) / piece_tokens - first + 1 : 0};
}

template <class Kv, int D>
struct Decode {
    typedef typename Kv::math Math;
    typedef HeadOf<D> Shape;

    static DEVICE void key(const u8* keys, i64 place, float scale, bool there, int t, Key<D>& key) {
        const u8* from = keys + place * D * Kv::bytes;
#pragma unroll
        for (int i = 0; i < Shape::wide; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) key.wide[i][j] = 0;
            if (there) load_pairs<Kv>(from + (32 * i + 8 * t) * Kv::bytes, scale, key.wide[i]);
        }
        if (Shape::tail) {
            key.tail[0] = key.tail[1] = 0;
            if (there) load_pairs<Kv>(from + (D - 16 + 4 * t) * Kv::bytes, scale, key.tail);
        }
    }

    // Four tokens' elements from `element` on.
    template <int pairs>
    static DEVICE void values(const u8* pool, const i64 (&places)[4], const float (&scales)[4],
                              const bool (&there)[4], int element, Sums<D>& sums, int tile,
                              const u32 (&a)[4]) {
        u32 v[4][pairs];
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < pairs; j++) v[i][j] = 0;
            // Not what a freed block left there: zero times it might not be zero.
            if (there[i]) {
                load_pairs<Kv>(pool + (places[i] * D + element) * Kv::bytes, scales[i], v[i]);
            }
        }
        add_values<Math>(sums, tile, a, v[0], v[1], v[2], v[3]);
    }

    static DEVICE void run(act* out, const act* q, int q_stride, const u8* keys, const u8* values_,
                           const float* key_scales, const float* value_scales, const int* tables,
                           int table_stride, const int* kv_len, float* partial, int heads,
                           int kv_heads, int block_bits, int piece_tokens, int window,
                           float scale) {
        const int seq = blockIdx.z, kv_head = blockIdx.y, group = heads / kv_heads;
        const int length = kv_len[seq];
        const Pieces pieces = pieces_of(length, window, piece_tokens);
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const i64 first_head = static_cast<i64>(seq) * heads + kv_head * group;
        if (length == 0 && blockIdx.x == 0) {
            for (int i = threadIdx.x; i < group * D; i += WARPS * 32) {
                out[first_head * D + i] = from_float<act>(0.0f);
            }
        }
        if (static_cast<int>(blockIdx.x) >= pieces.count) return;
        const int piece = pieces.first + blockIdx.x;
        const int begin = most(pieces.start, piece * piece_tokens);
        const int end = least(length, (piece + 1) * piece_tokens);

        Queries<Math, D> queries;
        const act* my_q = q + static_cast<i64>(seq) * q_stride + (kv_head * group + g) * D;
        queries.load(g < group ? my_q : nullptr, 0, t);
        queries.load(g + 8 < group ? my_q + 8 * D : nullptr, 1, t);
        Sums<D> sums;
        sums.clear();
        const int* table = tables + static_cast<i64>(seq) * table_stride;
        const int first_tile = piece * piece_tokens / TILE;
        for (int tile = first_tile + warp; tile * TILE < end; tile += WARPS) {
            const int position = tile * TILE;
            if (position + TILE <= begin) continue;
            const int block = __ldg(table + (position >> block_bits));
            const i64 place =
                kv_place(block, position & ((1 << block_bits) - 1), kv_heads, kv_head, block_bits);
            const auto attended = [&](int token) {
                return position + token >= begin && position + token < end;
            };
            float scores[2][4] = {};
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int token = 8 * i + g;
                const bool there = attended(token);
                const float s = there ? load_scale<Kv>(key_scales, place + token) : 0.0f;
                Key<D> k;
                key(keys, place + token, s, there, t, k);
                score(queries, k, scores[i]);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const bool counts = attended(8 * i + 2 * t + j % 2);
                    scores[i][j] = counts ? scores[i][j] * (scale * LOG2_E) : -INFINITY;
                }
            }
            soften(sums, scores);
            u32 a[4];
            probabilities<Math>(scores[0], scores[1], a);
            i64 places[4];
            float token_scales[4];
            bool there[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int token = 2 * t + i % 2 + i / 2 * 8;
                places[i] = place + token;
                there[i] = attended(token);
                token_scales[i] = there[i] ? load_scale<Kv>(value_scales, places[i]) : 0.0f;
            }
#pragma unroll
            for (int i = 0; i < Shape::blocks; i++) {
                values<4>(values_, places, token_scales, there, 64 * i + 8 * g, sums, 8 * i, a);
            }
            if constexpr (Shape::half) {
                values<2>(values_, places, token_scales, there, 64 * Shape::blocks + 4 * g, sums,
                          8 * Shape::blocks, a);
            }
            if constexpr (Shape::tail) {
                values<1>(values_, places, token_scales, there, D - 16 + 2 * g, sums,
                          Shape::tiles - 2, a);
            }
        }

        // The warps' sums meet, in the order of the warps.
        SHARED(float, outs, WARPS * 16 * D);
        SHARED(float, ends, WARPS * 16 * 2);
#pragma unroll
        for (int high = 0; high < 2; high++) {
            const int row = g + 8 * high;
            float sum = sums.sum[high];
            sum += shuffle_xor(sum, 1);
            sum += shuffle_xor(sum, 2);
            if (t == 0) {
                ends[(warp * 16 + row) * 2] = sums.largest[high];
                ends[(warp * 16 + row) * 2 + 1] = sum;
            }
#pragma unroll
            for (int tile = 0; tile < Shape::tiles; tile++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const int element = Sums<D>::element(tile, j, t);
                    outs[(warp * 16 + row) * D + element] = sums.out[tile][2 * high + j];
                }
            }
        }
        barrier();
        for (int i = threadIdx.x; i < group * D; i += WARPS * 32) {
            const int row = i / D, element = i % D;
            float largest = -INFINITY;
#pragma unroll
            for (int w = 0; w < WARPS; w++) largest = fmaxf(largest, ends[(w * 16 + row) * 2]);
            float total = 0.0f, value = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                const float factor = exp2f(ends[(w * 16 + row) * 2] - largest);
                total += factor * ends[(w * 16 + row) * 2 + 1];
                value += factor * outs[(w * 16 + row) * D + element];
            }
            const i64 head = first_head + row;
            if (pieces.count == 1) {
                out[head * D + element] = from_float<act>(value / total);
                continue;
            }
            const i64 of_piece = (static_cast<i64>(seq) * gridDim.x + blockIdx.x) * heads +
                                 kv_head * group + row;
            float* to = partial + of_piece * (D + 2);
            to[element] = value;
            if (element == 0) {
                to[D] = largest;
                to[D + 1] = total;
            }
        }
    }
};

}  // namespace

#define DECODE(D, kv, Kv)                                                                        \
    KERNEL(128, 2, attn_decode_d##D##_##kv, act* out, const act* q, int q_stride, const u8* keys, \
           const u8* values, const float* key_scales, const float* value_scales,                 \
           const int* tables, int table_stride, const int* kv_len, float* partial, int heads,    \
           int kv_heads, int block_bits, int piece_tokens, int window, float scale) {            \
        Decode<Kv, D>::run(out, q, q_stride, keys, values, key_scales, value_scales, tables,     \
                           table_stride, kv_len, partial, heads, kv_heads, block_bits,           \
                           piece_tokens, window, scale);                                         \
    }

#define DECODES(D)            \
    DECODE(D, f16, KvF16)     \
    DECODE(D, bf16, KvBf16)   \
    DECODE(D, i8, KvI8)       \
    DECODE(D, e4m3, KvE4m3)

#ifdef GEMBA_HEAD_DIM
DECODES(GEMBA_HEAD_DIM)
#else
DECODES(32)
DECODES(48)
DECODES(64)
DECODES(80)
DECODES(96)
DECODES(128)
#endif

KERNEL(128, 4, attn_combine, act* out, const float* partial, const int* kv_len, int pieces_most,
       int heads, int head_dim, int piece_tokens, int window) {
    const int seq = blockIdx.y, head = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    const Pieces pieces = pieces_of(kv_len[seq], window, piece_tokens);
    if (head >= heads || pieces.count < 2) return;
    const i64 step = static_cast<i64>(heads) * (head_dim + 2);
    const float* first = partial + static_cast<i64>(seq) * pieces_most * step +
                         static_cast<i64>(head) * (head_dim + 2);
    float largest = -INFINITY;
    for (int i = 0; i < pieces.count; i++) {
        largest = fmaxf(largest, __ldg(first + i * step + head_dim));
    }
    float total = 0.0f;
    float value[4] = {};
    for (int i = 0; i < pieces.count; i++) {
        const float* piece = first + i * step;
        const float factor = exp2f(__ldg(piece + head_dim) - largest);
        total += factor * __ldg(piece + head_dim + 1);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int element = lane + 32 * j;
            if (element < head_dim) value[j] += factor * __ldg(piece + element);
        }
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int element = lane + 32 * j;
        if (element < head_dim) {
            out[(static_cast<i64>(seq) * heads + head) * head_dim + element] =
                from_float<act>(value[j] / total);
        }
    }
}
