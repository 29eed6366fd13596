//! Small shapes of every kind the family has.

use gemba::model::{Family, Rope, RopeScaling, Shape};

/// Llama with grouped heads.
pub fn llama() -> Shape {
    Shape {
        family: Family::Llama,
        layers: 2,
        hidden: 64,
        ffn: 96,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        vocab: 131,
        context: 1024,
        rope: Rope { theta: 10_000.0, scaling: None },
        norm_eps: 1e-5,
        qkv_bias: false,
        qk_norm: false,
        tied_embeddings: false,
        sliding_window: None,
    }
}

/// One of each kind, by name.
pub fn all() -> Vec<(&'static str, Shape)> {
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 64 };
    let stretched = Rope { theta: 10_000.0, scaling: Some(llama3) };
    let slowed = Rope { theta: 1e4, scaling: Some(RopeScaling::Linear { factor: 2.0 }) };
    vec![
        ("llama", llama()),
        ("llama, stretched", Shape { rope: stretched, ..llama() }),
        ("llama, slowed, odd head", Shape { rope: slowed, head_dim: 24, ..llama() }),
        ("mistral", Shape { family: Family::Mistral, sliding_window: Some(11), ..llama() }),
        (
            "qwen2",
            Shape {
                family: Family::Qwen2,
                qkv_bias: true,
                tied_embeddings: true,
                heads: 7,
                head_dim: 32,
                kv_heads: 1,
                ..llama()
            },
        ),
        (
            "qwen3",
            Shape {
                family: Family::Qwen3,
                qk_norm: true,
                tied_embeddings: true,
                head_dim: 32,
                ..llama()
            },
        ),
    ]
}
