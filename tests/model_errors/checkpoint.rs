//! Hugging Face folders.

use std::path::PathBuf;

use gemba::model::{Model, open};
use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::mutation::{changes, mutate, read_all, vectors};

/// A Hugging Face folder in pieces.
struct Folder {
    at: tempfile::TempDir,
    config: Value,
    tensors: Vec<(String, Dtype, Vec<usize>)>,
}

impl Folder {
    /// The same model as the good GGUF file.
    fn llama() -> Self {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": 4, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5,
        });
        let tensors = [
            ("model.embed_tokens.weight", &[4, 32][..]),
            ("model.norm.weight", &[32]),
            ("lm_head.weight", &[4, 32]),
            ("model.layers.0.input_layernorm.weight", &[32]),
            ("model.layers.0.self_attn.q_proj.weight", &[32, 32]),
            ("model.layers.0.self_attn.k_proj.weight", &[16, 32]),
            ("model.layers.0.self_attn.v_proj.weight", &[16, 32]),
            ("model.layers.0.self_attn.o_proj.weight", &[32, 32]),
            ("model.layers.0.post_attention_layernorm.weight", &[32]),
            ("model.layers.0.mlp.gate_proj.weight", &[64, 32]),
            ("model.layers.0.mlp.up_proj.weight", &[64, 32]),
            ("model.layers.0.mlp.down_proj.weight", &[32, 64]),
        ];
        let tensors =
            tensors.map(|(name, dimensions)| (name.to_owned(), Dtype::F32, dimensions.to_vec()));
        Self { at: tempfile::tempdir().unwrap(), config, tensors: tensors.to_vec() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.path().join(name)
    }

    fn weights(&self) -> Vec<u8> {
        let size = |dtype: Dtype, dimensions: &[usize]| {
            dimensions.iter().product::<usize>() * dtype.bitsize() / 8
        };
        let bytes: Vec<_> = self
            .tensors
            .iter()
            .map(|(_, dtype, dimensions)| vec![0; size(*dtype, dimensions)])
            .collect();
        let views = self.tensors.iter().zip(&bytes).map(|((name, dtype, dimensions), bytes)| {
            (name, TensorView::new(*dtype, dimensions.clone(), bytes).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    }

    fn write(&self) {
        self.put("config.json", self.config.to_string().as_bytes());
        self.put("model.safetensors", &self.weights());
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// What `open` says, with the folder's own path as `DIR`.
    fn refused(&self) -> String {
        let path = self.at.path().to_str().unwrap();
        open(path, 0).unwrap_err().to_string().replace(path, "DIR")
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_its_config_is_named() {
    type Change = fn(&mut Folder);
    let file = "DIR/model.safetensors";
    let table: &[(Change, &str)] = &[
        (
            |f| drop(f.tensors.remove(5)),
            "DIR: expected tensor model.layers.0.self_attn.k_proj.weight, found none of that name",
        ),
        (
            |f| {
                f.tensors.push((
                    "model.layers.0.self_attn.o_proj.bias".into(),
                    Dtype::F32,
                    vec![32],
                ))
            },
            "DIR/model.safetensors: tensor model.layers.0.self_attn.o_proj.bias: no place for it \
             in a model of this shape",
        ),
        (
            |f| f.tensors[4].2 = vec![32, 16],
            "DIR/model.safetensors: tensor model.layers.0.self_attn.q_proj.weight: expected \
             dimensions [32, 32], found [32, 16]",
        ),
        (
            |f| f.tensors[1].2 = vec![32, 1],
            "DIR/model.safetensors: tensor model.norm.weight: expected dimensions [32], found \
             [32, 1]",
        ),
        (
            |f| f.tensors[0].1 = Dtype::F64,
            "DIR/model.safetensors: tensor model.embed_tokens.weight: expected type F32, F16 or \
             BF16, found F64",
        ),
        (
            |f| f.config["vocab_size"] = json!(5),
            "DIR/model.safetensors: tensor model.embed_tokens.weight: expected dimensions [5, \
             32], found [4, 32]",
        ),
        (
            |f| f.config["model_type"] = json!(7),
            "DIR/config.json: invalid type: integer `7`, expected a string at line 1 column 52",
        ),
        (
            |f| f.config["architectures"] = json!(["MambaForCausalLM"]),
            "DIR/config.json: expected an architecture of llama, mistral, qwen2 or qwen3, found \
             \"MambaForCausalLM\"",
        ),
    ];
    for (change, message) in table {
        let mut folder = Folder::llama();
        change(&mut folder);
        folder.write();
        assert_eq!(folder.refused(), format!("read model file {message}"));
    }
    let good = Folder::llama();
    good.write();
    assert!(open(good.at.path().to_str().unwrap(), 0).is_ok());
    let weights = good.weights();
    for (length, message) in [
        (0, "expected a length of 8 bytes, found 0"),
        (100, "header: expected 1144 bytes, found 92"),
        (
            weights.len() - 1,
            "tensor model.norm.weight: expected its data to end between 38144 and 38271, the end \
             of the file, found 38272",
        ),
    ] {
        good.put("model.safetensors", &weights[..length]);
        assert_eq!(good.refused(), format!("read model file {file}: {message}"));
    }
}

#[test]
fn what_is_ignored_in_a_checkpoint_is_only_what_transformers_ignores() {
    let mut folder = Folder::llama();
    folder.config["tie_word_embeddings"] = json!(true);
    let frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq".to_owned();
    folder.tensors.push((frequencies, Dtype::F32, vec![8]));
    folder.write();
    let model = open(folder.at.path().to_str().unwrap(), 0).unwrap();
    assert!(model.shape().tied_embeddings);
}

#[test]
fn files_that_are_not_there_are_named() {
    let folder = Folder::llama();
    let path = folder.at.path().to_str().unwrap();
    let expected = "expected shape:NAME, a folder with config.json or a .gguf file, found";
    assert_eq!(
        folder.refused(),
        format!("open model \"DIR\": {expected} a folder without config.json")
    );
    for (name, why) in [("none", "nothing there"), ("model.bin", "a file of another name")] {
        folder.put("model.bin", b"");
        let spec = format!("{path}/{name}");
        let found = open(&spec, 0).unwrap_err().to_string();
        assert_eq!(found, format!("open model {spec:?}: {expected} {why}"));
    }
    folder.put("config.json", folder.config.to_string().as_bytes());
    let missing = "No such file or directory (os error 2)";
    assert_eq!(folder.refused(), format!("read model file DIR/model.safetensors: {missing}"));
    let index = |map: Value| json!({"weight_map": map}).to_string();
    let name = "model.safetensors.index.json";
    folder.put(name, index(json!({"a": "one.safetensors"})).as_bytes());
    assert_eq!(folder.refused(), format!("read model file DIR/one.safetensors: {missing}"));
    for outside in ["../one.safetensors", "/etc/passwd", "a/b", "..", ""] {
        folder.put(name, index(json!({"a": outside})).as_bytes());
        assert_eq!(
            folder.refused(),
            format!(
                "read model file DIR/{name}: weight_map: expected names of files in this folder, \
                 found {outside:?}"
            )
        );
    }
    folder.put(name, b"{}");
    assert_eq!(
        folder.refused(),
        format!("read model file DIR/{name}: missing field `weight_map` at line 1 column 2")
    );
    folder.put("one.safetensors", &folder.weights());
    folder.put("two.safetensors", &folder.weights());
    folder.put(name, index(json!({"a": "one.safetensors", "b": "two.safetensors"})).as_bytes());
    assert_eq!(
        folder.refused(),
        "read model file DIR/two.safetensors: tensor lm_head.weight: DIR/one.safetensors holds \
         one of that name too"
    );
}

#[test]
fn a_tokenizer_is_missed_only_when_text_is_needed() {
    let folder = Folder::llama();
    folder.write();
    let path = folder.at.path().to_str().unwrap();
    let name = folder.at.path().file_name().unwrap().to_str().unwrap();
    let why = |spec: &str| {
        let message = open(spec, 0).unwrap().tokenizer().unwrap_err().to_string();
        message.replace(path, "DIR").replace(name, "NAME")
    };
    assert_eq!(
        why(path),
        "tokenize text for model NAME: no tokenizer.json in DIR; put the model's there"
    );
    folder.put("tokenizer.json", b"{}");
    let malformed = why(path);
    let expected = "tokenize text for model NAME: read DIR/tokenizer.json: ";
    assert!(malformed.starts_with(expected), "{malformed}");
    assert_eq!(
        why("shape:stories15m"),
        "tokenize text for model shape:stories15m: random weights have none; name a Hugging Face \
         folder or a GGUF file"
    );
    // A tokenizer of more tokens than the model has is noticed when it matters.
    let other = vectors("llama-gqa/tokenizer.json");
    folder.put("tokenizer.json", &other);
    let model = open(path, 0).unwrap();
    let message = model.tokenizer().unwrap().encode("zero").unwrap_err().to_string();
    let expected = ": expected ids below the model's 4 tokens, found ";
    assert!(message.contains(expected), "{message}");
    folder.put("generation_config.json", b"{");
    assert_eq!(
        folder.refused(),
        "read model file DIR/generation_config.json: EOF while parsing an object at line 1 column 1"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_checkpoint_bytes_bring_the_reader_down(
        (changes, keep) in changes(),
        (config_changes, config_keep) in changes(),
    ) {
        let folder = Folder::llama();
        let mut config = folder.config.to_string().into_bytes();
        if config_changes.len() > 4 {
            mutate(&mut config, &config_changes, config_keep);
        }
        let mut weights = folder.weights();
        mutate(&mut weights, &changes, keep);
        read_all(Model::from_checkpoint("a", &config, weights));
    }

    #[test]
    fn noise_is_no_checkpoint(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = Folder::llama();
        let config = folder.config.to_string();
        prop_assert!(Model::from_checkpoint("a", config.as_bytes(), bytes.clone()).is_err());
        prop_assert!(Model::from_checkpoint("a", &bytes, folder.weights()).is_err());
    }
}
