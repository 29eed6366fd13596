// Kernels with a mistake each, which the shim must find: the shim's own tests.

#include "common.cuh"

// A neighbour's word is read before the block has met.
KERNEL(64, 1, broken_no_barrier, u32* out, int meet) {
    SHARED(u32, words, 64);
    words[threadIdx.x] = threadIdx.x;
    if (meet) barrier();
    out[threadIdx.x] = words[63 - threadIdx.x];
}

// The lower half of a warp calls a collective of all lanes.
KERNEL(32, 1, broken_half_warp, float* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = warp_sum(1.0f);
}

// Lanes that end before a collective that names them.
KERNEL(32, 1, broken_ended, float* out) {
    if (threadIdx.x >= 16) return;
    out[threadIdx.x] = warp_sum(1.0f);
}

// Half the block goes to a barrier, half to a vote.
KERNEL(64, 1, broken_deadlock, u32* out) {
    if (threadIdx.x < 32) {
        barrier();
    } else if (threadIdx.x < 48) {
        out[0] = vote(true);
    } else {
        barrier();
    }
}

// Two barriers that only half the block reaches each.
KERNEL(64, 1, broken_two_barriers, u32* out) {
    if (threadIdx.x < 32) {
        barrier();
    } else {
        barrier();
    }
    out[threadIdx.x] = 1;
}

// Writes `at` bytes from the start.
KERNEL(32, 1, broken_write, u8* out, int at) {
    if (threadIdx.x == 0) out[at] = 1;
}

KERNEL(32, 1, broken_read, u32* out, const u32* from, int at) {
    if (threadIdx.x == 7) out[0] = from[at];
}

// Writes behind the end of shared memory.
KERNEL(32, 1, broken_shared, u32* out) {
    SHARED(u32, words, 32);
    words[threadIdx.x + 1] = 1;
    warp_barrier();
    out[threadIdx.x] = words[threadIdx.x];
}

// Loads 16 bytes from an address that is divisible by four.
KERNEL(32, 1, broken_alignment, u32* out, const u32* from) {
    if (threadIdx.x == 3) out[0] = load16(from + 1).x;
}

// Reads what an asynchronous copy brings before it has come.
KERNEL(32, 1, broken_copy, u32* out, const uint4* from, int wait) {
    SHARED(uint4, there, 32);
    copy16_async(there + threadIdx.x, from + threadIdx.x, true);
    copy_commit();
    if (wait) copy_wait<0>();
    out[threadIdx.x] = there[threadIdx.x].x;
}

// A sum whose order is that of the threads.
KERNEL(64, 1, broken_order, float* out, const float* from) {
    SHARED(float, sum, 1);
    if (threadIdx.x == 0) sum[0] = 0.0f;
    barrier();
    sum[0] += from[threadIdx.x];
    barrier();
    if (threadIdx.x == 0) out[0] = sum[0];
}

// A block of a shape that it was not bound to, and memory that nobody wrote.
KERNEL(32, 1, broken_poison, float* out) {
    SHARED(float, nothing, 32);
    out[threadIdx.x] = nothing[threadIdx.x];
}

// More shared memory than a plain launch gives.
KERNEL(32, 1, broken_room, float* out) {
    SHARED(float, room, 12289);
    room[threadIdx.x] = 1.0f;
    out[threadIdx.x] = room[threadIdx.x];
}
