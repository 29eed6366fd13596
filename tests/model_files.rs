//! Models from files: the reference checkpoints come out as transformers wrote them, and their
//! GGUF twins as the same model.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use gemba::model::{
    Family, FingerprintOf, LayerTensor, MarkerTokens, Model, Precision, RopeScaling, Shape, Tensor,
    TensorId, open,
};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

const FOLDERS: [&str; 7] = [
    "llama-gqa",
    "llama-rope-llama3",
    "llama-rope-linear",
    "llama-tied",
    "mistral-window",
    "qwen2-bias",
    "qwen3-qk-norm",
];

const TWINS: [(&str, Precision); 8] = [
    ("llama-gqa", Precision::F16),
    ("llama-gqa", Precision::Q8_0),
    ("llama-gqa", Precision::Q4_0),
    ("llama-rope-llama3", Precision::Bf16),
    ("llama-rope-linear", Precision::F16),
    ("qwen2-bias", Precision::Q8_0),
    ("qwen3-qk-norm", Precision::Q8_0),
    ("qwen3-qk-norm", Precision::Q4_0),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

fn checkpoint(name: &str) -> Model {
    open(folder(name).to_str().unwrap(), 0).unwrap()
}

fn twin(name: &str, precision: Precision) -> Model {
    let path = folder(name).join(format!("{name}-{}.gguf", precision.code()));
    open(path.to_str().unwrap(), 0).unwrap()
}

/// The values of a safetensors file by name, decoded apart from the code under test.
fn stored(path: &Path) -> HashMap<String, Vec<f32>> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let decode = |dtype, bytes: &[u8]| -> Vec<f32> {
        let pairs = bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
        match dtype {
            Dtype::F32 => bytes
                .chunks_exact(4)
                .map(|word| f32::from_le_bytes(word.try_into().unwrap()))
                .collect(),
            Dtype::BF16 => pairs.map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
            Dtype::F16 => pairs.map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
            other => panic!("{other:?}"),
        }
    };
    let tensors = file.tensors().into_iter();
    tensors.map(|(name, view)| (name, decode(view.dtype(), view.data()))).collect()
}

fn hugging_face_name(id: TensorId) -> String {
    use LayerTensor as L;
    let (layer, tensor) = match id {
        TensorId::Embedding => return "model.embed_tokens.weight".into(),
        TensorId::FinalNorm => return "model.norm.weight".into(),
        TensorId::Head => return "lm_head.weight".into(),
        TensorId::Layer(layer, tensor) => (layer, tensor),
    };
    let tensor = match tensor {
        L::AttentionNorm => "input_layernorm.weight",
        L::FfnNorm => "post_attention_layernorm.weight",
        L::Query => "self_attn.q_proj.weight",
        L::Key => "self_attn.k_proj.weight",
        L::Value => "self_attn.v_proj.weight",
        L::QueryBias => "self_attn.q_proj.bias",
        L::KeyBias => "self_attn.k_proj.bias",
        L::ValueBias => "self_attn.v_proj.bias",
        L::QueryNorm => "self_attn.q_norm.weight",
        L::KeyNorm => "self_attn.k_norm.weight",
        L::Output => "self_attn.o_proj.weight",
        L::Gate => "mlp.gate_proj.weight",
        L::Up => "mlp.up_proj.weight",
        L::Down => "mlp.down_proj.weight",
    };
    format!("model.layers.{layer}.{tensor}")
}

#[test]
fn a_checkpoint_s_tensors_are_those_in_its_file() {
    for name in FOLDERS {
        let (model, stored) = (checkpoint(name), stored(&folder(name).join("model.safetensors")));
        assert_eq!(model.name(), name);
        let ids: Vec<_> = model.shape().tensors().collect();
        assert_eq!(ids.len(), stored.len(), "{name}");
        for id in ids {
            let expected = &stored[&hugging_face_name(id)];
            assert_eq!(&model.tensor(id).unwrap().to_f32(), expected, "{name} {id:?}");
        }
        let head = model.tensor(TensorId::Head).unwrap().to_f32();
        let tied = model.shape().tied_embeddings;
        assert_eq!(tied, name == "llama-tied");
        let expected = if tied { "model.embed_tokens.weight" } else { "lm_head.weight" };
        assert_eq!(head, stored[expected], "{name}");
    }
}

#[test]
fn a_checkpoint_s_shape_is_its_config_s() {
    let shapes: HashMap<_, _> =
        FOLDERS.iter().map(|&name| (name, checkpoint(name).shape().clone())).collect();
    let gqa = &shapes["llama-gqa"];
    assert_eq!((gqa.family, gqa.layers, gqa.hidden, gqa.ffn), (Family::Llama, 3, 64, 96));
    assert_eq!((gqa.heads, gqa.kv_heads, gqa.head_dim), (4, 2, 16));
    assert_eq!((gqa.vocab, gqa.context, gqa.norm_eps), (384, 256, 1e-6));
    assert_eq!((gqa.rope.theta, gqa.rope.scaling), (10_000.0, None));
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 32 };
    assert_eq!(shapes["llama-rope-llama3"].rope.scaling, Some(llama3));
    let linear = RopeScaling::Linear { factor: 4.0 };
    assert_eq!(shapes["llama-rope-linear"].rope.scaling, Some(linear));
    let window = |name| (shapes[name].family, shapes[name].sliding_window);
    assert_eq!(window("mistral-window"), (Family::Mistral, Some(8)));
    assert_eq!(window("qwen2-bias"), (Family::Qwen2, None));
    assert!(shapes["qwen2-bias"].qkv_bias);
    let qwen3 = &shapes["qwen3-qk-norm"];
    assert_eq!((qwen3.family, qwen3.qk_norm, qwen3.qkv_bias), (Family::Qwen3, true, false));
    assert_eq!((qwen3.heads, qwen3.kv_heads, qwen3.head_dim, qwen3.q_width()), (3, 1, 32, 96));
}

/// By how much a weight may differ from the one it was rounded from, in a block whose largest
/// weight is `largest`.
fn rounding(precision: Precision, largest: f32) -> f32 {
    match precision {
        Precision::F32 | Precision::Bf16 => 0.0,
        // Half a unit in the last place, or of the smallest steps there are.
        Precision::F16 => (largest / 2048.0).max(3e-8),
        // Half a step, and the scale's own rounding to f16.
        Precision::Q8_0 => largest / 127.0 * 0.5 + largest / 2000.0,
        // Up to a whole step at the end that the 16 values do not reach.
        Precision::Q4_0 => largest / 8.0 + largest / 2000.0,
    }
}

fn assert_rounded(tensor: &Tensor<'_>, exact: &Tensor<'_>, precision: Precision, what: &str) {
    assert_eq!((tensor.rows(), tensor.columns()), (exact.rows(), exact.columns()), "{what}");
    let (values, exact) = (tensor.to_f32(), exact.to_f32());
    for (block, (values, exact)) in values.chunks(32).zip(exact.chunks(32)).enumerate() {
        let largest = exact.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        for (value, exact) in values.iter().zip(exact) {
            let most = rounding(precision, largest);
            assert!((value - exact).abs() <= most, "{what} block {block}: {value} of {exact}");
        }
    }
}

#[test]
fn a_gguf_twin_is_the_same_model() {
    for (name, precision) in TWINS {
        let (exact, twin) = (checkpoint(name), twin(name, precision));
        assert_eq!(twin.shape(), exact.shape(), "{name}");
        assert_eq!(twin.precision(), precision, "{name}");
        for id in exact.shape().tensors() {
            let what = format!("{name} {precision:?} {id:?}");
            let (tensor, exact) = (twin.tensor(id).unwrap(), exact.tensor(id).unwrap());
            let expected = if id.is_vector() { Precision::F32 } else { precision };
            assert_eq!(tensor.precision(), expected, "{what}");
            assert_rounded(&tensor, &exact, expected, &what);
        }
    }
}

/// Rows in the file's own bytes, read one by one, are the rows that come out as f32.
#[test]
fn stored_rows_are_the_rows() {
    for (name, precision) in TWINS {
        let model = twin(name, precision);
        for id in [TensorId::Layer(1, LayerTensor::Query), TensorId::Layer(0, LayerTensor::Up)] {
            let tensor = model.tensor(id).unwrap();
            let values = tensor.to_f32();
            let interleaved = id == TensorId::Layer(1, LayerTensor::Query)
                && model.shape().family == Family::Llama;
            assert_eq!(tensor.bytes().is_none(), interleaved, "{name} {id:?}");
            for row in 0..tensor.rows() {
                let bytes = tensor.row_bytes(row).unwrap();
                assert_eq!(bytes.len(), tensor.row_len());
                let first = match precision {
                    Precision::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
                    Precision::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
                    Precision::Q8_0 => {
                        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
                            * f32::from(bytes[2].cast_signed())
                    }
                    Precision::Q4_0 => {
                        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
                            * (f32::from(bytes[2] & 15) - 8.0)
                    }
                    Precision::F32 => unreachable!(),
                };
                assert_eq!(first, values[row * tensor.columns()], "{name} {id:?} {row}");
            }
        }
    }
}

#[test]
fn threads_read_the_same_rows() {
    let model = checkpoint("qwen2-bias");
    let ids: Vec<_> = model.shape().tensors().collect();
    let alone: Vec<_> = ids.iter().map(|&id| model.tensor(id).unwrap().to_f32()).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for (&id, alone) in ids.iter().zip(&alone).rev() {
                    assert_eq!(&model.tensor(id).unwrap().to_f32(), alone);
                }
            });
        }
    });
}

#[test]
fn shards_are_one_model() {
    let whole = checkpoint("llama-gqa");
    let folder_of_shards = tempfile::tempdir().unwrap();
    let source = folder("llama-gqa");
    std::fs::copy(source.join("config.json"), folder_of_shards.path().join("config.json")).unwrap();
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut map = serde_json::Map::new();
    for shard in 0..3 {
        let name = format!("model-0000{}-of-00003.safetensors", shard + 1);
        let tensors: Vec<_> = file.tensors().into_iter().skip(shard).step_by(3).collect();
        map.extend(tensors.iter().map(|(tensor, _)| (tensor.clone(), name.clone().into())));
        let bytes = safetensors::serialize(tensors, None).unwrap();
        std::fs::write(folder_of_shards.path().join(name), bytes).unwrap();
    }
    let index = serde_json::json!({"metadata": {"total_size": 0}, "weight_map": map});
    let index_path = folder_of_shards.path().join("model.safetensors.index.json");
    std::fs::write(index_path, index.to_string()).unwrap();
    let model = open(folder_of_shards.path().to_str().unwrap(), 0).unwrap();
    assert_eq!(model.shape(), whole.shape());
    for id in whole.shape().tensors() {
        let (found, expected) = (model.tensor(id).unwrap(), whole.tensor(id).unwrap());
        assert_eq!(found.to_f32(), expected.to_f32(), "{id:?}");
    }
}

#[test]
fn the_fingerprint_is_the_file_s_hash() {
    let found = checkpoint("llama-tied").fingerprint().clone();
    assert_eq!(found.of, FingerprintOf::Files);
    let same = checkpoint("llama-tied").fingerprint().clone();
    assert_eq!(found, same);
    assert_ne!(found, *checkpoint("llama-gqa").fingerprint());
}

/// Texts with their ids by the byte-level tokenizer and by sentencepiece.
fn cases() -> Vec<(String, Vec<u32>, Vec<u32>)> {
    let text = std::fs::read_to_string(folder("tokenizer_cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = |value: &serde_json::Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let cases = cases.as_array().unwrap().iter();
    cases
        .map(|case| {
            let text = case["text"].as_str().unwrap().to_owned();
            (text, ids(&case["byte_level"]), ids(&case["sentencepiece"]))
        })
        .collect()
}

#[test]
fn tokenizers_give_the_ids_of_their_libraries() {
    let json = checkpoint("llama-gqa");
    let byte_level = twin("llama-gqa", Precision::F16);
    let pieces = twin("llama-gqa", Precision::Q8_0);
    let cases = cases();
    assert!(cases.len() >= 8);
    for (text, bytes_ids, pieces_ids) in cases {
        for (model, ids) in [(&json, &bytes_ids), (&byte_level, &bytes_ids), (&pieces, &pieces_ids)]
        {
            let tokenizer = model.tokenizer().unwrap();
            assert_eq!(&tokenizer.encode_plain(&text).unwrap(), ids, "{} {text:?}", model.name());
            assert_eq!(tokenizer.count(&text).unwrap(), ids.len());
            assert_eq!(tokenizer.decode(ids).unwrap(), text, "{}", model.name());
        }
        let begun = [&[1][..], &pieces_ids].concat();
        assert_eq!(pieces.tokenizer().unwrap().encode(&text).unwrap(), begun);
    }
    let tokenizer = byte_level.tokenizer().unwrap();
    assert_eq!(tokenizer.vocab(), 384);
    assert_eq!(tokenizer.id("<|end|>"), Some(2));
    let ids = tokenizer.encode("zero<|end|>").unwrap();
    assert_eq!((ids[0], ids.last()), (1, Some(&2)));
    assert_eq!(tokenizer.decode(&ids).unwrap(), "zero");
}

#[test]
fn markers_come_from_the_files() {
    let markers = |begin, end: &[u32]| MarkerTokens { begin, end: end.to_vec() };
    assert_eq!(*checkpoint("llama-gqa").markers(), markers(Some(1), &[2, 3]));
    assert_eq!(*checkpoint("llama-tied").markers(), markers(Some(1), &[2]));
    assert_eq!(*twin("llama-gqa", Precision::F16).markers(), markers(Some(1), &[2]));
    assert_eq!(*twin("qwen2-bias", Precision::Q8_0).markers(), markers(None, &[]));
}

/// Random models of a published shape and models from files go through the same door.
#[test]
fn a_shape_is_only_a_shape() {
    let expected = |shape: &Shape| 2 * shape.parameters();
    let model = open("shape:stories15m", 3).unwrap();
    let vectors: u64 = model
        .shape()
        .tensors()
        .filter(|id| id.is_vector())
        .filter_map(|id| model.shape().dimensions(id))
        .map(|[_, width]| 2 * u64::from(width))
        .sum();
    let bytes = model.shape().weight_bytes(Precision::Bf16);
    assert_eq!(bytes, expected(model.shape()) + vectors);
}
