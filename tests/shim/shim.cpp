// Blocks, fibers, collectives and guarded buffers behind shim.h, and the entry point by which
// kernels are launched: `void** args` as cuLaunchKernel takes them.

#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};
typedef bf16 act;
typedef long long i64;
#include "shim.h"

// SHIM_UCONTEXT takes the portable way on every machine.
#if defined(__x86_64__) && !defined(SHIM_UCONTEXT)
#define OWN_SWITCH 1
#else
#define OWN_SWITCH 0
#include <ucontext.h>
#endif

namespace shim {

thread_local Seen* seen = nullptr;

namespace {

constexpr size_t STACK = 128 << 10;
constexpr size_t PAGE = 4096;
constexpr unsigned MOST_THREADS = 1024;
constexpr size_t MOST_SHARED = 48 << 10;
constexpr u8 POISON = 0xff;
constexpr u8 CANARY = 0xc5;

const Entry* entries = nullptr;

#if OWN_SWITCH
struct Context {
    void* stack = nullptr;
};
// Keeps what a callee must keep, and changes stacks.
extern "C" void shim_switch(void** from, void* to);
asm(R"(
.text
.globl shim_switch
.hidden shim_switch
.type shim_switch,@function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size shim_switch, .-shim_switch
)");
void change(Context& from, Context& to) { shim_switch(&from.stack, to.stack); }
void prepare(Context& context, u8* stack, void (*run)()) {
    void** top = reinterpret_cast<void**>(stack + STACK);
    *--top = nullptr;  // keeps the stack at `run` as a call would leave it
    *--top = reinterpret_cast<void*>(run);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    context.stack = top;
}
#else
struct Context {
    ucontext_t context;
};
void change(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
void prepare(Context& context, u8* stack, void (*run)()) {
    getcontext(&context.context);
    context.context.uc_stack.ss_sp = stack;
    context.context.uc_stack.ss_size = STACK;
    context.context.uc_link = nullptr;
    makecontext(&context.context, run, 0);
}
#endif

enum class State { ready, barrier, collective, done };

struct Collective {
    bool used = false, complete = false;
    u32 mask = 0, arrived = 0, left = 0;
    const char* kind = "";
    Here here = {"", 0};
    alignas(16) u8 given[32][64];
};

struct Warp {
    // Two are enough: one that some lanes still read while others gather in the next, per half
    // of a warp that is split by masks.
    Collective collectives[8];
};

struct Copy {
    void* to;
    const void* from;
    bool valid;
    unsigned group;
};

struct Thread {
    Context context;
    Seen seen;
    State state = State::ready;
    Here here = {"", 0};
    Collective* in = nullptr;
    std::vector<Copy> copies;
    unsigned groups = 0;
};

struct SharedPart {
    const void* key;
    size_t offset, bytes;
};

struct Buffer {
    u8* map;
    size_t map_bytes;
    u8* data;
    size_t bytes;
};

// Stacks for a block, each behind a page that may not be touched.
struct Stacks {
    u8* memory;
    Stacks() {
        memory = static_cast<u8*>(mmap(nullptr, MOST_THREADS * (STACK + PAGE),
                                       PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (memory == MAP_FAILED) abort();
        for (unsigned i = 0; i < MOST_THREADS; i++) {
            mprotect(memory + i * (STACK + PAGE), PAGE, PROT_NONE);
        }
    }
    u8* of(unsigned thread) const { return memory + thread * (STACK + PAGE) + PAGE; }
};
std::mutex stacks_lock;
std::vector<Stacks*> stacks_free;

// The world of one operating-system thread: one block runs at a time.
struct World {
    Stacks* stacks = nullptr;
    const Entry* entry = nullptr;
    void** args = nullptr;
    Context scheduler;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    Thread* running = nullptr;
    unsigned alive = 0, at_barrier = 0;
    std::vector<u8> shared_memory;
    std::vector<SharedPart> shared_parts;
    std::string error;
    bool failed = false;
    sigjmp_buf on_fault;
    volatile bool guarded = false;
    std::vector<Buffer> buffers;
    ~World() {
        for (Buffer& buffer : buffers) munmap(buffer.map, buffer.map_bytes);
        if (stacks) {
            const std::lock_guard<std::mutex> lock(stacks_lock);
            stacks_free.push_back(stacks);
        }
    }
};
thread_local World* world_here = nullptr;
World& world() {
    thread_local World own;
    world_here = &own;
    return own;
}

const char* base(const char* file) {
    const char* slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

std::string where(const World& w, const Thread& thread) {
    char text[200];
    const Seen& s = thread.seen;
    snprintf(text, sizeof text, "%s: block (%u, %u, %u), thread (%u, %u, %u): ", w.entry->name,
             s.block.x, s.block.y, s.block.z, s.thread.x, s.thread.y, s.thread.z);
    return text;
}

unsigned index_of(const World& w, const Thread& thread) {
    return static_cast<unsigned>(&thread - w.threads.data());
}

Warp& warp_of(World& w, const Thread& thread) { return w.warps[index_of(w, thread) / 32]; }

void yield(World& w) { change(w.running->context, w.scheduler); }

void body() {
    World& w = *world_here;
    w.entry->invoke(w.entry, w.args);
    Thread& self = *w.running;
    const unsigned lane = index_of(w, self) % 32;
    for (const Collective& c : warp_of(w, self).collectives) {
        if (c.used && !c.complete && c.mask >> lane & 1u) {
            fail(c.here, "%s waits for lane %u, which has ended", c.kind, lane);
        }
    }
    if (w.at_barrier > 0) fail({"", 0}, "ended while others wait at a barrier");
    self.state = State::done;
    w.alive--;
    yield(w);
    abort();
}

std::string deadlock(const World& w) {
    std::string text = w.entry->name;
    const Seen& s = w.threads[0].seen;
    char line[300];
    snprintf(line, sizeof line, ": block (%u, %u, %u): deadlock", s.block.x, s.block.y, s.block.z);
    text += line;
    unsigned listed = 0;
    for (size_t i = 0; i < w.threads.size() && listed < 4; i++) {
        const Thread& t = w.threads[i];
        if (t.state == State::done) continue;
        // One line per group of neighbours that wait for the same.
        if (i > 0 && t.state == w.threads[i - 1].state && t.in == w.threads[i - 1].in &&
            t.here.line == w.threads[i - 1].here.line) {
            continue;
        }
        const char* what = t.state == State::barrier ? "barrier" : t.in->kind;
        snprintf(line, sizeof line, "; thread %zu waits at %s:%d in %s", i, base(t.here.file),
                 t.here.line, what);
        text += line;
        if (t.state == State::collective) {
            snprintf(line, sizeof line, " of mask 0x%08x, lanes 0x%08x have not come", t.in->mask,
                     t.in->mask & ~t.in->arrived);
            text += line;
        }
        listed++;
    }
    return text;
}

struct Random {
    u64 state;
    u32 next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return static_cast<u32>(state >> 32);
    }
};

// The order in which threads, or blocks, take turns: ascending, descending, else shuffled.
void arrange(std::vector<unsigned>& order, u64 seed, Random& random) {
    if (seed < 2) return;
    for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[random.next() % i]);
}
std::vector<unsigned> first_order(size_t length, u64 seed, Random& random) {
    std::vector<unsigned> order(length);
    for (size_t i = 0; i < length; i++) {
        order[i] = static_cast<unsigned>(seed == 1 ? length - 1 - i : i);
    }
    arrange(order, seed, random);
    return order;
}

bool canary_holds(const u8* bytes, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] != CANARY) return false;
    }
    return true;
}

// What lies between the parts of shared memory must be as it was.
void check_shared(World& w) {
    for (const SharedPart& part : w.shared_parts) {
        const u8* end = w.shared_memory.data() + part.offset + part.bytes;
        if (!canary_holds(end, 64 + (64 - part.bytes % 64) % 64)) {
            fail({"", 0}, "wrote behind the end of %zu bytes of shared memory", part.bytes);
        }
    }
}

void run_block(World& w, Dim block, Dim grid, Dim block_dim, u64 seed, Random& random) {
    const unsigned count = block_dim.x * block_dim.y * block_dim.z;
    w.threads.resize(count);
    w.warps.resize((count + 31) / 32);
    for (Warp& warp : w.warps) {
        for (Collective& c : warp.collectives) c.used = false;
    }
    w.shared_parts.clear();
    w.shared_memory.clear();
    w.alive = count;
    w.at_barrier = 0;
    for (unsigned i = 0; i < count; i++) {
        Thread& t = w.threads[i];
        t.seen.thread = {i % block_dim.x, i / block_dim.x % block_dim.y,
                         i / block_dim.x / block_dim.y};
        t.seen.block = block;
        t.seen.block_dim = block_dim;
        t.seen.grid_dim = grid;
        t.state = State::ready;
        t.in = nullptr;
        t.copies.clear();
        t.groups = 0;
        prepare(t.context, w.stacks->of(i), body);
    }
    std::vector<unsigned> order = first_order(count, seed, random);
    while (w.alive > 0) {
        bool ran = false;
        for (const unsigned i : order) {
            Thread& t = w.threads[i];
            if (t.state != State::ready) continue;
            ran = true;
            w.running = &t;
            seen = &t.seen;
            change(w.scheduler, t.context);
            if (w.failed) return;
        }
        if (!ran) {
            w.error = deadlock(w);
            w.failed = true;
            return;
        }
        arrange(order, seed, random);
    }
    w.running = &w.threads[0];
    check_shared(w);
}

struct sigaction before_us;

void on_signal(int number, siginfo_t* info, void* context) {
    World* w = world_here;
    if (w && w->guarded) {
        const u8* at = static_cast<const u8*>(info->si_addr);
        std::string text = where(*w, *w->running);
        char line[200];
        snprintf(line, sizeof line, "touched %p, outside every buffer", info->si_addr);
        for (const Buffer& b : w->buffers) {
            if (at >= b.map && at < b.map + b.map_bytes) {
                snprintf(line, sizeof line, "touched byte %td of a buffer of %zu bytes",
                         at - b.data, b.bytes);
            }
        }
        w->error = text + line;
        w->failed = true;
        siglongjmp(w->on_fault, 1);
    }
    // Not ours: as it was.
    if (before_us.sa_flags & SA_SIGINFO) {
        before_us.sa_sigaction(number, info, context);
    } else {
        signal(number, SIG_DFL);
        raise(number);
    }
}

void watch_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &before_us);
        struct sigaction ignored;
        sigaction(SIGBUS, &action, &ignored);
    });
}

void check_buffers(World& w) {
    for (const Buffer& b : w.buffers) {
        const u8* start = b.map + PAGE;
        const u8* end = b.map + b.map_bytes - PAGE;
        const size_t before = static_cast<size_t>(b.data - start);
        const u8* tail = b.data + b.bytes;
        if (!canary_holds(start, before) ||
            !canary_holds(tail, static_cast<size_t>(end - tail))) {
            w.error = std::string(w.entry->name) + ": wrote beside a buffer of " +
                      std::to_string(b.bytes) + " bytes";
            w.failed = true;
        }
    }
}

}  // namespace

Entry::Entry(const char* name, const char* file, unsigned threads, std::string parameters,
             void (*invoke)(const Entry*, void**), void (*function)())
    : name(name), file(base(file)), threads(threads), parameters(std::move(parameters)),
      invoke(invoke), function(function), next(entries) {
    entries = this;
}

void fail(Here here, const char* format, ...) {
    World& w = *world_here;
    char text[400];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    w.error = where(w, *w.running);
    if (here.line > 0) {
        w.error += std::string(base(here.file)) + ":" + std::to_string(here.line) + ": ";
    }
    w.error += text;
    w.failed = true;
    if (w.guarded) siglongjmp(w.on_fault, 1);
    abort();
}

void barrier(Here here) {
    World& w = *world_here;
    Thread& self = *w.running;
    if (w.alive < w.threads.size()) fail(here, "barrier after a thread of the block has ended");
    for (const Thread& t : w.threads) {
        if (t.state == State::barrier &&
            (t.here.line != here.line || strcmp(t.here.file, here.file) != 0)) {
            fail(here, "barrier while thread %u waits at another one, %s:%d", index_of(w, t),
                 base(t.here.file), t.here.line);
        }
        if (t.state == State::barrier) break;
    }
    self.here = here;
    if (++w.at_barrier < w.threads.size()) {
        self.state = State::barrier;
        yield(w);
        return;
    }
    w.at_barrier = 0;
    for (Thread& t : w.threads) {
        if (t.state == State::barrier) t.state = State::ready;
    }
}

const unsigned char* meet(const char* kind, u32 mask, const void* value, size_t bytes, Here here) {
    World& w = *world_here;
    Thread& self = *w.running;
    const unsigned index = index_of(w, self), lane = index % 32, first = index - lane;
    const u32 me = 1u << lane;
    if (!(mask & me)) fail(here, "%s by a lane that its mask 0x%08x leaves out", kind, mask);
    for (unsigned other = 0; other < 32; other++) {
        if (!(mask >> other & 1u)) continue;
        if (first + other >= w.threads.size()) {
            fail(here, "%s: mask 0x%08x names lane %u, which is not there", kind, mask, other);
        }
        if (w.threads[first + other].state == State::done) {
            fail(here, "%s: mask 0x%08x names lane %u, which has ended", kind, mask, other);
        }
    }
    Collective* in = nullptr;
    Collective* spare = nullptr;
    for (Collective& c : w.warps[first / 32].collectives) {
        if (!c.used) {
            if (!spare) spare = &c;
            continue;
        }
        if (c.complete || !(c.mask & mask)) continue;
        if (c.mask != mask || strcmp(c.kind, kind) != 0 || c.here.line != here.line) {
            fail(here, "%s of mask 0x%08x while other lanes wait at %s:%d in %s of mask 0x%08x",
                 kind, mask, base(c.here.file), c.here.line, c.kind, c.mask);
        }
        in = &c;
    }
    if (!in) {
        if (!spare) fail(here, "%s: too many collectives of one warp under way", kind);
        in = spare;
        in->used = true;
        in->complete = false;
        in->mask = mask;
        in->arrived = 0;
        in->kind = kind;
        in->here = here;
    }
    memcpy(in->given[lane], value, bytes);
    in->arrived |= me;
    self.in = in;
    self.here = here;
    if (in->arrived != mask) {
        self.state = State::collective;
        yield(w);
        return in->given[0];
    }
    in->complete = true;
    in->left = mask;
    for (unsigned other = 0; other < 32; other++) {
        if (mask >> other & 1u && other != lane) w.threads[first + other].state = State::ready;
    }
    return in->given[0];
}

void part() {
    World& w = *world_here;
    Thread& self = *w.running;
    Collective* in = self.in;
    in->left &= ~(1u << index_of(w, self) % 32);
    if (in->left == 0) in->used = false;
    self.in = nullptr;
}

void* shared(const void* key, size_t bytes, Here here) {
    World& w = *world_here;
    for (const SharedPart& part : w.shared_parts) {
        if (part.key == key) return w.shared_memory.data() + part.offset;
    }
    if (w.shared_memory.empty()) {
        // Never moved afterwards: threads hold pointers into it.
        w.shared_memory.assign(2 * MOST_SHARED, CANARY);
    }
    size_t offset = 0, used = bytes;
    for (const SharedPart& part : w.shared_parts) {
        offset = part.offset + (part.bytes + 63) / 64 * 64 + 64;
        used += part.bytes;
    }
    if (used > MOST_SHARED) {
        fail(here, "%zu bytes of shared memory, more than the 48 KiB of a plain launch", used);
    }
    offset += (64 - (reinterpret_cast<uintptr_t>(w.shared_memory.data()) + offset) % 64) % 64;
    w.shared_parts.push_back({key, offset, bytes});
    memset(w.shared_memory.data() + offset, POISON, bytes);
    return w.shared_memory.data() + offset;
}

void copy_async(void* to, const void* from, bool valid, Here here) {
    aligned(to, 16, here);
    // Where it is not valid nothing is read, and any address will do.
    if (valid) aligned(from, 16, here);
    // Until it is waited for, nothing good is there to be read.
    memset(to, POISON, 16);
    Thread& self = *world_here->running;
    self.copies.push_back({to, from, valid, self.groups});
}

void copy_commit() { world_here->running->groups++; }

void copy_wait(unsigned open) {
    Thread& self = *world_here->running;
    size_t kept = 0;
    for (const Copy& copy : self.copies) {
        if (copy.group + open >= self.groups) {
            self.copies[kept++] = copy;
        } else if (copy.valid) {
            memcpy(copy.to, copy.from, 16);
        } else {
            memset(copy.to, 0, 16);
        }
    }
    self.copies.resize(kept);
}

}  // namespace shim

using namespace shim;

// A buffer between two pages that may not be touched, every byte 0xff. Its end lies within 15
// bytes of the second page; what is left beside it is checked after each launch.
extern "C" __attribute__((visibility("default"))) void* shim_alloc(size_t bytes) {
    World& w = world();
    const size_t padded = (bytes + 15) / 16 * 16;
    const size_t inner = (padded + PAGE - 1) / PAGE * PAGE;
    Buffer buffer;
    buffer.bytes = bytes;
    buffer.map_bytes = inner + 2 * PAGE;
    void* map = mmap(nullptr, buffer.map_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return nullptr;
    buffer.map = static_cast<u8*>(map);
    memset(buffer.map + PAGE, CANARY, inner);
    buffer.data = buffer.map + PAGE + inner - padded;
    memset(buffer.data, POISON, bytes);
    mprotect(buffer.map, PAGE, PROT_NONE);
    mprotect(buffer.map + PAGE + inner, PAGE, PROT_NONE);
    w.buffers.push_back(buffer);
    return buffer.data;
}

extern "C" __attribute__((visibility("default"))) void shim_free(void* data) {
    World& w = world();
    for (size_t i = 0; i < w.buffers.size(); i++) {
        if (w.buffers[i].data == data) {
            munmap(w.buffers[i].map, w.buffers[i].map_bytes);
            w.buffers.erase(w.buffers.begin() + static_cast<std::ptrdiff_t>(i));
            return;
        }
    }
}

// The kernel at this place of the list: its name, the file it stands in, the types of its
// parameters, the threads of its block. Null behind the end.
extern "C" __attribute__((visibility("default"))) const char* shim_kernel(
    unsigned at, const char** file, const char** parameters, unsigned* threads) {
    const Entry* entry = entries;
    while (entry && at-- > 0) entry = entry->next;
    if (!entry) return nullptr;
    *file = entry->file;
    *parameters = entry->parameters.c_str();
    *threads = entry->threads;
    return entry->name;
}

// Runs every block of a grid. Seed 0 runs blocks and threads in ascending order, 1 in descending
// order, any other in an order drawn from it. Null if all went well, else what went wrong; the
// text lives until the next launch of the same thread.
extern "C" __attribute__((visibility("default"))) const char* shim_launch(
    const char* name, const unsigned* grid, const unsigned* block, unsigned shared_bytes,
    void** args, u64 seed) {
    World& w = world();
    const Entry* entry = entries;
    while (entry && strcmp(entry->name, name) != 0) entry = entry->next;
    if (!entry) {
        w.error = std::string("no kernel is named ") + name;
        return w.error.c_str();
    }
    const unsigned threads = block[0] * block[1] * block[2];
    if (threads == 0 || threads > entry->threads) {
        w.error = std::string(name) + ": a block of " + std::to_string(threads) +
                  " threads, bound to " + std::to_string(entry->threads);
        return w.error.c_str();
    }
    const u64 blocks = static_cast<u64>(grid[0]) * grid[1] * grid[2];
    if (blocks == 0 || grid[1] > 65535 || grid[2] > 65535) {
        w.error = std::string(name) + ": a grid that a device refuses";
        return w.error.c_str();
    }
    if (shared_bytes != 0) {
        w.error = std::string(name) + ": dynamic shared memory, which no kernel takes";
        return w.error.c_str();
    }
    watch_faults();
    if (!w.stacks) {
        const std::lock_guard<std::mutex> lock(stacks_lock);
        if (stacks_free.empty()) {
            w.stacks = new Stacks;
        } else {
            w.stacks = stacks_free.back();
            stacks_free.pop_back();
        }
    }
    w.entry = entry;
    w.args = args;
    w.failed = false;
    w.error.clear();
    Random random = {seed * 0x9e3779b97f4a7c15ull + 0x1234567ull};
    if (sigsetjmp(w.on_fault, 1) == 0) {
        w.guarded = true;
        for (const unsigned at : first_order(blocks, seed, random)) {
            const Dim place = {at % grid[0], at / grid[0] % grid[1], at / grid[0] / grid[1]};
            run_block(w, place, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, seed,
                      random);
            if (w.failed) break;
        }
    }
    w.guarded = false;
    if (!w.failed) check_buffers(w);
    return w.failed ? w.error.c_str() : nullptr;
}
