//! Small checkpoints of every member of the family against what Hugging Face transformers
//! computes from them (`tests/vectors`).

use std::path::{Path, PathBuf};

use gemba::model::{Model, Precision, open};
use safetensors::SafeTensors;

use crate::driver::{Driver, Sequence, options};

const CHECKPOINTS: [&str; 7] = [
    "llama-gqa",
    "llama-rope-linear",
    "llama-rope-llama3",
    "llama-tied",
    "mistral-window",
    "qwen2-bias",
    "qwen3-qk-norm",
];

/// What transformers says about a checkpoint.
struct Vectors {
    tokens: Vec<u32>,
    logits: Vec<f32>,
    prompts: Vec<Vec<u32>>,
    greedy: Vec<Vec<u32>>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

fn checkpoint(path: &Path) -> Model {
    open(path.to_str().unwrap(), 0).unwrap()
}

fn vectors(name: &str) -> Vectors {
    let bytes = std::fs::read(folder(name).join("vectors.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| -> Vec<[u8; 4]> {
        file.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec()
    };
    let integers = |name: &str| -> Vec<u32> {
        words(name).into_iter().map(|word| i32::from_le_bytes(word).try_into().unwrap()).collect()
    };
    let rows = |name: &str| -> Vec<Vec<u32>> {
        let width = file.tensor(name).unwrap().shape()[1];
        integers(name).chunks(width).map(<[u32]>::to_vec).collect()
    };
    Vectors {
        tokens: integers("tokens"),
        logits: words("logits").into_iter().map(f32::from_le_bytes).collect(),
        prompts: rows("greedy_prompts"),
        greedy: rows("greedy_tokens"),
    }
}

/// The largest and the typical difference of logits, over their typical size.
fn differences(found: &[Vec<f32>], expected: &[f32]) -> (f32, f32) {
    let found = found.concat();
    assert_eq!(found.len(), expected.len());
    let typical = |values: &[f32]| {
        (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt()
    };
    let differences: Vec<f32> =
        found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).collect();
    let size = typical(expected);
    let largest = differences.iter().copied().fold(0.0, f32::max);
    (largest / size, typical(&differences) / size)
}

/// Precision, and the largest and the typical difference it may make.
const TOLERANCES: [(Precision, f32, f32); 5] = [
    (Precision::F32, 2e-5, 3e-6),
    (Precision::F16, 1e-2, 2e-3),
    (Precision::Bf16, 1e-1, 2e-2),
    (Precision::Q8_0, 4e-1, 6e-2),
    (Precision::Q4_0, 3.0, 6e-1),
];

#[test]
fn logits_are_those_of_transformers() {
    for name in CHECKPOINTS {
        let model = checkpoint(&folder(name));
        let vectors = vectors(name);
        for (precision, most, typical) in TOLERANCES {
            let mut driver = Driver::new(&model, options(precision, Precision::F32, 2));
            let found = differences(&driver.whole(&vectors.tokens), &vectors.logits);
            assert!(found.0 < most && found.1 < typical, "{name} {}: {found:?}", precision.code());
        }
    }
}

#[test]
fn half_precision_keys_and_values_cost_little() {
    for name in CHECKPOINTS {
        let model = checkpoint(&folder(name));
        let vectors = vectors(name);
        let mut driver = Driver::new(&model, options(Precision::F32, Precision::F16, 2));
        let (most, _) = differences(&driver.whole(&vectors.tokens), &vectors.logits);
        assert!(most < 1e-2, "{name}: {most}");
    }
}

#[test]
fn gguf_twins_run_as_their_checkpoints() {
    let mut twins = 0;
    for name in CHECKPOINTS {
        let vectors = vectors(name);
        for entry in std::fs::read_dir(folder(name)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "gguf") {
                continue;
            }
            twins += 1;
            let model = checkpoint(&path);
            let stored = model.precision();
            let (_, most, typical) =
                TOLERANCES.into_iter().find(|(precision, ..)| *precision == stored).unwrap();
            // In its own precision its bytes are multiplied as they are.
            let mut driver = Driver::new(&model, options(stored, Precision::F32, 1));
            let multiplied = driver.whole(&vectors.tokens);
            let own = differences(&multiplied, &vectors.logits);
            assert!(own.0 < most && own.1 < typical, "{}: {own:?}", path.display());
            // The same rounded weights in f32 leave only the rounding of activations.
            let mut driver = Driver::new(&model, options(Precision::F32, Precision::F32, 1));
            let exact = driver.whole(&vectors.tokens);
            let (_, rounding) = differences(&multiplied, &exact.concat());
            assert!(rounding < 6e-2, "{}: {rounding:?}", path.display());
        }
    }
    assert!(twins >= 8, "{twins} GGUF files");
}

/// Generates as many tokens as `expected` behind each prompt; prompts in chunks of `chunk` rows,
/// `batch` sequences together.
fn generate(driver: &mut Driver, vectors: &Vectors, batch: usize, chunk: usize) -> Vec<Vec<u32>> {
    let mut all = Vec::new();
    for prompts in vectors.prompts.chunks(batch) {
        let mut sequences: Vec<Sequence> = prompts
            .iter()
            .enumerate()
            .map(|(i, prompt)| Sequence::new(prompt, (0..8).map(|block| block * 8 + i as u32)))
            .collect();
        let wanted = prompts[0].len() + vectors.greedy[0].len();
        while sequences.iter().any(|sequence| sequence.tokens.len() < wanted) {
            let mut rows: Vec<_> = sequences
                .iter_mut()
                .map(|sequence| {
                    let left = sequence.tokens.len() - sequence.done;
                    (sequence, left.min(chunk))
                })
                .collect();
            let logits = driver.step(&mut rows);
            for (sequence, logits) in sequences.iter_mut().zip(logits) {
                if sequence.done == sequence.tokens.len() {
                    sequence.tokens.push(likeliest(&logits[logits.len() - 1]));
                }
            }
        }
        all.extend(
            sequences.into_iter().map(|sequence| sequence.tokens[prompts[0].len()..].to_vec()),
        );
    }
    all
}

fn likeliest(logits: &[f32]) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == largest).unwrap() as u32
}

#[test]
fn greedy_tokens_are_those_of_transformers_however_they_are_batched() {
    for name in CHECKPOINTS {
        let model = checkpoint(&folder(name));
        let vectors = vectors(name);
        for (threads, batch, chunk) in [(1, 1, 12), (2, 4, 12), (2, 4, 5), (1, 3, 1)] {
            let mut driver = Driver::new(&model, options(Precision::F32, Precision::F32, threads));
            let found = generate(&mut driver, &vectors, batch, chunk);
            assert_eq!(found, vectors.greedy, "{name}: batch {batch}, chunks of {chunk}");
        }
    }
}

#[test]
fn greedy_tokens_of_every_precision_do_not_depend_on_the_batch() {
    for name in CHECKPOINTS {
        let model = checkpoint(&folder(name));
        let vectors = vectors(name);
        for precision in Precision::ALL {
            let run = |threads, batch, chunk| {
                let mut driver = Driver::new(&model, options(precision, Precision::F16, threads));
                generate(&mut driver, &vectors, batch, chunk)
            };
            let alone = run(1, 1, 12);
            assert_eq!(run(2, 4, 5), alone, "{name} {}", precision.code());
            assert_eq!(run(2, 2, 1), alone, "{name} {}", precision.code());
        }
    }
}
