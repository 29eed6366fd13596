//! `gemba model`: what a model is, before anything runs on it.

use std::collections::BTreeMap;
use std::io::Write;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::model::{
    FingerprintOf, Model, ModelError, Precision, RopeScaling, Shape, Tokenizer, open,
};
use crate::unit::{Bytes, grouped, si_bytes, si_count};

/// Look at models.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ModelAction,
}

/// What `gemba model` can do.
#[derive(Debug, Subcommand)]
pub enum ModelAction {
    /// Show a model's dimensions, its bytes at each precision and what it reads text with
    Show(ShowArgs),
}

/// `gemba model show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A Hugging Face folder, a .gguf file, or shape:NAME for random weights
    pub model: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Why `gemba model` failed.
#[derive(Debug, thiserror::Error)]
pub enum ModelCommandError {
    /// The model could not be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The answer could not be written.
    #[error("write the model's description: {0}")]
    Write(#[from] std::io::Error),
}

impl ModelCommandError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Model(error) => error.hint(),
            Self::Write(_) => None,
        }
    }
}

/// Runs `gemba model`; figures go to `out`.
///
/// # Errors
/// [`ModelCommandError`] if the model cannot be read or the answer not written.
pub fn run(args: &ModelArgs, out: &mut impl Write) -> Result<(), ModelCommandError> {
    let ModelAction::Show(args) = &args.action;
    let model = open(&args.model, 0)?;
    let card = Card::of(&model);
    let written = match args.json {
        true => serde_json::to_writer_pretty(&mut *out, &card)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(out)),
        false => card.print(out),
    };
    Ok(super::unless_gone(written)?)
}

/// What is shown of a model.
#[derive(Debug, Serialize)]
struct Card<'a> {
    name: &'a str,
    parameters: u64,
    shape: &'a Shape,
    /// Of the weights as they are stored.
    precision: Precision,
    /// By precision; one that the dimensions do not suit is absent.
    weight_bytes: BTreeMap<&'static str, u64>,
    kv_bytes_per_token: KvBytes,
    tokenizer: Option<TokenizerCard>,
    /// Why there is no tokenizer.
    tokenizer_missing: Option<String>,
    begin_token: Option<u32>,
    end_tokens: &'a [u32],
    sha256: &'a str,
    sha256_of: FingerprintOf,
}

/// Bytes of KV cache per token over all layers.
#[derive(Clone, Copy, Debug, Serialize)]
struct KvBytes {
    f32: u64,
    f16: u64,
}

#[derive(Debug, Serialize)]
struct TokenizerCard {
    tokens: usize,
}

impl TokenizerCard {
    fn of(tokenizer: &Tokenizer) -> Self {
        Self { tokens: tokenizer.vocab() }
    }
}

impl<'a> Card<'a> {
    fn of(model: &'a Model) -> Self {
        let shape = model.shape();
        let (tokenizer, tokenizer_missing) = match model.tokenizer() {
            Ok(tokenizer) => (Some(TokenizerCard::of(tokenizer)), None),
            Err(ModelError::NoTokenizer { why, .. }) => (None, Some(why)),
            Err(other) => (None, Some(other.to_string())),
        };
        let suitable = Precision::ALL.into_iter().filter(|&precision| shape.suits(precision));
        Self {
            name: model.name(),
            parameters: shape.parameters(),
            shape,
            precision: model.precision(),
            weight_bytes: suitable
                .map(|precision| (precision.code(), shape.weight_bytes(precision)))
                .collect(),
            kv_bytes_per_token: KvBytes {
                f32: shape.kv_bytes_per_token(4),
                f16: shape.kv_bytes_per_token(2),
            },
            tokenizer,
            tokenizer_missing,
            begin_token: model.markers().begin,
            end_tokens: &model.markers().end,
            sha256: &model.fingerprint().sha256,
            sha256_of: model.fingerprint().of,
        }
    }

    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let shape = self.shape;
        let mut line = |label: &str, text: String| writeln!(out, "{label:<12}{text}");
        line("model", format!("{} · {}", self.name, shape.family.code()))?;
        line("parameters", si_count(self.parameters as f64))?;
        line(
            "shape",
            format!("{} layers · hidden {} · ffn {}", shape.layers, shape.hidden, shape.ffn),
        )?;
        line("attention", attention(shape))?;
        line("context", format!("{} tokens · {}", grouped(shape.context.into()), rope(shape)))?;
        let tied = if shape.tied_embeddings { "head tied to it" } else { "head of its own" };
        line("vocabulary", format!("{} tokens · {tied}", grouped(shape.vocab.into())))?;
        line("stored in", self.precision.code().to_owned())?;
        let weights = Precision::ALL.iter().filter_map(|precision| {
            let bytes = self.weight_bytes.get(precision.code())?;
            Some(format!("{} {}", precision.code(), si_bytes(Bytes(*bytes))))
        });
        line("weights", weights.collect::<Vec<_>>().join(" · "))?;
        let KvBytes { f32, f16 } = self.kv_bytes_per_token;
        line(
            "kv cache",
            format!("f32 {} · f16 {} a token", si_bytes(Bytes(f32)), si_bytes(Bytes(f16))),
        )?;
        line("tokenizer", self.tokenizer_text())?;
        let of = match self.sha256_of {
            FingerprintOf::Recipe => "shape and seed",
            FingerprintOf::Files => "the weights",
            FingerprintOf::Samples => "header, size and samples of the weights",
        };
        line("sha256", format!("{} of {of}", self.sha256))
    }

    fn tokenizer_text(&self) -> String {
        let mut text = match (&self.tokenizer, &self.tokenizer_missing) {
            (Some(tokenizer), _) => format!("{} tokens", grouped(tokenizer.tokens as i128)),
            (None, Some(why)) => format!("none: {why}"),
            (None, None) => "none".to_owned(),
        };
        if let Some(begin) = self.begin_token {
            text += &format!(" · begin {begin}");
        }
        if !self.end_tokens.is_empty() {
            let end: Vec<_> = self.end_tokens.iter().map(u32::to_string).collect();
            text += &format!(" · end {}", end.join(", "));
        }
        text
    }
}

fn attention(shape: &Shape) -> String {
    let mut text = format!(
        "{} query heads · {} key and value heads · head_dim {}",
        shape.heads, shape.kv_heads, shape.head_dim
    );
    if shape.qkv_bias {
        text += " · biases";
    }
    if shape.qk_norm {
        text += " · query and key norms";
    }
    if let Some(window) = shape.sliding_window {
        text += &format!(" · window of {}", grouped(window.into()));
    }
    text
}

fn rope(shape: &Shape) -> String {
    let theta = shape.rope.theta;
    match shape.rope.scaling {
        None => format!("rope theta {theta}"),
        Some(RopeScaling::Linear { factor }) => format!("rope theta {theta}, linear × {factor}"),
        Some(RopeScaling::Llama3 { factor, original_context, .. }) => {
            let original = grouped(original_context.into());
            format!("rope theta {theta}, llama3 × {factor} from {original}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(model: &str, json: bool) -> String {
        let action = ModelAction::Show(ShowArgs { model: model.to_owned(), json });
        let mut out = Vec::new();
        run(&ModelArgs { action }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_shape_is_shown_on_one_screen() {
        let expected = "\
model       shape:llama-3.2-1b · llama
parameters  1.24 G
shape       16 layers · hidden 2048 · ffn 8192
attention   32 query heads · 8 key and value heads · head_dim 64
context     131\u{202f}072 tokens · rope theta 500000, llama3 × 32 from 8\u{202f}192
vocabulary  128\u{202f}256 tokens · head tied to it
stored in   bf16
weights     f32 4.94 GB · bf16 2.47 GB · f16 2.47 GB · q8_0 1.31 GB · q4_0 695 MB
kv cache    f32 65.5 kB · f16 32.8 kB a token
tokenizer   none: random weights have none; name a Hugging Face folder or a GGUF file
sha256      ";
        let text = shown("shape:llama-3.2-1b", false);
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with(" of shape and seed\n"), "{text}");
    }

    #[test]
    fn json_holds_the_exact_figures() {
        let text = shown("shape:qwen2.5-0.5b", true);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["parameters"], 494_032_768);
        assert_eq!(value["weight_bytes"]["f32"], 4 * 494_032_768_u64);
        assert_eq!(value["kv_bytes_per_token"]["f16"], 12_288);
        assert_eq!(value["shape"]["family"], "qwen2");
        assert_eq!(value["precision"], "bf16");
        assert_eq!(value["tokenizer"], serde_json::Value::Null);
    }

    #[test]
    fn a_wrong_name_gets_a_hint() {
        let action = ModelAction::Show(ShowArgs { model: "shape:none".into(), json: false });
        let error = run(&ModelArgs { action }, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().starts_with("find model shape: expected one of stories15m, "));
        assert!(error.hint().unwrap().contains("shape:tinyllama-1.1b"));
    }
}
