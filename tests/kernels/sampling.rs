//! Logits to tokens: greedy, drawn, cut, masked.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::numbers::{Act, Random};
use crate::shim::{Arguments, Buffer, Shim, shim};

/// How a row's token is chosen.
#[derive(Clone, Debug)]
struct Asked {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    seed: u64,
    /// The tokens that may be chosen, if not all.
    mask: Option<Vec<usize>>,
}

const GREEDY: Asked = Asked { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0, mask: None };

impl Asked {
    /// The number that the CPU backend draws by.
    fn uniform(&self) -> f64 {
        let bits = ChaCha8Rng::seed_from_u64(self.seed).next_u64() >> 11;
        bits as f64 / (1_u64 << 53) as f64
    }

    fn allows(&self, token: usize) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask.contains(&token))
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Sampled {
    token: usize,
    logprob: f64,
    entropy: f64,
}

/// What was sampled, as a kernel left it.
fn taken([tokens, logprobs, entropies]: [&Buffer<'_>; 3]) -> Vec<Sampled> {
    let (tokens, logprobs) = (tokens.read::<i32>(), logprobs.read::<f32>());
    let each = tokens.into_iter().zip(logprobs).zip(entropies.read::<f32>());
    each.map(|((token, logprob), entropy)| Sampled {
        token: usize::try_from(token).unwrap(),
        logprob: f64::from(logprob),
        entropy: f64::from(entropy),
    })
    .collect()
}

/// Samples each row of `logits` as it asks.
fn sample(shim: &Shim, logits: &[f32], asked: &[Asked]) -> Vec<Sampled> {
    let rows = asked.len();
    let vocab = logits.len() / rows;
    let parts_of_row = vocab.div_ceil(4096);
    let mut words = Vec::new();
    let mut mask_of = Vec::new();
    for asked in asked {
        let Some(mask) = &asked.mask else {
            mask_of.push(-1);
            continue;
        };
        mask_of.push((words.len() / vocab.div_ceil(32)) as i32);
        // Bits behind the vocabulary name no token.
        let mut of_row = vec![0_u32; vocab.div_ceil(32)];
        if !vocab.is_multiple_of(32) {
            *of_row.last_mut().unwrap() = u32::MAX << (vocab % 32);
        }
        mask.iter().for_each(|token| of_row[token / 32] |= 1 << (token % 32));
        words.extend(of_row);
    }
    let masked = !words.is_empty();
    let (words, mask_of) = (shim.buffer(&words), shim.buffer(&mask_of));
    let mask_of = masked.then_some(&mask_of);
    let there = shim.buffer(logits);
    let parts = shim.poisoned(rows * parts_of_row * 24);
    let arguments = Arguments::new().buffers([&parts, &there, &words]).maybe(mask_of).int(vocab);
    shim.run("sample_scan", [parts_of_row as u32, rows as u32, 1], &arguments);
    let [tokens, logprobs, entropies] = [0; 3].map(|_| shim.poisoned(4 * rows));
    let temperature = shim.buffer(&asked.iter().map(|a| a.temperature).collect::<Vec<_>>());
    let top_k = shim.buffer(&asked.iter().map(|a| a.top_k as i32).collect::<Vec<_>>());
    let top_p = shim.buffer(&asked.iter().map(|a| a.top_p).collect::<Vec<_>>());
    let uniform = shim.buffer(&asked.iter().map(Asked::uniform).collect::<Vec<_>>());
    let arguments = Arguments::new()
        .buffers([&tokens, &logprobs, &entropies, &parts, &there])
        .buffers([&temperature, &top_k, &top_p, &uniform, &words])
        .maybe(mask_of)
        .ints([parts_of_row, vocab]);
    shim.run("sample_choose", [rows as u32, 1, 1], &arguments);
    let sampled = taken([&tokens, &logprobs, &entropies]);

    // The same by a sort.
    let grid = [rows as u32, 1, 1];
    let places = vocab.next_power_of_two();
    let [weights, figures] = [4 * rows * vocab, 16 * rows].map(|bytes| shim.poisoned(bytes));
    let arguments = Arguments::new()
        .buffers([&weights, &figures, &there, &temperature, &words])
        .maybe(mask_of)
        .int(vocab);
    shim.run("sample_weights", grid, &arguments);
    let sorted = shim.poisoned(8 * rows * places);
    let arguments = Arguments::new().buffers([&sorted, &weights]).ints([vocab, places]);
    shim.run("sample_sort", grid, &arguments);
    for row in sorted.read::<u64>().chunks(places) {
        assert!(row.is_sorted_by(|a, b| a > b || (*a, *b) == (0, 0)), "sample_sort: {row:?}");
    }
    let [tokens, logprobs, entropies] = [0; 3].map(|_| shim.poisoned(4 * rows));
    let arguments = Arguments::new()
        .buffers([&tokens, &logprobs, &entropies, &sorted, &weights, &figures, &there])
        .buffers([&temperature, &top_k, &top_p, &uniform])
        .ints([vocab, places]);
    shim.run("sample_pick", grid, &arguments);
    for (one, other) in sampled.iter().zip(taken([&tokens, &logprobs, &entropies])) {
        assert_eq!(one.token, other.token, "by a sort");
        for (x, y) in [(one.logprob, other.logprob), (one.entropy, other.entropy)] {
            assert!((x - y).abs() < 1e-4 || (x.is_nan() && y.is_nan()), "{one:?}, {other:?}");
        }
    }
    sampled
}

/// Wants log-probability and entropy of the whole row.
fn prove_figures(row: &[f32], sampled: &Sampled) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights = row.iter().filter(|x| !x.is_nan());
    let weights: Vec<f64> = weights.map(|x| f64::from(x - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let logprob = f64::from(row[sampled.token] - largest) - total.ln();
    assert!((sampled.logprob - logprob).abs() < 2e-5, "{sampled:?}: log-probability {logprob}");
    let entropy: f64 =
        weights.iter().map(|w| w / total).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
    assert!((sampled.entropy - entropy).abs() < 1e-4, "{sampled:?}: entropy {entropy}");
}

/// Wants the token to be one that a sort and a walk in 64 bits find, up to what f32 rounds away.
fn prove_token(row: &[f32], asked: &Asked, sampled: &Sampled) {
    let allowed: Vec<usize> =
        (0..row.len()).filter(|t| asked.allows(*t) && !row[*t].is_nan()).collect();
    let best = allowed.iter().copied().reduce(|a, b| if row[b] > row[a] { b } else { a }).unwrap();
    if asked.temperature == 0.0 {
        assert_eq!(sampled.token, best, "{asked:?}");
        return;
    }
    let weight =
        |token: usize| (f64::from(row[token] - row[best]) / f64::from(asked.temperature)).exp();
    let mut order = allowed;
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
    if asked.top_k > 0 {
        order.truncate(asked.top_k);
    }
    let mass: f64 = order.iter().map(|token| weight(*token)).sum();
    // The number kept may be one that a rounding of the share decides.
    let mut fitting = Vec::new();
    for slack in [0.0, -1e-6, 1e-6] {
        let needed = f64::from(asked.top_p) * mass * (1.0 + slack);
        let mut upto = 0.0;
        let mut count = order.len();
        for (at, token) in order.iter().enumerate() {
            upto += weight(*token);
            if asked.top_p < 1.0 && upto >= needed {
                count = at + 1;
                break;
            }
        }
        let mut kept = order[..count].to_vec();
        kept.sort_unstable();
        let mass: f64 = kept.iter().map(|token| weight(*token)).sum();
        let target = asked.uniform() * mass;
        let mut before = 0.0;
        for token in kept {
            let after = before + weight(token);
            if target >= before - 1e-5 * mass && target <= after + 1e-5 * mass {
                fitting.push(token);
            }
            before = after;
        }
    }
    assert!(
        fitting.contains(&sampled.token),
        "{asked:?}: {} is none of {fitting:?}",
        sampled.token
    );
}

fn prove(shim: &Shim, logits: &[f32], asked: &[Asked]) -> Vec<Sampled> {
    let sampled = sample(shim, logits, asked);
    let vocab = logits.len() / asked.len();
    for ((row, asked), sampled) in logits.chunks(vocab).zip(asked).zip(&sampled) {
        prove_figures(row, sampled);
        prove_token(row, asked, sampled);
    }
    sampled
}

fn logits(random: &mut Random, length: usize) -> Vec<f32> {
    (0..length).map(|_| (random.number() * 3.0 + random.number() * 2.0) as f32).collect()
}

/// The tokens of some rows are what others were chosen, the rest stay.
fn take_chosen(shim: &Shim) {
    let tokens = shim.buffer(&(0..700).collect::<Vec<i32>>());
    let chosen = shim.buffer(&(0..300).map(|i| 1000 + i).collect::<Vec<i32>>());
    let rows = shim.buffer(&(0..300).map(|i| 2 * i + 1).collect::<Vec<i32>>());
    let choices = shim.buffer(&(0..300).map(|i| 299 - i).collect::<Vec<i32>>());
    let arguments = Arguments::new().buffers([&tokens, &chosen, &rows, &choices]).int(300);
    shim.run("take_chosen", [2, 1, 1], &arguments);
    let expected = (0..700).map(|at| match at % 2 {
        1 if at < 600 => 1000 + 299 - at / 2,
        _ => at,
    });
    assert_eq!(tokens.read::<i32>(), expected.collect::<Vec<i32>>());
}

#[test]
fn rows_of_every_kind() {
    let shim = shim(Act::Bf16);
    let mut random = Random::new(71);
    for vocab in [1, 31, 33, 1000, 4096, 4097, 9001] {
        let every_third: Vec<usize> = (0..vocab).filter(|token| token % 3 == 0).collect();
        let masked = |asked: &Asked| Asked { mask: Some(every_third.clone()), ..asked.clone() };
        let warm = |top_k, top_p, seed| Asked { temperature: 0.7, top_k, top_p, seed, mask: None };
        let asked = [
            GREEDY,
            warm(0, 1.0, 5),
            warm(40, 1.0, 6),
            warm(0, 0.9, 7),
            Asked { temperature: 2.5, ..warm(100, 0.5, 8) },
            masked(&GREEDY),
            masked(&warm(7, 0.8, 9)),
            warm(1, 0.3, 10),
            Asked { top_p: 0.0, ..warm(0, 0.0, 11) },
            Asked { temperature: 0.01, ..warm(0, 1.0, 12) },
            // More than there are tokens, and more than there are allowed ones.
            warm(vocab + 5, 1.0, 13),
            masked(&warm(vocab / 2 + 1, 1.0, 14)),
        ];
        let sampled = prove(shim, &logits(&mut random, vocab * asked.len()), &asked);
        assert!(sampled[5].token.is_multiple_of(3) && sampled[6].token.is_multiple_of(3));
    }
    take_chosen(shim);
    shim.all_ran("sample.cu", |_| true);
    shim.all_ran("sample_naive.cu", |_| true);
}

#[test]
fn a_share_of_draws_falls_on_each_token() {
    let shim = shim(Act::Bf16);
    let row = [0.1_f32, 0.4, 0.2, 0.3].map(f32::ln);
    let rows = 400;
    let asked: Vec<Asked> =
        (0..rows).map(|seed| Asked { temperature: 1.0, seed, ..GREEDY }).collect();
    let sampled = prove(shim, &row.repeat(rows as usize), &asked);
    for (token, share) in [0.1, 0.4, 0.2, 0.3].into_iter().enumerate() {
        let count = sampled.iter().filter(|sampled| sampled.token == token).count() as f64;
        let n = rows as f64;
        // Four standard errors.
        assert!((count / n - share).abs() < 4.0 * (share * (1.0 - share) / n).sqrt(), "{token}");
    }
}

#[test]
fn ties_go_to_the_first() {
    let shim = shim(Act::Bf16);
    let mut row = vec![0.0_f32; 5000];
    for token in [4500, 17, 4097] {
        row[token] = 2.0;
    }
    assert_eq!(prove(shim, &row, &[GREEDY])[0].token, 17);
    // All alike: the first three are kept, and the first two of five thousand of them.
    let alike = vec![1.5_f32; 5000];
    for seed in 0..6 {
        let drawn = Asked { temperature: 1.0, top_k: 3, seed, ..GREEDY };
        assert!(prove(shim, &alike, &[drawn])[0].token < 3);
        let drawn = Asked { temperature: 1.0, top_k: 3, top_p: 0.6, seed, ..GREEDY };
        assert!(prove(shim, &alike, &[drawn])[0].token < 2);
    }
}

#[test]
fn what_is_not_a_number_is_never_chosen() {
    let shim = shim(Act::Bf16);
    let mut row = vec![f32::NAN; 40];
    row[33] = -1.0;
    let warm = Asked { temperature: 1.0, seed: 4, ..GREEDY };
    for asked in [GREEDY, warm.clone(), Asked { top_k: 2, top_p: 0.5, ..warm.clone() }] {
        assert_eq!(prove(shim, &row, &[asked])[0].token, 33);
    }
    // A mask that leaves no number takes its first token, and one far below all others is taken.
    let only =
        |tokens: &[usize], asked: &Asked| Asked { mask: Some(tokens.to_vec()), ..asked.clone() };
    assert_eq!(sample(shim, &row, &[only(&[6, 9], &GREEDY)])[0].token, 6);
    assert_eq!(sample(shim, &row, &[only(&[6, 9], &warm)])[0].token, 6);
    let row = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln(), -80.0, f32::NAN];
    assert_eq!(prove(shim, &row, &[only(&[3, 4], &warm)])[0].token, 3);
    let second = prove(shim, &row, &[only(&[1, 2], &GREEDY)])[0];
    assert_eq!(second.token, 1);
    assert!((second.logprob - 0.3_f64.ln()).abs() < 1e-5);
}
