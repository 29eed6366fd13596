// Products with few rows: y[r, n] = Σ_k x[r, k] · w[n, k], one to sixteen rows.
//
// Shapes. x [rows, k] act, w [n, k] in a format of weight.cuh, y [rows, n] act or f32. `_r8` takes
// up to 8 rows, `_r16` up to 16. With `_swiglu` the matrix is [2n, k], gate above up, and
// y = silu(gate) · up. Bias and residual are added to the sum before it is rounded.
//
// Budget (products in src/cost): w(kn) weight bytes, rows · (k + n) · 2 bytes of
// activations (k + 2n with a residual, k + n/2 of the matrix's rows with SwiGLU, 4 bytes per
// output if f32), 2 · rows · k · n operations. With gridDim.y = s > 1 the sums of the parts are
// excess: 2 · 4 · 8s · rows rounded up to 8 · n bytes, which stay in the second-level cache.
//
// How. Reading w once is the whole cost, so the kernel is a stream: a block of eight warps has 16
// outputs, each warp a run of inputs; a lane keeps eight 16-byte loads in flight (4 KiB per warp),
// decodes them in registers and multiplies by mma.m16n8k16 with the weights as the 16-row operand.
// Rows are its eight columns, so eight rows cost what one does. Partial sums meet in shared memory
// in the order of the inputs. Where n / 16 blocks do not fill the device, gridDim.y divides the
// inputs further and the last block to finish adds up.
//
// A row's result does not depend on the other rows nor on their number: columns of an mma do not
// meet, and the order of a sum is fixed by k and gridDim.y, which the caller chooses by shape.
//
// Versions considered. Multiply-adds on CUDA cores, a warp per output: at four bits per weight and 4.3
// TB/s, 8.3 · 10¹² weights pass per second, and decode plus one fused multiply-add per weight and
// row would take more issue slots than an H200 has from four rows on. Weights by cp.async through
// shared memory: no reuse to gain, one more trip.
//
// Share of the measured ceiling: not measured yet: no GPU at hand.

#include "product.cuh"

namespace {

constexpr int WARPS = 8;

template <class Format, int tiles, bool swiglu>
DEVICE void gemv(const Product& p) {
    // Four, but where two tiles of sums and four decoded pieces leave no room for them.
    constexpr int chunks_in_flight = Format::pieces == 4 && tiles == 2 ? 3 : 4;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int g = lane / 4, t = lane % 4;
    const int first = blockIdx.x * (swiglu ? 8 : 16);
    const i64 row_bytes = Format::row_bytes(p.k);
    const int low = low_row<swiglu>(p, first, g), high = high_row<swiglu>(p, first, g);
    const u8* low_weights = p.weights + low * row_bytes;
    const u8* high_weights = p.weights + high * row_bytes;

    const int slices = WARPS * gridDim.y;
    const int slice = blockIdx.y * WARPS + warp;
    const int per = ceil_div(ceil_div(p.k, 128), slices) * chunks_of_unit<Format>;
    const int end = least((slice + 1) * per, ceil_div(p.k, depth<Format>));

    float sum[tiles][4] = {};
    for (int from = slice * per; from < end; from += chunks_in_flight) {
        uint4 raw_low[chunks_in_flight], raw_high[chunks_in_flight];
        uint2 scale_low[chunks_in_flight], scale_high[chunks_in_flight];
#pragma unroll
        for (int i = 0; i < chunks_in_flight; i++) {
            if (from + i < end) {
                raw_low[i] = load_chunk<Format>(low_weights, from + i, t, p.k);
                raw_high[i] = load_chunk<Format>(high_weights, from + i, t, p.k);
                scale_low[i] = load_scales<Format>(p.scales, low, from + i, p.k);
                scale_high[i] = load_scales<Format>(p.scales, high, from + i, p.k);
            }
        }
#pragma unroll
        for (int i = 0; i < chunks_in_flight; i++) {
            if (from + i >= end) break;
            float part[tiles][4] = {};
#pragma unroll
            for (int piece = 0; piece < Format::pieces; piece++) {
                u32 a[4], b[4];
                Format::decode(raw_low[i], piece, a);
                Format::decode(raw_high[i], piece, b);
                const u32 first_half[4] = {a[0], b[0], a[1], b[1]};
                const u32 second_half[4] = {a[2], b[2], a[3], b[3]};
                const int input = input_of<Format>(from + i, piece, t);
#pragma unroll
                for (int tile = 0; tile < tiles; tile++) {
                    const int row = tile * 8 + g;
                    uint4 x = make_uint4(0, 0, 0, 0);
                    if (row < p.rows && input < p.k) {
                        x = load16(p.x + static_cast<i64>(row) * p.k + input);
                    }
                    float(&into)[4] = Format::group == 0 ? sum[tile] : part[tile];
                    mma(act{}, into, first_half, x.x, x.y);
                    mma(act{}, into, second_half, x.z, x.w);
                }
                // Weights of a scale enter their sum exactly; the scale follows in f32.
                if (Format::group > 0 && (piece + 1) % most(Format::group, 1) == 0) {
                    const float s_low = scale_of<Format>(scale_low[i], piece);
                    const float s_high = scale_of<Format>(scale_high[i], piece);
#pragma unroll
                    for (int tile = 0; tile < tiles; tile++) {
#pragma unroll
                        for (int j = 0; j < 4; j++) {
                            sum[tile][j] += part[tile][j] * (j < 2 ? s_low : s_high);
                            part[tile][j] = 0.0f;
                        }
                    }
                }
            }
        }
    }

    // Of the 16 outputs by 8 columns of a tile, element j of lane l stands at 32 j + l.
    constexpr int elements = tiles * 128;
    SHARED(float, parts, WARPS * tiles * 128);
    const bool split = gridDim.y > 1;
    const i64 block_parts = static_cast<i64>(slices) * elements;
    float* mine = split ? p.workspace + blockIdx.x * block_parts + slice * elements
                        : parts + warp * elements;
#pragma unroll
    for (int tile = 0; tile < tiles; tile++) {
#pragma unroll
        for (int j = 0; j < 4; j++) mine[tile * 128 + j * 32 + lane] = sum[tile][j];
    }
    if (split) {
        if (!last_to_finish(p.counts + blockIdx.x, gridDim.y)) return;
    } else {
        barrier();
    }
    const float* all = split ? p.workspace + blockIdx.x * block_parts : parts;
    constexpr int values = swiglu ? elements / 2 : elements;
    for (int at = threadIdx.x; at < values; at += WARPS * 32) {
        const int tile = swiglu ? at / 64 : at / 128;
        const int j = swiglu ? at / 32 % 2 : at / 32 % 4;
        const int place = tile * 128 + j * 32 + at % 32;
        float total = 0.0f, up = 0.0f;
        for (int i = 0; i < slices; i++) {
            total += fetch_float(all + i * elements + place);
            if (swiglu) up += fetch_float(all + i * elements + place + 64);
        }
        const int row = tile * 8 + at % 4 * 2 + j % 2;
        const int output = first + at % 32 / 4 + j / 2 * 8;
        if (swiglu) {
            finish_swiglu<Format>(p, row, output, total, up);
        } else {
            finish<Format>(p, row, output, total);
        }
    }
}

}  // namespace

#define GEMV(name, Format, tiles, swiglu)                                                        \
    KERNEL(256, 2, name, void* out, const act* x, const u8* weights, const void* scales,         \
           const act* bias, const act* residual, float* workspace, u32* counts, int rows, int n, \
           int k, int wide) {                                                                    \
        const Product p = {out,       x,      weights, scales, bias, residual,                   \
                           workspace, counts, rows,    n,      k,    wide != 0};                 \
        gemv<Format, tiles, swiglu>(p);                                                          \
    }

#define GEMVS(format, Format)                       \
    GEMV(gemv_##format##_r8, Format, 1, false)      \
    GEMV(gemv_##format##_r16, Format, 2, false)     \
    GEMV(gemv_##format##_swiglu_r8, Format, 1, true) \
    GEMV(gemv_##format##_swiglu_r16, Format, 2, true)

GEMVS(w16, W16)
GEMVS(e4m3, E4m3)
GEMVS(i8, I8)
GEMVS(q8_0, Q8)
GEMVS(q4_0, Q4)
GEMVS(i4, I4)
GEMVS(nf4, Nf4)
