//! Logits to tokens.
//!
//! The likeliest token and the sum behind log-probabilities come from one pass over fixed parts
//! of the vocabulary, joined in order. Only rows with a temperature are looked at again.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::backend::{Sampled, Sampling, allows};

use super::parallel::{Disjoint, for_ranges};
use super::pool::Pool;
use super::simd::{Isa, LANES, Simd, dispatch, vectors};

/// Logits looked at by one worker at a time.
const PART: usize = 4096;

/// Softmax over a part of the vocabulary.
#[derive(Clone, Copy, Debug)]
struct Part {
    largest: f32,
    /// The first token that has it.
    token: u32,
    /// Σ exp(logit − largest).
    sum: f32,
}

impl Part {
    const NOTHING: Self = Self { largest: f32::NEG_INFINITY, token: 0, sum: 0.0 };

    /// With the part that follows.
    fn join(self, next: Self) -> Self {
        let (mut first, second) = (self, next);
        if second.largest > first.largest {
            first.sum = first.sum * (first.largest - second.largest).exp() + second.sum;
            (first.largest, first.token) = (second.largest, second.token);
        } else if second.largest > f32::NEG_INFINITY {
            first.sum += second.sum * (second.largest - first.largest).exp();
        }
        first
    }
}

/// A token that may be drawn, and how likely it is beside the others.
#[derive(Clone, Copy, Debug, Default)]
struct Candidate {
    weight: f32,
    token: u32,
}

/// Room for sampling.
pub(super) struct SampleScratch {
    parts: Vec<Part>,
    /// One vocabulary per worker.
    candidates: Vec<Candidate>,
}

impl SampleScratch {
    pub fn new(rows: usize, workers: usize, vocab: usize) -> Self {
        Self {
            parts: vec![Part::NOTHING; rows * vocab.div_ceil(PART)],
            candidates: vec![Candidate::default(); workers * vocab],
        }
    }

    /// Bytes that such room takes.
    pub const fn bytes(rows: usize, workers: usize, vocab: usize) -> u64 {
        let parts = rows * vocab.div_ceil(PART) * size_of::<Part>();
        (parts + workers * vocab * size_of::<Candidate>()) as u64
    }
}

/// The masks of a step: the rows that have one, ascending, and their words one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Masks<'a> {
    pub rows: &'a [usize],
    pub words: &'a [u32],
}

impl<'a> Masks<'a> {
    fn of(&self, row: usize) -> Option<&'a [u32]> {
        let at = self.rows.binary_search(&row).ok()?;
        let words = self.words.len() / self.rows.len();
        Some(&self.words[at * words..(at + 1) * words])
    }
}

/// Chooses a token from each row of `logits`, `[rows, vocab]`, as each asks and as its mask
/// allows.
pub(super) fn sample(
    pool: &Pool,
    isa: Isa,
    logits: &[f32],
    (sampling, masks): (&[Sampling], Masks<'_>),
    scratch: &mut SampleScratch,
    sampled: &mut [Sampled],
) {
    let vocab = logits.len() / sampling.len().max(1);
    let per_row = vocab.div_ceil(PART);
    let parts = &mut scratch.parts[..sampling.len() * per_row];
    let shared = Disjoint::new(parts);
    for_ranges(pool, sampling.len() * per_row, 1, |_, items| {
        for item in items {
            let (row, part) = (item / per_row, item % per_row);
            let tokens = part * PART..vocab.min((part + 1) * PART);
            let found = look(isa, &logits[row * vocab..(row + 1) * vocab][tokens.clone()]);
            // SAFETY: each item has its own part.
            let slot = unsafe { shared.part(item..item + 1) };
            slot[0] = Part { token: found.token + tokens.start as u32, ..found };
        }
    });
    let parts = &scratch.parts;
    let candidates = Disjoint::new(&mut scratch.candidates);
    let sampled = Disjoint::new(sampled);
    let drawn = sampling.iter().any(|sampling| sampling.temperature > 0.0);
    let grain = if drawn { 1 } else { sampling.len() };
    for_ranges(pool, sampling.len(), grain, |worker, rows| {
        for row in rows {
            let parts = &parts[row * per_row..(row + 1) * per_row];
            let all = parts.iter().fold(Part::NOTHING, |all, part| all.join(*part));
            let logits = &logits[row * vocab..(row + 1) * vocab];
            let mask = masks.of(row);
            let best = mask.map_or((all.token, all.largest), |mask| likeliest(logits, mask));
            let mut token = best.0;
            if sampling[row].temperature > 0.0 {
                // SAFETY: each worker has its own candidates.
                let room = unsafe { candidates.part(worker * vocab..(worker + 1) * vocab) };
                token = draw(isa, logits, &sampling[row], (best, mask), room);
            }
            let logprob = logits[token as usize] - all.largest - all.sum.ln();
            // SAFETY: each row has its own place.
            let slot = unsafe { sampled.part(row..row + 1) };
            slot[0] = Sampled { token, logprob };
        }
    });
}

dispatch! {
    fn look(logits: &[f32]) -> Part = look_at
}

#[inline(always)]
fn look_at<S: Simd>(s: S, logits: &[f32]) -> Part {
    let mut highest = s.splat(f32::NEG_INFINITY);
    let (whole, rest) = vectors(logits, f32::NEG_INFINITY);
    for v in whole.iter().chain(&rest) {
        // The second operand is kept where one is not a number.
        highest = s.max(s.load(v), highest);
    }
    let largest = s.largest(highest);
    if largest == f32::NEG_INFINITY {
        return Part::NOTHING;
    }
    let shift = s.splat(largest);
    let mut sum = s.splat(0.0);
    for v in whole.iter().chain(&rest) {
        sum = s.add(sum, s.exp(s.sub(s.load(v), shift)));
    }
    let token = logits.iter().position(|logit| *logit == largest).unwrap_or(0);
    Part { largest, token: token as u32, sum: s.sum(sum) }
}

dispatch! {
    fn weigh(logits: &[f32], largest: f32, temperature: f32, out: &mut [Candidate]) = weigh_all
}

#[inline(always)]
fn weigh_all<S: Simd>(s: S, logits: &[f32], largest: f32, temperature: f32, out: &mut [Candidate]) {
    let (shift, factor) = (s.splat(largest), s.splat(1.0 / temperature));
    let zero = s.splat(0.0);
    let (whole, rest) = vectors(logits, f32::NEG_INFINITY);
    let mut weights = [0.0; LANES];
    for (i, (v, out)) in whole.iter().chain(&rest).zip(out.chunks_mut(LANES)).enumerate() {
        // Only what a mask leaves out can lie above `largest`.
        let below = s.min(zero, s.mul(s.sub(s.load(v), shift), factor));
        s.store(s.exp(below), &mut weights);
        for (j, (out, weight)) in out.iter_mut().zip(weights).enumerate() {
            *out = Candidate { weight, token: (i * LANES + j) as u32 };
        }
    }
}

/// The likeliest allowed token and its logit; the first allowed one where no logit is a number.
fn likeliest(logits: &[f32], mask: &[u32]) -> (u32, f32) {
    let mut allowed = logits.iter().zip(0..).filter(|(_, token)| allows(mask, *token));
    let Some((first, token)) = allowed.next() else { return (0, f32::NEG_INFINITY) };
    let mut best = (token, first.max(f32::NEG_INFINITY));
    for (logit, token) in allowed {
        if *logit > best.1 {
            best = (token, *logit);
        }
    }
    best
}

/// Draws a token that the mask allows; `room` holds a vocabulary. `likeliest` is the best such
/// token with its logit.
fn draw(
    isa: Isa,
    logits: &[f32],
    sampling: &Sampling,
    (likeliest, mask): ((u32, f32), Option<&[u32]>),
    room: &mut [Candidate],
) -> u32 {
    weigh(isa, logits, likeliest.1, sampling.temperature, room);
    let mut kept = room;
    if let Some(mask) = mask {
        let mut count = 0;
        for at in 0..kept.len() {
            if allows(mask, kept[at].token) {
                kept.swap(count, at);
                count += 1;
            }
        }
        kept = &mut kept[..count];
    }
    let top_k = sampling.top_k as usize;
    if (1..kept.len()).contains(&top_k) {
        kept.select_nth_unstable_by(top_k - 1, likelier);
        kept = &mut kept[..top_k];
    }
    if sampling.top_p < 1.0 {
        let count = nucleus(kept, sampling.top_p);
        kept = &mut kept[..count];
    }
    let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
    // 53 random bits, a number from 0 to just below 1.
    let uniform = (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut left = uniform * mass(kept);
    for candidate in kept {
        left -= f64::from(candidate.weight);
        if left < 0.0 {
            return candidate.token;
        }
    }
    likeliest.0
}

fn mass(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

/// A total order: by weight, then by token.
fn likelier(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// Brings the fewest likeliest candidates that together reach `top_p` of the mass to the front;
/// how many these are, at least one.
fn nucleus(candidates: &mut [Candidate], top_p: f32) -> usize {
    let mut needed = f64::from(top_p.max(0.0)) * mass(candidates);
    let (mut low, mut high) = (0, candidates.len());
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        candidates[low..high].select_nth_unstable_by(middle - low, likelier);
        let upper = mass(&candidates[low..middle]);
        if upper >= needed {
            high = middle;
        } else {
            needed -= upper;
            low = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(rows: usize, vocab: usize) -> Vec<f32> {
        (0..rows * vocab)
            .map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 16) as f32 / 9000.0 - 3.0)
            .collect()
    }

    fn run(isa: Isa, threads: usize, logits: &[f32], sampling: &[Sampling]) -> Vec<Sampled> {
        let pool = Pool::new(threads).unwrap();
        let vocab = logits.len() / sampling.len();
        let mut scratch = SampleScratch::new(sampling.len(), threads, vocab);
        let mut sampled = vec![Sampled { token: 0, logprob: 0.0 }; sampling.len()];
        let masks = Masks { rows: &[], words: &[] };
        sample(&pool, isa, logits, (sampling, masks), &mut scratch, &mut sampled);
        sampled
    }

    #[test]
    fn the_likeliest_token_and_its_logprob() {
        let (rows, vocab) = (3, 9001);
        let logits = logits(rows, vocab);
        for isa in Isa::available() {
            let sampled = run(isa, 2, &logits, &[Sampling::GREEDY; 3]);
            for (row, sampled) in logits.chunks(vocab).zip(sampled) {
                let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let token = row.iter().position(|logit| *logit == largest).unwrap();
                assert_eq!(sampled.token as usize, token, "{}", isa.name());
                let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
                let exact = f64::from(largest) - sum.ln();
                assert!((f64::from(sampled.logprob) - exact).abs() < 1e-5, "{}", isa.name());
            }
        }
    }

    #[test]
    fn ties_go_to_the_first_token() {
        let mut logits = vec![0.0; 5000];
        logits[4500] = 2.0;
        logits[17] = 2.0;
        logits[4097] = 2.0;
        assert_eq!(run(Isa::best(), 1, &logits, &[Sampling::GREEDY])[0].token, 17);
    }

    #[test]
    fn what_is_not_a_number_is_never_chosen() {
        let mut logits = vec![f32::NAN; 40];
        logits[33] = -1.0;
        for isa in Isa::available() {
            assert_eq!(run(isa, 1, &logits, &[Sampling::GREEDY])[0].token, 33);
            let warm = Sampling { temperature: 1.0, seed: 4, ..Sampling::GREEDY };
            assert_eq!(run(isa, 1, &logits, &[warm])[0].token, 33);
        }
    }

    /// Chooses from one row under a mask of these tokens.
    fn masked(isa: Isa, logits: &[f32], allowed: &[u32], sampling: Sampling) -> Sampled {
        let pool = Pool::new(2).unwrap();
        let mut words = vec![0; logits.len().div_ceil(32)];
        allowed.iter().for_each(|token| words[(token / 32) as usize] |= 1 << (token % 32));
        let mut scratch = SampleScratch::new(1, 2, logits.len());
        let mut sampled = [Sampled { token: 0, logprob: 0.0 }];
        let masks = Masks { rows: &[0], words: &words };
        sample(&pool, isa, logits, (&[sampling], masks), &mut scratch, &mut sampled);
        sampled[0]
    }

    #[test]
    fn a_mask_keeps_the_choice_inside_and_the_logprob_whole() {
        let row = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln(), -80.0, f32::NAN];
        let warm = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0 };
        for isa in Isa::available() {
            let second = masked(isa, &row[..4], &[1, 2], Sampling::GREEDY);
            assert_eq!(second.token, 1);
            assert!((second.logprob - 0.3_f32.ln()).abs() < 1e-5);
            // Far below what is not allowed, and not a number beside it.
            assert_eq!(masked(isa, &row, &[3, 4], warm).token, 3);
            assert_eq!(masked(isa, &row, &[4], warm).token, 4);
        }
        let mut counts = [0_u32; 4];
        for seed in 0..4000 {
            let drawn = masked(Isa::best(), &row[..4], &[0, 2], Sampling { seed, ..warm });
            counts[drawn.token as usize] += 1;
        }
        assert_eq!((counts[1], counts[3]), (0, 0));
        // Four standard errors of a share of 4000 draws.
        assert!((f64::from(counts[0]) / 4000.0 - 5.0 / 7.0).abs() < 0.03, "{counts:?}");
        let first = Sampling { top_k: 1, ..warm };
        assert_eq!(masked(Isa::best(), &row[..4], &[1, 2], first).token, 1);
    }

    #[test]
    fn draws_follow_the_distribution() {
        // Three tokens with probabilities 0.5, 0.3, 0.2 at temperature 1.
        let row = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln()];
        let count = |warm: Sampling| {
            let mut counts = [0; 3];
            for seed in 0..4000 {
                let sampling = Sampling { seed, ..warm };
                counts[run(Isa::best(), 1, &row, &[sampling])[0].token as usize] += 1;
            }
            counts.map(|count| f64::from(count) / 4000.0)
        };
        let near = |found: [f64; 3], expected: [f64; 3]| {
            for (found, expected) in found.iter().zip(expected) {
                // Four standard errors of a share of 4000 draws.
                assert!((found - expected).abs() < 0.032, "{found} {expected}");
            }
        };
        let warm = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0 };
        near(count(warm), [0.5, 0.3, 0.2]);
        near(count(Sampling { top_k: 2, ..warm }), [0.625, 0.375, 0.0]);
        near(count(Sampling { top_p: 0.6, ..warm }), [0.625, 0.375, 0.0]);
        near(count(Sampling { top_p: 0.1, ..warm }), [1.0, 0.0, 0.0]);
        let squares = 0.25 + 0.09 + 0.04;
        let cold = Sampling { temperature: 0.5, ..warm };
        near(count(cold), [0.25 / squares, 0.09 / squares, 0.04 / squares]);
    }

    #[test]
    fn a_nucleus_is_the_head_of_the_sorted_candidates() {
        for top_p in [0.0, 0.05, 0.3, 0.5, 0.9, 0.999] {
            for count in [1, 2, 3, 50, 777] {
                let mut candidates: Vec<Candidate> = (0..count)
                    .map(|i: u32| Candidate {
                        weight: (i.wrapping_mul(2_654_435_761) >> 22) as f32,
                        token: i,
                    })
                    .collect();
                let mut sorted = candidates.clone();
                sorted.sort_by(likelier);
                let needed = f64::from(top_p) * mass(&sorted);
                let expected =
                    (1..=count as usize).find(|n| mass(&sorted[..*n]) >= needed).unwrap();
                let found = nucleus(&mut candidates, top_p);
                assert_eq!(found, expected, "{top_p} of {count}");
                let mut head: Vec<u32> = candidates[..found].iter().map(|c| c.token).collect();
                let mut wanted: Vec<u32> = sorted[..found].iter().map(|c| c.token).collect();
                head.sort_unstable();
                wanted.sort_unstable();
                assert_eq!(head, wanted);
            }
        }
    }

    #[test]
    fn threads_change_nothing() {
        let logits = logits(7, 20_000);
        let sampling: Vec<Sampling> = (0..7)
            .map(|i| Sampling {
                temperature: i as f32 * 0.4,
                top_k: i * 30,
                top_p: 1.0 - i as f32 * 0.1,
                seed: i.into(),
            })
            .collect();
        for isa in Isa::available() {
            let one = run(isa, 1, &logits, &sampling);
            assert_eq!(run(isa, 3, &logits, &sampling), one);
        }
    }
}
