// What every kernel file stands on: number formats, wide loads, warp and block reductions, and the
// few instructions that CUDA C++ has no name for.
//
// The files are compiled twice. On a device by NVRTC, with no header beside these two: number
// formats are converted by single PTX instructions, so that a machine with a driver and libnvrtc
// needs no toolkit. On a host by g++ with HOST_SHIM, where tests/shim/shim.h gives each construct
// below a strict meaning. All inline PTX of the kernels stands in this file, each wrapper with its
// twin for the host.
//
// An image is compiled for one activation type: bf16, or f16 with -DGEMBA_ACT_F16. `act` is that
// type. -DGEMBA_HEAD_DIM=n restricts the attention kernels to heads of n elements.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};
struct e4m3 {
    u8 bits;
};

#ifdef GEMBA_ACT_F16
typedef f16 act;
#else
typedef bf16 act;
#endif

#ifdef HOST_SHIM

#include "shim.h"

#else

#define DEVICE __device__ __forceinline__
#define INFINITY __int_as_float(0x7f800000)

// An entry point: threads of a block, blocks that must fit on a multiprocessor, name, parameters.
#define KERNEL(threads, blocks, name, ...) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)

// Shared memory, by name and length.
#define SHARED(type, name, length) __shared__ __align__(16) type name[length]

DEVICE void barrier() { __syncthreads(); }

// 16 bytes at an address divisible by 16. `load16` goes through the caches and may serve other
// warps; `load16_once` asks that what is read once, weights, leaves the first-level cache alone.
// Neither may read what this launch writes.
DEVICE uint4 load16(const void* p) { return __ldg(static_cast<const uint4*>(p)); }
DEVICE uint4 load16_once(const void* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}
DEVICE uint2 load8(const void* p) { return __ldg(static_cast<const uint2*>(p)); }
DEVICE u32 load4(const void* p) { return __ldg(static_cast<const u32*>(p)); }
DEVICE u16 load2(const void* p) { return __ldg(static_cast<const u16*>(p)); }
DEVICE void store16(void* p, uint4 v) { *static_cast<uint4*>(p) = v; }
DEVICE void store8(void* p, uint2 v) { *static_cast<uint2*>(p) = v; }
DEVICE void store4(void* p, u32 v) { *static_cast<u32*>(p) = v; }
DEVICE void store2(void* p, u16 v) { *static_cast<u16*>(p) = v; }
// Of memory that this launch writes, shared or global.
DEVICE uint4 fetch16(const void* p) { return *static_cast<const uint4*>(p); }
DEVICE uint2 fetch8(const void* p) { return *static_cast<const uint2*>(p); }
DEVICE u32 fetch4(const void* p) { return *static_cast<const u32*>(p); }
// Of what other blocks of this launch wrote: not from the first-level cache.
DEVICE float fetch_float(const float* p) { return __ldcg(p); }

// Copies 16 bytes to shared memory beside what the threads do; zeros where not `valid`.
DEVICE void copy16_async(void* shared, const void* global, bool valid) {
    const u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes)
                 : "memory");
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `open` of this thread's committed groups are under way.
template <int open>
DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(open) : "memory");
}

DEVICE float f16_to_float(u16 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
// Round to nearest, ties to even; `low` in the low half.
DEVICE u32 pack_f16(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
DEVICE u32 pack_bf16(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
// a * b + c, two at a time, rounded once.
DEVICE u32 fma2(f16, u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
DEVICE u32 fma2(bf16, u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// d += a · b for a 16×16 tile `a` and a 16×8 tile `b`, by a warp. With g = lane / 4 and
// t = lane % 4: a[0], a[1] are columns 2t, 2t+1 of rows g, g+8, a[2], a[3] columns 2t+8, 2t+9 of
// the same; b0 and b1 rows 2t, 2t+1 and 2t+8, 2t+9 of column g; d[0], d[1] columns 2t, 2t+1 of
// row g, d[2], d[3] those of row g+8.
DEVICE void mma(f16, float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void mma(bf16, float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The same for bytes and a depth of 32: four consecutive columns where those of 16 bits have two.
DEVICE void mma_i8(int (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Any four bytes of a and b by the four low nibbles of `choice`; bit 3 of a nibble replicates the
// chosen byte's sign.
DEVICE u32 permute(u32 a, u32 b, u32 choice) { return __byte_perm(a, b, choice); }
// The device's own __byte_perm leaves the sign bit of a nibble alone; this is the instruction.
DEVICE u32 permute_signs(u32 a, u32 b, u32 choice) {
    u32 d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(choice));
    return d;
}

#define FULL_WARP 0xffffffffu
DEVICE float shuffle_xor(float x, int lanes) { return __shfl_xor_sync(FULL_WARP, x, lanes); }
DEVICE int shuffle_xor(int x, int lanes) { return __shfl_xor_sync(FULL_WARP, x, lanes); }
DEVICE u64 shuffle_xor(u64 x, int lanes) { return __shfl_xor_sync(FULL_WARP, x, lanes); }
DEVICE u64 shuffle_up(u64 x, int lanes) { return __shfl_up_sync(FULL_WARP, x, lanes); }
DEVICE u32 shuffle_up(u32 x, int lanes) { return __shfl_up_sync(FULL_WARP, x, lanes); }
DEVICE u32 vote(bool x) { return __ballot_sync(FULL_WARP, x); }
DEVICE void warp_barrier() { __syncwarp(FULL_WARP); }
// Makes this thread's writes visible to the device before what it does next.
DEVICE void publish() { __threadfence(); }

DEVICE u32 add_atomic(u32* p, u32 x) { return atomicAdd(p, x); }
DEVICE u64 add_atomic(u64* p, u64 x) { return atomicAdd(p, x); }

DEVICE float bits_float(u32 x) { return __uint_as_float(x); }
DEVICE u32 float_bits(float x) { return __float_as_uint(x); }
DEVICE int count_bits(u32 x) { return __popc(x); }

#endif  // HOST_SHIM

template <class T>
DEVICE T least(T a, T b) {
    return b < a ? b : a;
}
template <class T>
DEVICE T most(T a, T b) {
    return a < b ? b : a;
}
template <class T>
DEVICE T ceil_div(T a, T b) {
    return (a + b - 1) / b;
}

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(f16 x) { return f16_to_float(x.bits); }
DEVICE float to_float(bf16 x) { return bits_float(static_cast<u32>(x.bits) << 16); }
// e4m3 to f16 is a shift and a factor of 2⁸, which also makes subnormals right. 0x7f, which is not
// a number, reads as 480.
DEVICE float to_float(e4m3 x) {
    const u32 bits = (x.bits & 0x80u) << 8 | (x.bits & 0x7fu) << 7;
    return f16_to_float(static_cast<u16>(bits)) * 256.0f;
}
DEVICE float to_float(i8 x) { return static_cast<float>(x); }

DEVICE u32 pack2(f16, float low, float high) { return pack_f16(low, high); }
DEVICE u32 pack2(bf16, float low, float high) { return pack_bf16(low, high); }
DEVICE float low2(bf16, u32 pair) { return bits_float(pair << 16); }
DEVICE float high2(bf16, u32 pair) { return bits_float(pair & 0xffff0000u); }
DEVICE float low2(f16, u32 pair) { return f16_to_float(static_cast<u16>(pair)); }
DEVICE float high2(f16, u32 pair) { return f16_to_float(static_cast<u16>(pair >> 16)); }

// What is too large for f16 becomes its largest number, as in the CPU backend's cache.
DEVICE u32 pack_saturated(bf16, float low, float high) { return pack_bf16(low, high); }
DEVICE u32 pack_saturated(f16, float low, float high) {
    const float largest = 65504.0f;
    return pack_f16(fminf(fmaxf(low, -largest), largest), fminf(fmaxf(high, -largest), largest));
}

template <class T>
DEVICE T from_float(float x) {
    return T{static_cast<u16>(pack2(T{}, x, 0.0f))};
}

// Eight elements of 16 bits as floats, and back.
template <class T>
DEVICE void unpack8(uint4 v, float (&x)[8]) {
    const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = low2(T{}, words[i]);
        x[2 * i + 1] = high2(T{}, words[i]);
    }
}
template <class T>
DEVICE uint4 pack8(const float (&x)[8]) {
    return make_uint4(pack2(T{}, x[0], x[1]), pack2(T{}, x[2], x[3]), pack2(T{}, x[4], x[5]),
                      pack2(T{}, x[6], x[7]));
}

// The nearest e4m3, ties to even, saturating at 448. Integer arithmetic, so that every
// architecture gives the same bits; what is not a number becomes 0x7f.
DEVICE e4m3 to_e4m3(float x) {
    const u32 bits = float_bits(x);
    const u32 sign = bits >> 24 & 0x80u;
    const u32 size = bits & 0x7fffffffu;
    u32 code;
    if (size > 0x7f800000u) {
        code = 0x7fu;
    } else if (size >= 0x43e80000u) {  // 464, half way from 448 to what would follow it
        code = 0x7eu;
    } else if (size < 0x3c800000u) {  // 2⁻⁶, the least normal: the rest are multiples of 2⁻⁹
        // Adding 2¹⁴ leaves multiples of 2⁻⁹ in the mantissa, rounded to nearest even.
        code = float_bits(bits_float(size) + 16384.0f) - 0x46800000u;
    } else {
        const u32 rounded = size + 0x7ffffu + (size >> 20 & 1u);
        code = (rounded >> 20) - (120u << 3);
        code = least(code, 0x7eu);
    }
    return e4m3{static_cast<u8>(sign | code)};
}

// The nearest integer, ties to even, in −127 … 127.
DEVICE i8 to_i8(float x) { return static_cast<i8>(rintf(fminf(fmaxf(x, -127.0f), 127.0f))); }

DEVICE float warp_sum(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x += shuffle_xor(x, lanes);
    return x;
}
DEVICE float warp_max(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, shuffle_xor(x, lanes));
    return x;
}

// Over a block of `threads`, the same bits in every thread. `room` has threads / 32 floats, and
// may be used again after the next barrier.
template <int threads>
DEVICE float block_sum(float x, float* room) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    barrier();
    float sum = room[0];
#pragma unroll
    for (int warp = 1; warp < threads / 32; warp++) sum += room[warp];
    return sum;
}
template <int threads>
DEVICE float block_max(float x, float* room) {
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    barrier();
    float largest = room[0];
#pragma unroll
    for (int warp = 1; warp < threads / 32; warp++) largest = fmaxf(largest, room[warp]);
    return largest;
}

// x · sigmoid(x). exp(−x) overflows to infinity for large −x, and the quotient is then zero.
DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }
