// Products with more rows: y[r, n] = Σ_k x[r, k] · w[n, k] on tensor cores, weights of any format
// decoded on their way into registers. Meant for 17 to 64 rows; right for any number, so that the
// engine can run without a library of products.
//
// Shapes. As gemv.cu, and the same arguments. A block has 128 outputs (64 gates and their ups with
// `_swiglu`) by 64 rows; the grid is [⌈n / 128⌉ or ⌈n / 64⌉, ⌈rows / 64⌉, parts of the inputs].
//
// Budget (products in src/cost): w(kn) weight bytes, rows · (k + n) · 2 bytes of
// activations (residual, SwiGLU and f32 as in gemv.cu), 2 · rows · k · n operations. Beyond 64
// rows the weights are read again per 64 rows, mostly from the second-level cache. With
// gridDim.z = s > 1, 2 · 4 · s · n · rows (rounded up to tiles) bytes of excess stay in that cache.
//
// How. Each of eight warps has 16 outputs and all 64 rows: a weight is read from device memory by
// the one warp that needs it, decoded once and used for eight mma. Only the activations are
// shared: 128 inputs by 64 rows at a time, copied asynchronously one step ahead, laid out
// [piece][row][lane t] so that the eight lanes of a quarter warp read 128 consecutive bytes:
// no bank conflicts, no ldmatrix. Each chunk of weights is asked for again, one step further, as
// soon as it has been used, so that its way from memory is covered by the rest of the step.
//
// A row's result does not depend on the other rows: the order of a sum is fixed by k and gridDim.z,
// which the caller chooses by n and k alone.
//
// Versions considered. 64 outputs per block: the activations cross the second-level cache n / 64 times,
// at 64 rows and four bits four times the bytes of the weights. Two 16-output tiles per warp: fewer
// reads of shared memory per mma, but 64 more registers where a scale needs its own sum. The next
// step's weights in registers of their own: 206 registers instead of 128 at 16 bits, and one block
// per multiprocessor instead of two.
//
// Share of the measured ceiling: not measured yet: no GPU at hand.

#include "product.cuh"

namespace {

constexpr int WARPS = 8;
constexpr int ROWS = 64;
constexpr int TILES = ROWS / 8;
// 16-byte pieces of activations in a step of 128 inputs: [4][ROWS][4].
constexpr int STEP = 4 * ROWS * 4;

// Copies the activations of a step, zeros beyond rows and inputs.
template <class Format>
DEVICE void copy_step(const Product& p, int first_row, int step, uint4* into) {
    // Unrolled, the addresses of four copies cost the registers of a second block.
#pragma unroll 1
    for (int i = 0; i < STEP / (WARPS * 32); i++) {
        const int at = i * WARPS * 32 + threadIdx.x;
        const int t = at % 4, row = first_row + at / 4 % ROWS, piece = at / 4 / ROWS;
        const int chunk = step * chunks_of_unit<Format> + piece / Format::pieces;
        const int input = input_of<Format>(chunk, piece % Format::pieces, t);
        const bool valid = row < p.rows && input < p.k;
        copy16_async(into + at, valid ? p.x + static_cast<i64>(row) * p.k + input : p.x, valid);
    }
    copy_commit();
}

// A warp's weights of a step.
template <class Format>
struct Weights {
    uint4 low[chunks_of_unit<Format>], high[chunks_of_unit<Format>];
    uint2 low_scales[chunks_of_unit<Format>], high_scales[chunks_of_unit<Format>];
};

template <class Format, bool swiglu>
DEVICE void gemm(const Product& p) {
    constexpr int chunks = chunks_of_unit<Format>;
    SHARED(uint4, steps, 2 * STEP);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int g = lane / 4, t = lane % 4;
    const int first = (blockIdx.x * WARPS + warp) * (swiglu ? 8 : 16);
    const int first_row = blockIdx.y * ROWS;
    const i64 row_bytes = Format::row_bytes(p.k);
    const int low = low_row<swiglu>(p, first, g), high = high_row<swiglu>(p, first, g);
    const u8* low_weights = p.weights + low * row_bytes;
    const u8* high_weights = p.weights + high * row_bytes;

    const int all_steps = ceil_div(p.k, 128), all_chunks = ceil_div(p.k, depth<Format>);
    const int per = ceil_div(all_steps, static_cast<int>(gridDim.z));
    const int begin = least(static_cast<int>(blockIdx.z) * per, all_steps);
    const int end = least(begin + per, all_steps);

    Weights<Format> weights;
    const auto load = [&](int step, int i) {
        const int chunk = step * chunks + i;
        weights.low[i] = weights.high[i] = make_uint4(0, 0, 0, 0);
        weights.low_scales[i] = weights.high_scales[i] = make_uint2(0, 0);
        if (step < end && chunk < all_chunks) {
            weights.low[i] = load_chunk<Format>(low_weights, chunk, t, p.k);
            weights.high[i] = load_chunk<Format>(high_weights, chunk, t, p.k);
            weights.low_scales[i] = load_scales<Format>(p.scales, low, chunk, p.k);
            weights.high_scales[i] = load_scales<Format>(p.scales, high, chunk, p.k);
        }
    };

    float sum[TILES][4] = {};
#pragma unroll
    for (int i = 0; i < chunks; i++) load(begin, i);
    if (begin < end) copy_step<Format>(p, first_row, begin, steps);
    for (int step = begin; step < end; step++) {
        copy_wait<0>();
        // The step has come, and nobody reads the other half any more.
        barrier();
        if (step + 1 < end) {
            copy_step<Format>(p, first_row, step + 1, steps + (step + 1 - begin) % 2 * STEP);
        }
        const uint4* here = steps + (step - begin) % 2 * STEP;
#pragma unroll
        for (int i = 0; i < chunks; i++) {
            float part[TILES][4] = {};
#pragma unroll
            for (int piece = 0; piece < Format::pieces; piece++) {
                u32 a[4], b[4];
                Format::decode(weights.low[i], piece, a);
                Format::decode(weights.high[i], piece, b);
                const u32 first_half[4] = {a[0], b[0], a[1], b[1]};
                const u32 second_half[4] = {a[2], b[2], a[3], b[3]};
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) {
                    const int place = ((i * Format::pieces + piece) * ROWS + tile * 8 + g) * 4 + t;
                    const uint4 x = fetch16(here + place);
                    float(&into)[4] = Format::group == 0 ? sum[tile] : part[tile];
                    mma(act{}, into, first_half, x.x, x.y);
                    mma(act{}, into, second_half, x.z, x.w);
                }
                if (Format::group > 0 && (piece + 1) % most(Format::group, 1) == 0) {
                    const float s_low = scale_of<Format>(weights.low_scales[i], piece);
                    const float s_high = scale_of<Format>(weights.high_scales[i], piece);
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
                        for (int j = 0; j < 4; j++) {
                            sum[tile][j] += part[tile][j] * (j < 2 ? s_low : s_high);
                            part[tile][j] = 0.0f;
                        }
                    }
                }
            }
            load(step + 1, i);
        }
    }

    if (gridDim.z > 1) {
        // Element e of thread i of part z of a tile stands at (z · 32 + e) · 256 + i.
        const int tile = blockIdx.y * gridDim.x + blockIdx.x;
        constexpr int elements = TILES * 4;
        float* parts = p.workspace + static_cast<i64>(tile) * gridDim.z * elements * WARPS * 32;
        float* mine = parts + static_cast<i64>(blockIdx.z) * elements * WARPS * 32 + threadIdx.x;
#pragma unroll
        for (int e = 0; e < elements; e++) mine[e * WARPS * 32] = sum[e / 4][e % 4];
        if (!last_to_finish(p.counts + tile, gridDim.z)) return;
#pragma unroll
        for (int e = 0; e < elements; e++) sum[e / 4][e % 4] = 0.0f;
        for (int z = 0; z < static_cast<int>(gridDim.z); z++) {
            const float* theirs = parts + static_cast<i64>(z) * elements * WARPS * 32 + threadIdx.x;
#pragma unroll
            for (int e = 0; e < elements; e++) {
                sum[e / 4][e % 4] += fetch_float(theirs + e * WARPS * 32);
            }
        }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int j = 0; j < (swiglu ? 2 : 4); j++) {
            const int row = first_row + tile * 8 + 2 * t + j % 2;
            if (swiglu) {
                finish_swiglu<Format>(p, row, first + g, sum[tile][j], sum[tile][j + 2]);
            } else {
                finish<Format>(p, row, first + g + j / 2 * 8, sum[tile][j]);
            }
        }
    }
}

}  // namespace

// Blocks of a multiprocessor: two, but where sums of their own for each scale, or the decoding of
// bytes to f16, leave no registers for a second one.
template <class Format>
constexpr int resident = 1;
template <>
constexpr int resident<W16> = 2;
template <>
constexpr int resident<E4m3> = 2;

#define GEMM(name, Format, swiglu)                                                               \
    KERNEL(256, resident<Format>, name, void* out, const act* x, const u8* weights,              \
           const void* scales, const act* bias, const act* residual, float* workspace,           \
           u32* counts, int rows, int n, int k, int wide) {                                      \
        const Product p = {out,       x,      weights, scales, bias, residual,                   \
                           workspace, counts, rows,    n,      k,    wide != 0};                 \
        gemm<Format, swiglu>(p);                                                                 \
    }

#define GEMMS(format, Format)              \
    GEMM(gemm_##format, Format, false)     \
    GEMM(gemm_##format##_swiglu, Format, true)

GEMMS(w16, W16)
GEMMS(e4m3, E4m3)
GEMMS(i8, I8)
GEMMS(q8_0, Q8)
GEMMS(q4_0, Q4)
GEMMS(i4, I4)
GEMMS(nf4, Nf4)
