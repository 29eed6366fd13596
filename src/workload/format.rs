//! The formats, and telling them apart by what stands in the file.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::{WorkloadError, quoted};
use super::source::HEAD_BYTES;

/// A format that a workload can be read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Azure LLM inference trace CSV: `TIMESTAMP,ContextTokens,GeneratedTokens`.
    Azure,
    /// Mooncake JSONL: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` of 512.
    Mooncake,
    /// Qwen-Bailian JSONL: as Mooncake, seconds, blocks of 16, conversations by `chat_id`.
    Bailian,
    /// BurstGPT CSV: `Timestamp`, `Request tokens`, `Response tokens`, found by name.
    BurstGpt,
    /// Vidur CSV: `arrived_at,num_prefill_tokens,num_decode_tokens`; times may be absent.
    Vidur,
    /// ShareGPT JSON: conversations, of which the first two turns count.
    ShareGpt,
    /// LLMServingSim JSONL: `arrival_time_ns`, `input_toks`, `output_toks`, `sub_requests`.
    LlmServingSim,
    /// Gemba's own JSONL.
    Gemba,
    /// A TOML description from which requests are made.
    Synthetic,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 9] = [
        Self::Azure,
        Self::Mooncake,
        Self::Bailian,
        Self::BurstGpt,
        Self::Vidur,
        Self::ShareGpt,
        Self::LlmServingSim,
        Self::Gemba,
        Self::Synthetic,
    ];

    /// The word that names it in `--format`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Azure => "azure",
            Self::Mooncake => "mooncake",
            Self::Bailian => "bailian",
            Self::BurstGpt => "burstgpt",
            Self::Vidur => "vidur",
            Self::ShareGpt => "sharegpt",
            Self::LlmServingSim => "llmservingsim",
            Self::Gemba => "gemba",
            Self::Synthetic => "synthetic",
        }
    }

    /// The format that a word names.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Every name, for a message.
    #[must_use]
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The format of a file whose beginning is `head`.
    pub(super) fn detect(head: &[u8], path: &Path) -> Result<Self, WorkloadError> {
        if head.iter().all(u8::is_ascii_whitespace) && head.len() < HEAD_BYTES {
            return Err(WorkloadError::Empty { path: path.to_path_buf() });
        }
        refuse_binary(head, path)?;
        let text = valid_prefix(head).trim_start_matches('\u{feff}');
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let format = match first.as_bytes().first() {
            Some(b'{') => by_keys(first),
            Some(b'[') if opens_array_of_objects(text) => Some(Self::ShareGpt),
            _ => by_header(first).or_else(|| looks_like_toml(text).then_some(Self::Synthetic)),
        };
        format.ok_or_else(|| WorkloadError::UnknownFormat {
            path: path.to_path_buf(),
            found: quoted(if first.is_empty() { text } else { first }),
        })
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Refuses what is certainly not text, and says what it seems to be.
fn refuse_binary(head: &[u8], path: &Path) -> Result<(), WorkloadError> {
    let magics: [(&[u8], &str); 6] = [
        (b"\x1f\x8b", "a compressed file (gzip)"),
        (b"PK\x03\x04", "a compressed file (zip)"),
        (b"\x28\xb5\x2f\xfd", "a compressed file (zstd)"),
        (b"BZh", "a compressed file (bzip2)"),
        (b"PAR1", "a Parquet file"),
        (b"version https://git-lfs", "a Git LFS pointer"),
    ];
    let magic = magics.iter().find(|(magic, _)| head.starts_with(magic));
    let zero = head.iter().position(|&byte| byte == 0);
    let found = match (magic, zero) {
        (Some((_, name)), _) => (*name).to_owned(),
        (None, Some(at)) => format!("a zero byte at offset {at}"),
        (None, None) => return Ok(()),
    };
    Err(WorkloadError::NotText { path: path.to_path_buf(), found })
}

/// The longest beginning that is UTF-8; a bad byte later is for the reader to name.
fn valid_prefix(head: &[u8]) -> &str {
    match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// A JSON array, not a TOML table: after `[` comes an object, or nothing at all.
fn opens_array_of_objects(text: &str) -> bool {
    let inside = text.trim_start().trim_start_matches('[').trim_start();
    inside.starts_with(['{', ']']) || inside.is_empty()
}

fn by_keys(line: &str) -> Option<Format> {
    // The first line of a file may be longer than what was peeked; its keys still tell.
    let names = match serde_json::from_str::<Map<String, Value>>(line) {
        Ok(map) => map.keys().cloned().collect::<Vec<_>>(),
        Err(_) => line.split('"').skip(1).step_by(2).take(64).map(str::to_owned).collect(),
    };
    let has = |name: &str| names.iter().any(|key| key == name);
    Some(match () {
        () if has("gemba_workload") => Format::Gemba,
        () if has("chat_id") && has("input_length") => Format::Bailian,
        () if has("timestamp") && has("input_length") => Format::Mooncake,
        () if has("sub_requests") || has("input_toks") => Format::LlmServingSim,
        () => return None,
    })
}

fn by_header(line: &str) -> Option<Format> {
    let columns: Vec<String> =
        line.split(',').map(|name| name.trim().trim_matches('"').to_lowercase()).collect();
    let has = |name: &str| columns.iter().any(|column| column == name);
    Some(match () {
        () if has("contexttokens") || has("generatedtokens") => Format::Azure,
        () if has("num_prefill_tokens") || has("num_decode_tokens") => Format::Vidur,
        () if has("request tokens") || has("response tokens") => Format::BurstGpt,
        () => return None,
    })
}

/// A first line that is a table or `key = value`, comments and blank lines aside.
fn looks_like_toml(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let Some(first) = lines.find(|line| !line.is_empty() && !line.starts_with('#')) else {
        return text.trim_start().starts_with('#');
    };
    let bare = |c: char| c.is_ascii_alphanumeric() || "_-.\"' ".contains(c);
    let table = first.starts_with('[') && first.contains(']');
    let key = first.split_once('=').is_some_and(|(key, _)| key.chars().all(bare));
    table || key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_apart_by_content() {
        for (head, format) in [
            ("TIMESTAMP,ContextTokens,GeneratedTokens\r\n", Format::Azure),
            ("TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n", Format::Azure),
            ("\u{feff}TIMESTAMP,ContextTokens,GeneratedTokens\n", Format::Azure),
            ("{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1}\n", Format::Mooncake),
            ("{\"chat_id\": 1, \"timestamp\": 0.1, \"input_length\": 1}\n", Format::Bailian),
            ("Timestamp,Model,Request tokens,Response tokens\n", Format::BurstGpt),
            ("arrived_at,num_prefill_tokens,num_decode_tokens\n", Format::Vidur),
            ("num_prefill_tokens,num_decode_tokens,pd_ratio\n", Format::Vidur),
            ("[{\"id\": \"a\", \"conversations\": []}]", Format::ShareGpt),
            ("[\n  {\n    \"id\"", Format::ShareGpt),
            ("{\"input_toks\":10,\"output_toks\":70}\n", Format::LlmServingSim),
            ("{\"session_id\":\"s\",\"sub_requests\":[", Format::LlmServingSim),
            ("{\"gemba_workload\": 1}\n", Format::Gemba),
            ("# what it provokes\nschema = 1\n", Format::Synthetic),
            ("[arrival]\nprocess = \"poisson\"\n", Format::Synthetic),
            ("[[class]]\n", Format::Synthetic),
        ] {
            assert_eq!(Format::detect(head.as_bytes(), Path::new("x")).unwrap(), format, "{head}");
        }
    }

    #[test]
    fn what_is_nothing_known_is_refused() {
        for head in ["hello", "a,b,c\n1,2,3\n", "{}", "<html>", "\u{1b}[0m", "#!/bin/sh\nls"] {
            assert!(
                matches!(
                    Format::detect(head.as_bytes(), Path::new("x")),
                    Err(WorkloadError::UnknownFormat { .. })
                ),
                "{head}"
            );
        }
        for head in [&b"\x1f\x8b\x08"[..], b"PK\x03\x04", b"a\0b", b"version https://git-lfs"] {
            assert!(matches!(
                Format::detect(head, Path::new("x")),
                Err(WorkloadError::NotText { .. })
            ));
        }
        assert!(matches!(
            Format::detect(b" \r\n", Path::new("x")),
            Err(WorkloadError::Empty { .. })
        ));
    }

    #[test]
    fn names_come_back() {
        for format in Format::ALL {
            assert_eq!(Format::from_name(format.name()), Some(format));
        }
    }
}
