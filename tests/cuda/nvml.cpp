// A management library as NVIDIA's driver brings it, for the card of driver.cpp: the functions that
// the binary calls of libnvidia-ml.so.1, with the rules that it could break by accident: calls come
// between nvmlInit and nvmlShutdown, as many of one as of the other, the card is asked for by its
// identity, samples are those that were given out, held in order, and given back.
//
// The card draws 200 W, and its energy counter moves ten times a second. GEMBA_NVML names what is
// wrong with it, words between spaces:
//   no-gpm      it is older than its counters
//   refused     samples are refused, as in some virtual machines
//   frozen      its energy counter stands still
//   apart       it tells 300 W and counts 200
//   throttled   its power limit keeps its clock low
//   uncounted   it does not count energy
//   elsewhere   it is another card than the driver's

#include <time.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int SUCCESS = 0, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6;
// What driver.cpp calls its card.
constexpr const char* UUID = "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f";

[[noreturn]] void broken(const char* what) {
    fprintf(stderr, "tests/cuda/nvml.cpp: %s\n", what);
    abort();
}
void rule(bool kept, const char* what) {
    if (!kept) broken(what);
}

bool wrong(const char* word) {
    const char* all = getenv("GEMBA_NVML");
    const std::string words = std::string(" ") + (all ? all : "") + " ";
    return words.find(std::string(" ") + word + " ") != std::string::npos;
}

double seconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

struct Sample {
    double taken = 0;
};

// Several threads ask at once.
std::mutex lock;
int initialized = 0;
std::set<Sample*> samples;
int card;

void ready(const void* device) {
    const std::lock_guard<std::mutex> held(lock);
    rule(initialized > 0, "a call before nvmlInit or after nvmlShutdown");
    rule(device == &card, "no such card");
}
void known(Sample* sample) {
    const std::lock_guard<std::mutex> held(lock);
    rule(samples.count(sample), "no such sample");
}

}  // namespace

EXPORT int nvmlInit_v2() {
    const std::lock_guard<std::mutex> held(lock);
    initialized++;
    return SUCCESS;
}
EXPORT int nvmlShutdown() {
    const std::lock_guard<std::mutex> held(lock);
    rule(initialized > 0, "nvmlShutdown without nvmlInit");
    initialized--;
    rule(initialized || samples.empty(), "samples were not given back");
    return SUCCESS;
}
EXPORT int nvmlSystemGetDriverVersion(char* version, unsigned length) {
    snprintf(version, length, "580.0");
    return SUCCESS;
}
EXPORT int nvmlDeviceGetHandleByUUID(const char* uuid, void** device) {
    ready(&card);
    if (strcmp(uuid, UUID) != 0 || wrong("elsewhere")) return NOT_FOUND;
    *device = &card;
    return SUCCESS;
}
EXPORT int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* millijoules) {
    ready(device);
    if (wrong("uncounted")) return NOT_SUPPORTED;
    const double counted = wrong("frozen") ? 0 : static_cast<double>(uint64_t(seconds() * 10)) / 10;
    *millijoules = 5'000'000 + static_cast<unsigned long long>(counted * 200'000);
    return SUCCESS;
}
EXPORT int nvmlDeviceGetPowerUsage(void* device, unsigned* milliwatts) {
    ready(device);
    *milliwatts = wrong("apart") ? 300'000 : 200'000;
    return SUCCESS;
}
EXPORT int nvmlDeviceGetClockInfo(void* device, int domain, unsigned* megahertz) {
    ready(device);
    rule(domain == 1 || domain == 2, "a clock of neither multiprocessors nor memory");
    *megahertz = domain == 2 ? 1000 : wrong("throttled") ? 900 : 1800;
    return SUCCESS;
}
EXPORT int nvmlDeviceGetMaxClockInfo(void* device, int domain, unsigned* megahertz) {
    ready(device);
    rule(domain == 2, "the highest clock of something but memory");
    *megahertz = 1000;
    return SUCCESS;
}
EXPORT int nvmlDeviceGetMemoryBusWidth(void* device, unsigned* bits) {
    ready(device);
    *bits = 512;
    return SUCCESS;
}
EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(void* device, unsigned long long* reasons) {
    ready(device);
    *reasons = wrong("throttled") ? 4 : 0;
    return SUCCESS;
}
EXPORT int nvmlDeviceGetTemperature(void* device, int sensor, unsigned* celsius) {
    ready(device);
    rule(sensor == 0, "a sensor that is not the card's");
    *celsius = 45;
    return SUCCESS;
}
struct Memory {
    unsigned version;
    unsigned long long total, reserved, free, used;
};
EXPORT int nvmlDeviceGetMemoryInfo_v2(void* device, Memory* memory) {
    ready(device);
    rule(memory->version == (sizeof(Memory) | 2 << 24), "another version of memory");
    *memory = {memory->version, 1 << 30, 1 << 20, 1 << 29, 1 << 28};
    return SUCCESS;
}

struct Support {
    unsigned version, supported;
};
EXPORT int nvmlGpmQueryDeviceSupport(void* device, Support* support) {
    ready(device);
    rule(support->version == 1, "another version of support");
    support->supported = !wrong("no-gpm");
    return SUCCESS;
}
EXPORT int nvmlGpmSampleAlloc(Sample** sample) {
    rule(!wrong("no-gpm"), "a sample of a card that has none");
    *sample = new Sample;
    const std::lock_guard<std::mutex> held(lock);
    rule(initialized > 0, "a sample before nvmlInit");
    samples.insert(*sample);
    return SUCCESS;
}
EXPORT int nvmlGpmSampleFree(Sample* sample) {
    const std::lock_guard<std::mutex> held(lock);
    rule(samples.erase(sample), "no such sample");
    delete sample;
    return SUCCESS;
}
EXPORT int nvmlGpmSampleGet(void* device, Sample* sample) {
    ready(device);
    known(sample);
    if (wrong("refused")) return NO_PERMISSION;
    sample->taken = seconds();
    return SUCCESS;
}
struct Metric {
    unsigned id;
    int result;
    double value;
    const char *short_name, *long_name, *unit;
};
struct Metrics {
    unsigned version, count;
    Sample *before, *after;
    Metric metrics[210];
};
EXPORT int nvmlGpmMetricsGet(Metrics* all) {
    known(all->before);
    known(all->after);
    rule(all->version == 1 && all->count <= 210, "another version of metrics");
    rule(all->before->taken > 0 && all->after->taken - all->before->taken > 0.05,
         "samples that were not taken, or not in order, or too soon");
    for (Metric* metric = all->metrics; metric < all->metrics + all->count; metric++) {
        metric->result = SUCCESS;
        switch (metric->id) {
            case 2: metric->value = 80; break;    // multiprocessors, in percent
            case 3: metric->value = 50; break;    // warps, in percent
            case 5: metric->value = 12.5; break;  // matrix units, in percent
            case 10: metric->value = 40; break;   // memory, in percent
            case 20: metric->value = 2; break;    // sent, in MiB per second
            case 21: metric->result = NOT_SUPPORTED; break;
            default: broken("a metric that the binary does not use");
        }
    }
    return SUCCESS;
}
