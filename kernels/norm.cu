// Rows by their root mean square, alone and with what comes before and after.
//
// rms_norm:          out = x / √(mean(x²) + eps) · weight
// residual_add:      residual += x
// add_rms_norm:      residual += x, then out = norm(residual)
// *_i8, *_e4m3:      out in 8 bits with a scale per row, largest magnitude to 127 or 448
// quantize_*:        rows to 8 bits without a norm
//
// Shapes. x, out, residual [rows, width] act; weight [width] act; scale [rows] f32. `picked` names
// the rows of x that become rows of out (the rows that ask for logits), null for all. width is
// divisible by 8, and at most 16384 but for quantize_*.
//
// Budget, d = width, a = 2 (norms in src/cost). rms_norm: da weight bytes, 2Tda activation bytes,
// 4Td operations. residual_add: 3Tda, Td. add_rms_norm: 4Tda + da, 5Td, which saves the unfused
// pair Tda bytes and a launch. With 8-bit output: T(d(a + 1) + 4) resp. T(d(3a + 1) + 4), and 2Td
// more operations. quantize: T(d(a + 1) + 4), 3Td.
//
// How. A block has one row and holds it in registers, eight elements per load, so that it is read
// once; the sum is f32 over what was rounded to act, as a separate norm would see it, so that fused
// and unfused agree to the last bit. quantize_* reads its row twice, the second time from the cache:
// a row of a wide feed-forward layer does not fit in registers, and where rows are quantized there
// are so many that others run meanwhile.
//
// Versions considered. A warp per row: too few loads in flight at one row, the case that decode has.
// Two passes over memory: the second hits the cache, but waits for it.
//
// Share of the measured ceiling: not measured yet: no GPU at hand.

#include "common.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int MOST_LOADS = 8;  // 256 threads × 8 elements × 8 loads = 16384

enum class To { act, i8, e4m3 };

template <To to>
DEVICE float largest_code() {
    return to == To::i8 ? 127.0f : 448.0f;
}

template <To to>
DEVICE u32 codes(const float (&x)[8], int from, float inverse) {
    u32 word = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float value = x[from + i] * inverse;
        const u8 byte = to == To::i8 ? static_cast<u8>(to_i8(value)) : to_e4m3(value).bits;
        word |= static_cast<u32>(byte) << 8 * i;
    }
    return word;
}

// A row in registers: element i of load j of a thread is element ((j · 256) + thread) · 8 + i.
struct Row {
    float x[MOST_LOADS][8];
};

// Runs `body(j, at)` for the loads that this thread has of a row.
template <class Body>
DEVICE void each_load(int width, Body body) {
#pragma unroll
    for (int j = 0; j < MOST_LOADS; j++) {
        const int at = (j * THREADS + threadIdx.x) * 8;
        if (at < width) body(j, at);
    }
}

// Writes the scale of a row of which this thread has seen the largest magnitude; what the row is
// multiplied by to become codes. Every thread of the block comes here.
template <To to>
DEVICE float store_scale(float largest, float* scale, float* room) {
    largest = block_max<THREADS>(largest, room);
    if (threadIdx.x == 0) *scale = largest / largest_code<to>();
    return largest > 0.0f ? largest_code<to>() / largest : 0.0f;
}

// The row in 8 bits; every thread of the block comes here.
template <To to>
DEVICE void store_codes(const Row& row, void* out, float* scale, i64 index, int width,
                        float* room) {
    float largest = 0.0f;
    each_load(width, [&](int j, int) {
#pragma unroll
        for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(row.x[j][i]));
    });
    const float inverse = store_scale<to>(largest, scale + index, room);
    u8* bytes = static_cast<u8*>(out) + index * width;
    each_load(width, [&](int j, int at) {
        store8(bytes + at,
               make_uint2(codes<to>(row.x[j], 0, inverse), codes<to>(row.x[j], 4, inverse)));
    });
}

// A row of any width in 8 bits.
template <To to>
DEVICE void quantize(void* out, float* scale, const act* x, int width) {
    SHARED(float, room, THREADS / 32);
    const i64 index = blockIdx.x;
    const act* row = x + index * width;
    u8* bytes = static_cast<u8*>(out) + index * width;
    float largest = 0.0f;
    for (int at = threadIdx.x * 8; at < width; at += THREADS * 8) {
        float values[8];
        unpack8<act>(load16(row + at), values);
#pragma unroll
        for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(values[i]));
    }
    const float inverse = store_scale<to>(largest, scale + index, room);
    for (int at = threadIdx.x * 8; at < width; at += THREADS * 8) {
        float values[8];
        unpack8<act>(load16(row + at), values);
        store8(bytes + at,
               make_uint2(codes<to>(values, 0, inverse), codes<to>(values, 4, inverse)));
    }
}

// residual += x if there is a residual, then the norm of it, then to `out` in the form asked for.
template <bool add, To to>
DEVICE void pass(void* out, float* scale, act* residual, const act* x, const act* weight,
                 const int* picked, int width, float epsilon) {
    SHARED(float, room, 2 * THREADS / 32);
    const i64 index = blockIdx.x;
    const i64 from = picked ? picked[index] : index;
    const act* source = x + from * width;
    Row row;
    float sum = 0.0f;
    each_load(width, [&](int j, int at) {
        unpack8<act>(load16(source + at), row.x[j]);
        if (add) {
            act* to_residual = residual + from * width + at;
            float before[8];
            unpack8<act>(fetch16(to_residual), before);
#pragma unroll
            for (int i = 0; i < 8; i++) row.x[j][i] += before[i];
            const uint4 rounded = pack8<act>(row.x[j]);
            store16(to_residual, rounded);
            unpack8<act>(rounded, row.x[j]);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) sum += row.x[j][i] * row.x[j][i];
    });
    sum = block_sum<THREADS>(sum, room);
    const float factor = 1.0f / sqrtf(sum / static_cast<float>(width) + epsilon);
    each_load(width, [&](int j, int at) {
        float weights[8];
        unpack8<act>(load16(weight + at), weights);
#pragma unroll
        for (int i = 0; i < 8; i++) row.x[j][i] = row.x[j][i] * factor * weights[i];
    });
    if constexpr (to == To::act) {
        each_load(width, [&](int j, int at) {
            store16(static_cast<act*>(out) + index * width + at, pack8<act>(row.x[j]));
        });
    } else {
        store_codes<to>(row, out, scale, index, width, room + THREADS / 32);
    }
}

}  // namespace

KERNEL(256, 4, residual_add, act* residual, const act* x, int elements) {
    const int at = (blockIdx.x * 256 + threadIdx.x) * 8;
    if (at >= elements) return;
    float a[8], b[8];
    unpack8<act>(fetch16(residual + at), a);
    unpack8<act>(load16(x + at), b);
#pragma unroll
    for (int i = 0; i < 8; i++) a[i] += b[i];
    store16(residual + at, pack8<act>(a));
}

KERNEL(256, 2, rms_norm, act* out, const act* x, const act* weight, const int* picked, int width,
       float epsilon) {
    pass<false, To::act>(out, nullptr, nullptr, x, weight, picked, width, epsilon);
}
KERNEL(256, 2, rms_norm_i8, u8* out, float* scale, const act* x, const act* weight, int width,
       float epsilon) {
    pass<false, To::i8>(out, scale, nullptr, x, weight, nullptr, width, epsilon);
}
KERNEL(256, 2, rms_norm_e4m3, u8* out, float* scale, const act* x, const act* weight, int width,
       float epsilon) {
    pass<false, To::e4m3>(out, scale, nullptr, x, weight, nullptr, width, epsilon);
}

KERNEL(256, 2, add_rms_norm, act* out, act* residual, const act* x, const act* weight, int width,
       float epsilon) {
    pass<true, To::act>(out, nullptr, residual, x, weight, nullptr, width, epsilon);
}
KERNEL(256, 2, add_rms_norm_i8, u8* out, float* scale, act* residual, const act* x,
       const act* weight, int width, float epsilon) {
    pass<true, To::i8>(out, scale, residual, x, weight, nullptr, width, epsilon);
}
KERNEL(256, 2, add_rms_norm_e4m3, u8* out, float* scale, act* residual, const act* x,
       const act* weight, int width, float epsilon) {
    pass<true, To::e4m3>(out, scale, residual, x, weight, nullptr, width, epsilon);
}

KERNEL(256, 2, quantize_i8, u8* out, float* scale, const act* x, int width) {
    quantize<To::i8>(out, scale, x, width);
}
KERNEL(256, 2, quantize_e4m3, u8* out, float* scale, const act* x, int width) {
    quantize<To::e4m3>(out, scale, x, width);
}
