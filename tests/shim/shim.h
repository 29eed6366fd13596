// The host's meaning of what kernels/common.cuh gives a device: each CUDA thread a fiber, each
// construct as strict as the programming model allows, so that what passes here by luck is little.
//
// A thread runs alone until it meets others at a barrier or in a warp's collective; which runs
// next is decided by the seed of the launch. Shared memory and buffers start as 0xff in every
// byte, which is not a number in every float format. Errors name kernel, block, thread and line.
#pragma once

#include <math.h>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct int2 {
    int x, y;
};
struct int4 {
    int x, y, z, w;
};
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

namespace shim {

struct Dim {
    unsigned x = 1, y = 1, z = 1;
};

// A place in the source.
struct Here {
    const char* file;
    int line;
};
#define HERE shim::Here here = {__builtin_FILE(), __builtin_LINE()}

// What the running thread sees of itself.
struct Seen {
    Dim thread, block, block_dim, grid_dim;
};
extern thread_local Seen* seen __attribute__((tls_model("initial-exec")));

[[noreturn]] void fail(Here here, const char* format, ...) __attribute__((format(printf, 2, 3)));

void barrier(Here here);

// Gives `bytes` of `value` to the lanes of `mask` and waits for theirs; what each lane gave, 64
// bytes apart. `kind` names the collective.
const unsigned char* meet(const char* kind, u32 mask, const void* value, size_t bytes, Here here);
// This lane has read what it wanted of the collective it met in last.
void part();

// Shared memory of the running block, the same for all its threads, by the address of a key.
void* shared(const void* key, size_t bytes, Here here);

void copy_async(void* shared, const void* global, bool valid, Here here);
void copy_commit();
void copy_wait(unsigned open);

inline void aligned(const void* p, size_t bytes, Here here) {
    if (reinterpret_cast<uintptr_t>(p) % bytes != 0) {
        fail(here, "%zu bytes at %p, which is not divisible by %zu", bytes, p, bytes);
    }
}

// The words of the table of entry points for the types of parameters.
inline const char* type_of(u8*) { return "u8*"; }
inline const char* type_of(i8*) { return "i8*"; }
inline const char* type_of(u32*) { return "u32*"; }
inline const char* type_of(u64*) { return "u64*"; }
inline const char* type_of(int*) { return "int*"; }
inline const char* type_of(float*) { return "float*"; }
inline const char* type_of(double*) { return "double*"; }
inline const char* type_of(void*) { return "void*"; }
inline const char* type_of(act*) { return "act*"; }
inline const char* type_of(int2*) { return "int2*"; }
inline const char* type_of(int4*) { return "int4*"; }
inline const char* type_of(int) { return "int"; }
inline const char* type_of(u32) { return "u32"; }
inline const char* type_of(i64) { return "i64"; }
inline const char* type_of(float) { return "float"; }
template <class T>
const char* type_name() {
    if constexpr (std::is_pointer_v<T>) {
        return type_of(static_cast<std::remove_const_t<std::remove_pointer_t<T>>*>(nullptr));
    } else {
        return type_of(T{});
    }
}

// An entry point, known by name.
struct Entry {
    const char* name;
    const char* file;
    unsigned threads;
    // Types of the parameters, each followed by a space.
    std::string parameters;
    void (*invoke)(const Entry*, void**);
    void (*function)();
    const Entry* next;
    Entry(const char* name, const char* file, unsigned threads, std::string parameters,
          void (*invoke)(const Entry*, void**), void (*function)());
};

// Reads the parameters as the driver does: one pointer to each.
template <class... Args>
struct Caller {
    template <size_t... i>
    static void call(void (*function)(Args...), void** args, std::index_sequence<i...>) {
        function(*static_cast<std::remove_cv_t<Args>*>(args[i])...);
    }
    static void invoke(const Entry* entry, void** args) {
        call(reinterpret_cast<void (*)(Args...)>(entry->function), args,
             std::index_sequence_for<Args...>{});
    }
};
template <class... Args>
Entry enter(const char* name, const char* file, unsigned threads, void (*function)(Args...)) {
    const std::string parameters = (std::string() + ... + (type_name<Args>() + std::string(" ")));
    return Entry(name, file, threads, parameters, &Caller<Args...>::invoke,
                 reinterpret_cast<void (*)()>(function));
}

}  // namespace shim

#define threadIdx (shim::seen->thread)
#define blockIdx (shim::seen->block)
#define blockDim (shim::seen->block_dim)
#define gridDim (shim::seen->grid_dim)

#define DEVICE inline
#define __device__
#define __constant__ static const

#define KERNEL(threads, blocks, name, ...) KERNEL_NAMED(threads, name, __VA_ARGS__)
#define KERNEL_NAMED(threads, name, ...)                                                \
    extern "C" void name(__VA_ARGS__);                                                  \
    static const shim::Entry entry_##name = shim::enter(#name, __FILE__, threads, name); \
    extern "C" void name(__VA_ARGS__)

#define SHARED(type, name, length)  \
    static const char name##_key = 0; \
    type* const name =              \
        static_cast<type*>(shim::shared(&name##_key, sizeof(type) * (length), {__FILE__, __LINE__}))

inline void barrier(HERE) { shim::barrier(here); }

template <class T>
T load_as(const void* p, shim::Here here) {
    shim::aligned(p, sizeof(T), here);
    T v;
    memcpy(&v, p, sizeof v);
    return v;
}
template <class T>
void store_as(void* p, T v, shim::Here here) {
    shim::aligned(p, sizeof(T), here);
    memcpy(p, &v, sizeof v);
}
inline uint4 load16(const void* p, HERE) { return load_as<uint4>(p, here); }
inline uint4 load16_once(const void* p, HERE) { return load_as<uint4>(p, here); }
inline uint2 load8(const void* p, HERE) { return load_as<uint2>(p, here); }
inline u32 load4(const void* p, HERE) { return load_as<u32>(p, here); }
inline u16 load2(const void* p, HERE) { return load_as<u16>(p, here); }
inline void store16(void* p, uint4 v, HERE) { store_as(p, v, here); }
inline void store8(void* p, uint2 v, HERE) { store_as(p, v, here); }
inline void store4(void* p, u32 v, HERE) { store_as(p, v, here); }
inline void store2(void* p, u16 v, HERE) { store_as(p, v, here); }
inline uint4 fetch16(const void* p, HERE) { return load_as<uint4>(p, here); }
inline uint2 fetch8(const void* p, HERE) { return load_as<uint2>(p, here); }
inline u32 fetch4(const void* p, HERE) { return load_as<u32>(p, here); }
inline float fetch_float(const float* p, HERE) { return load_as<float>(p, here); }
template <class T>
T __ldg(const T* p, HERE) {
    shim::aligned(p, sizeof(T), here);
    return *p;
}

inline void copy16_async(void* shared, const void* global, bool valid, HERE) {
    shim::copy_async(shared, global, valid, here);
}
inline void copy_commit() { shim::copy_commit(); }
template <int open>
void copy_wait() {
    shim::copy_wait(open);
}

inline u32 float_bits(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return bits;
}
inline float bits_float(u32 bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline float f16_to_float(u16 bits) {
    _Float16 x;
    memcpy(&x, &bits, 2);
    return static_cast<float>(x);
}
inline u16 float_to_f16(float x) {
    const _Float16 half = static_cast<_Float16>(x);
    u16 bits;
    memcpy(&bits, &half, 2);
    return bits;
}
inline u16 float_to_bf16(float x) {
    const u32 bits = float_bits(x);
    if (x != x) return static_cast<u16>(bits >> 16 | 0x40u);
    return static_cast<u16>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline u32 pack_f16(float low, float high) {
    return float_to_f16(low) | static_cast<u32>(float_to_f16(high)) << 16;
}
inline u32 pack_bf16(float low, float high) {
    return float_to_bf16(low) | static_cast<u32>(float_to_bf16(high)) << 16;
}
// A product of two 11-bit or 8-bit mantissas is exact in double, and so is the sum for the few
// exponents that kernels use; the float between rounds what double rounding could spoil to odd.
inline float round_odd(double x) {
    float nearest = static_cast<float>(x);
    if (nearest != x && !(float_bits(nearest) & 1u)) {
        nearest = nextafterf(nearest, nearest < x ? INFINITY : -INFINITY);
    }
    return nearest;
}
inline float bf16_value(u32 bits) { return bits_float(bits << 16); }
inline u32 fma2(f16, u32 a, u32 b, u32 c) {
    float out[2];
    for (int i = 0; i < 2; i++) {
        const auto half = [&](u32 x) { return f16_to_float(static_cast<u16>(x >> 16 * i)); };
        out[i] = round_odd(static_cast<double>(half(a)) * half(b) + half(c));
    }
    return pack_f16(out[0], out[1]);
}
inline u32 fma2(bf16, u32 a, u32 b, u32 c) {
    float out[2];
    for (int i = 0; i < 2; i++) {
        const auto half = [&](u32 x) { return bf16_value(x >> 16 * i & 0xffffu); };
        out[i] = round_odd(static_cast<double>(half(a)) * half(b) + half(c));
    }
    return pack_bf16(out[0], out[1]);
}

// A warp's product. Each sum of 16 is taken in double and rounded once: a device keeps more than
// a float's bits inside one such sum, in an order it does not tell.
template <class Format>
void mma_16(Format, float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, const char* kind,
            shim::Here here) {
    const u32 given[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const unsigned char* all = shim::meet(kind, ~0u, given, sizeof given, here);
    const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const auto at = [&](unsigned from, unsigned word, unsigned half) {
        u32 pair;
        memcpy(&pair, all + 64 * from + 4 * word, 4);
        const u16 bits = static_cast<u16>(pair >> 16 * half);
        if constexpr (std::is_same_v<Format, f16>) {
            return f16_to_float(bits);
        } else {
            return bf16_value(bits);
        }
    };
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = g + i / 2 * 8, column = 2 * t + i % 2;
        double sum = d[i];
        for (unsigned k = 0; k < 16; k++) {
            const unsigned quad = k % 8 / 2, half = k % 2;
            const float x = at(row % 8 * 4 + quad, row / 8 + k / 8 * 2, half);
            const float y = at(column * 4 + quad, 4 + k / 8, half);
            sum += static_cast<double>(x) * y;
        }
        d[i] = static_cast<float>(sum);
    }
    shim::part();
}
inline void mma(f16 format, float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, HERE) {
    mma_16(format, d, a, b0, b1, "mma f16", here);
}
inline void mma(bf16 format, float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, HERE) {
    mma_16(format, d, a, b0, b1, "mma bf16", here);
}
inline void mma_i8(int (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, HERE) {
    const u32 given[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const unsigned char* all = shim::meet("mma i8", ~0u, given, sizeof given, here);
    const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = g + i / 2 * 8, column = 2 * t + i % 2;
        for (unsigned k = 0; k < 32; k++) {
            const unsigned quad = k % 16 / 4, byte = k % 4;
            const unsigned char* x = all + 64 * (row % 8 * 4 + quad) + 4 * (row / 8 + k / 16 * 2);
            const unsigned char* y = all + 64 * (column * 4 + quad) + 4 * (4 + k / 16);
            d[i] += static_cast<i8>(x[byte]) * static_cast<i8>(y[byte]);
        }
    }
    shim::part();
}

inline u32 permute_signs(u32 a, u32 b, u32 choice) {
    const u64 bytes = static_cast<u64>(b) << 32 | a;
    u32 out = 0;
    for (int i = 0; i < 4; i++) {
        const u32 nibble = choice >> 4 * i & 15u;
        u32 byte = static_cast<u32>(bytes >> 8 * (nibble & 7u)) & 0xffu;
        if (nibble & 8u) byte = byte & 0x80u ? 0xffu : 0u;
        out |= byte << 8 * i;
    }
    return out;
}
inline u32 permute(u32 a, u32 b, u32 choice) { return permute_signs(a, b, choice & 0x7777u); }

#define FULL_WARP 0xffffffffu
template <class T, class From>
T shuffle(const char* kind, u32 mask, T x, From from, shim::Here here) {
    const unsigned lane = threadIdx.x % 32;
    const unsigned char* all = shim::meet(kind, mask, &x, sizeof x, here);
    T out;
    const unsigned source = from(lane);
    if (!(mask >> source & 1u)) {
        shim::fail(here, "%s reads lane %u, which is not in mask 0x%08x", kind, source, mask);
    }
    memcpy(&out, all + 64 * source, sizeof out);
    shim::part();
    return out;
}
template <class T>
T shuffle_xor(T x, int lanes, HERE) {
    return shuffle("shuffle_xor", ~0u, x, [=](unsigned lane) { return lane ^ lanes; }, here);
}
template <class T>
T shuffle_up(T x, int lanes, HERE) {
    const auto from = [=](unsigned lane) {
        return lane < static_cast<unsigned>(lanes) ? lane : lane - lanes;
    };
    return shuffle("shuffle_up", ~0u, x, from, here);
}
inline u32 vote_of(u32 mask, bool x, shim::Here here) {
    const unsigned char* all = shim::meet("vote", mask, &x, sizeof x, here);
    u32 votes = 0;
    for (unsigned lane = 0; lane < 32; lane++) {
        if (mask >> lane & 1u) votes |= static_cast<u32>(all[64 * lane] != 0) << lane;
    }
    shim::part();
    return votes;
}
inline u32 vote(bool x, HERE) { return vote_of(~0u, x, here); }
inline void warp_barrier(HERE) {
    shim::meet("warp_barrier", ~0u, "", 0, here);
    shim::part();
}
inline void publish() {}

inline u32 add_atomic(u32* p, u32 x, HERE) {
    shim::aligned(p, sizeof x, here);
    const u32 old = *p;
    *p = old + x;
    return old;
}
inline u64 add_atomic(u64* p, u64 x, HERE) {
    shim::aligned(p, sizeof x, here);
    const u64 old = *p;
    *p = old + x;
    return old;
}
inline int count_bits(u32 x) { return __builtin_popcount(x); }
#define rsqrtf shim_rsqrtf
inline float shim_rsqrtf(float x) { return 1.0f / sqrtf(x); }
