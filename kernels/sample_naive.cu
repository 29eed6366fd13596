// Logits to tokens as one would write it first, with weights and sorted tokens in memory: what
// sample.cu saves.
//
// sample_weights: of each row the likeliest token, log Σ e^x, the entropy, and a weight per token
// sample_sort:    tokens by weight, the heaviest first, of equals the first first
// sample_pick:    top_k, top_p and the draw, along the sorted tokens
//
// Shapes. logits, temperature, top_k, top_p, uniform, masks, mask_of and what comes out as in
// sample.cu. weights [rows][vocab] u32: one more than the bits of the weight, 0 for a token that may
// not be drawn. figures [rows][4] f32: log Σ e^x, the choice's logit, the choice, the entropy.
// sorted [rows][places] u64: weight above the complement of the token; places is the vocabulary
// filled up to a power of two, with zeros.
//
// Budget (sampling by a sort in src/cost): the fused form's, and as excess weights written and read
// twice, 8 bytes a place filled, and 16 for each of l(l + 1)/2 passes of the sort, l = log₂ places.
//
// How. A block has a row. The sort is bitonic, every pass through memory. Weights and masses are
// those of sample.cu, to the last bit, and the draw walks the kept tokens in token order as it does:
// both forms choose the same token.
//
// Share of the measured ceiling: not measured yet: no GPU at hand.

#include "sample.cuh"

namespace {

constexpr int THREADS = 512;

DEVICE u64 place_of(u32 weight, int token) {
    return weight == 0 ? 0 : static_cast<u64>(weight) << 32 | (0xffffffffu - token);
}

// The first place, in order, with which masses come to more than `target`, and what they come to;
// `count` if they never do.
template <class Mass>
DEVICE int walk(int count, u64 target, u64& upto_there, u64* warps, u64* found, Mass mass) {
    u64 before = 0;
    if (threadIdx.x == 0) found[0] = static_cast<u64>(count);
    for (int from = 0; from < count; from += THREADS) {
        const int at = from + threadIdx.x;
        const u64 mine = at < count ? mass(at) : 0;
        const u64 upto = before + block_scan(mine, warps);
        if (upto > target && upto - mine <= target) found[0] = static_cast<u64>(at), found[1] = upto;
        if (threadIdx.x == THREADS - 1) found[2] = upto;
        barrier();
        before = found[2];
        const int there = static_cast<int>(found[0]);
        upto_there = found[1];
        barrier();
        if (there < count) return there;
    }
    upto_there = before;
    return count;
}

}  // namespace

KERNEL(512, 1, sample_weights, u32* weights, float* figures, const float* logits,
       const float* temperature, const u32* masks, const int* mask_of, int vocab) {
    SHARED(Best, bests, THREADS / 32);
    SHARED(Best, masked_bests, THREADS / 32);
    SHARED(float, sums, THREADS / 32);
    SHARED(float, weighteds, THREADS / 32);
    const int row = blockIdx.x;
    const float* from = logits + static_cast<i64>(row) * vocab;
    const u32* mask = mask_of_row(masks, mask_of, row, vocab);
    Best best = {-INFINITY, NO_TOKEN}, masked = {-INFINITY, NO_TOKEN};
    for (int token = threadIdx.x; token < vocab; token += THREADS) {
        const float x = __ldg(from + token);
        // What is not a number counts as nothing.
        const Best here = {x == x ? x : -INFINITY, token};
        best = better(best, here);
        if (allowed(mask, token)) masked = better(masked, here);
    }
    best = block_best<THREADS>(best, bests);
    masked = block_best<THREADS>(masked, masked_bests);
    float sum = 0.0f, weighted = 0.0f;
    for (int token = threadIdx.x; token < vocab; token += THREADS) {
        const float x = __ldg(from + token);
        if (x > -INFINITY) {
            const float below = x - best.logit, e = expf(below);
            sum += e;
            weighted += below * e;
        }
    }
    sum = block_sum<THREADS>(sum, sums);
    weighted = block_sum<THREADS>(weighted, weighteds);
    const float heat = temperature[row], factor = heat > 0.0f ? 1.0f / heat : 1.0f;
    u32* to = weights + static_cast<i64>(row) * vocab;
    for (int token = threadIdx.x; token < vocab; token += THREADS) {
        u32 key;
        const float x = __ldg(from + token);
        to[token] = weight_of(x, masked.logit, factor, allowed(mask, token), key) ? key + 1 : 0;
    }
    if (threadIdx.x == 0) {
        float* figure = figures + 4 * row;
        figure[0] = best.logit + logf(sum);
        figure[1] = masked.logit;
        figure[2] = bits_float(static_cast<u32>(masked.token));
        figure[3] = logf(sum) - weighted / sum;
    }
}

KERNEL(512, 1, sample_sort, u64* sorted, const u32* weights, int vocab, int places) {
    const int row = blockIdx.x;
    const u32* from = weights + static_cast<i64>(row) * vocab;
    u64* to = sorted + static_cast<i64>(row) * places;
    for (int i = threadIdx.x; i < places; i += THREADS) {
        to[i] = i < vocab ? place_of(__ldg(from + i), i) : 0;
    }
    barrier();
    for (int run = 2; run <= places; run *= 2) {
        for (int apart = run / 2; apart > 0; apart /= 2) {
            for (int i = threadIdx.x; i < places / 2; i += THREADS) {
                const int low = i / apart * apart * 2 + i % apart, high = low + apart;
                const u64 a = to[low], b = to[high];
                // Every second run rises, the last one falls.
                const bool falls = (low & run) == 0;
                if (falls ? a < b : b < a) to[low] = b, to[high] = a;
            }
            barrier();
        }
    }
}

KERNEL(512, 1, sample_pick, int* tokens, float* logprobs, float* entropies, const u64* sorted,
       const u32* weights, const float* figures, const float* logits, const float* temperature,
       const int* top_k, const float* top_p, const double* uniform, int vocab, int places) {
    SHARED(u64, warps, THREADS / 32);
    SHARED(u64, found, 3);
    const int row = blockIdx.x;
    const u64* order = sorted + static_cast<i64>(row) * places;
    const u32* of_token = weights + static_cast<i64>(row) * vocab;
    const float* figure = figures + 4 * row;
    int token = static_cast<int>(float_bits(figure[2]));
    const float heat = temperature[row];
    if (heat > 0.0f && figure[1] > -INFINITY) {
        const auto mass = [&](int at) {
            const u32 weight = static_cast<u32>(order[at] >> 32);
            return weight == 0 ? 0 : mass_of(weight - 1);
        };
        u64 count = 0;
        walk(vocab, ~static_cast<u64>(0), count, warps, found,
             [&](int at) { return static_cast<u64>(order[at] != 0); });
        const int k = top_k[row];
        int kept = static_cast<int>(count);
        if (k > 0 && k < kept) kept = k;
        u64 all = 0;
        walk(kept, ~static_cast<u64>(0), all, warps, found, mass);
        if (top_p[row] < 1.0f) {
            const double share = fmaxf(top_p[row], 0.0f);
            const u64 needed = most(static_cast<u64>(ceil(share * static_cast<double>(all))),
                                    static_cast<u64>(1));
            kept = least(walk(kept, needed - 1, all, warps, found, mass) + 1, kept);
        }
        const u64 last = order[kept - 1];
        const u64 target = static_cast<u64>(uniform[row] * static_cast<double>(all));
        u64 upto;
        const int drawn = walk(vocab, target, upto, warps, found, [&](int at) {
            const u32 weight = of_token[at];
            const bool stays = weight != 0 && place_of(weight, at) >= last;
            return stays ? mass_of(weight - 1) : static_cast<u64>(0);
        });
        if (drawn < vocab) token = drawn;
    }
    if (threadIdx.x == 0) {
        tokens[row] = token;
        logprobs[row] = logits[static_cast<i64>(row) * vocab + token] - figure[0];
        entropies[row] = figure[3];
    }
}
