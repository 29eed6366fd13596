//! The text of single tokens, as bytes: what masks and log-probabilities need.
//!
//! A tokenizer's own spelling of a token is not its text. Byte-level vocabularies spell each
//! byte as a printable character; sentencepiece ones spell a space as `▁` and a byte as `<0x0A>`.

use std::collections::HashMap;

/// A token's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes, which need not be whole characters; empty where it has no text.
    pub bytes: Vec<u8>,
    /// Whether it steers the model instead of being part of a text.
    pub control: bool,
}

/// The pieces of the first `vocab` ids.
pub(super) fn pieces(own: &tokenizers::Tokenizer, vocab: u32) -> Vec<Piece> {
    let decoder = own.get_decoder().and_then(|decoder| serde_json::to_string(decoder).ok());
    let byte_level = decoder.is_some_and(|decoder| decoder.contains("\"ByteLevel\""));
    let spelled = spelled_bytes();
    let added = own.get_added_tokens_decoder();
    (0..vocab)
        .map(|id| {
            if let Some(added) = added.get(&id) {
                let bytes = added.content.clone().into_bytes();
                return Piece { bytes, control: added.special };
            }
            let Some(name) = own.id_to_token(id) else { return Piece::default() };
            let bytes = if byte_level { of_bytes(&name, &spelled) } else { of_piece(&name) };
            Piece { bytes, control: false }
        })
        .collect()
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
