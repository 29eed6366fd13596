//! What a GGUF file's metadata and tensors say about the model: shape, names, order of rows.

use std::collections::HashMap;
use std::path::Path;

use super::{Container, TensorInfo, Value, parse};
use crate::model::block::decode_row;
use crate::model::error::ModelError;
use crate::model::open::Parts;
use crate::model::shape::{Family, LayerTensor, Precision, Rope, RopeScaling, Shape, TensorId};
use crate::model::tensor::RowOrder;
use crate::model::tokenizer::{MarkerTokens, TokenizerSource};
use crate::model::weights::{Entry, FileBytes, Naming, Weights};

/// The architectures that run, as a message names them.
const SUPPORTED: &str = "llama (with mistral), qwen2 or qwen3";

/// Divisors of the rotary frequencies, one per pair: how Llama 3.1's scaling is stored.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Settings of other members of llama.cpp's zoo that change the mathematics, by the end of their
/// key, with the value that changes nothing.
const NEUTRAL: [(&str, f64); 9] = [
    ("expert_count", 0.0),
    ("attention.scale", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("logit_scale", 1.0),
    ("embedding_scale", 1.0),
    ("residual_scale", 1.0),
    ("rope.scaling.attn_factor", 1.0),
];

/// Opens the file at `path`.
pub(in crate::model) fn open(path: &Path) -> Result<Parts, ModelError> {
    let beside = path.with_file_name("tokenizer.json");
    let beside = beside.exists().then_some(beside);
    let mut content = open_bytes(FileBytes::map(path)?)?;
    content.tokenizer = TokenizerSource::Vocabulary { beside };
    Ok(content)
}

/// Opens a file that is mapped or in memory.
pub(in crate::model) fn open_bytes(file: FileBytes) -> Result<Parts, ModelError> {
    let path = file.path.clone();
    let container =
        parse(file.bytes()).map_err(|what| ModelError::Malformed { path: path.clone(), what })?;
    let reader = Reader { path: &path, container: &container, file: file.bytes() };
    let (shape, naming) = reader.shape()?;
    let markers = reader.markers();
    let chat_template = reader.string("tokenizer.chat_template")?.map(str::to_owned);
    let entries = container.tensors.iter().map(|(name, info)| (name.to_string(), entry(info)));
    let entries: HashMap<_, _> = entries.collect();
    let weights = Weights::new(&path, &shape, vec![file], entries, &naming)?;
    let tokenizer = TokenizerSource::Vocabulary { beside: None };
    Ok(Parts { shape, weights, markers, tokenizer, chat_template })
}

fn entry(info: &TensorInfo) -> Entry {
    Entry {
        file: 0,
        range: info.range.clone(),
        dimensions: info.dimensions.iter().rev().copied().collect(),
        precision: info.precision.clone(),
    }
}

/// A container with the path it came from.
struct Reader<'a> {
    path: &'a Path,
    container: &'a Container<'a>,
    file: &'a [u8],
}

impl<'a> Reader<'a> {
    fn malformed(&self, what: String) -> ModelError {
        ModelError::Malformed { path: self.path.to_owned(), what }
    }

    fn unsupported(&self, field: String, found: String, supported: &str) -> ModelError {
        let supported = supported.to_owned();
        ModelError::Unsupported { path: self.path.to_owned(), field, found, supported }
    }

    fn value(&self, key: &str) -> Option<Value<'a>> {
        self.container.metadata.get(key).copied()
    }

    fn string(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => {
                Err(self.malformed(format!("metadata {key}: expected a string, found {other}")))
            }
        }
    }

    fn u32(&self, key: &str) -> Result<Option<u32>, ModelError> {
        let number = match self.value(key) {
            None => return Ok(None),
            Some(Value::Unsigned(number)) => u32::try_from(number).ok(),
            Some(Value::Signed(number)) => u32::try_from(number).ok(),
            Some(_) => None,
        };
        number.map(Some).ok_or_else(|| self.wrong(key, "a whole number below 2³²"))
    }

    fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Float(number)) => Ok(Some(number)),
            Some(Value::Unsigned(number)) => Ok(Some(number as f64)),
            Some(Value::Signed(number)) => Ok(Some(number as f64)),
            Some(_) => Err(self.wrong(key, "a number")),
        }
    }

    fn wrong(&self, key: &str, expected: &str) -> ModelError {
        let found = self.value(key).map_or_else(|| "nothing".to_owned(), |value| value.to_string());
        self.malformed(format!("metadata {key}: expected {expected}, found {found}"))
    }

    fn needed(&self, key: &str) -> Result<u32, ModelError> {
        self.u32(key)?.ok_or_else(|| self.wrong(key, "a whole number below 2³²"))
    }

    fn family(&self) -> Result<(&'a str, Family), ModelError> {
        let found = self.string("general.architecture")?.unwrap_or("no general.architecture");
        let family = match found {
            "llama" => Family::Llama,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            other => {
                return Err(ModelError::UnknownArchitecture {
                    path: self.path.to_owned(),
                    found: other.to_owned(),
                    supported: SUPPORTED,
                });
            }
        };
        Ok((found, family))
    }

    fn shape(&self) -> Result<(Shape, Names), ModelError> {
        let (arch, family) = self.family()?;
        let key = |end: &str| format!("{arch}.{end}");
        self.refuse_other_mathematics(arch)?;
        let hidden = self.needed(&key("embedding_length"))?;
        let heads = self.needed(&key("attention.head_count"))?;
        let head_dim = match self.u32(&key("attention.key_length"))? {
            Some(length) => length,
            None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(
                    self.wrong(&key("attention.head_count"), &format!("a divisor of {hidden}"))
                );
            }
        };
        for end in ["attention.value_length", "rope.dimension_count"] {
            if self.u32(&key(end))?.is_some_and(|length| length != head_dim) {
                return Err(self.wrong(&key(end), &format!("the {head_dim} of a head")));
            }
        }
        let norm_eps = self.float(&key("attention.layer_norm_rms_epsilon"))?;
        let norm_eps = norm_eps
            .ok_or_else(|| self.wrong(&key("attention.layer_norm_rms_epsilon"), "a number"))?;
        let shape = Shape {
            family,
            layers: self.needed(&key("block_count"))?,
            hidden,
            ffn: self.needed(&key("feed_forward_length"))?,
            heads,
            kv_heads: self.u32(&key("attention.head_count_kv"))?.unwrap_or(heads),
            head_dim,
            vocab: self.vocab()?,
            context: self.needed(&key("context_length"))?,
            rope: self.rope(arch, head_dim)?,
            norm_eps: norm_eps as f32,
            qkv_bias: family == Family::Qwen2,
            qk_norm: family == Family::Qwen3,
            tied_embeddings: !self.container.tensors.contains_key("output.weight"),
            sliding_window: self
                .u32(&key("attention.sliding_window"))?
                .filter(|&window| window > 0),
        };
        shape.validate().map_err(|what| self.malformed(what))?;
        let naming = Names { head_dim: head_dim as usize, interleaved: family == Family::Llama };
        Ok((shape, naming))
    }

    /// The rows of the embedding; some files name no size of the vocabulary.
    fn vocab(&self) -> Result<u32, ModelError> {
        let name = "token_embd.weight";
        let Some(embedding) = self.container.tensors.get(name) else {
            let (path, tensor) = (self.path.to_owned(), name.to_owned());
            return Err(ModelError::MissingTensor { path, tensor });
        };
        let rows = embedding.dimensions.get(1).and_then(|&rows| u32::try_from(rows).ok());
        rows.ok_or_else(|| {
            let found = &embedding.dimensions;
            self.malformed(format!("tensor {name}: expected two dimensions, found {found:?}"))
        })
    }

    fn refuse_other_mathematics(&self, arch: &str) -> Result<(), ModelError> {
        for (end, neutral) in NEUTRAL {
            let key = format!("{arch}.{end}");
            if let Some(value) = self.float(&key)?.filter(|&value| value != neutral) {
                return Err(self.unsupported(
                    key,
                    value.to_string(),
                    &format!("{neutral} or none"),
                ));
            }
        }
        if let Some(parts) = self.u32("split.count")?.filter(|&parts| parts > 1) {
            let supported = "1: the parts merged into one file (gguf-split --merge)";
            return Err(self.unsupported("split.count".to_owned(), parts.to_string(), supported));
        }
        Ok(())
    }

    fn rope(&self, arch: &str, head_dim: u32) -> Result<Rope, ModelError> {
        let key = |end: &str| format!("{arch}.rope.{end}");
        let theta = self.float(&key("freq_base"))?.unwrap_or(10_000.0) as f32;
        let factor = match self.float(&key("scaling.factor"))? {
            Some(factor) => Some(factor),
            None => self.float(&key("scale_linear"))?,
        };
        let factor = factor.filter(|&factor| factor != 0.0 && factor != 1.0);
        // llama.cpp takes a factor without a type for linear.
        let linear = match self.string(&key("scaling.type"))? {
            Some("none") => None,
            None | Some("linear") => {
                factor.map(|factor| RopeScaling::Linear { factor: factor as f32 })
            }
            Some(other) => {
                let supported = "none or linear";
                return Err(self.unsupported(key("scaling.type"), other.to_owned(), supported));
            }
        };
        let scaling = match (linear, self.rope_factors(head_dim)?) {
            (linear, None) => linear,
            (None, Some(factors)) => {
                llama3_scaling(theta, &factors).map_err(|what| self.malformed(what))?
            }
            (Some(_), Some(_)) => {
                let both = format!("{ROPE_FACTORS} together with linear");
                return Err(self.unsupported(key("scaling.type"), both, "one of them"));
            }
        };
        Ok(Rope { theta, scaling })
    }

    /// The divisors of the frequencies, if the file has some.
    fn rope_factors(&self, head_dim: u32) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(info) = self.container.tensors.get(ROPE_FACTORS) else { return Ok(None) };
        let (path, tensor) = (self.path.to_owned(), ROPE_FACTORS.to_owned());
        let expected = vec![u64::from(head_dim / 2)];
        if info.dimensions != expected {
            let found = info.dimensions.clone();
            return Err(ModelError::TensorDimensions { path, tensor, expected, found });
        }
        if info.precision != Ok(Precision::F32) {
            let found = info.precision.as_ref().map_or_else(Clone::clone, |p| p.code().to_owned());
            return Err(ModelError::TensorType { path, tensor, found, supported: "F32" });
        }
        let mut factors = vec![0.0; head_dim as usize / 2];
        decode_row(Precision::F32, &self.file[info.range.clone()], &mut factors);
        Ok(Some(factors))
    }

    fn markers(&self) -> MarkerTokens {
        let id = |key: &str| self.u32(&format!("tokenizer.ggml.{key}_token_id")).ok().flatten();
        let mut end: Vec<u32> = ["eos", "eot", "eom"].into_iter().filter_map(id).collect();
        end.dedup();
        MarkerTokens { begin: id("bos"), end }
    }
}

/// The scaling whose divisors these are. The file keeps only the divisors, one per frequency;
/// all models of Llama 3 share the ramp from 1 to 4 of the original context, so that context
/// follows from any divisor on the ramp. What does not come out the same is refused.
fn llama3_scaling(theta: f32, divisors: &[f32]) -> Result<Option<RopeScaling>, String> {
    let factor = divisors.iter().copied().fold(1.0, f32::max);
    if factor == 1.0 && divisors.iter().all(|&divisor| divisor == 1.0) {
        return Ok(None);
    }
    let (low, high) = (1.0_f32, 4.0_f32);
    let ramp = |index: usize, context: f64| {
        let smooth = (context / wavelength(theta, index, divisors.len()) - f64::from(low))
            / f64::from(high - low);
        let smooth = smooth.clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / f64::from(factor) + smooth)
    };
    let on_ramp = divisors.iter().enumerate().find(|&(_, &divisor)| {
        divisor > 1.0 + 1e-4 && f64::from(divisor) < f64::from(factor) * (1.0 - 1e-4)
    });
    let context = on_ramp.map_or(8192.0, |(index, &divisor)| {
        let smooth =
            (1.0 / f64::from(divisor) - 1.0 / f64::from(factor)) / (1.0 - 1.0 / f64::from(factor));
        let context = f64::from(low) + smooth * f64::from(high - low);
        (context * wavelength(theta, index, divisors.len())).round()
    });
    for (index, &divisor) in divisors.iter().enumerate() {
        let expected = ramp(index, context);
        let error = (f64::from(divisor) - expected).abs() / expected;
        if error.is_nan() || error > 1e-3 {
            return Err(format!(
                "tensor {ROPE_FACTORS}: expected {expected:.6} at {index}, as Llama 3 scales with \
                 factor {factor} and context {context}, found {divisor}"
            ));
        }
    }
    if !(1.0..=f64::from(u32::MAX)).contains(&context) {
        return Err(format!("tensor {ROPE_FACTORS}: expected a context, found {context}"));
    }
    let original_context = context as u32;
    Ok(Some(RopeScaling::Llama3 { factor, low, high, original_context }))
}

/// Positions in which pair `index` of `pairs` turns once.
fn wavelength(theta: f32, index: usize, pairs: usize) -> f64 {
    std::f64::consts::TAU * f64::from(theta).powf(index as f64 / pairs as f64)
}

/// The names of llama.cpp.
struct Names {
    head_dim: usize,
    /// Architecture `llama` keeps rotated pairs next to each other.
    interleaved: bool,
}

impl Naming for Names {
    const TYPES: &'static str = "F32, F16, BF16, Q8_0 or Q4_0";

    fn name(&self, id: TensorId) -> String {
        let (layer, tensor) = match id {
            TensorId::Embedding => return "token_embd.weight".to_owned(),
            TensorId::FinalNorm => return "output_norm.weight".to_owned(),
            TensorId::Head => return "output.weight".to_owned(),
            TensorId::Layer(layer, tensor) => (layer, tensor),
        };
        let tensor = match tensor {
            LayerTensor::AttentionNorm => "attn_norm.weight",
            LayerTensor::Query => "attn_q.weight",
            LayerTensor::Key => "attn_k.weight",
            LayerTensor::Value => "attn_v.weight",
            LayerTensor::QueryBias => "attn_q.bias",
            LayerTensor::KeyBias => "attn_k.bias",
            LayerTensor::ValueBias => "attn_v.bias",
            LayerTensor::QueryNorm => "attn_q_norm.weight",
            LayerTensor::KeyNorm => "attn_k_norm.weight",
            LayerTensor::Output => "attn_output.weight",
            LayerTensor::FfnNorm => "ffn_norm.weight",
            LayerTensor::Gate => "ffn_gate.weight",
            LayerTensor::Up => "ffn_up.weight",
            LayerTensor::Down => "ffn_down.weight",
        };
        format!("blk.{layer}.{tensor}")
    }

    fn order(&self, id: TensorId) -> RowOrder {
        match id {
            TensorId::Layer(_, LayerTensor::Query | LayerTensor::Key) if self.interleaved => {
                RowOrder::Interleaved { head_dim: self.head_dim }
            }
            _ => RowOrder::Straight,
        }
    }

    fn may_be_ignored(&self, name: &str) -> bool {
        name == ROPE_FACTORS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divisors(theta: f32, pairs: usize, factor: f64, context: f64) -> Vec<f32> {
        let (low, high) = (1.0, 4.0);
        (0..pairs)
            .map(|index| {
                let wavelength = wavelength(theta, index, pairs);
                let divisor = if wavelength < context / high {
                    1.0
                } else if wavelength > context / low {
                    factor
                } else {
                    let smooth = (context / wavelength - low) / (high - low);
                    1.0 / ((1.0 - smooth) / factor + smooth)
                };
                divisor as f32
            })
            .collect()
    }

    #[test]
    fn the_scaling_follows_from_its_divisors() {
        for (pairs, factor, context) in [(64, 8.0, 8192), (32, 32.0, 8192), (8, 8.0, 32)] {
            let theta = if pairs == 8 { 10_000.0 } else { 500_000.0 };
            let divisors = divisors(theta, pairs, factor, f64::from(context));
            let expected = RopeScaling::Llama3 {
                factor: factor as f32,
                low: 1.0,
                high: 4.0,
                original_context: context,
            };
            assert_eq!(llama3_scaling(theta, &divisors), Ok(Some(expected)));
        }
        assert_eq!(llama3_scaling(10_000.0, &[1.0; 8]), Ok(None));
    }

    #[test]
    fn other_divisors_are_refused() {
        let mut odd = divisors(500_000.0, 64, 8.0, 8192.0);
        odd[3] = 1.5;
        for bad in [odd, vec![0.5; 8], vec![f32::NAN; 8], vec![f32::INFINITY; 8], vec![2.0, 1.0]] {
            let error = llama3_scaling(500_000.0, &bad).unwrap_err();
            assert!(error.starts_with("tensor rope_freqs.weight: expected "), "{error}");
        }
    }
}
