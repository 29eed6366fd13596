// A driver and a run-time compiler as NVIDIA's libraries export them, whose card is the host shim:
// what the binary calls on a GPU's machine, called here. Built once and put under both names,
// libcuda.so.1 and libnvrtc.so.13, in a folder of its own.
//
// Only the functions that the binary calls are here, with the rules that it could break by
// accident: calls come in order (cuInit, a context, a stream), handles are those that were given
// out, copies stay inside what was allocated, events have passed before they are compared, and
// what was made is given back. A broken rule ends the process with a message.
//
// A profiling library (cupti.cpp) that the process has loaded is told of every kernel that ran, and
// which node of a graph it was.
//
// GEMBA_SHIM names the library of kernels (tests/shim/build); GEMBA_SHIM_F16, where it is set, the
// one for programs that were compiled for activations in f16.

#include <dlfcn.h>
#include <time.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using u64 = unsigned long long;

constexpr int SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500;
constexpr size_t MEMORY = size_t(1) << 30;

[[noreturn]] void broken(const char* what) {
    fprintf(stderr, "tests/cuda/driver.cpp: %s\n", what);
    abort();
}
void rule(bool kept, const char* what) {
    if (!kept) broken(what);
}

struct Kernels {
    void* (*alloc)(size_t);
    void (*free)(void*);
    const char* (*launch)(const char*, const unsigned*, const unsigned*, unsigned, void**, u64);
};
Kernels opened(const char* path) {
    rule(path, "GEMBA_SHIM is not set");
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) broken(dlerror());
    Kernels found;
    found.alloc = reinterpret_cast<decltype(found.alloc)>(dlsym(library, "shim_alloc"));
    found.free = reinterpret_cast<decltype(found.free)>(dlsym(library, "shim_free"));
    found.launch = reinterpret_cast<decltype(found.launch)>(dlsym(library, "shim_launch"));
    rule(found.alloc && found.free && found.launch, "GEMBA_SHIM is no library of kernels");
    return found;
}
const Kernels& kernels() {
    static const Kernels all = opened(getenv("GEMBA_SHIM"));
    return all;
}
const Kernels& kernels_f16() {
    static const Kernels all = [] {
        const char* path = getenv("GEMBA_SHIM_F16");
        return path ? opened(path) : kernels();
    }();
    return all;
}

struct Event {
    bool passed = false;
    double milliseconds = 0;
    // Kernels of which there are records by then.
    u64 recorded = 0;
};

bool initialized = false, current = false;
// A process may open a card several times, with a stream each.
int retained = 0, streaming = 0;
std::map<u64, size_t> allocated;
size_t taken = 0;
std::map<void*, size_t> shelves;
std::set<std::string*> modules;
struct Function {
    std::string name;
    bool f16;
};
std::map<std::pair<std::string, bool>, Function> functions;
std::set<Event*> events;
u64 launches = 0;
int card, context, stream;

// What was captured, each told which node it is; a graph that can be launched is a copy of it, with
// nodes of its own.
using Graph = std::vector<std::function<void(u64)>>;
std::set<Graph*> graphs;
std::map<Graph*, u64> first_nodes;
u64 next_node = 1;
Graph* capturing = nullptr;

// The profiling library, if the process has loaded one before it is first told something: what it
// is told of a kernel that ran and of kernels that were waited for, and how many it has recorded.
struct Profiler {
    void (*ran)(const char*, u64) = nullptr;
    void (*waited)(u64) = nullptr;
    u64 (*recorded)() = nullptr;
};
const Profiler& profiler() {
    static const Profiler found = [] {
        Profiler all;
        void* library = dlopen("libcupti.so.13", RTLD_NOW | RTLD_NOLOAD);
        if (!library) return all;
        const auto find = [=](auto& function, const char* name) {
            function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
        };
        find(all.ran, "gemba_kernel_ran");
        find(all.waited, "gemba_kernels_ended");
        find(all.recorded, "gemba_kernels_recorded");
        rule(all.ran && all.waited && all.recorded, "libcupti.so.13 is not tests/cuda/cupti.cpp");
        return all;
    }();
    return found;
}
void tell(const char* name, u64 node) {
    if (profiler().ran) profiler().ran(name, node);
}
u64 recorded() { return profiler().recorded ? profiler().recorded() : 0; }
void waited_for(u64 kernels) {
    if (profiler().waited) profiler().waited(kernels);
}

void ready() { rule(initialized && retained && current && streaming, "no context or no stream"); }
void idle() {
    ready();
    rule(!capturing, "a call that a capture does not take");
}

bool inside(u64 address, size_t bytes) {
    auto next = allocated.upper_bound(address);
    if (next == allocated.begin()) return false;
    --next;
    return address + bytes <= next->first + next->second;
}

// A program under compilation.
struct Program {
    std::string name, image;
};
std::mutex programs_lock;
std::set<Program*> programs;
void known(Program* program) {
    const std::lock_guard<std::mutex> lock(programs_lock);
    rule(programs.count(program), "no such program");
}

}  // namespace

EXPORT int cuInit(unsigned) {
    initialized = true;
    return SUCCESS;
}
EXPORT int cuDriverGetVersion(int* version) {
    *version = 13000;
    return SUCCESS;
}
EXPORT int cuDeviceGetCount(int* count) {
    rule(initialized, "cuDeviceGetCount before cuInit");
    *count = 1;
    return SUCCESS;
}
EXPORT int cuDeviceGet(int* device, int number) {
    rule(initialized && number == 0, "cuDeviceGet");
    *device = card;
    return SUCCESS;
}
EXPORT int cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = MEMORY;
    return SUCCESS;
}
EXPORT int cuDeviceGetName(char* name, int length, int) {
    snprintf(name, static_cast<size_t>(length), "host shim");
    return SUCCESS;
}
EXPORT int cuDeviceGetUuid_v2(char* uuid, int) {
    for (int i = 0; i < 16; i++) uuid[i] = static_cast<char>(i);
    return SUCCESS;
}
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 16: *value = 1; return SUCCESS;         // multiprocessors
        case 38: *value = 1 << 18; return SUCCESS;   // second-level cache
        case 75: *value = 9; return SUCCESS;         // compute capability
        case 76: *value = 0; return SUCCESS;
        default: return INVALID_VALUE;
    }
}
EXPORT int cuGetErrorString(int error, const char** text) {
    *text = error == NOT_FOUND ? "named symbol not found" : "invalid argument";
    return SUCCESS;
}
EXPORT int cuDevicePrimaryCtxRetain(void** out, int) {
    rule(initialized, "a context before cuInit");
    retained++;
    *out = &context;
    return SUCCESS;
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int) {
    rule(retained > streaming, "a context that is released holds a stream");
    retained--;
    rule(retained || (allocated.empty() && modules.empty() && events.empty() && graphs.empty()),
         "a context that is released holds something");
    rule(retained || shelves.empty(), "a context that is released holds host memory");
    return SUCCESS;
}
EXPORT int cuCtxSetCurrent(void* given) {
    rule(given == &context, "no such context");
    current = true;
    return SUCCESS;
}
EXPORT int cuStreamCreate(void** out, unsigned flags) {
    rule(current && streaming < retained && flags == 1, "cuStreamCreate");
    streaming++;
    *out = &stream;
    return SUCCESS;
}
EXPORT int cuStreamSynchronize(void* given) {
    idle();
    rule(given == &stream, "no such stream");
    waited_for(recorded());
    return SUCCESS;
}
EXPORT int cuStreamDestroy_v2(void* given) {
    rule(given == &stream && streaming, "no such stream");
    streaming--;
    return SUCCESS;
}
EXPORT int cuMemGetInfo_v2(size_t* free, size_t* total) {
    ready();
    *free = MEMORY - taken;
    *total = MEMORY;
    return SUCCESS;
}
EXPORT int cuMemAlloc_v2(u64* address, size_t bytes) {
    idle();
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > MEMORY - taken) return OUT_OF_MEMORY;
    void* data = kernels().alloc(bytes);
    if (!data) return OUT_OF_MEMORY;
    *address = reinterpret_cast<u64>(data);
    allocated[*address] = bytes;
    taken += bytes;
    return SUCCESS;
}
EXPORT int cuMemFree_v2(u64 address) {
    const auto found = allocated.find(address);
    rule(found != allocated.end(), "memory that was not allocated is freed");
    taken -= found->second;
    allocated.erase(found);
    kernels().free(reinterpret_cast<void*>(address));
    return SUCCESS;
}
// What a library of NVIDIA's asks of the driver by itself (cublaslt.cpp): where memory ends, work in
// the order of the stream, and whether that is captured.
EXPORT int cuMemGetAddressRange_v2(u64* start, size_t* bytes, u64 address) {
    ready();
    if (!inside(address, 1)) return INVALID_VALUE;
    const auto found = --allocated.upper_bound(address);
    *start = found->first;
    *bytes = found->second;
    return SUCCESS;
}
EXPORT int cuLaunchHostFunc(void* given, void (*function)(void*), void* data) {
    ready();
    rule(given == &stream, "no such stream");
    if (capturing) {
        capturing->push_back([=](u64) { function(data); });
    } else {
        function(data);
    }
    return SUCCESS;
}
EXPORT int gemba_capturing() {
    ready();
    return capturing != nullptr;
}
EXPORT int cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t bytes, void* given) {
    idle();
    rule(given == &stream && inside(to, bytes), "a copy to memory that was not allocated");
    memcpy(reinterpret_cast<void*>(to), from, bytes);
    return SUCCESS;
}
EXPORT int cuMemcpyDtoHAsync_v2(void* to, u64 from, size_t bytes, void* given) {
    idle();
    rule(given == &stream && inside(from, bytes), "a copy from memory that was not allocated");
    memcpy(to, reinterpret_cast<const void*>(from), bytes);
    return SUCCESS;
}
EXPORT int cuMemAllocHost_v2(void** out, size_t bytes) {
    ready();
    *out = malloc(bytes);
    shelves[*out] = bytes;
    return SUCCESS;
}
EXPORT int cuMemFreeHost(void* given) {
    rule(shelves.erase(given), "host memory that was not allocated is freed");
    free(given);
    return SUCCESS;
}
EXPORT int cuModuleLoadData(void** module, const void* image) {
    ready();
    const char* text = static_cast<const char*>(image);
    rule(strncmp(text, "image of ", 9) == 0, "not an image of this compiler");
    auto* made = new std::string(text + 9);
    modules.insert(made);
    *module = made;
    return SUCCESS;
}
EXPORT int cuModuleUnload(void* module) {
    auto* known = static_cast<std::string*>(module);
    rule(modules.erase(known), "no such module");
    delete known;
    return SUCCESS;
}
EXPORT int cuModuleGetFunction(void** function, void* module, const char* name) {
    rule(modules.count(static_cast<std::string*>(module)), "no such module");
    // Which file a kernel stands in is held by the tests of the backend.
    const std::string& image = *static_cast<std::string*>(module);
    const bool f16 = image.find("-DGEMBA_ACT_F16") != std::string::npos;
    const auto made = functions.emplace(std::pair(std::string(name), f16), Function{name, f16});
    *function = &made.first->second;
    return SUCCESS;
}
EXPORT int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned block_x,
                          unsigned block_y, unsigned block_z, unsigned shared, void* given,
                          void** arguments, void** extra) {
    ready();
    rule(given == &stream && !extra, "a launch on no stream");
    const auto& known = *static_cast<Function*>(function);
    // Arguments are copied here: a captured launch keeps those that it was given.
    std::vector<u64> values;
    for (void** argument = arguments; *argument; argument++) {
        values.push_back(*static_cast<u64*>(*argument));
    }
    const auto run = [=, &known](u64 node) mutable {
        const unsigned grid[3] = {x, y, z}, block[3] = {block_x, block_y, block_z};
        const Kernels& library = known.f16 ? kernels_f16() : kernels();
        std::vector<void*> pointers;
        for (u64& value : values) pointers.push_back(&value);
        const char* error =
            library.launch(known.name.c_str(), grid, block, shared, pointers.data(), launches++);
        if (error) broken(error);
        tell(known.name.c_str(), node);
    };
    if (capturing) {
        capturing->push_back(run);
    } else {
        auto now = run;
        now(0);
    }
    return SUCCESS;
}
EXPORT int cuEventCreate(void** event, unsigned flags) {
    ready();
    rule(flags == 0, "events without times");
    auto* made = new Event;
    events.insert(made);
    *event = made;
    return SUCCESS;
}
static void passed(Event* event) {
    rule(events.count(event), "no such event");
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    event->passed = true;
    event->recorded = recorded();
    event->milliseconds = static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}
EXPORT int cuEventRecord(void* event, void* given) {
    idle();
    rule(given == &stream, "no such stream");
    passed(static_cast<Event*>(event));
    return SUCCESS;
}
EXPORT int cuEventRecordWithFlags(void* event, void* given, unsigned flags) {
    ready();
    rule(capturing && given == &stream && flags == 1, "a record that no graph would tell");
    capturing->push_back([event](u64) { passed(static_cast<Event*>(event)); });
    return SUCCESS;
}
EXPORT int cuEventSynchronize(void* event) {
    idle();
    rule(events.count(static_cast<Event*>(event)), "no such event");
    rule(static_cast<Event*>(event)->passed, "an event that nothing will record");
    waited_for(static_cast<Event*>(event)->recorded);
    return SUCCESS;
}
EXPORT int cuStreamBeginCapture_v2(void* given, int mode) {
    idle();
    rule(given == &stream && mode == 1, "a capture that other threads could break");
    capturing = new Graph;
    graphs.insert(capturing);
    return SUCCESS;
}
EXPORT int cuStreamEndCapture(void* given, void** graph) {
    ready();
    rule(capturing && given == &stream, "nothing is captured");
    *graph = capturing;
    capturing = nullptr;
    return SUCCESS;
}
EXPORT int cuGraphInstantiateWithFlags(void** executable, void* graph, u64 flags) {
    idle();
    rule(graphs.count(static_cast<Graph*>(graph)) && flags == 0, "no such graph");
    auto* made = new Graph(*static_cast<Graph*>(graph));
    graphs.insert(made);
    first_nodes[made] = next_node;
    next_node += made->size();
    *executable = made;
    return SUCCESS;
}
static int destroyed(void* graph) {
    auto* known = static_cast<Graph*>(graph);
    rule(graphs.erase(known), "no such graph");
    delete known;
    return SUCCESS;
}
EXPORT int cuGraphDestroy(void* graph) { return destroyed(graph); }
EXPORT int cuGraphExecDestroy(void* executable) { return destroyed(executable); }
EXPORT int cuGraphLaunch(void* executable, void* given) {
    idle();
    rule(graphs.count(static_cast<Graph*>(executable)) && given == &stream, "no such graph");
    u64 node = first_nodes[static_cast<Graph*>(executable)];
    for (auto& run : *static_cast<Graph*>(executable)) run(node++);
    return SUCCESS;
}
EXPORT int cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) {
    auto *start = static_cast<Event*>(from), *end = static_cast<Event*>(to);
    rule(events.count(start) && events.count(end), "no such event");
    rule(start->passed && end->passed, "an event that has not passed");
    *milliseconds = static_cast<float>(end->milliseconds - start->milliseconds);
    return SUCCESS;
}
EXPORT int cuEventDestroy_v2(void* event) {
    auto* known = static_cast<Event*>(event);
    rule(events.erase(known), "no such event");
    delete known;
    return SUCCESS;
}

EXPORT int nvrtcVersion(int* major, int* minor) {
    *major = 13;
    *minor = 0;
    return 0;
}
EXPORT int nvrtcGetNumSupportedArchs(int* count) {
    *count = 2;
    return 0;
}
EXPORT int nvrtcGetSupportedArchs(int* all) {
    all[0] = 80;
    all[1] = 90;
    return 0;
}
EXPORT int nvrtcCreateProgram(void** out, const char* source, const char* name, int headers,
                              const char* const* texts, const char* const* names) {
    rule(source[0] && headers > 0 && texts[headers - 1][0] && names[headers - 1][0], "no source");
    auto* program = new Program{name, ""};
    const std::lock_guard<std::mutex> lock(programs_lock);
    programs.insert(program);
    *out = program;
    return 0;
}
EXPORT int nvrtcCompileProgram(void* given, int count, const char* const* options) {
    auto* program = static_cast<Program*>(given);
    known(program);
    program->image = "image of " + program->name;
    for (int i = 0; i < count; i++) program->image += std::string(" ") + options[i];
    // In a kept image of another make this would show.
    rule(program->image.find("--gpu-architecture=sm_90a") != std::string::npos, "another card");
    return 0;
}
EXPORT int nvrtcDestroyProgram(void** given) {
    auto* program = static_cast<Program*>(*given);
    known(program);
    const std::lock_guard<std::mutex> lock(programs_lock);
    programs.erase(program);
    delete program;
    return 0;
}
EXPORT int nvrtcGetCUBINSize(void* given, size_t* size) {
    known(static_cast<Program*>(given));
    *size = static_cast<Program*>(given)->image.size() + 1;
    return 0;
}
EXPORT int nvrtcGetCUBIN(void* given, char* image) {
    known(static_cast<Program*>(given));
    strcpy(image, static_cast<Program*>(given)->image.c_str());
    return 0;
}
