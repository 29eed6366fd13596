//! The vocabulary in a GGUF file to a tokenizer, where that can be done faithfully.
//!
//! Two kinds can: byte-level BPE whose splitting of text is known by name, and sentencepiece BPE,
//! whose merges follow from its scores. The result is the text of a `tokenizer.json`.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::{Array, Container, Value, parse};

/// The space of a sentencepiece.
const SPACE: &str = "\u{2581}";

/// The longest piece whose splits are tried; real ones are below 64 bytes.
const PIECE_MOST: usize = 256;

/// How Llama 3 splits text before merging.
const LLAMA3_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// How Qwen 2 and 3 do: single digits.
const QWEN2_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// What a token is for, as llama.cpp numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The vocabulary of a file.
#[derive(Debug)]
pub(in crate::model) struct Vocabulary<'a> {
    container: Container<'a>,
}

impl<'a> Vocabulary<'a> {
    /// The vocabulary of a whole file.
    pub(in crate::model) fn read(file: &'a [u8]) -> Result<Self, String> {
        Ok(Self { container: parse(file)? })
    }

    /// The text of the `tokenizer.json` that does the same.
    pub(in crate::model) fn tokenizer_json(&self) -> Result<Vec<u8>, String> {
        let json = match self.string("model") {
            Some("gpt2") => self.byte_level(),
            Some("llama") => self.sentencepiece(),
            other => {
                let found = other.unwrap_or("none");
                Err(format!("tokenizer.ggml.model: expected gpt2 or llama, found {found}"))
            }
        }?;
        serde_json::to_vec(&json).map_err(|error| error.to_string())
    }

    fn value(&self, key: &str) -> Option<Value<'a>> {
        self.container.metadata.get(format!("tokenizer.ggml.{key}").as_str()).copied()
    }

    fn string(&self, key: &str) -> Option<&'a str> {
        match self.value(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    fn flag(&self, key: &str) -> Option<bool> {
        match self.value(key)? {
            Value::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    /// The id of the token that marks something.
    fn id(&self, mark: &str) -> Option<usize> {
        match self.value(&format!("{mark}_token_id"))? {
            Value::Unsigned(id) => usize::try_from(id).ok(),
            _ => None,
        }
    }

    fn array(&self, key: &str) -> Result<Array<'a>, String> {
        match self.value(key) {
            Some(Value::Array(array)) => Ok(array),
            Some(other) => Err(format!("tokenizer.ggml.{key}: expected an array, found {other}")),
            None => Err(format!("tokenizer.ggml.{key}: expected an array, found none")),
        }
    }

    /// The tokens by id.
    fn tokens(&self) -> Result<Vec<&'a str>, String> {
        let tokens = self.array("tokens")?.strings();
        Ok(tokens.ok_or("tokenizer.ggml.tokens: expected strings")?.collect())
    }

    /// What each of `count` tokens is for; all are normal where the file does not say.
    fn roles(&self, count: usize) -> Result<Vec<Role>, String> {
        if self.value("token_type").is_none() {
            return Ok(vec![Role::Normal; count]);
        }
        let roles: Vec<Role> = self
            .array("token_type")?
            .numbers()
            .ok_or("tokenizer.ggml.token_type: expected numbers")?
            .map(|number| match number {
                2.0 => Role::Unknown,
                3.0 => Role::Control,
                4.0 => Role::UserDefined,
                5.0 => Role::Unused,
                6.0 => Role::Byte,
                _ => Role::Normal,
            })
            .collect();
        same_count("token_type", count, roles.len())?;
        Ok(roles)
    }

    fn byte_level(&self) -> Result<Json, String> {
        let (split, ignore_merges, normalizer) = match self.string("pre") {
            Some("llama-bpe" | "llama3" | "llama-v3") => (Some(LLAMA3_SPLIT), true, Json::Null),
            Some("qwen2" | "deepseek-r1-qwen") => {
                (Some(QWEN2_SPLIT), false, json!({"type": "NFC"}))
            }
            Some("gpt-2") => (None, false, Json::Null),
            other => {
                let found = other.unwrap_or("none");
                return Err(format!(
                    "tokenizer.ggml.pre: expected llama-bpe, qwen2 or gpt-2, found {found}"
                ));
            }
        };
        let tokens = self.tokens()?;
        let roles = self.roles(tokens.len())?;
        let merges = self.array("merges")?.strings();
        let merges: Vec<Json> = merges
            .ok_or("tokenizer.ggml.merges: expected strings")?
            .map(|merge| {
                let (left, right) = merge.split_once(' ').ok_or_else(|| {
                    format!("tokenizer.ggml.merges: expected two tokens, found {merge:?}")
                })?;
                Ok(json!([left, right]))
            })
            .collect::<Result<_, String>>()?;
        let bytes = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
            "use_regex": split.is_none(),
        });
        let pre_tokenizer = split.map_or_else(
            || bytes.clone(),
            |split| {
                json!({"type": "Sequence", "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated",
                     "invert": false},
                    bytes,
                ]})
            },
        );
        let begin = self.begin(&tokens, split == Some(LLAMA3_SPLIT));
        Ok(json!({
            "version": "1.0",
            "added_tokens": added(&tokens, &roles),
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": begin,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                        "use_regex": true},
            "model": {
                "type": "BPE", "unk_token": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": ignore_merges, "vocab": vocab(&tokens)?, "merges": merges,
            },
        }))
    }

    fn sentencepiece(&self) -> Result<Json, String> {
        let tokens = self.tokens()?;
        let roles = self.roles(tokens.len())?;
        let scores = self.array("scores")?.numbers();
        let scores: Vec<f64> = scores.ok_or("tokenizer.ggml.scores: expected numbers")?.collect();
        same_count("scores", tokens.len(), scores.len())?;
        // llama.cpp's own default is 0.
        let unknown = roles.iter().position(|&role| role == Role::Unknown);
        let unknown = unknown.or_else(|| self.id("unknown")).unwrap_or(0);
        let merges = merges(&tokens, &roles, &scores)?;
        let prefix = self.flag("add_space_prefix").unwrap_or(true);
        let mut normalizers = vec![];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            normalizers.push(json!({"type": "Prepend", "prepend": SPACE}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        normalizers.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE}));
        Ok(json!({
            "version": "1.0",
            "added_tokens": added(&tokens, &roles),
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "post_processor": self.begin(&tokens, true),
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "unk_token": tokens.get(unknown), "fuse_unk": true,
                "byte_fallback": roles.contains(&Role::Byte), "ignore_merges": false,
                "vocab": vocab(&tokens)?, "merges": merges,
            },
        }))
    }

    /// What puts the begin token before a text, if it is wanted; `default` where the file does
    /// not say.
    fn begin(&self, tokens: &[&str], default: bool) -> Json {
        let id = self.id("bos");
        let wanted = self.flag("add_bos_token").unwrap_or(default);
        let Some((id, token)) = id.filter(|_| wanted).and_then(|id| Some((id, tokens.get(id)?)))
        else {
            return Json::Null;
        };
        let begin = json!({"SpecialToken": {"id": token, "type_id": 0}});
        let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
        json!({
            "type": "TemplateProcessing",
            "single": [begin, text("A")],
            "pair": [begin, text("A"), begin, text("B")],
            "special_tokens": {*token: {"id": token, "ids": [id], "tokens": [token]}},
        })
    }
}

fn same_count(key: &str, tokens: usize, found: usize) -> Result<(), String> {
    if tokens == found {
        return Ok(());
    }
    Err(format!("tokenizer.ggml.{key}: expected one for each of {tokens} tokens, found {found}"))
}

/// Ids by token.
fn vocab(tokens: &[&str]) -> Result<Json, String> {
    let mut vocab = serde_json::Map::new();
    for (id, token) in tokens.iter().enumerate() {
        if let Some(first) = vocab.insert((*token).to_owned(), id.into()) {
            return Err(format!(
                "tokenizer.ggml.tokens: expected each token once, found {token:?} at {first} and \
                 {id}"
            ));
        }
    }
    Ok(vocab.into())
}

/// Tokens that are found in a text before anything is split.
fn added(tokens: &[&str], roles: &[Role]) -> Vec<Json> {
    let found = tokens.iter().zip(roles).enumerate();
    found
        .filter(|(_, (_, role))| matches!(role, Role::Unknown | Role::Control | Role::UserDefined))
        .map(|(id, (token, role))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": *role != Role::UserDefined,
            })
        })
        .collect()
}

/// The merges of a sentencepiece BPE, the first ones first: each piece from each two pieces that
/// make it, by score; among equals in the order of transformers' converter.
fn merges(tokens: &[&str], roles: &[Role], scores: &[f64]) -> Result<Vec<Json>, String> {
    let ids: HashMap<&str, usize> = tokens
        .iter()
        .zip(roles)
        .enumerate()
        .filter(|(_, (_, role))| **role == Role::Normal)
        .map(|(id, (token, _))| (*token, id))
        .collect();
    let mut merges: Vec<(f64, &str, &str)> = Vec::new();
    for ((&token, role), &score) in tokens.iter().zip(roles).zip(scores) {
        if *role != Role::Normal {
            continue;
        }
        if token.len() > PIECE_MOST {
            return Err(format!(
                "tokenizer.ggml.tokens: expected pieces of at most {PIECE_MOST} bytes, found {}",
                token.len()
            ));
        }
        let mut splits: Vec<_> = token
            .char_indices()
            .skip(1)
            .map(|(at, _)| token.split_at(at))
            .filter_map(|(left, right)| Some((ids.get(left)?, ids.get(right)?, left, right)))
            .collect();
        splits.sort_unstable_by_key(|&(left, right, ..)| (left, right));
        merges.extend(splits.into_iter().map(|(.., left, right)| (score, left, right)));
    }
    let lengths = |left: &str, right: &str| (left.chars().count(), right.chars().count());
    merges.sort_by(|a, b| {
        b.0.total_cmp(&a.0).then_with(|| lengths(b.1, b.2).cmp(&lengths(a.1, a.2)))
    });
    Ok(merges.into_iter().map(|(_, left, right)| json!([left, right])).collect())
}
