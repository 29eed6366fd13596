//! A model's own tokenizer, as the library of its format reads it, and the text of single tokens
//! as bytes: what masks and log-probabilities need.
//!
//! A tokenizer's own spelling of a token is not its text. Byte-level vocabularies spell each
//! byte as a printable character; sentencepiece ones spell a space as `▁` and a byte as `<0x0A>`.

use std::collections::HashMap;
use std::path::Path;

use super::Piece;

/// The largest tokenizer there is takes a tenth of this.
const MAX_BYTES: u64 = 256 << 20;

/// A tokenizer in the format of Hugging Face.
#[derive(Debug)]
pub struct Own(Box<tokenizers::Tokenizer>);

impl Own {
    /// Reads a tokenizer.json.
    ///
    /// # Errors
    /// Why it cannot be read, in words without its path.
    pub fn read(path: &Path) -> Result<Self, String> {
        let found = std::fs::metadata(path).map_err(|error| error.to_string())?;
        if !found.is_file() || found.len() > MAX_BYTES {
            return Err(format!("expected a file of at most {} MiB", MAX_BYTES >> 20));
        }
        tokenizers::Tokenizer::from_file(path)
            .map(|own| Self(Box::new(own)))
            .map_err(|error| format!("expected a tokenizer.json, found {error}"))
    }

    /// The tokenizer that a tokenizer.json's text describes.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        tokenizers::Tokenizer::from_bytes(json)
            .map(|own| Self(Box::new(own)))
            .map_err(|error| error.to_string())
    }

    /// The ids of `text`, with what the tokenizer puts around a text if `around`.
    ///
    /// # Errors
    /// Why the tokenizer refuses the text.
    pub fn ids(&self, text: &str, around: bool) -> Result<Vec<u32>, String> {
        let encoding = self.0.encode_fast(text, around).map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, without control tokens.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String, String> {
        self.0.decode(ids, true).map_err(|error| error.to_string())
    }

    /// The id of a token by its spelling.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    /// The spelling of a token.
    pub(super) fn name(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }

    /// Tokens it knows, control tokens included.
    pub(super) fn vocab(&self) -> usize {
        self.0.get_vocab_size(true)
    }

    /// The text of each of the first `vocab` ids.
    pub(super) fn pieces(&self, vocab: u32) -> Vec<Piece> {
        let decoder = self.0.get_decoder().and_then(|decoder| serde_json::to_string(decoder).ok());
        let byte_level = decoder.is_some_and(|decoder| decoder.contains("\"ByteLevel\""));
        let spelled = spelled_bytes();
        let added = self.0.get_added_tokens_decoder();
        (0..vocab)
            .map(|id| {
                if let Some(added) = added.get(&id) {
                    let bytes = added.content.clone().into_bytes();
                    return Piece { bytes, control: added.special };
                }
                let Some(name) = self.0.id_to_token(id) else { return Piece::default() };
                let bytes = if byte_level { of_bytes(&name, &spelled) } else { of_piece(&name) };
                Piece { bytes, control: false }
            })
            .collect()
    }
}

/// The bytes of a token that spells each byte as a character.
fn of_bytes(name: &str, spelled: &HashMap<char, u8>) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = name.chars().map(|c| spelled.get(&c).copied()).collect();
    // A token that is not spelled that way is its own text.
    bytes.unwrap_or_else(|| name.as_bytes().to_vec())
}

/// The bytes of a sentencepiece.
fn of_piece(name: &str) -> Vec<u8> {
    let hex = name.strip_prefix("<0x").and_then(|name| name.strip_suffix('>'));
    match hex.filter(|hex| hex.len() == 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => vec![byte],
        None => name.replace('\u{2581}', " ").into_bytes(),
    }
}

/// Which byte each character spells: printable ones of Latin-1 themselves, the others in order
/// the characters from U+0100 on.
fn spelled_bytes() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    (0..=u8::MAX)
        .filter_map(|byte| {
            let code = if printable(byte) {
                u32::from(byte)
            } else {
                next += 1;
                next - 1
            };
            Some((char::from_u32(code)?, byte))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spelled_as_gpt2_does() {
        let spelled = spelled_bytes();
        assert_eq!(spelled.len(), 256);
        for (name, bytes) in [
            ("Ġthe", &b" the"[..]),
            ("Ċ", b"\n"),
            ("Ã©", "é".as_bytes()),
            ("ł", &[0xa0]),
            ("日", "日".as_bytes()),
        ] {
            assert_eq!(of_bytes(name, &spelled), bytes, "{name}");
        }
    }

    #[test]
    fn sentencepieces_spell_spaces_and_bytes() {
        for (name, bytes) in [
            ("▁the", &b" the"[..]),
            ("<0x0A>", b"\n"),
            ("<0xZZ>", b"<0xZZ>"),
            ("é", "é".as_bytes()),
        ] {
            assert_eq!(of_piece(name), bytes, "{name}");
        }
    }
}
