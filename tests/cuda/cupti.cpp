// A profiling library as NVIDIA's CUPTI exports it, whose records are of the kernels that the driver
// beside it (driver.cpp) says it ran.
//
// Only the functions that the binary calls are here, with the rules that it could break by accident:
// callbacks come before records, records are asked for before the first kernel runs, buffers are
// aligned, stay where they are until they are handed back, and have room for a record. A broken
// rule ends the process with a message.
//
// What comes of it can be told from anything else: a kernel takes as many nanoseconds as its name
// has letters, and 200 more. Its clock is not the machine's. Buffers are filled with a few records
// each, so that those of a step are spread over many.
//
// A kernel has ended when the host has waited for it (the driver says so); its record is not
// complete before. Full buffers of complete records come back by themselves, the last one first,
// but the first of them waits to be asked for. A flush hands back every buffer of complete records,
// and a forced one all buffers: kernels that have not ended are records without an end then, and
// never come again.
//
// GEMBA_CUPTI, where it is set, is the number of a record, counted from zero, and what becomes of
// it: "lost" (and nobody says so), "dropped" (and the library owns to it), "twice", "slow" (it is
// complete only when it was asked for three times), "endless" (it never is), or "buffer": the
// buffer that it is in gets lost.

#include <time.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using u64 = unsigned long long;

constexpr unsigned SUCCESS = 0, INVALID_PARAMETER = 1, MAX_LIMIT_REACHED = 12;
constexpr unsigned CONCURRENT_KERNEL = 10;
constexpr size_t RECORDS_OF_A_BUFFER = 5;
// Far from the machine's own clock.
constexpr uint64_t CLOCK_BEGINS = uint64_t(1) << 60;

[[noreturn]] void broken(const char* what) {
    fprintf(stderr, "tests/cuda/cupti.cpp: %s\n", what);
    abort();
}
void rule(bool kept, const char* what) {
    if (!kept) broken(what);
}

// CUpti_ActivityKernel10, as the library's manual has it.
struct __attribute__((packed)) __attribute__((aligned(8))) Kernel {
    uint32_t kind;
    uint8_t cache_config, shared_memory_config;
    uint16_t registers;
    uint32_t partitioned_cache_requested, partitioned_cache_executed;
    uint64_t start, end, completed;
    uint32_t device, context, stream;
    int32_t grid[3], block[3], static_shared, dynamic_shared;
    uint32_t local_of_thread, local, correlation;
    int64_t grid_id;
    const char* name;
    void* reserved;
    uint64_t queued, submitted;
    uint8_t launch_type, carveout_requested, carveout, padding;
    uint32_t shared_executed;
    uint64_t graph_node;
    uint32_t shared_limit, graph;
    void* access_policy;
    uint32_t channel, channel_type, cluster[3], cluster_policy;
    uint64_t local_v2;
    uint32_t most_cluster, most_active_clusters;
    uint8_t device_launched, padding_3[7];
};

using Request = void (*)(uint8_t**, size_t*, size_t*);
using Complete = void (*)(void*, uint32_t, uint8_t*, size_t, size_t);
Request request = nullptr;
Complete complete = nullptr;
bool enabled = false, was_enabled = false;

struct Buffer {
    uint8_t* data;
    size_t size, filled;
    // The number of each record.
    std::vector<uint64_t> records;
};
std::vector<Buffer> buffers;
std::map<std::string, std::string> names;
// Kernels that were recorded, and those of them that have ended.
uint64_t recorded = 0, ended = 0;
size_t dropped = 0;
int asked_for = 0;

uint64_t now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    const auto since = static_cast<uint64_t>(time.tv_sec) * 1000000000 + static_cast<uint64_t>(time.tv_nsec);
    return CLOCK_BEGINS + since;
}

// Whether this becomes of a record.
bool is(const char* what, uint64_t record) {
    const char* asked = getenv("GEMBA_CUPTI");
    char* rest = nullptr;
    if (!asked || strtoull(asked, &rest, 10) != record) return false;
    return strcmp(rest + (*rest == ' '), what) == 0;
}
bool has_ended(uint64_t record) {
    return record < ended && !is("endless", record) && (!is("slow", record) || asked_for >= 3);
}
bool complete_records(const Buffer& buffer) {
    for (const uint64_t record : buffer.records) {
        if (!has_ended(record)) return false;
    }
    return true;
}
bool is_full(const Buffer& buffer) { return buffer.filled >= RECORDS_OF_A_BUFFER * sizeof(Kernel); }

void hand_back(size_t at) {
    const Buffer buffer = buffers[at];
    buffers.erase(buffers.begin() + static_cast<long>(at));
    size_t filled = buffer.filled;
    for (size_t i = 0; i < buffer.records.size(); i++) {
        auto* kernel = reinterpret_cast<Kernel*>(buffer.data) + i;
        if (!has_ended(buffer.records[i])) kernel->end = 0;
        if (is("buffer", buffer.records[i])) filled = 0;
    }
    complete(nullptr, 0, buffer.data, buffer.size, filled);
}

}  // namespace

EXPORT unsigned cuptiGetVersion(uint32_t* version) {
    *version = 130001;
    return SUCCESS;
}
EXPORT unsigned cuptiGetResultString(unsigned, const char** text) {
    *text = "invalid parameter";
    return SUCCESS;
}
EXPORT unsigned cuptiGetTimestamp(uint64_t* time) {
    *time = now();
    return SUCCESS;
}
EXPORT unsigned cuptiActivityRegisterCallbacks(Request requested, Complete completed) {
    rule(requested && completed && !request, "cuptiActivityRegisterCallbacks");
    request = requested;
    complete = completed;
    return SUCCESS;
}
EXPORT unsigned cuptiActivityEnable(unsigned kind) {
    if (kind != CONCURRENT_KERNEL) return INVALID_PARAMETER;
    rule(request, "records before there is room for them");
    enabled = was_enabled = true;
    return SUCCESS;
}
EXPORT unsigned cuptiActivityDisable(unsigned kind) {
    if (kind != CONCURRENT_KERNEL) return INVALID_PARAMETER;
    enabled = false;
    return SUCCESS;
}
EXPORT unsigned cuptiActivityFlushAll(uint32_t flag) {
    rule(flag <= 1, "no such flag");
    asked_for++;
    for (size_t at = buffers.size(); at-- > 0;) {
        if (flag == 1 || complete_records(buffers[at])) hand_back(at);
    }
    return SUCCESS;
}
EXPORT unsigned cuptiActivityGetNextRecord(uint8_t* buffer, size_t filled, uint8_t** record) {
    uint8_t* next = *record ? *record + sizeof(Kernel) : buffer;
    if (next >= buffer + filled) return MAX_LIMIT_REACHED;
    *record = next;
    return SUCCESS;
}
EXPORT unsigned cuptiActivityGetNumDroppedRecords(void*, uint32_t, size_t* count) {
    *count = dropped;
    dropped = 0;
    return SUCCESS;
}

static void put(const char* name, u64 node, uint64_t record) {
    if (buffers.empty() || is_full(buffers.back())) {
        Buffer made = {nullptr, 0, 0, {}};
        size_t most = 1;
        request(&made.data, &made.size, &most);
        rule(made.data && reinterpret_cast<uintptr_t>(made.data) % 8 == 0, "a buffer that is not aligned");
        rule(made.size >= RECORDS_OF_A_BUFFER * sizeof(Kernel) && most == 0, "a buffer without room");
        buffers.push_back(made);
    }
    Kernel kernel = {};
    kernel.kind = CONCURRENT_KERNEL;
    kernel.name = names.emplace(name, name).first->second.c_str();
    kernel.end = now();
    kernel.start = kernel.end - 200 - strlen(name);
    kernel.graph_node = node;
    kernel.graph = node ? 1 : 0;
    Buffer& buffer = buffers.back();
    memcpy(buffer.data + buffer.filled, &kernel, sizeof kernel);
    buffer.filled += sizeof kernel;
    buffer.records.push_back(record);
}

// What the driver says of a kernel that it just ran, from the first one on.
EXPORT void gemba_kernel_ran(const char* name, u64 node) {
    rule(was_enabled, "records are asked for after the first kernel");
    if (!enabled) return;
    const uint64_t record = recorded++;
    if (is("dropped", record)) dropped++;
    if (is("lost", record) || is("dropped", record)) return;
    put(name, node, record);
    if (is("twice", record)) {
        // To the last byte: a record that came again, not a kernel that ran again.
        const Buffer& buffer = buffers.back();
        const auto* kernels = reinterpret_cast<const Kernel*>(buffer.data);
        const Kernel first = kernels[buffer.records.size() - 1];
        put(name, node, record);
        Buffer& last = buffers.back();
        reinterpret_cast<Kernel*>(last.data)[last.records.size() - 1] = first;
    }
}

// How many kernels were recorded so far.
EXPORT u64 gemba_kernels_recorded() { return recorded; }

// What the driver says when the host has waited for the first so many of them.
EXPORT void gemba_kernels_ended(u64 count) {
    if (count > ended) ended = count;
    bool first = true;
    std::vector<size_t> ready;
    for (size_t at = 0; at < buffers.size(); at++) {
        if (!is_full(buffers[at]) || !complete_records(buffers[at])) continue;
        if (!first) ready.push_back(at);
        first = false;
    }
    while (!ready.empty()) {
        hand_back(ready.back());
        ready.pop_back();
    }
}
