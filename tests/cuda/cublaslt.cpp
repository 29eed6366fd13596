// Dense products as NVIDIA's cuBLASLt exports them, on the card that driver.cpp makes of the host:
// what the binary calls on a GPU's machine, called here. Built as libcublasLt.so.13 beside that
// libcuda.so.1, which it calls as the real one calls the real driver.
//
// Only the functions that the binary calls are here, with the rules that it could break by
// accident: descriptors are those that were made and have what is set of them in the right size,
// matrices lie inside what was allocated and on the addresses that were promised, an algorithm is
// used for what it was found for and is not looked for while a stream is captured, and everything
// is given back. A broken rule ends the process with a message. It multiplies as the descriptors
// say, whatever the order, the transposition, the factors, the bias and the type of the output; rows
// of e4m3 have a factor each, as on cards whose library takes these.
//
// GEMBA_CUBLASLT, where it is set, says what it is like: `nothing` finds no algorithm, `refuses`
// finds some that take no product, `unscaled` knows no factors of rows, `fails` cannot be opened. GEMBA_CUBLASLT_SAID names the file to
// which each handle adds, at its end, how many products it computed and how many algorithms it
// found.

#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using u8 = unsigned char;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = unsigned long long;

constexpr int SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15;
constexpr int COMPUTE_F32 = 68, F32 = 0, F16 = 2, BF16 = 14, E4M3 = 28, OF_ROWS = 3;
constexpr u32 EPILOGUE_DEFAULT = 1, EPILOGUE_BIAS = 4;
constexpr size_t WORKSPACE = size_t(1) << 20;

[[noreturn]] void broken(const char* what) {
    fprintf(stderr, "tests/cuda/cublaslt.cpp: %s\n", what);
    abort();
}
void rule(bool kept, const char* what) {
    if (!kept) broken(what);
}

bool is(const char* manner) {
    const char* found = getenv("GEMBA_CUBLASLT");
    return found && strcmp(found, manner) == 0;
}

// The driver's functions.
template <class Function>
Function driver(const char* name) {
    static void* library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) broken(dlerror());
    void* found = dlsym(library, name);
    if (!found) broken(name);
    return reinterpret_cast<Function>(found);
}

u64 address(const void* pointer) { return reinterpret_cast<u64>(pointer); }

// The start of the memory that so many bytes lie in.
u64 inside(const void* pointer, size_t bytes, const char* what) {
    static auto range = driver<int (*)(u64*, size_t*, u64)>("cuMemGetAddressRange_v2");
    u64 start = 0;
    size_t all = 0;
    rule(range(&start, &all, address(pointer)) == 0, what);
    rule(address(pointer) + bytes <= start + all, what);
    return start;
}

struct Operation {
    u32 turned[2] = {0, 0};
    u32 epilogue = EPILOGUE_DEFAULT;
    u64 bias = 0;
    int bias_type = -1;
    // Of A and B.
    int scale_mode[2] = {0, 0};
    u64 scale[2] = {0, 0};
};
struct Layout {
    int type;
    u64 rows, columns;
    long long stride;
    size_t size() const { return type == F32 ? 4 : type == E4M3 ? 1 : 2; }
    size_t bytes() const {
        return (static_cast<size_t>(stride) * (columns - 1) + rows) * size();
    }
};
struct Preference {
    u64 workspace = 0;
    u32 reduction = 7;
    u32 alignment[4] = {256, 256, 256, 256};
};

// What an algorithm was found for.
struct Algorithm {
    Operation operation;
    Layout a, b, out;
    Preference preference;
};
struct Handle {
    u64 memory = 0;
    std::vector<Algorithm> algorithms;
    u64 products = 0;
};

std::set<Handle*> handles;
std::set<Operation*> operations;
std::set<Layout*> layouts;
std::set<Preference*> preferences;

template <class T>
T& known(std::set<T*>& all, void* given, const char* what) {
    rule(all.count(static_cast<T*>(given)), what);
    return *static_cast<T*>(given);
}
template <class T>
int made(std::set<T*>& all, void** out, T value) {
    auto* fresh = new T(value);
    all.insert(fresh);
    *out = fresh;
    return SUCCESS;
}
template <class T>
int destroyed(std::set<T*>& all, void* given, const char* what) {
    T& found = known(all, given, what);
    all.erase(&found);
    delete &found;
    return SUCCESS;
}
template <class T>
void set(T& field, const void* value, size_t bytes) {
    rule(bytes == sizeof(T), "an attribute of another size");
    memcpy(&field, value, sizeof(T));
}

// Whether the sizes and types of a product go together.
void check(const Operation& operation, const Layout& a, const Layout& b, const Layout& out) {
    rule(operation.turned[0] == 1 && operation.turned[1] == 0, "only A is transposed");
    rule(a.rows == b.rows && a.columns == out.rows && b.columns == out.columns, "sizes");
    rule((a.type == F16 || a.type == BF16 || a.type == E4M3) && a.type == b.type,
         "types of A and B");
    if (a.type == E4M3) {
        rule(out.type == BF16, "the type of the output of e4m3");
        rule(a.rows % 16 == 0 && out.rows % 8 == 0, "rows of a multiple of 16 bytes");
        for (int i = 0; i < 2; i++) {
            rule(operation.scale_mode[i] == OF_ROWS && operation.scale[i], "a factor for each row");
        }
    } else {
        rule(out.type == a.type || out.type == F32, "the type of the output");
        for (int i = 0; i < 2; i++) rule(!operation.scale_mode[i] && !operation.scale[i], "factors");
    }
    if (operation.epilogue == EPILOGUE_BIAS) {
        rule(operation.bias && operation.bias_type == out.type, "a bias, and its type");
    } else {
        rule(operation.epilogue == EPILOGUE_DEFAULT && operation.bias == 0, "a bias alone");
    }
}

float number(int type, const u8* from) {
    if (type == F32) {
        float value;
        memcpy(&value, from, 4);
        return value;
    }
    if (type == E4M3) {
        const int exponent = *from >> 3 & 15, mantissa = *from & 7;
        // What measures a roof multiplies whatever is there.
        if ((*from & 127) == 127) return std::nanf("");
        const double size = exponent ? std::ldexp(8 + mantissa, exponent - 10)
                                     : std::ldexp(mantissa, -9);
        return static_cast<float>(*from & 128 ? -size : size);
    }
    u16 bits;
    memcpy(&bits, from, 2);
    if (type == BF16) {
        const u32 wide = static_cast<u32>(bits) << 16;
        float value;
        memcpy(&value, &wide, 4);
        return value;
    }
    _Float16 half;
    memcpy(&half, &bits, 2);
    return static_cast<float>(half);
}
void store(int type, u8* to, float value) {
    if (type == F32) {
        memcpy(to, &value, 4);
    } else if (type == BF16) {
        u32 wide;
        memcpy(&wide, &value, 4);
        const u32 rounded = wide + 0x7fff + (wide >> 16 & 1);
        const u16 bits = std::isnan(value) ? 0x7fc0 : static_cast<u16>(rounded >> 16);
        memcpy(to, &bits, 2);
    } else {
        const _Float16 half = static_cast<_Float16>(value);
        memcpy(to, &half, 2);
    }
}

// A product on its way. Those that were captured may run again, so none is ever let go of.
struct Product {
    Handle* handle;
    Operation operation;
    Layout a, b, c;
    const u8 *weights, *x, *added;
    u8 *out, *workspace;
    float alpha, beta;
};

std::vector<float> numbers(const Layout& layout, const u8* from) {
    std::vector<float> all;
    all.reserve(layout.rows * layout.columns);
    for (u64 column = 0; column < layout.columns; column++) {
        for (u64 row = 0; row < layout.rows; row++) {
            const u64 at = column * static_cast<u64>(layout.stride) + row;
            all.push_back(number(layout.type, from + at * layout.size()));
        }
    }
    return all;
}

void run(void* given) {
    const Product& p = *static_cast<Product*>(given);
    rule(handles.count(p.handle), "a product of a library that was closed");
    p.handle->products++;
    memset(p.workspace, 0xff, WORKSPACE);
    const std::vector<float> a = numbers(p.a, p.weights), b = numbers(p.b, p.x);
    const u64 depth = p.a.rows;
    const auto* bias = reinterpret_cast<const u8*>(p.operation.bias);
    for (u64 column = 0; column < p.c.columns; column++) {
        for (u64 row = 0; row < p.c.rows; row++) {
            double sum = 0;
            for (u64 k = 0; k < depth; k++) {
                sum += static_cast<double>(a[row * depth + k]) * b[column * depth + k];
            }
            const auto* scales = p.operation.scale;
            const auto factor = [&](int side, u64 at) {
                return scales[side] ? reinterpret_cast<const float*>(scales[side])[at] : 1.0f;
            };
            sum *= static_cast<double>(factor(0, row)) * factor(1, column) * p.alpha;
            const u64 at = (column * static_cast<u64>(p.c.stride) + row) * p.c.size();
            if (p.beta != 0) sum += static_cast<double>(p.beta) * number(p.c.type, p.added + at);
            if (bias) sum += number(p.operation.bias_type, bias + 2 * row);
            store(p.c.type, p.out + at, static_cast<float>(sum));
        }
    }
}

bool same(const Layout& one, const Layout& other) {
    return one.type == other.type && one.rows == other.rows && one.stride == other.stride;
}

}  // namespace

EXPORT size_t cublasLtGetVersion() { return 130000; }
EXPORT const char* cublasLtGetStatusName(int status) {
    return status == NOT_INITIALIZED ? "CUBLAS_STATUS_NOT_INITIALIZED" : "CUBLAS_STATUS";
}
EXPORT int cublasLtCreate(void** out) {
    if (is("fails")) return NOT_INITIALIZED;
    // Like the real one it holds memory of the context, which must outlive it.
    Handle handle;
    const int taken = driver<int (*)(u64*, size_t)>("cuMemAlloc_v2")(&handle.memory, 4096);
    rule(taken == SUCCESS, "no memory");
    return made(handles, out, handle);
}
EXPORT int cublasLtDestroy(void* given) {
    Handle& handle = known(handles, given, "no such handle");
    rule(operations.empty() && layouts.empty() && preferences.empty(), "something is left over");
    rule(driver<int (*)(u64)>("cuMemFree_v2")(handle.memory) == SUCCESS, "cuMemFree");
    if (const char* path = getenv("GEMBA_CUBLASLT_SAID")) {
        FILE* file = fopen(path, "a");
        rule(file, path);
        fprintf(file, "%llu products by %zu algorithms\n", handle.products,
                handle.algorithms.size());
        fclose(file);
    }
    return destroyed(handles, given, "no such handle");
}
EXPORT int cublasLtMatmulDescCreate(void** out, int compute, int scale) {
    rule(compute == COMPUTE_F32 && scale == F32, "sums and factors in f32");
    return made(operations, out, Operation());
}
EXPORT int cublasLtMatmulDescDestroy(void* given) {
    return destroyed(operations, given, "no such operation");
}
EXPORT int cublasLtMatmulDescSetAttribute(void* given, int attribute, const void* value,
                                          size_t bytes) {
    Operation& operation = known(operations, given, "no such operation");
    switch (attribute) {
        case 3: set(operation.turned[0], value, bytes); return SUCCESS;
        case 4: set(operation.turned[1], value, bytes); return SUCCESS;
        case 7: set(operation.epilogue, value, bytes); return SUCCESS;
        case 8: set(operation.bias, value, bytes); return SUCCESS;
        case 17:
        case 18: set(operation.scale[attribute - 17], value, bytes); return SUCCESS;
        case 31:
        case 32:
            // As before CUDA 12.9, which knows no such attribute.
            if (is("unscaled")) return INVALID_VALUE;
            set(operation.scale_mode[attribute - 31], value, bytes);
            return SUCCESS;
        case 26: set(operation.bias_type, value, bytes); return SUCCESS;
        default: broken("an attribute of an operation that is not known here");
    }
}
EXPORT int cublasLtMatrixLayoutCreate(void** out, int type, u64 rows, u64 columns,
                                      long long stride) {
    rule(rows > 0 && columns > 0 && stride >= static_cast<long long>(rows), "a layout");
    return made(layouts, out, Layout{type, rows, columns, stride});
}
EXPORT int cublasLtMatrixLayoutDestroy(void* given) {
    return destroyed(layouts, given, "no such layout");
}
EXPORT int cublasLtMatmulPreferenceCreate(void** out) {
    return made(preferences, out, Preference());
}
EXPORT int cublasLtMatmulPreferenceDestroy(void* given) {
    return destroyed(preferences, given, "no such preference");
}
EXPORT int cublasLtMatmulPreferenceSetAttribute(void* given, int attribute, const void* value,
                                                size_t bytes) {
    Preference& preference = known(preferences, given, "no such preference");
    switch (attribute) {
        case 1: set(preference.workspace, value, bytes); return SUCCESS;
        case 3: set(preference.reduction, value, bytes); return SUCCESS;
        case 5:
        case 6:
        case 7:
        case 8: set(preference.alignment[attribute - 5], value, bytes); return SUCCESS;
        default: broken("an attribute of a preference that is not known here");
    }
}
// As cublasLt.h has it.
struct Result {
    u64 algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
EXPORT int cublasLtMatmulAlgoGetHeuristic(void* given, void* operation, void* a, void* b, void* c,
                                          void* out, void* preference, int wanted, Result* results,
                                          int* count) {
    Handle& handle = known(handles, given, "no such handle");
    // The real one fails then, in some versions.
    rule(!driver<int (*)()>("gemba_capturing")(), "an algorithm is looked for during a capture");
    const Algorithm found = {known(operations, operation, "no such operation"),
                             known(layouts, a, "no such layout"),
                             known(layouts, b, "no such layout"),
                             known(layouts, out, "no such layout"),
                             known(preferences, preference, "no such preference")};
    check(found.operation, found.a, found.b, found.out);
    rule(c == out && wanted == 1, "one algorithm, in place");
    rule(found.preference.reduction == 2, "parts of a sum are rounded");
    rule(found.preference.workspace >= WORKSPACE, "no workspace");
    *count = 0;
    if (is("nothing")) return NOT_SUPPORTED;
    handle.algorithms.push_back(found);
    *count = 1;
    results[0] = Result{{address(given), handle.algorithms.size()}, WORKSPACE, SUCCESS, 1.0f, {}};
    return SUCCESS;
}
EXPORT int cublasLtMatmul(void* given, void* operation, const float* alpha, const void* a,
                          void* a_layout, const void* b, void* b_layout, const float* beta,
                          const void* c, void* c_layout, void* out, void* out_layout,
                          const u64* algorithm, void* workspace, size_t workspace_bytes,
                          void* stream) {
    Handle& handle = known(handles, given, "no such handle");
    auto made = std::make_unique<Product>();
    *made = {&handle,
             known(operations, operation, "no such operation"),
             known(layouts, a_layout, "no such layout"),
             known(layouts, b_layout, "no such layout"),
             known(layouts, out_layout, "no such layout"),
             static_cast<const u8*>(a),
             static_cast<const u8*>(b),
             static_cast<const u8*>(c),
             static_cast<u8*>(out),
             static_cast<u8*>(workspace),
             *alpha,
             *beta};
    const Product& p = *made;
    rule(algorithm[0] == address(given) && algorithm[1] - 1 < handle.algorithms.size(),
         "no such algorithm");
    const Algorithm& found = handle.algorithms[algorithm[1] - 1];
    check(p.operation, p.a, p.b, p.c);
    rule(c_layout == out_layout && c == out, "in place");
    rule(same(p.a, found.a) && same(p.b, found.b) && same(p.c, found.out) &&
             p.a.columns == found.a.columns && p.operation.epilogue == found.operation.epilogue,
         "an algorithm of another product");
    const u64 columns = p.b.columns, most = found.b.columns;
    rule(columns <= most && 4 * (most - columns) < columns, "an algorithm of other rows");
    const void* places[4] = {a, b, c, out};
    for (int i = 0; i < 4; i++) {
        rule(address(places[i]) % found.preference.alignment[i] == 0, "an address not as promised");
    }
    rule(address(workspace) % 256 == 0 && workspace_bytes >= WORKSPACE, "the workspace");
    const u64 room = inside(workspace, workspace_bytes, "the workspace");
    rule(inside(a, p.a.bytes(), "A") != room, "A in the workspace");
    rule(inside(b, p.b.bytes(), "B") != room, "B in the workspace");
    rule(inside(out, p.c.bytes(), "the output") != room, "the output in the workspace");
    if (p.operation.bias) {
        inside(reinterpret_cast<void*>(p.operation.bias), p.c.rows * 2, "the bias");
    }
    for (int i = 0; i < 2; i++) {
        if (!p.operation.scale[i]) continue;
        const u64 count = i == 0 ? p.c.rows : p.c.columns;
        const u64 factors = inside(reinterpret_cast<void*>(p.operation.scale[i]), count * 4, "factors");
        rule(factors != room, "factors in the workspace");
    }
    if (is("refuses")) return NOT_SUPPORTED;
    const auto launch = driver<int (*)(void*, void (*)(void*), void*)>("cuLaunchHostFunc");
    return launch(stream, run, made.release()) == SUCCESS ? SUCCESS : NOT_INITIALIZED;
}
