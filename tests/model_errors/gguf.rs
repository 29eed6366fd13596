//! GGUF files.

use gemba::model::{Model, ModelError};
use proptest::prelude::*;

use crate::mutation::{changes, mutate, read_all, vectors};

/// A GGUF file in pieces, each of which can be made wrong.
#[derive(Clone)]
struct Gguf {
    version: u32,
    metadata: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<Described>,
    /// Bytes of data after the header.
    data: usize,
}

#[derive(Clone)]
struct Described {
    name: String,
    dimensions: Vec<u64>,
    kind: u32,
    offset: u64,
}

const U32: u32 = 4;
const F32: u32 = 6;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

fn text(content: &str) -> Vec<u8> {
    [&(content.len() as u64).to_le_bytes()[..], content.as_bytes()].concat()
}

/// An array of strings, as a value.
fn texts(contents: &[&str]) -> Vec<u8> {
    let mut value = STRING.to_le_bytes().to_vec();
    value.extend((contents.len() as u64).to_le_bytes());
    value.extend(contents.iter().flat_map(|content| text(content)));
    value
}

/// An array of floats, as a value.
fn floats(numbers: &[f32]) -> Vec<u8> {
    let mut value = F32.to_le_bytes().to_vec();
    value.extend((numbers.len() as u64).to_le_bytes());
    value.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    value
}

impl Gguf {
    /// A model of one layer: hidden 32, two heads of 16, one key head, four tokens.
    fn llama() -> Self {
        let mut file = Self { version: 3, metadata: Vec::new(), tensors: Vec::new(), data: 0 };
        file.set("general.architecture", STRING, text("llama"));
        for (key, value) in [
            ("block_count", 1_u32),
            ("context_length", 64),
            ("embedding_length", 32),
            ("feed_forward_length", 64),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            file.set(&format!("llama.{key}"), U32, value.to_le_bytes().to_vec());
        }
        file.set(EPSILON, F32, 1e-5_f32.to_le_bytes().to_vec());
        for (name, dimensions) in [
            ("token_embd.weight", &[32, 4][..]),
            ("output_norm.weight", &[32]),
            ("output.weight", &[32, 4]),
            ("blk.0.attn_norm.weight", &[32]),
            ("blk.0.attn_q.weight", &[32, 32]),
            ("blk.0.attn_k.weight", &[32, 16]),
            ("blk.0.attn_v.weight", &[32, 16]),
            ("blk.0.attn_output.weight", &[32, 32]),
            ("blk.0.ffn_norm.weight", &[32]),
            ("blk.0.ffn_gate.weight", &[32, 64]),
            ("blk.0.ffn_up.weight", &[32, 64]),
            ("blk.0.ffn_down.weight", &[64, 32]),
        ] {
            file.add(name, dimensions, 0);
        }
        file
    }

    fn set(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.metadata.retain(|(found, ..)| found != key);
        self.metadata.push((key.to_owned(), kind, value));
    }

    /// Adds a tensor of f32 with its data, described as of type `kind`.
    fn add(&mut self, name: &str, dimensions: &[u64], kind: u32) {
        let offset = self.data as u64;
        let bytes = 4 * dimensions.iter().product::<u64>() as usize;
        self.data = (self.data + bytes).next_multiple_of(32);
        let dimensions = dimensions.to_vec();
        self.tensors.push(Described { name: name.to_owned(), dimensions, kind, offset });
    }

    fn tensor(&mut self, name: &str) -> &mut Described {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.metadata {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for tensor in &self.tensors {
            bytes.extend(text(&tensor.name));
            bytes.extend((tensor.dimensions.len() as u32).to_le_bytes());
            bytes.extend(tensor.dimensions.iter().flat_map(|width| width.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        bytes
    }

    fn open(&self) -> Result<Model, ModelError> {
        Model::from_gguf("a.gguf", self.bytes())
    }
}

const EPSILON: &str = "llama.attention.layer_norm_rms_epsilon";

type Change = fn(&mut Gguf);

/// Asserts the message of a good file with one change.
fn assert_refused(change: Change, message: &str) {
    let mut file = Gguf::llama();
    change(&mut file);
    let found = file.open().unwrap_err().to_string();
    assert_eq!(found, format!("read model file a.gguf: {message}"));
}

#[test]
fn the_good_file_opens() {
    let model = Gguf::llama().open().unwrap();
    assert_eq!((model.shape().vocab, model.shape().head_dim), (4, 16));
    let version_2 = Gguf { version: 2, ..Gguf::llama() };
    version_2.open().unwrap();
}

#[test]
fn a_gguf_header_that_lies_is_named() {
    let table: &[(Change, &str)] = &[
        (|f| f.version = 1, "version: expected 2 or 3, little-endian, found 1"),
        (|f| f.version = 3 << 24, "version: expected 2 or 3, little-endian, found 50331648"),
        (|f| f.set("a", 13, vec![]), "metadata a: expected a type of 0 to 12, found 13"),
        (
            |f| f.metadata.push(("llama.block_count".into(), U32, vec![1, 0, 0, 0])),
            "metadata llama.block_count: second entry of that name",
        ),
        (
            |f| f.set("a", ARRAY, [&ARRAY.to_le_bytes()[..], &[0; 8]].concat()),
            "metadata a: expected an array of values, found of arrays",
        ),
        (
            |f| f.set("a", STRING, [&2_u64.to_le_bytes()[..], &[0xff, 0xfe]].concat()),
            "a: expected UTF-8 at 379, found invalid utf-8 sequence of 1 bytes from index 0",
        ),
        (
            |f| f.set("general.alignment", U32, 33_u32.to_le_bytes().to_vec()),
            "general.alignment: expected a power of two, found 33",
        ),
        (
            |f| f.set("general.alignment", STRING, text("32")),
            "general.alignment: expected a power of two, found \"32\"",
        ),
        (
            |f| f.tensor("output.weight").dimensions = vec![],
            "tensor output.weight: expected 1 to 4 dimensions, found 0",
        ),
        (
            |f| f.tensor("output.weight").dimensions = vec![1; 5],
            "tensor output.weight: expected 1 to 4 dimensions, found 5",
        ),
        (
            |f| f.tensor("output.weight").dimensions = vec![1 << 40, 1 << 40],
            "tensor output.weight: expected a number of bytes that can be counted, found \
             dimensions [1099511627776, 1099511627776]",
        ),
        (
            |f| f.tensor("output.weight").offset = 33,
            "tensor output.weight: expected an offset that is a multiple of 32, found 33",
        ),
        (
            |f| f.tensor("output.weight").offset = 1 << 20,
            "tensor output.weight: expected 512 bytes at 1048576, found 38272 bytes of data",
        ),
        (
            |f| f.tensor("output.weight").offset = u64::MAX - 31,
            "tensor output.weight: expected 512 bytes at 18446744073709551584, found 38272 bytes \
             of data",
        ),
        (
            |f| f.tensor("output.weight").offset = 0,
            "tensor output.weight: overlaps tensor token_embd.weight",
        ),
        (
            |f| f.data -= 32,
            "tensor blk.0.ffn_down.weight: expected 8192 bytes at 30080, found 38240 bytes of data",
        ),
        (
            |f| f.tensor("output.weight").name = "token_embd.weight".into(),
            "tensor token_embd.weight: second one of that name",
        ),
        (
            |f| {
                let tensor = f.tensor("output.weight");
                (tensor.kind, tensor.dimensions) = (8, vec![33, 4]);
            },
            "tensor output.weight: expected rows of whole blocks of 32, found dimensions [33, 4]",
        ),
    ];
    for (change, message) in table {
        assert_refused(*change, message);
    }
}

/// Counts and lengths far beyond the file are refused before anything is made of them.
#[test]
fn a_gguf_count_that_lies_is_named() {
    let good = Gguf::llama().bytes();
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        Model::from_gguf("a.gguf", bytes).unwrap_err().to_string()
    };
    let huge = |at: usize| {
        refused(&move |bytes| bytes[at..at + 8].copy_from_slice(&(u64::MAX >> 1).to_le_bytes()))
    };
    let huge_u64 = u64::MAX >> 1;
    let room = |what: &str, most: u64, at: u64| {
        format!(
            "read model file a.gguf: {what}: expected at most the {most} that the file has room \
             for, found {huge_u64} at {at}"
        )
    };
    let left = |at: usize, least: usize| ((good.len() - at - 8) / least) as u64;
    assert_eq!(huge(8), room("tensors", left(8, 24), 8));
    assert_eq!(huge(16), room("metadata entries", left(16, 13), 16));
    assert_eq!(huge(24), room("metadata key", left(24, 1), 24));
    let value = 24 + 8 + "general.architecture".len() + 4;
    assert_eq!(huge(value), room("general.architecture", left(value, 1), value as u64));
    assert_eq!(
        refused(&|bytes| bytes[0] = b'g'),
        "read model file a.gguf: magic: expected \"GGUF\", found \"gGUF\""
    );
    assert_eq!(
        refused(&Vec::clear),
        "read model file a.gguf: magic: expected 4 bytes at 0, found 0"
    );
    for length in 0..good.len() {
        assert!(Model::from_gguf("a.gguf", good[..length].to_vec()).is_err(), "{length}");
    }
}

#[test]
fn a_gguf_model_that_does_not_run_is_named() {
    let table: &[(Change, &str)] = &[
        (
            |f| f.set("general.architecture", STRING, text("gemma2")),
            "expected an architecture of llama (with mistral), qwen2 or qwen3, found \"gemma2\"",
        ),
        (
            |f| f.metadata.retain(|(key, ..)| key != "general.architecture"),
            "expected an architecture of llama (with mistral), qwen2 or qwen3, found \"no \
             general.architecture\"",
        ),
        (
            |f| f.metadata.retain(|(key, ..)| key != "llama.block_count"),
            "metadata llama.block_count: expected a whole number below 2³², found nothing",
        ),
        (
            |f| f.set("llama.attention.head_count", ARRAY, floats(&[2.0, 2.0])),
            "metadata llama.attention.head_count: expected a whole number below 2³², found an \
             array of 2",
        ),
        (
            |f| f.set("llama.attention.head_count", U32, 5_u32.to_le_bytes().to_vec()),
            "metadata llama.attention.head_count: expected a divisor of 32, found 5",
        ),
        (
            |f| f.set("llama.attention.head_count_kv", U32, 3_u32.to_le_bytes().to_vec()),
            "kv_heads: expected a divisor of 2 heads, found 3",
        ),
        (
            |f| f.set("llama.rope.dimension_count", U32, 8_u32.to_le_bytes().to_vec()),
            "metadata llama.rope.dimension_count: expected the 16 of a head, found 8",
        ),
        (
            |f| f.metadata.retain(|(key, ..)| key != EPSILON),
            "metadata llama.attention.layer_norm_rms_epsilon: expected a number, found nothing",
        ),
        (
            |f| f.set("llama.rope.scaling.type", STRING, text("yarn")),
            "llama.rope.scaling.type: expected none or linear, found yarn",
        ),
        (
            |f| f.set("llama.expert_count", U32, 8_u32.to_le_bytes().to_vec()),
            "llama.expert_count: expected 0 or none, found 8",
        ),
        (
            |f| f.set("split.count", U32, 3_u32.to_le_bytes().to_vec()),
            "split.count: expected 1: the parts merged into one file (gguf-split --merge), found 3",
        ),
        (
            |f| f.tensor("blk.0.attn_v.weight").kind = 12,
            "tensor blk.0.attn_v.weight: expected type F32, F16, BF16, Q8_0 or Q4_0, found Q4_K",
        ),
        (
            |f| f.tensor("blk.0.attn_v.weight").kind = 99,
            "tensor blk.0.attn_v.weight: expected type F32, F16, BF16, Q8_0 or Q4_0, found GGML \
             type 99",
        ),
        (
            |f| f.tensors.retain(|tensor| tensor.name != "blk.0.ffn_up.weight"),
            "expected tensor blk.0.ffn_up.weight, found none of that name",
        ),
        (
            |f| f.tensors.retain(|tensor| tensor.name != "token_embd.weight"),
            "expected tensor token_embd.weight, found none of that name",
        ),
        (
            |f| f.tensor("token_embd.weight").dimensions = vec![128],
            "tensor token_embd.weight: expected two dimensions, found [128]",
        ),
        (
            |f| f.add("blk.0.attn_output.bias", &[32], 0),
            "tensor blk.0.attn_output.bias: no place for it in a model of this shape",
        ),
        (
            |f| f.tensor("blk.0.ffn_up.weight").dimensions = vec![32, 32],
            "tensor blk.0.ffn_up.weight: expected dimensions [64, 32], found [32, 32]",
        ),
        (
            |f| f.add("rope_freqs.weight", &[16], 0),
            "tensor rope_freqs.weight: expected dimensions [8], found [16]",
        ),
        (
            |f| f.add("rope_freqs.weight", &[8], 1),
            "tensor rope_freqs.weight: expected type F32, found f16",
        ),
        (
            |f| f.add("rope_freqs.weight", &[8], 0),
            "tensor rope_freqs.weight: expected 1.000000 at 0, as Llama 3 scales with factor 1 \
             and context 8192, found 0",
        ),
    ];
    for (change, message) in table {
        assert_refused(*change, message);
    }
}

#[test]
fn a_gguf_vocabulary_that_cannot_be_used_is_named() {
    let pieces: Change = |f| {
        f.set("tokenizer.ggml.model", STRING, text("llama"));
        f.set("tokenizer.ggml.tokens", ARRAY, texts(&["<unk>", "a", "b", "ab"]));
        f.set("tokenizer.ggml.scores", ARRAY, floats(&[0.0, 0.0, 0.0, -1.0]));
    };
    let bring = "; put the model's tokenizer.json beside the file";
    let table: &[(Change, &str)] = &[
        (|_| (), "tokenizer.ggml.model: expected gpt2 or llama, found none"),
        (
            |f| f.set("tokenizer.ggml.model", STRING, text("bert")),
            "tokenizer.ggml.model: expected gpt2 or llama, found bert",
        ),
        (
            |f| f.set("tokenizer.ggml.model", STRING, text("gpt2")),
            "tokenizer.ggml.pre: expected llama-bpe, qwen2 or gpt-2, found none",
        ),
        (
            |f| {
                f.set("tokenizer.ggml.model", STRING, text("gpt2"));
                f.set("tokenizer.ggml.pre", STRING, text("tekken"));
            },
            "tokenizer.ggml.pre: expected llama-bpe, qwen2 or gpt-2, found tekken",
        ),
        (
            |f| f.set("tokenizer.ggml.scores", ARRAY, floats(&[0.0])),
            "tokenizer.ggml.scores: expected one for each of 4 tokens, found 1",
        ),
        (
            |f| f.set("tokenizer.ggml.token_type", ARRAY, floats(&[2.0])),
            "tokenizer.ggml.token_type: expected one for each of 4 tokens, found 1",
        ),
        (
            |f| f.set("tokenizer.ggml.tokens", ARRAY, texts(&["a", "b", "a", "c"])),
            "tokenizer.ggml.tokens: expected each token once, found \"a\" at 0 and 2",
        ),
        (
            |f| f.set("tokenizer.ggml.tokens", ARRAY, floats(&[1.0; 4])),
            "tokenizer.ggml.tokens: expected strings",
        ),
        (
            |f| f.metadata.retain(|(key, ..)| key != "tokenizer.ggml.tokens"),
            "tokenizer.ggml.tokens: expected an array, found none",
        ),
    ];
    for (row, (change, message)) in table.iter().enumerate() {
        let mut file = Gguf::llama();
        if row >= 4 {
            pieces(&mut file);
        }
        change(&mut file);
        let model = file.open().unwrap();
        let found = model.tokenizer().unwrap_err().to_string();
        assert_eq!(found, format!("tokenize text for model a.gguf: {message}{bring}"));
    }
    let mut good = Gguf::llama();
    pieces(&mut good);
    let model = good.open().unwrap();
    assert_eq!(model.tokenizer().unwrap().encode_plain("ab").unwrap(), [0, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_gguf_bytes_bring_the_reader_down(
        (changes, keep) in changes(),
        vocabulary in any::<bool>(),
    ) {
        let mut bytes = if vocabulary {
            vectors("llama-gqa/llama-gqa-q8_0.gguf")
        } else {
            Gguf::llama().bytes()
        };
        mutate(&mut bytes, &changes, keep);
        read_all(Model::from_gguf("a.gguf", bytes));
    }

    #[test]
    fn noise_is_no_gguf_file(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Model::from_gguf("a.gguf", bytes).is_err());
    }
}
