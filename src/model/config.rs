//! `config.json` of a Hugging Face checkpoint to a shape.
//!
//! Where a field is absent, transformers' own default for the family holds. A field that would
//! change the mathematics in a way the engine does not do is refused, never ignored.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::error::ModelError;
use super::shape::{Family, Rope, RopeScaling, Shape};

/// The architectures that run, as a message names them.
const SUPPORTED: &str = "llama, mistral, qwen2 or qwen3";

/// The fields of `config.json` that matter.
#[derive(Debug, Deserialize)]
struct Config {
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    /// Absent and null differ: Qwen 3 has a default.
    #[serde(default, deserialize_with = "present")]
    head_dim: Option<Option<u32>>,
    vocab_size: u32,
    max_position_embeddings: u32,
    rms_norm_eps: Option<f32>,
    rope_theta: Option<f32>,
    rope_scaling: Option<RopeFields>,
    rope_parameters: Option<RopeFields>,
    partial_rotary_factor: Option<f32>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    hidden_act: Option<String>,
    /// Absent and null differ: Mistral has a default.
    #[serde(default, deserialize_with = "present")]
    sliding_window: Option<Option<u32>>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<u32>,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<Value>,
}

/// `rope_parameters`, or `rope_scaling` in its two older spellings.
#[derive(Debug, Deserialize)]
struct RopeFields {
    rope_type: Option<String>,
    /// How `rope_type` was once called.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<u32>,
    partial_rotary_factor: Option<f32>,
}

/// Keeps apart a field that is null and one that is absent.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Option<u32>>, D::Error> {
    Option::<u32>::deserialize(from).map(Some)
}

/// The shape that the text of a `config.json` describes. `path` is for messages.
pub(super) fn shape(path: &Path, text: &[u8]) -> Result<Shape, ModelError> {
    let malformed = |what| ModelError::Malformed { path: path.to_owned(), what };
    let config: Config =
        serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
    let reader = Reader { path, config: &config };
    let family = reader.family()?;
    reader.refuse_other_mathematics(family)?;
    let shape = Shape {
        family,
        layers: config.num_hidden_layers,
        hidden: config.hidden_size,
        ffn: config.intermediate_size,
        heads: config.num_attention_heads,
        kv_heads: reader.kv_heads(family)?,
        head_dim: reader.head_dim(family)?,
        vocab: config.vocab_size,
        context: config.max_position_embeddings,
        rope: reader.rope()?,
        norm_eps: config.rms_norm_eps.unwrap_or(1e-6),
        qkv_bias: family == Family::Qwen2,
        qk_norm: family == Family::Qwen3,
        tied_embeddings: config.tie_word_embeddings.unwrap_or(false),
        sliding_window: reader.sliding_window(family)?,
    };
    shape.validate().map_err(malformed)?;
    Ok(shape)
}

/// A parsed config with the path it came from.
struct Reader<'a> {
    path: &'a Path,
    config: &'a Config,
}

impl Reader<'_> {
    fn unsupported(
        &self,
        field: &str,
        found: impl std::fmt::Display,
        supported: &str,
    ) -> ModelError {
        ModelError::Unsupported {
            path: self.path.to_owned(),
            field: field.to_owned(),
            found: found.to_string(),
            supported: supported.to_owned(),
        }
    }

    fn malformed(&self, what: String) -> ModelError {
        ModelError::Malformed { path: self.path.to_owned(), what }
    }

    /// `architectures` decides, `model_type` where it is absent.
    fn family(&self) -> Result<Family, ModelError> {
        let architecture = self.config.architectures.as_ref().and_then(|names| names.first());
        let found = architecture.or(self.config.model_type.as_ref());
        match found.map(String::as_str) {
            Some("LlamaForCausalLM" | "llama") => Ok(Family::Llama),
            Some("MistralForCausalLM" | "mistral") => Ok(Family::Mistral),
            Some("Qwen2ForCausalLM" | "qwen2") => Ok(Family::Qwen2),
            Some("Qwen3ForCausalLM" | "qwen3") => Ok(Family::Qwen3),
            other => Err(ModelError::UnknownArchitecture {
                path: self.path.to_owned(),
                found: other.unwrap_or("neither architectures nor model_type").to_owned(),
                supported: SUPPORTED,
            }),
        }
    }

    fn refuse_other_mathematics(&self, family: Family) -> Result<(), ModelError> {
        let config = self.config;
        if let Some(act) =
            config.hidden_act.as_deref().filter(|act| !matches!(*act, "silu" | "swish"))
        {
            return Err(self.unsupported("hidden_act", act, "silu"));
        }
        // Qwen 2 has biases on query, key and value whatever the field says, and none elsewhere.
        if config.attention_bias == Some(true) && family != Family::Qwen2 {
            return Err(self.unsupported("attention_bias", true, "false"));
        }
        if config.mlp_bias == Some(true) {
            return Err(self.unsupported("mlp_bias", true, "false"));
        }
        let rope = config.rope_parameters.as_ref().or(config.rope_scaling.as_ref());
        let nested = rope.and_then(|rope| rope.partial_rotary_factor);
        if let Some(factor) =
            nested.or(config.partial_rotary_factor).filter(|&factor| factor != 1.0)
        {
            return Err(self.unsupported("partial_rotary_factor", factor, "1"));
        }
        if let Some(quantization) = config.quantization_config.as_ref() {
            let method = quantization.get("quant_method").and_then(Value::as_str);
            let found = method.unwrap_or("a quantization");
            return Err(self.unsupported(
                "quantization_config",
                found,
                "none (plain f32, f16 or bf16 weights)",
            ));
        }
        Ok(())
    }

    fn kv_heads(&self, family: Family) -> Result<u32, ModelError> {
        match (self.config.num_key_value_heads, family) {
            (Some(heads), _) => Ok(heads),
            (None, Family::Llama) => Ok(self.config.num_attention_heads),
            (None, _) => Err(self.malformed("missing field `num_key_value_heads`".to_owned())),
        }
    }

    fn head_dim(&self, family: Family) -> Result<u32, ModelError> {
        let (hidden, heads) = (self.config.hidden_size, self.config.num_attention_heads);
        match (self.config.head_dim, family) {
            (Some(Some(head_dim)), _) => Ok(head_dim),
            (None, Family::Qwen3) => Ok(128),
            _ if heads > 0 && hidden.is_multiple_of(heads) => Ok(hidden / heads),
            _ => Err(self.malformed(format!(
                "num_attention_heads: expected a divisor of hidden_size {hidden}, found {heads}"
            ))),
        }
    }

    fn rope(&self) -> Result<Rope, ModelError> {
        let config = self.config;
        let fields = config.rope_parameters.as_ref().or(config.rope_scaling.as_ref());
        let theta = fields.and_then(|fields| fields.rope_theta).or(config.rope_theta);
        let scaling = fields.map(|fields| self.rope_scaling(fields)).transpose()?.flatten();
        Ok(Rope { theta: theta.unwrap_or(10_000.0), scaling })
    }

    fn rope_scaling(&self, fields: &RopeFields) -> Result<Option<RopeScaling>, ModelError> {
        let field =
            if self.config.rope_parameters.is_some() { "rope_parameters" } else { "rope_scaling" };
        let need = |value: Option<f32>, name: &str| {
            value.ok_or_else(|| self.malformed(format!("{field}: missing field `{name}`")))
        };
        let kind = fields.rope_type.as_ref().or(fields.old_type.as_ref());
        match kind.map(String::as_str) {
            None if fields.factor.is_none() => Ok(None),
            Some("default") => Ok(None),
            Some("linear") => {
                Ok(Some(RopeScaling::Linear { factor: need(fields.factor, "factor")? }))
            }
            Some("llama3") => Ok(Some(RopeScaling::Llama3 {
                factor: need(fields.factor, "factor")?,
                low: need(fields.low_freq_factor, "low_freq_factor")?,
                high: need(fields.high_freq_factor, "high_freq_factor")?,
                original_context: fields
                    .original_max_position_embeddings
                    .unwrap_or(self.config.max_position_embeddings),
            })),
            other => Err(self.unsupported(
                &format!("{field}.rope_type"),
                other.unwrap_or("a factor without a type"),
                "default, linear or llama3",
            )),
        }
    }

    /// The window of every layer. Some layers with and some without is refused.
    fn sliding_window(&self, family: Family) -> Result<Option<u32>, ModelError> {
        let config = self.config;
        match family {
            Family::Llama => Ok(None),
            Family::Mistral => Ok(config.sliding_window.unwrap_or(Some(4096))),
            Family::Qwen2 | Family::Qwen3 => {
                let window = config.sliding_window.unwrap_or(Some(4096));
                let Some(window) = window.filter(|_| config.use_sliding_window == Some(true))
                else {
                    return Ok(None);
                };
                let windowed = self.windowed_layers();
                match windowed {
                    0 => Ok(None),
                    all if all == config.num_hidden_layers as usize => Ok(Some(window)),
                    some => Err(self.unsupported(
                        "layers with a sliding window",
                        some,
                        &format!("none or all {}", config.num_hidden_layers),
                    )),
                }
            }
        }
    }

    /// How many layers of a Qwen model have the window, where it is switched on.
    fn windowed_layers(&self) -> usize {
        let layers = self.config.num_hidden_layers;
        if let Some(types) = &self.config.layer_types {
            return types.iter().filter(|kind| *kind == "sliding_attention").count();
        }
        // transformers' default: the first 28 layers see everything.
        layers.saturating_sub(self.config.max_window_layers.unwrap_or(28)) as usize
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The shape of a small config with some fields changed; a field set to `"absent"` is taken
    /// out.
    fn shape_with(changes: &Value) -> Result<Shape, ModelError> {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 384, "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        });
        for (field, value) in changes.as_object().unwrap() {
            if value == "absent" {
                config.as_object_mut().unwrap().remove(field);
            } else {
                config[field] = value.clone();
            }
        }
        shape(Path::new("config.json"), config.to_string().as_bytes())
    }

    fn mistral(changes: &Value) -> Result<Shape, ModelError> {
        let mut all = json!({"architectures": ["MistralForCausalLM"]});
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        shape_with(&all)
    }

    fn qwen(number: u8, changes: &Value) -> Result<Shape, ModelError> {
        let mut all = json!({"architectures": [format!("Qwen{number}ForCausalLM")]});
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        shape_with(&all)
    }

    #[test]
    fn plain_fields_are_taken_over() {
        let shape = shape_with(&json!({})).unwrap();
        let expected = Shape {
            family: Family::Llama,
            layers: 2,
            hidden: 64,
            ffn: 96,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            vocab: 384,
            context: 256,
            rope: Rope { theta: 10_000.0, scaling: None },
            norm_eps: 1e-5,
            qkv_bias: false,
            qk_norm: false,
            tied_embeddings: false,
            sliding_window: None,
        };
        assert_eq!(shape, expected);
        let set = json!({"head_dim": 32, "tie_word_embeddings": true, "hidden_act": "swish"});
        let shape = shape_with(&set).unwrap();
        assert_eq!((shape.head_dim, shape.tied_embeddings), (32, true));
    }

    #[test]
    fn absent_fields_have_the_family_s_defaults() {
        let old = json!({
            "num_key_value_heads": null, "rope_theta": "absent", "rms_norm_eps": "absent",
            "hidden_act": "absent", "architectures": "absent",
        });
        let shape = shape_with(&old).unwrap();
        assert_eq!((shape.kv_heads, shape.rope.theta, shape.norm_eps), (4, 10_000.0, 1e-6));
        assert_eq!(mistral(&json!({})).unwrap().sliding_window, Some(4096));
        assert_eq!(qwen(3, &json!({})).unwrap().head_dim, 128);
        assert_eq!(qwen(3, &json!({"head_dim": null})).unwrap().head_dim, 16);
        assert!(qwen(3, &json!({})).unwrap().qk_norm && qwen(2, &json!({})).unwrap().qkv_bias);
    }

    #[test]
    fn rope_is_read_in_all_its_spellings() {
        let llama3 =
            Some(RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 8192 });
        let ramp = |kind: &str| {
            json!({
                kind: "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192, "rope_theta": 500000.0,
            })
        };
        let linear = Some(RopeScaling::Linear { factor: 2.0 });
        let table = [
            (json!({"rope_scaling": null}), None, 10_000.0),
            (json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), linear, 10_000.0),
            (json!({"rope_scaling": {"rope_type": "linear", "factor": 2}}), linear, 10_000.0),
            (json!({"rope_scaling": ramp("rope_type")}), llama3, 500_000.0),
            (json!({"rope_parameters": ramp("rope_type")}), llama3, 500_000.0),
            (json!({"rope_parameters": ramp("type")}), llama3, 500_000.0),
            (json!({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}), None, 7.0),
            (json!({"rope_parameters": {"rope_theta": 7.0}}), None, 7.0),
        ];
        for (changes, scaling, theta) in table {
            let rope = shape_with(&changes).unwrap().rope;
            assert_eq!(rope, Rope { theta, scaling }, "{changes}");
        }
    }

    #[test]
    fn windows_hold_for_all_layers_or_none() {
        assert_eq!(mistral(&json!({"sliding_window": null})).unwrap().sliding_window, None);
        assert_eq!(mistral(&json!({"sliding_window": 8})).unwrap().sliding_window, Some(8));
        let on = |layers: Value, types: Value| {
            json!({
                "use_sliding_window": true, "sliding_window": 8, "max_window_layers": layers,
                "layer_types": types,
            })
        };
        let (sliding, full) = ("sliding_attention", "full_attention");
        let table = [
            (json!({"sliding_window": 8, "use_sliding_window": false}), None),
            (json!({"sliding_window": 8}), None),
            (on(json!(2), json!(null)), None),
            (on(json!(null), json!(null)), None),
            (on(json!(0), json!(null)), Some(8)),
            (on(json!(2), json!([sliding, sliding])), Some(8)),
            (on(json!(0), json!([full, full])), None),
        ];
        for (changes, window) in table {
            assert_eq!(qwen(2, &changes).unwrap().sliding_window, window, "{changes}");
        }
        let some = qwen(2, &on(json!(1), json!(null))).unwrap_err().to_string();
        assert_eq!(
            some,
            "read model file config.json: layers with a sliding window: expected none or all 2, \
             found 1"
        );
    }

    #[test]
    fn what_would_change_the_mathematics_is_refused() {
        let yarn = json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}});
        let untyped = json!({"rope_scaling": {"factor": 4.0}});
        let gptq = json!({"quantization_config": {"quant_method": "gptq", "bits": 4}});
        let partial = json!({"rope_parameters": {"partial_rotary_factor": 0.5}});
        let table = [
            (json!({"architectures": ["GPT2LMHeadModel"]}), UNKNOWN),
            (
                json!({"architectures": "absent", "model_type": "absent"}),
                "expected an architecture of llama, mistral, qwen2 or qwen3, \
                 found \"neither architectures nor model_type\"",
            ),
            (json!({"hidden_act": "gelu"}), "hidden_act: expected silu, found gelu"),
            (json!({"attention_bias": true}), "attention_bias: expected false, found true"),
            (json!({"mlp_bias": true}), "mlp_bias: expected false, found true"),
            (
                json!({"partial_rotary_factor": 0.25}),
                "partial_rotary_factor: expected 1, found 0.25",
            ),
            (partial, "partial_rotary_factor: expected 1, found 0.5"),
            (yarn, "rope_scaling.rope_type: expected default, linear or llama3, found yarn"),
            (
                untyped,
                "rope_scaling.rope_type: expected default, linear or llama3, \
                 found a factor without a type",
            ),
            (
                gptq,
                "quantization_config: expected none (plain f32, f16 or bf16 weights), found gptq",
            ),
        ];
        for (changes, message) in table {
            let error = shape_with(&changes).unwrap_err().to_string();
            assert_eq!(error, format!("read model file config.json: {message}"), "{changes}");
        }
    }

    const UNKNOWN: &str = "expected an architecture of llama, mistral, qwen2 or qwen3, \
                           found \"GPT2LMHeadModel\"";

    #[test]
    fn fields_that_cannot_be_are_named() {
        let linear = json!({"rope_parameters": {"rope_type": "linear"}});
        let table = [
            (json!({"hidden_size": "absent"}), "missing field `hidden_size` at line 1 column "),
            (json!({"hidden_size": -64}), "invalid value: integer `-64`, expected u32 at line"),
            (json!({"hidden_size": 65}), "num_attention_heads: expected a divisor of hidden_size"),
            (json!({"num_attention_heads": 0}), "num_attention_heads: expected a divisor of hidd"),
            (json!({"num_hidden_layers": 0}), "layers: expected 1 to 16384, found 0"),
            (json!({"num_key_value_heads": 3}), "kv_heads: expected a divisor of 4 heads, found 3"),
            (json!({"rms_norm_eps": 0}), "norm_eps: expected a finite number above 0, found 0"),
            (linear, "rope_parameters: missing field `factor`"),
        ];
        for (changes, message) in table {
            let error = shape_with(&changes).unwrap_err().to_string();
            let expected = format!("read model file config.json: {message}");
            assert!(error.starts_with(&expected), "{changes}: {error}");
        }
        let missing = mistral(&json!({"num_key_value_heads": null})).unwrap_err().to_string();
        assert_eq!(missing, "read model file config.json: missing field `num_key_value_heads`");
        let text = shape(Path::new("config.json"), b"{\n \"hidden_size\": 64,,\n}").unwrap_err();
        assert_eq!(
            text.to_string(),
            "read model file config.json: key must be a string at line 2 column 20"
        );
    }
}
