// Logits to tokens, with log-probability and entropy, on the device.
//
// sample_scan:   one pass over the logits: of each part of 4096, the largest and its first token,
//                Σ e^(x − largest), Σ (x − largest) e^(x − largest), the likeliest under a mask
// sample_choose: the parts of a row together; then the token, greedily or drawn
// take_chosen:   tokens[rows[i]] = chosen[choices[i]]: the next step's tokens, which thereby do not
//                leave the device
//
// Shapes. logits [rows, vocab] f32; parts [rows][⌈vocab / 4096⌉][6] f32; per row temperature,
// top_p (f32), top_k (0 for all) and uniform (f64 from 0 to just below 1). masks are words of 32
// tokens as backend::Mask has them, ⌈vocab / 32⌉ each; mask_of [rows] picks one, −1 for none.
// Out: token, log-probability, entropy (nats), the last two of the whole distribution before
// temperature, cuts and mask.
//
// Budget (sample in src/cost): 4RV activation bytes, 6RV operations; masks V/8 bytes per masked
// row. A row with a temperature is read again: twice, and up to four times more for each cut, from
// the second-level cache.
//
// What agrees with the CPU backend's sampler. Greedy: the same token, ties to the first. A logit
// that is not a number is never chosen and counts for nothing. Drawn: candidates are ordered by
// weight e^((x − largest) / temperature), then by token, and the same ones are kept by top_k and
// top_p, but for weights that the two exponentials round differently. `uniform` is the CPU's: 53
// bits of ChaCha8 seeded with the row's seed, drawn by the host. Without a cut both walk the
// candidates in token order (the CPU keeps that order under a mask too), so the token is the same
// unless the draw falls within rounding of a candidate's edge. With top_k or top_p the CPU walks in
// the order that its selection left, this kernel in token order: the same distribution, not the
// same token.
//
// How. Weights are summed as integers, units of 2⁻⁴⁰: their sums do not depend on the order, so
// atomics are allowed, and the same logits give the same token whatever the schedule. A cut finds
// its threshold among the bits of the weight, ten at a time, by a histogram of counts and masses in
// shared memory: three passes over the row, no sort. Ties at the threshold are kept by token.
//
// Versions considered. Sorting the row: eight passes for a 32-bit radix sort, and a buffer. Rejection
// by repeated draws: fewer passes at best, but their number depends on the logits.
//
// Share of the measured ceiling: not measured yet: no GPU at hand.

#include "sample.cuh"

namespace {

constexpr int PART = 4096;
constexpr int SCAN_THREADS = 256;
constexpr int THREADS = 512;
constexpr int BINS = 1024;

// What a part of a row comes to; stored as six floats.
struct Part {
    Best best;
    float sum, weighted;
    Best masked;
};

// The candidates that are kept: those heavier than `key`, and of that weight those up to `token`.
struct Cut {
    u32 key;
    int token;
};
constexpr Cut KEEP_ALL = {0, NO_TOKEN};

// A row that is drawn from.
struct Row {
    const float* logits;
    const u32* mask;
    int vocab;
    float largest, factor;

    // The bits of a token's weight, which order as the weights do; false if it may not be drawn.
    DEVICE bool weight(int token, Cut cut, u32& key) const {
        const float logit = __ldg(logits + token);
        if (!weight_of(logit, largest, factor, allowed(mask, token), key)) return false;
        return key > cut.key || (key == cut.key && token <= cut.token);
    }
};

// What the threads of a block share.
struct Room {
    u64* masses;
    u64* warps;
    u64* found;
};

// Over the candidates kept by `cut`: their number, or their mass.
template <bool by_mass>
DEVICE u64 amount(u32 key) {
    return by_mass ? mass_of(key) : 1;
}
template <bool by_mass>
DEVICE u64 total(const Row& row, Cut cut, const Room& room) {
    u64 sum = 0;
    for (int token = threadIdx.x; token < row.vocab; token += THREADS) {
        u32 key;
        if (row.weight(token, cut, key)) sum += amount<by_mass>(key);
    }
    const u64 all = block_scan(sum, room.warps);
    if (threadIdx.x == THREADS - 1) room.found[0] = all;
    barrier();
    const u64 result = room.found[0];
    barrier();
    return result;
}

// The first token, in order, with which the candidates' amounts come to more than `target`;
// NO_TOKEN if they never do. With `only` the candidates of exactly that weight.
template <bool by_mass>
DEVICE int walk(const Row& row, Cut cut, const u32* only, u64 target, const Room& room) {
    u64 before = 0;
    if (threadIdx.x == 0) room.found[0] = NO_TOKEN;
    for (int from = 0; from < row.vocab; from += THREADS) {
        const int token = from + threadIdx.x;
        u32 key = 0;
        const bool kept = token < row.vocab && row.weight(token, cut, key);
        const bool there = kept && (!only || key == *only);
        const u64 mine = there ? amount<by_mass>(key) : 0;
        const u64 upto = before + block_scan(mine, room.warps);
        if (upto > target && upto - mine <= target) room.found[0] = static_cast<u64>(token);
        if (threadIdx.x == THREADS - 1) room.found[1] = upto;
        barrier();
        before = room.found[1];
        const u64 token_found = room.found[0];
        barrier();
        if (token_found != NO_TOKEN) return static_cast<int>(token_found);
    }
    return NO_TOKEN;
}

// The cut that keeps the fewest of the likeliest candidates whose amounts together reach `needed`,
// which is above zero and at most their total.
template <bool by_mass>
DEVICE Cut narrow(const Row& row, Cut cut, u64 needed, const Room& room) {
    u32 prefix = 0;
    for (int shift = 20; shift >= 0; shift -= 10) {
        for (int i = threadIdx.x; i < BINS; i += THREADS) room.masses[i] = 0;
        barrier();
        for (int token = threadIdx.x; token < row.vocab; token += THREADS) {
            u32 key;
            if (row.weight(token, cut, key) && key >> (shift + 10) == prefix) {
                add_atomic(room.masses + (key >> shift & (BINS - 1)), amount<by_mass>(key));
            }
        }
        barrier();
        // A thread has two neighbouring bins, the first thread the heaviest.
        const int high = BINS - 1 - 2 * threadIdx.x;
        const u64 first = room.masses[high], second = room.masses[high - 1];
        const u64 upto = block_scan(first + second, room.warps);
        const u64 before = upto - first - second;
        if (before < needed && needed <= upto) {
            const bool in_first = before + first >= needed;
            room.found[0] = static_cast<u64>(in_first ? high : high - 1);
            room.found[1] = in_first ? before : before + first;
        }
        barrier();
        prefix = prefix << 10 | static_cast<u32>(room.found[0]);
        needed -= room.found[1];
        barrier();
    }
    // Of the candidates of this weight, as many as are needed; earlier ones first.
    Cut result = {prefix, NO_TOKEN};
    result.token = walk<by_mass>(row, cut, &prefix, needed - 1, room);
    return result;
}

}  // namespace

KERNEL(256, 4, sample_scan, float* parts, const float* logits, const u32* masks,
       const int* mask_of, int vocab) {
    SHARED(Best, bests, SCAN_THREADS / 32);
    SHARED(Best, masked_bests, SCAN_THREADS / 32);
    SHARED(float, sums, SCAN_THREADS / 32);
    SHARED(float, weighteds, SCAN_THREADS / 32);
    constexpr int each = PART / SCAN_THREADS;
    const int part = blockIdx.x, row = blockIdx.y;
    const float* from = logits + static_cast<i64>(row) * vocab;
    const u32* mask = mask_of_row(masks, mask_of, row, vocab);
    float x[each];
    Best best = {-INFINITY, NO_TOKEN}, masked = {-INFINITY, NO_TOKEN};
#pragma unroll
    for (int i = 0; i < each; i++) {
        const int token = part * PART + i * SCAN_THREADS + threadIdx.x;
        x[i] = token < vocab ? __ldg(from + token) : -INFINITY;
        // What is not a number counts as nothing.
        if (!(x[i] == x[i])) x[i] = -INFINITY;
        if (token < vocab) {
            best = better(best, {x[i], token});
            if (mask && allowed(mask, token)) masked = better(masked, {x[i], token});
        }
    }
    best = block_best<SCAN_THREADS>(best, bests);
    if (mask) masked = block_best<SCAN_THREADS>(masked, masked_bests);
    float sum = 0.0f, weighted = 0.0f;
#pragma unroll
    for (int i = 0; i < each; i++) {
        if (x[i] > -INFINITY) {
            const float below = x[i] - best.logit, e = expf(below);
            sum += e;
            weighted += below * e;
        }
    }
    sum = block_sum<SCAN_THREADS>(sum, sums);
    weighted = block_sum<SCAN_THREADS>(weighted, weighteds);
    if (threadIdx.x == 0) {
        float* to = parts + (static_cast<i64>(row) * gridDim.x + part) * 6;
        to[0] = best.logit;
        to[1] = bits_float(static_cast<u32>(best.token));
        to[2] = sum;
        to[3] = weighted;
        to[4] = masked.logit;
        to[5] = bits_float(static_cast<u32>(masked.token));
    }
}

KERNEL(512, 1, sample_choose, int* tokens, float* logprobs, float* entropies, const float* parts,
       const float* logits, const float* temperature, const int* top_k, const float* top_p,
       const double* uniform, const u32* masks, const int* mask_of, int part_count, int vocab) {
    SHARED(u64, masses, BINS);
    SHARED(u64, warps, THREADS / 32);
    SHARED(u64, found, 2);
    SHARED(float, whole, 4);
    const Room room = {masses, warps, found};
    const int row = blockIdx.x;
    const u32* mask = mask_of_row(masks, mask_of, row, vocab);
    const float* of_row = logits + static_cast<i64>(row) * vocab;
    if (threadIdx.x == 0) {
        // In the order of the parts, as the CPU joins them.
        Best best = {-INFINITY, NO_TOKEN}, masked = {-INFINITY, NO_TOKEN};
        float sum = 0.0f, weighted = 0.0f;
        for (int i = 0; i < part_count; i++) {
            const float* part = parts + (static_cast<i64>(row) * part_count + i) * 6;
            const Best next = {part[0], static_cast<int>(float_bits(part[1]))};
            const Best both = better(best, next);
            masked = better(masked, {part[4], static_cast<int>(float_bits(part[5]))});
            if (both.logit > -INFINITY) {
                // With m' = m + d: Σ (x − m') e^(x − m') is
                // e^(−d) (Σ (x − m) e^(x − m) − d Σ e^(x − m)).
                const float down = both.logit - best.logit, up = both.logit - next.logit;
                const float f = sum > 0.0f ? expf(-down) : 0.0f;
                const float h = part[2] > 0.0f ? expf(-up) : 0.0f;
                weighted = (sum > 0.0f ? f * (weighted - down * sum) : 0.0f) +
                           (part[2] > 0.0f ? h * (part[3] - up * part[2]) : 0.0f);
                sum = f * sum + h * part[2];
            }
            best = both;
        }
        const Best choice = mask ? masked : best;
        whole[0] = best.logit + logf(sum);
        whole[1] = choice.logit;
        whole[2] = bits_float(static_cast<u32>(choice.token));
        entropies[row] = logf(sum) - weighted / sum;
    }
    barrier();
    int token = static_cast<int>(float_bits(whole[2]));
    const float heat = temperature[row];
    if (heat > 0.0f && whole[1] > -INFINITY) {
        const Row from = {of_row, mask, vocab, whole[1], 1.0f / heat};
        Cut cut = KEEP_ALL;
        const int k = top_k[row];
        if (k > 0 && static_cast<u64>(k) < total<false>(from, cut, room)) {
            cut = narrow<false>(from, cut, static_cast<u64>(k), room);
        }
        u64 mass = total<true>(from, cut, room);
        if (top_p[row] < 1.0f) {
            const double share = fmaxf(top_p[row], 0.0f);
            const u64 needed = static_cast<u64>(ceil(share * static_cast<double>(mass)));
            cut = narrow<true>(from, cut, most(needed, static_cast<u64>(1)), room);
            mass = total<true>(from, cut, room);
        }
        const u64 target = static_cast<u64>(uniform[row] * static_cast<double>(mass));
        const int drawn = walk<true>(from, cut, nullptr, target, room);
        if (drawn != NO_TOKEN) token = drawn;
    }
    if (threadIdx.x == 0) {
        tokens[row] = token;
        logprobs[row] = of_row[token] - whole[0];
    }
}

KERNEL(256, 4, take_chosen, int* tokens, const int* chosen, const int* rows, const int* choices,
       int count) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) tokens[rows[at]] = chosen[choices[at]];
}
