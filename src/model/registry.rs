//! Shapes that go by a name: `shape:NAME` is a published model's dimensions with random weights.

use super::shape::{Family, Rope, RopeScaling, Shape};

/// A published model.
struct Published {
    /// The names it goes by, the first one first.
    names: &'static [&'static str],
    shape: Shape,
}

/// The names of the known shapes, in the order of the registry.
#[must_use]
pub fn shape_names() -> Vec<&'static str> {
    PUBLISHED.iter().filter_map(|published| published.names.first().copied()).collect()
}

/// The shape of that name, with its first name.
pub(super) fn published(name: &str) -> Option<(&'static str, Shape)> {
    let wanted = name.to_ascii_lowercase();
    let found = PUBLISHED.iter().find(|published| published.names.contains(&wanted.as_str()))?;
    Some((found.names.first()?, found.shape.clone()))
}

const fn rope(theta: f32) -> Rope {
    Rope { theta, scaling: None }
}

/// The stretch that Llama 3.1 and 3.2 share but for the factor.
const fn llama3_rope(factor: f32) -> Rope {
    let scaling = RopeScaling::Llama3 { factor, low: 1.0, high: 4.0, original_context: 8192 };
    Rope { theta: 500_000.0, scaling: Some(scaling) }
}

/// What most members of the family share.
const BASE: Shape = Shape {
    family: Family::Llama,
    layers: 0,
    hidden: 0,
    ffn: 0,
    heads: 0,
    kv_heads: 0,
    head_dim: 0,
    vocab: 0,
    context: 0,
    rope: rope(10_000.0),
    norm_eps: 1e-5,
    qkv_bias: false,
    qk_norm: false,
    tied_embeddings: false,
    sliding_window: None,
};

const QWEN2: Shape = Shape {
    family: Family::Qwen2,
    vocab: 151_936,
    rope: rope(1_000_000.0),
    norm_eps: 1e-6,
    qkv_bias: true,
    ..BASE
};

const QWEN3: Shape =
    Shape { family: Family::Qwen3, context: 40_960, qkv_bias: false, qk_norm: true, ..QWEN2 };

const LLAMA3: Shape = Shape { vocab: 128_256, context: 8192, rope: rope(500_000.0), ..BASE };

const LLAMA3_8B: Shape = Shape {
    layers: 32,
    hidden: 4096,
    ffn: 14_336,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    ..LLAMA3
};

/// From the `config.json` of each model on Hugging Face; the stories models from the header of
/// their llama2.c checkpoints. `parameters()` is tested against the published counts below.
static PUBLISHED: [Published; 14] = [
    Published {
        names: &["stories15m"],
        shape: Shape {
            layers: 6,
            hidden: 288,
            ffn: 768,
            heads: 6,
            kv_heads: 6,
            head_dim: 48,
            vocab: 32_000,
            context: 256,
            tied_embeddings: true,
            ..BASE
        },
    },
    Published {
        names: &["stories42m"],
        shape: Shape {
            layers: 8,
            hidden: 512,
            ffn: 1376,
            heads: 8,
            kv_heads: 8,
            head_dim: 64,
            vocab: 32_000,
            context: 1024,
            tied_embeddings: true,
            ..BASE
        },
    },
    Published {
        names: &["stories110m"],
        shape: Shape {
            layers: 12,
            hidden: 768,
            ffn: 2048,
            heads: 12,
            kv_heads: 12,
            head_dim: 64,
            vocab: 32_000,
            context: 1024,
            tied_embeddings: true,
            ..BASE
        },
    },
    Published {
        names: &["tinyllama-1.1b"],
        shape: Shape {
            layers: 22,
            hidden: 2048,
            ffn: 5632,
            heads: 32,
            kv_heads: 4,
            head_dim: 64,
            vocab: 32_000,
            context: 2048,
            ..BASE
        },
    },
    Published {
        names: &["qwen2.5-0.5b"],
        shape: Shape {
            layers: 24,
            hidden: 896,
            ffn: 4864,
            heads: 14,
            kv_heads: 2,
            head_dim: 64,
            context: 32_768,
            tied_embeddings: true,
            ..QWEN2
        },
    },
    Published {
        names: &["qwen2.5-1.5b"],
        shape: Shape {
            layers: 28,
            hidden: 1536,
            ffn: 8960,
            heads: 12,
            kv_heads: 2,
            head_dim: 128,
            context: 131_072,
            tied_embeddings: true,
            ..QWEN2
        },
    },
    Published {
        names: &["qwen3-0.6b"],
        shape: Shape {
            layers: 28,
            hidden: 1024,
            ffn: 3072,
            heads: 16,
            kv_heads: 8,
            head_dim: 128,
            tied_embeddings: true,
            ..QWEN3
        },
    },
    Published {
        names: &["llama-3.2-1b"],
        shape: Shape {
            layers: 16,
            hidden: 2048,
            ffn: 8192,
            heads: 32,
            kv_heads: 8,
            head_dim: 64,
            context: 131_072,
            rope: llama3_rope(32.0),
            tied_embeddings: true,
            ..LLAMA3
        },
    },
    Published {
        names: &["llama-3.2-3b"],
        shape: Shape {
            layers: 28,
            hidden: 3072,
            ffn: 8192,
            heads: 24,
            kv_heads: 8,
            head_dim: 128,
            context: 131_072,
            rope: llama3_rope(32.0),
            tied_embeddings: true,
            ..LLAMA3
        },
    },
    Published { names: &["llama-3-8b"], shape: LLAMA3_8B },
    Published {
        names: &["llama-3.1-8b"],
        shape: Shape { context: 131_072, rope: llama3_rope(8.0), ..LLAMA3_8B },
    },
    Published {
        names: &["mistral-7b", "mistral-7b-v0.1"],
        shape: Shape {
            family: Family::Mistral,
            vocab: 32_000,
            context: 32_768,
            rope: rope(10_000.0),
            sliding_window: Some(4096),
            ..LLAMA3_8B
        },
    },
    Published {
        names: &["qwen3-8b"],
        shape: Shape {
            layers: 36,
            hidden: 4096,
            ffn: 12_288,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            ..QWEN3
        },
    },
    Published {
        names: &["llama-3-70b"],
        shape: Shape {
            layers: 80,
            hidden: 8192,
            ffn: 28_672,
            heads: 64,
            kv_heads: 8,
            head_dim: 128,
            ..LLAMA3
        },
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, parameters (a tied head counted once), KV bytes of a token at two bytes an element.
    const COUNTS: [(&str, u64, u64); 14] = [
        ("stories15m", 15_191_712, 6912),
        ("stories42m", 41_689_600, 16_384),
        ("stories110m", 109_529_856, 36_864),
        ("tinyllama-1.1b", 1_100_048_384, 22_528),
        ("qwen2.5-0.5b", 494_032_768, 12_288),
        ("qwen2.5-1.5b", 1_543_714_304, 28_672),
        ("qwen3-0.6b", 596_049_920, 114_688),
        ("llama-3.2-1b", 1_235_814_400, 32_768),
        ("llama-3.2-3b", 3_212_749_824, 114_688),
        ("llama-3-8b", 8_030_261_248, 131_072),
        ("llama-3.1-8b", 8_030_261_248, 131_072),
        ("mistral-7b", 7_241_732_096, 131_072),
        ("qwen3-8b", 8_190_735_360, 147_456),
        ("llama-3-70b", 70_553_706_496, 327_680),
    ];

    #[test]
    fn parameters_and_kv_bytes_are_the_published_ones() {
        for (name, parameters, kv_bytes) in COUNTS {
            let (_, shape) = published(name).unwrap();
            assert_eq!(shape.parameters(), parameters, "{name}");
            assert_eq!(shape.kv_bytes_per_token(2), kv_bytes, "{name}");
        }
        assert_eq!(shape_names(), COUNTS.map(|(name, ..)| name));
    }

    #[test]
    fn names_are_unique_and_case_does_not_matter() {
        let mut names: Vec<_> = PUBLISHED.iter().flat_map(|published| published.names).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(published("TinyLlama-1.1B").unwrap().0, "tinyllama-1.1b");
        assert!(published("gpt-2").is_none());
    }

    #[test]
    fn every_shape_suits_the_engine() {
        for published in &PUBLISHED {
            published.shape.validate().unwrap();
        }
    }
}
