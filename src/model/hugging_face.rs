//! A Hugging Face folder: `config.json`, one `model.safetensors` or shards with their index,
//! and the ids of the tokens that begin and end a text.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path};

use serde::Deserialize;
use serde_json::Value;

use super::config;
use super::error::ModelError;
use super::open::Parts;
use super::safetensors;
use super::shape::{LayerTensor, TensorId};
use super::tensor::RowOrder;
use super::tokenizer::{MarkerTokens, TokenizerSource};
use super::weights::{Entry, FileBytes, Naming, Weights};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const TOKENIZER: &str = "tokenizer.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The most bytes that are read of a JSON file; an index of a large model has a few megabytes.
const JSON_MOST: u64 = 256 << 20;

/// Opens a folder.
pub(super) fn open(folder: &Path) -> Result<Parts, ModelError> {
    let config = read(&folder.join("config.json"))?;
    let files = weight_files(folder)?;
    let mut checkpoint = assemble(folder, &config, files)?;
    let optional = |name: &str| {
        let path = folder.join(name);
        if path.exists() { json(&path, &read(&path)?) } else { Ok(Value::Null) }
    };
    let generation = optional("generation_config.json")?;
    let tokens = optional("tokenizer_config.json")?;
    checkpoint.markers = MarkerTokens::from_json(&[&generation, &parsed(&config)], &tokens);
    checkpoint.chat_template = chat_template(folder, &tokens)?;
    let tokenizer = folder.join(TOKENIZER);
    checkpoint.tokenizer = if tokenizer.exists() {
        TokenizerSource::File(tokenizer)
    } else {
        let folder = folder.display();
        TokenizerSource::Missing(format!("no {TOKENIZER} in {folder}; put the model's there"))
    };
    Ok(checkpoint)
}

/// A checkpoint from the text of its `config.json` and its weights. `path` is for messages.
pub(super) fn assemble(
    path: &Path,
    config: &[u8],
    files: Vec<FileBytes>,
) -> Result<Parts, ModelError> {
    let shape = config::shape(&path.join("config.json"), config)?;
    let mut entries: HashMap<String, Entry> = HashMap::new();
    for (index, file) in files.iter().enumerate() {
        let malformed = |what| ModelError::Malformed { path: file.path.clone(), what };
        for (name, entry) in safetensors::entries(file.bytes(), index).map_err(malformed)? {
            if let Some(first) = entries.insert(name.clone(), entry) {
                let first = files[first.file].path.display();
                return Err(malformed(format!(
                    "tensor {name}: {first} holds one of that name too"
                )));
            }
        }
    }
    let naming = Names { tied: shape.tied_embeddings };
    let weights = Weights::new(path, &shape, files, entries, &naming)?;
    let tokenizer = TokenizerSource::Missing(format!("no {TOKENIZER} given"));
    let markers = MarkerTokens::from_json(&[&parsed(config)], &Value::Null);
    Ok(Parts { shape, weights, markers, tokenizer, chat_template: None })
}

/// The template of `chat_template.jinja`, else the one in `tokenizer_config.json`: a text, or a
/// list of named ones of which `default` is meant.
fn chat_template(folder: &Path, tokens: &Value) -> Result<Option<String>, ModelError> {
    let path = folder.join(CHAT_TEMPLATE);
    if path.exists() {
        let found = String::from_utf8(read(&path)?).map_err(|error| error.to_string());
        return found.map(Some).map_err(|what| ModelError::Malformed { path, what });
    }
    let default = |templates: &Vec<Value>| {
        let named = |name: &str| templates.iter().find(|template| template["name"] == name);
        named("default").or_else(|| templates.first()).cloned()
    };
    let found = match &tokens["chat_template"] {
        Value::Array(templates) => default(templates).unwrap_or_default()["template"].clone(),
        one => one.clone(),
    };
    Ok(found.as_str().map(str::to_owned))
}

/// The value of a text that was already parsed for its fields.
fn parsed(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap_or_default()
}

/// The mapped files of a folder, in the order of their names.
fn weight_files(folder: &Path) -> Result<Vec<FileBytes>, ModelError> {
    let index = folder.join(INDEX);
    if !index.exists() {
        return Ok(vec![FileBytes::map(&folder.join(WEIGHTS))?]);
    }
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let malformed = |what| ModelError::Malformed { path: index.clone(), what };
    let text = read(&index)?;
    let map: Index = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
    let names: BTreeSet<&String> = map.weight_map.values().collect();
    names
        .into_iter()
        .map(|name| {
            let mut parts = Path::new(name).components();
            let plain =
                matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
            if !plain {
                return Err(malformed(format!(
                    "weight_map: expected names of files in this folder, found {name:?}"
                )));
            }
            FileBytes::map(&folder.join(name))
        })
        .collect()
}

/// A whole JSON file.
fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > JSON_MOST {
        let what = format!("expected at most {JSON_MOST} bytes, found {length}");
        return Err(ModelError::Malformed { path: path.to_owned(), what });
    }
    std::fs::read(path).map_err(io)
}

fn json(path: &Path, text: &[u8]) -> Result<Value, ModelError> {
    serde_json::from_slice(text)
        .map_err(|error| ModelError::Malformed { path: path.to_owned(), what: error.to_string() })
}

/// The names of transformers' Llama-like models.
struct Names {
    tied: bool,
}

impl Naming for Names {
    const TYPES: &'static str = "F32, F16 or BF16";

    fn name(&self, id: TensorId) -> String {
        let (layer, tensor) = match id {
            TensorId::Embedding => return "model.embed_tokens.weight".to_owned(),
            TensorId::FinalNorm => return "model.norm.weight".to_owned(),
            TensorId::Head => return "lm_head.weight".to_owned(),
            TensorId::Layer(layer, tensor) => (layer, tensor),
        };
        let tensor = match tensor {
            LayerTensor::AttentionNorm => "input_layernorm.weight",
            LayerTensor::Query => "self_attn.q_proj.weight",
            LayerTensor::Key => "self_attn.k_proj.weight",
            LayerTensor::Value => "self_attn.v_proj.weight",
            LayerTensor::QueryBias => "self_attn.q_proj.bias",
            LayerTensor::KeyBias => "self_attn.k_proj.bias",
            LayerTensor::ValueBias => "self_attn.v_proj.bias",
            LayerTensor::QueryNorm => "self_attn.q_norm.weight",
            LayerTensor::KeyNorm => "self_attn.k_norm.weight",
            LayerTensor::Output => "self_attn.o_proj.weight",
            LayerTensor::FfnNorm => "post_attention_layernorm.weight",
            LayerTensor::Gate => "mlp.gate_proj.weight",
            LayerTensor::Up => "mlp.up_proj.weight",
            LayerTensor::Down => "mlp.down_proj.weight",
        };
        format!("model.layers.{layer}.{tensor}")
    }

    fn order(&self, _: TensorId) -> RowOrder {
        RowOrder::Straight
    }

    /// Old checkpoints keep the rotary frequencies, which follow from the config; some keep a
    /// tied head, which transformers ignores too.
    fn may_be_ignored(&self, name: &str) -> bool {
        name.ends_with(".self_attn.rotary_emb.inv_freq") || (self.tied && name == "lm_head.weight")
    }
}
