// Causal attention of several rows of a sequence over what is cached before them and themselves.
//
// Shapes. q rows of act, `q_stride` elements apart; out [rows, heads, head_dim] act. Pools, scales
// and block tables as in kv.cuh; the rows' own keys and values are in the cache already. A tile is
// up to 64 rows of a sequence: {first row, rows, position of the first row, row of the table}. The
// grid is [tiles, heads]. A head is 16, 32, 48, 64, 80, 96 or 128 elements. `window` is how far a row
// looks back with itself, 0 for all.
//
// Budget (attention, prefill in src/cost), p cached and T new tokens of a sequence:
// k(2Hkv·D Σ(p + T)) KV bytes, read again per tile and query head of a group from the second-level
// cache; 2T·Hq·D·a + 4 · blocks activation bytes; 4Hq·D Σ(Tp + T(T + 1)/2) operations. Steps at the
// mask's edge are computed whole: up to 46 columns more per row.
//
// How. Four warps have 16 rows each; keys and values pass through shared memory 32 tokens at a
// time, the next 32 copied while these are used (8-bit caches: decoded on their way, by the same
// threads). Rows of keys are 16 bytes and rows of values an odd multiple of 32 bytes apart modulo 128, and
// column n of a tile is token n/2 + 4 · (n mod 2), so that the lanes of a quarter warp read eight
// different 16-byte banks of keys and of values. Softmax in f32, in powers of two.
//
// Steps begin at multiples of 32 tokens of the sequence, and a step that a row does not attend to
// changes nothing of it: its result depends neither on its tile nor on how the sequence was cut.
//
// Versions considered. 64 tokens at a time: 72 KiB of shared memory at 128 elements, beyond a plain
// launch. Rows of all heads of a group in one tile: reads keys once per group, but a tile then has
// 64 / group rows, and short chunks leave most of it empty.
//
// Share of the measured ceiling: not measured yet: no GPU at hand.

#include "attention.cuh"

namespace {

constexpr int THREADS = 128;
constexpr int TOKENS = 32;

// The token of a column of eight.
DEVICE int token_of(int column) { return column / 2 + 4 * (column % 2); }

template <class Kv, int D>
struct Prefill {
    typedef typename Kv::math Math;
    typedef HeadOf<D> Shape;
    // Bytes from row to row.
    static constexpr int key_step = 2 * D + 16;
    static constexpr int value_step = 2 * D + (D / 16 % 2 == 0 ? 32 : 0);
    static constexpr int keys_bytes = TOKENS * key_step;
    static constexpr int stage_bytes = keys_bytes + TOKENS * value_step;

    // Brings tokens `position` … + 31 to shared memory, zeros outside [begin, end).
    static DEVICE void bring(u8* stage, const u8* keys, const u8* values, const float* key_scales,
                             const float* value_scales, const int* table, int position, int begin,
                             int end, int kv_heads, int kv_head, int block_bits) {
        constexpr int pieces = D / 8;
        for (int i = threadIdx.x; i < TOKENS * pieces; i += THREADS) {
            const int token = i / pieces, piece = i % pieces;
            const int at = position + token;
            const bool there = at >= begin && at < end;
            i64 place = 0;
            if (there) {
                const int block = __ldg(table + (at >> block_bits));
                const int inside = at & ((1 << block_bits) - 1);
                place = kv_place(block, inside, kv_heads, kv_head, block_bits);
            }
            u8* key = stage + token * key_step + 16 * piece;
            u8* value = stage + keys_bytes + token * value_step + 16 * piece;
            const i64 from = (place * D + 8 * piece) * Kv::bytes;
            if constexpr (Kv::scaled) {
                u32 k[4] = {}, v[4] = {};
                if (there) {
                    load_pairs<Kv>(keys + from, load_scale<Kv>(key_scales, place), k);
                    load_pairs<Kv>(values + from, load_scale<Kv>(value_scales, place), v);
                }
                store16(key, make_uint4(k[0], k[1], k[2], k[3]));
                store16(value, make_uint4(v[0], v[1], v[2], v[3]));
            } else {
                copy16_async(key, keys + from, there);
                copy16_async(value, values + from, there);
            }
        }
        copy_commit();
    }

    static DEVICE void key(const u8* row, int t, Key<D>& key) {
#pragma unroll
        for (int i = 0; i < Shape::wide; i++) {
            const uint4 v = fetch16(row + 64 * i + 16 * t);
            key.wide[i][0] = v.x, key.wide[i][1] = v.y, key.wide[i][2] = v.z, key.wide[i][3] = v.w;
        }
        if (Shape::tail) {
            const uint2 v = fetch8(row + 2 * (D - 16) + 8 * t);
            key.tail[0] = v.x, key.tail[1] = v.y;
        }
    }

    template <int pairs>
    static DEVICE void value(const u8* from, u32 (&v)[pairs]) {
        if constexpr (pairs == 4) {
            const uint4 x = fetch16(from);
            v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
        } else if constexpr (pairs == 2) {
            const uint2 x = fetch8(from);
            v[0] = x.x, v[1] = x.y;
        } else {
            v[0] = fetch4(from);
        }
    }

    // Elements from `element` on of the four tokens of lane t.
    template <int pairs>
    static DEVICE void values(const u8* rows, int element, int t, Sums<D>& sums, int tile,
                              const u32 (&a)[4]) {
        u32 v[4][pairs];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int token = token_of(2 * t + i % 2) + i / 2 * 8;
            value(rows + token * value_step + 2 * element, v[i]);
        }
        add_values<Math>(sums, tile, a, v[0], v[1], v[2], v[3]);
    }

    static DEVICE void run(act* out, const act* q, int q_stride, const u8* keys, const u8* values_,
                           const float* key_scales, const float* value_scales, const int* tables,
                           int table_stride, const int4* tiles, int heads, int kv_heads,
                           int block_bits, int window, float scale) {
        SHARED(uint4, memory, 2 * stage_bytes / 16);
        u8* stages = reinterpret_cast<u8*>(memory);
        const int4 tile = tiles[blockIdx.x];
        const int head = blockIdx.y, kv_head = head / (heads / kv_heads);
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const int first_row = tile.x, rows = tile.y, first_position = tile.z;
        const int* table = tables + static_cast<i64>(tile.w) * table_stride;

        // What some row of the tile attends to, and some row of this warp.
        const int begin = window > 0 ? most(first_position - window + 1, 0) : 0;
        const int end = first_position + rows;
        const int low = 16 * warp + g, high = low + 8;
        const int warp_begin =
            window > 0 ? most(first_position + 16 * warp - window + 1, 0) : 0;
        const int warp_end = least(first_position + 16 * warp + 16, end);

        Queries<Math, D> queries;
        const act* my_q = q + static_cast<i64>(first_row + low) * q_stride + head * D;
        queries.load(low < rows ? my_q : nullptr, 0, t);
        queries.load(high < rows ? my_q + 8 * static_cast<i64>(q_stride) : nullptr, 1, t);
        Sums<D> sums;
        sums.clear();

        const int from = begin / TOKENS * TOKENS;
        bring(stages, keys, values_, key_scales, value_scales, table, from, begin, end, kv_heads,
              kv_head, block_bits);
        for (int position = from; position < end; position += TOKENS) {
            const u8* stage = stages + (position - from) / TOKENS % 2 * stage_bytes;
            copy_wait<0>();
            // These tokens have come, and nobody reads the other stage any more.
            barrier();
            if (position + TOKENS < end) {
                bring(stages + ((position - from) / TOKENS + 1) % 2 * stage_bytes, keys, values_,
                      key_scales, value_scales, table, position + TOKENS, begin, end, kv_heads,
                      kv_head, block_bits);
            }
            if (position >= warp_end || position + TOKENS <= warp_begin) continue;
            float scores[4][4] = {};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                Key<D> k;
                key(stage + (8 * i + token_of(g)) * key_step, t, k);
                score(queries, k, scores[i]);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const int at = position + 8 * i + token_of(2 * t + j % 2);
                    const int row = first_position + (j < 2 ? low : high);
                    const bool counts = at <= row && (window == 0 || at > row - window);
                    scores[i][j] = counts ? scores[i][j] * (scale * LOG2_E) : -INFINITY;
                }
            }
            soften(sums, scores);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                u32 a[4];
                probabilities<Math>(scores[2 * half], scores[2 * half + 1], a);
                const u8* rows_of_values = stage + keys_bytes + 16 * half * value_step;
#pragma unroll
                for (int i = 0; i < Shape::blocks; i++) {
                    values<4>(rows_of_values, 64 * i + 8 * g, t, sums, 8 * i, a);
                }
                if constexpr (Shape::half) {
                    values<2>(rows_of_values, 64 * Shape::blocks + 4 * g, t, sums,
                              8 * Shape::blocks, a);
                }
                if constexpr (Shape::tail) {
                    values<1>(rows_of_values, D - 16 + 2 * g, t, sums, Shape::tiles - 2, a);
                }
            }
        }

#pragma unroll
        for (int i = 0; i < 2; i++) {
            float sum = sums.sum[i];
            sum += shuffle_xor(sum, 1);
            sum += shuffle_xor(sum, 2);
            const int row = i == 0 ? low : high;
            if (row >= rows) continue;
            const float inverse = 1.0f / sum;
            act* to = out + (static_cast<i64>(first_row + row) * heads + head) * D;
#pragma unroll
            for (int n = 0; n < Shape::tiles; n += 2) {
                // Two tiles have neighbouring elements.
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    store4(to + Sums<D>::element(n, j, t),
                           pack2(act{}, sums.out[n][2 * i + j] * inverse,
                                 sums.out[n + 1][2 * i + j] * inverse));
                }
            }
        }
    }
};

}  // namespace

#define PREFILL(D, kv, Kv)                                                                        \
    KERNEL(128, 2, attn_prefill_d##D##_##kv, act* out, const act* q, int q_stride, const u8* keys, \
           const u8* values, const float* key_scales, const float* value_scales,                  \
           const int* tables, int table_stride, const int4* tiles, int heads, int kv_heads,       \
           int block_bits, int window, float scale) {                                             \
        Prefill<Kv, D>::run(out, q, q_stride, keys, values, key_scales, value_scales, tables,     \
                            table_stride, tiles, heads, kv_heads, block_bits, window, scale);     \
    }

#define PREFILLS(D)           \
    PREFILL(D, f16, KvF16)    \
    PREFILL(D, bf16, KvBf16)  \
    PREFILL(D, i8, KvI8)      \
    PREFILL(D, e4m3, KvE4m3)

#ifdef GEMBA_HEAD_DIM
PREFILLS(GEMBA_HEAD_DIM)
#else
PREFILLS(32)
PREFILLS(48)
PREFILLS(64)
PREFILLS(80)
PREFILLS(96)
PREFILLS(128)
#endif
