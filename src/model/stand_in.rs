//! A tokenizer for models that have none: random weights in a published shape.
//!
//! Such a model says nothing, but what speaks to it sends text and counts what comes back. The
//! stand-in maps any text to ids and back without loss, with two to four characters of plain
//! English to a token. It belongs to no trained model and is called by its name wherever it is
//! used.
//!
//! | ids | text |
//! |---|---|
//! | 0 | none: ends an answer |
//! | 1 … 256 | one byte each |
//! | from 257 | every string of the 27 letters `a` to `z` and space, two letters long, then three, then four, as far as the vocabulary goes |

/// The id that ends an answer.
pub(super) const END: u32 = 0;
/// The first id of a single byte.
const BYTES: u32 = 1;
/// The first id of a string of letters.
const LETTERS: u32 = BYTES + 256;
const RADIX: u32 = 27;
/// The longest string of letters that is one token.
const LONGEST: usize = 4;

/// The smallest vocabulary that can hold every text.
pub(super) const SMALLEST: u32 = LETTERS;

/// The stand-in for a vocabulary of so many tokens, at least [`SMALLEST`].
#[derive(Clone, Copy, Debug)]
pub(super) struct StandIn {
    pub(super) vocab: u32,
}

/// The digit of a letter.
fn digit(byte: u8) -> Option<u32> {
    match byte {
        b' ' => Some(0),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 1),
        _ => None,
    }
}

/// How many strings are shorter than `length` letters and have at least two.
fn shorter(length: usize) -> u32 {
    (2..length as u32).map(|length| RADIX.pow(length)).sum()
}

impl StandIn {
    /// The ids of a text: at each place the longest token there is.
    pub(super) fn encode(self, text: &str) -> Vec<u32> {
        let mut rest = text.as_bytes();
        let mut ids = Vec::with_capacity(rest.len() / 2);
        while let Some(&byte) = rest.first() {
            let letters = rest.iter().take(LONGEST).map_while(|byte| digit(*byte));
            let letters: Vec<u32> = letters.collect();
            let longest = (2..=letters.len()).rev().find_map(|length| {
                let number = letters[..length].iter().fold(0, |number, d| number * RADIX + d);
                let id = LETTERS + shorter(length) + number;
                (id < self.vocab).then_some((id, length))
            });
            let (id, length) = longest.unwrap_or((BYTES + u32::from(byte), 1));
            ids.push(id);
            rest = &rest[length..];
        }
        ids
    }

    /// The bytes of a token; none for the end and for ids outside the vocabulary.
    pub(super) fn bytes(self, id: u32) -> Vec<u8> {
        if id == END || id >= self.vocab {
            return Vec::new();
        }
        if let Some(byte) = (BYTES..LETTERS).contains(&id).then(|| (id - BYTES) as u8) {
            return vec![byte];
        }
        let mut number = id - LETTERS;
        let Some(length) = (2..=LONGEST).find(|length| {
            let strings = RADIX.pow(*length as u32);
            let found = number < strings;
            number -= if found { 0 } else { strings };
            found
        }) else {
            // A vocabulary beyond all strings of four letters: the rest say nothing.
            return Vec::new();
        };
        let letter = |place: u32| match number / RADIX.pow(place) % RADIX {
            0 => b' ',
            letter => b'a' + (letter - 1) as u8,
        };
        (0..length as u32).rev().map(letter).collect()
    }

    /// The text of ids. Bytes that are no UTF-8 become replacement characters.
    pub(super) fn decode(self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.bytes(id)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_words_are_long_tokens_and_every_id_is_its_own() {
        let words = StandIn { vocab: 32_000 };
        let ids = words.encode("the quick brown fox. Été!");
        assert_eq!(words.decode(&ids), "the quick brown fox. Été!");
        assert!(ids.len() <= 14, "{ids:?}");
        let mut seen = std::collections::HashSet::new();
        for id in 1..words.vocab {
            let bytes = words.bytes(id);
            assert!(!bytes.is_empty() && bytes.len() <= LONGEST, "{id}");
            assert!(seen.insert(bytes), "{id}");
        }
        assert!(words.bytes(END).is_empty() && words.bytes(32_000).is_empty());
    }

    #[test]
    fn ids_stand_where_the_table_says() {
        let words = StandIn { vocab: 600_000 };
        for (id, text) in [
            (1, "\0"),
            (98, "a"),
            (257, "  "),
            (258, " a"),
            (257 + 728, "zz"),
            (257 + 729, "   "),
            (257 + 729 + 19_683, "    "),
            (257 + 729 + 19_683 + 531_440, "zzzz"),
            (257 + 729 + 19_683 + 531_441, ""),
        ] {
            assert_eq!(words.decode(&[id]), text, "{id}");
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in any::<String>(), vocab in SMALLEST..200_000) {
            let words = StandIn { vocab };
            let ids = words.encode(&text);
            prop_assert!(ids.iter().all(|id| *id < vocab && *id != END));
            prop_assert_eq!(words.decode(&ids), text);
        }

        #[test]
        fn letters_come_back_whatever_the_vocabulary(
            text in "[a-z ]{0,40}", vocab in SMALLEST..200_000,
        ) {
            let words = StandIn { vocab };
            prop_assert_eq!(words.decode(&words.encode(&text)), text);
        }
    }
}
