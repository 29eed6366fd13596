//! Keeps an answer to a JSON schema: which tokens may come next.
//!
//! Neighbours: the engine asks before each token and hands the mask to the device; `llguidance`
//! does the parsing. A grammar is compiled where requests are read, not on the engine's thread.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use crate::backend::Mask;
use crate::model::Piece;

/// Grammars over a model's tokens.
pub(super) struct Grammars {
    factory: ParserFactory,
    /// Words of a mask.
    words: usize,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Grammars").field("words", &self.words).finish_non_exhaustive()
    }
}

impl Grammars {
    /// Grammars over these pieces; the tokens of `end` end an answer.
    ///
    /// # Errors
    /// Why there can be none.
    pub(super) fn new(pieces: &[Piece], end: &[u32]) -> Result<Self, String> {
        let Some(&first) = end.first() else {
            return Err("the model has no token that ends an answer".to_owned());
        };
        let vocab = pieces.len() as u32;
        let texts: Vec<Vec<u8>> = pieces.iter().map(text).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab, first), &texts).with_eos_tokens(end);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory =
            ParserFactory::new_simple(&environment).map_err(|error| error.to_string())?;
        factory.quiet();
        Ok(Self { factory, words: Mask::words(vocab) })
    }

    /// What keeps one answer to `schema`.
    ///
    /// # Errors
    /// What is wrong with the schema.
    pub(super) fn guide(&self, schema: &Value) -> Result<Guide, String> {
        let grammar = TopLevelGrammar::from_json_schema(schema.clone());
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            Some(error) => Err(first_line(&error)),
            None => Ok(Guide { matcher, mask: SimpleVob::new(), words: self.words }),
        }
    }
}

/// The text of a token as the grammars want it; control tokens are marked, so that no text is
/// mistaken for one.
fn text(piece: &Piece) -> Vec<u8> {
    match piece.control {
        true => [&[TokTrie::SPECIAL_TOKEN_MARKER], &piece.bytes[..]].concat(),
        false => piece.bytes.clone(),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

/// Keeps one answer to its grammar.
pub(super) struct Guide {
    matcher: Matcher,
    mask: SimpleVob,
    words: usize,
}

impl Clone for Guide {
    /// With state of its own.
    fn clone(&self) -> Self {
        Self { matcher: self.matcher.deep_clone(), mask: self.mask.clone(), words: self.words }
    }
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Guide").finish_non_exhaustive()
    }
}

impl Guide {
    /// The tokens that may come next.
    ///
    /// # Errors
    /// Why the grammar cannot go on.
    pub(super) fn allowed(&mut self) -> Result<&[u32], String> {
        self.mask =
            self.matcher.compute_mask_or_eos().map_err(|error| first_line(&error.to_string()))?;
        if self.mask.as_slice().len() < self.words || self.mask.is_zero() {
            return Err("the grammar allows no token of the model".to_owned());
        }
        Ok(&self.mask.as_slice()[..self.words])
    }

    /// The next token came, one of those allowed. Whether the answer is whole.
    ///
    /// # Errors
    /// Why the grammar does not take it.
    pub(super) fn take(&mut self, token: u32) -> Result<bool, String> {
        self.matcher.consume_token(token).map_err(|error| first_line(&error.to_string()))?;
        Ok(self.matcher.is_stopped())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::words::Words;
    use super::*;

    /// An answer that takes the highest allowed token each time.
    fn highest(words: &Words, schema: &Value, most: usize) -> (String, bool) {
        let mut guide = words.guide(schema).unwrap();
        let mut ids = Vec::new();
        for _ in 0..most {
            let allowed = guide.allowed().unwrap();
            let bits = (0..257_u32).rev();
            let token = bits.into_iter().find(|t| allowed[(t / 32) as usize] >> (t % 32) & 1 == 1);
            let token = token.unwrap();
            ids.push(token);
            if guide.take(token).unwrap() {
                return (words.decode(&ids), true);
            }
        }
        (words.decode(&ids), false)
    }

    #[test]
    fn whatever_is_chosen_satisfies_the_schema() {
        let words = Words::of_bytes();
        let schema = json!({
            "type": "object",
            "properties": {"kind": {"enum": ["ab", "cd"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["kind", "count"],
            "additionalProperties": false,
        });
        let (text, whole) = highest(&words, &schema, 200);
        assert!(whole, "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["kind"], "cd");
        assert!(value["count"].as_u64().is_some_and(|count| count <= 99), "{value}");
    }

    #[test]
    fn a_schema_that_makes_no_sense_is_refused() {
        let words = Words::of_bytes();
        for schema in [json!({"type": "objekt"}), json!({"type": 7}), json!("x")] {
            let error = words.guide(&schema).unwrap_err();
            assert!(!error.is_empty() && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn without_an_end_there_are_no_grammars() {
        let error = Grammars::new(&[Piece::default()], &[]).unwrap_err();
        assert_eq!(error, "the model has no token that ends an answer");
    }
}
