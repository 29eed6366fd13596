//! Keeps an answer to a JSON schema: which tokens may come next.
//!
//! Neighbours: the engine asks before each token and hands the mask to the device; `llguidance`
//! does the parsing. A grammar is compiled where requests are read, not on the engine's thread,
//! and within bounds: `schema` refuses what would cost too much before it is tried.

use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use super::schema;
use crate::backend::Mask;
use crate::model::Piece;

/// The most characters of what the compiler says is wrong with a schema.
const REASON: usize = 400;

/// Grammars over a model's tokens.
pub(super) struct Grammars {
    factory: ParserFactory,
    /// Held while a grammar is compiled: what that needs of memory is needed once.
    turn: Mutex<()>,
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
        // Errors are for clients, who have not seen the compiler's state.
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory, turn: Mutex::new(()), words: Mask::words(vocab) })
    }

    /// What keeps one answer to `schema`.
    ///
    /// # Errors
    /// What is wrong with the schema: too large, not understood, or satisfied by nothing.
    pub(super) fn guide(&self, schema: &Value) -> Result<Guide, String> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let compile = || {
            schema::check(schema)?;
            self.compile(schema)
        };
        // The compiler recurses as deep as references lead.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(schema::STACK_BYTES);
            let thread = thread.spawn_scoped(scope, compile);
            let thread = thread.map_err(|error| format!("it cannot be read now: {error}"))?;
            thread.join().map_err(|_| "its compiler failed".to_owned())?
        })
    }

    fn compile(&self, schema: &Value) -> Result<Guide, String> {
        let grammar = TopLevelGrammar::from_json_schema(schema.clone());
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            return Err(reason(&error));
        }
        let mut guide = Guide { matcher, mask: SimpleVob::new(), words: self.words };
        // A schema that leads only to itself compiles, and then nothing satisfies it.
        guide.allowed().map_err(|_| "no answer satisfies it".to_owned())?;
        Ok(guide)
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

/// What the compiler says in one line, without what it adds for its own developers.
fn reason(text: &str) -> String {
    if text.starts_with("panic:") {
        return "its compiler cannot take it".to_owned();
    }
    let end = text.find("<non-verbose/>").unwrap_or(text.len());
    // Marks under a place of a pattern point at nothing once they stand in one line with it.
    let lines = text[..end].lines().map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| line.chars().any(|c| c != '^')).collect();
    let whole = lines.join(" ");
    let whole = whole.trim_end_matches('.');
    match whole.char_indices().nth(REASON) {
        None => whole.to_owned(),
        Some((end, _)) => format!("{}…", &whole[..end]),
    }
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
            self.matcher.compute_mask_or_eos().map_err(|error| reason(&error.to_string()))?;
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
        self.matcher.consume_token(token).map_err(|error| reason(&error.to_string()))?;
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
        let long = format!("({}", "x".repeat(1000));
        for (schema, expected) in [
            (json!({"type": "objekt"}), "Invalid type: objekt"),
            (json!({"type": 7}), "type must be a string or array of strings"),
            (json!("x"), "schema must be an object or boolean"),
            (json!(false), "Unsatisfiable schema: schema is false"),
            (json!({"enum": []}), "Unsatisfiable schema: anyOf is empty"),
            // They lead nowhere but to themselves.
            (json!({"$ref": "#"}), "no answer satisfies it"),
            (json!({"anyOf": [{"$ref": "#"}]}), "no answer satisfies it"),
            (
                json!({"$ref": "#/$defs/a", "$defs": {
                    "a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"},
                }}),
                "no answer satisfies it",
            ),
            (json!({"$ref": "#/$defs/a"}), "Reference segment '$defs' not found in '#/$defs/a'"),
            (json!({"$ref": "file:///etc/passwd"}), "Only absolute $ref's"),
            (
                json!({"allOf": [{"$ref": "#"}, {"type": "string"}]}),
                "circular references with sibling keys are not supported: #",
            ),
            (json!({"not": {}}), "Unimplemented keys: [\"not\"]"),
            (
                json!({"type": "string", "pattern": "((("}),
                "regex parse error: ((( error: unclosed group",
            ),
            (json!({"type": "string", "pattern": long}), "x…"),
            (json!({"enum": vec![0; 20_000]}), "expected at most 10000 values, but got 20002"),
            (
                json!({"type": "integer", "minimum": -1e308, "maximum": 1e308}),
                "its compiler cannot take it",
            ),
        ] {
            let error = words.guide(&schema).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
            assert!(error.chars().count() <= REASON + 1, "{error}");
        }
    }

    /// At the limits of what is let through: no stack overflows, and nothing is aborted.
    #[test]
    fn the_largest_schemas_are_compiled() {
        let words = Words::of_bytes();
        let of = |place: usize| json!({"$ref": format!("#/$defs/d{place}")});
        let chain = |each: &dyn Fn(Value) -> Value, length: usize| {
            let mut all: serde_json::Map<String, Value> =
                (0..length).map(|place| (format!("d{place}"), each(of(place + 1)))).collect();
            all.insert(format!("d{length}"), json!({"type": "array"}));
            json!({"$ref": "#/$defs/d0", "$defs": all})
        };
        let mut deep = json!({"type": "string"});
        for _ in 0..100 {
            deep = json!({"type": "array", "items": deep});
        }
        for schema in [
            deep,
            chain(&|next| next, 990),
            chain(&|next| json!({"type": "array", "items": next}), 650),
            chain(&|next| json!({"allOf": [next, {"maxItems": 3}]}), 480),
            chain(&|next| json!({"type": "array", "items": {"allOf": [next, {}]}}), 390),
            json!({"enum": (0..9000).map(|n| format!("value {n}")).collect::<Vec<_>>()}),
            json!({"type": "array", "minItems": 1_000_000_000_u64, "maxItems": u64::MAX}),
            json!({"type": "string", "minLength": 1_000_000, "maxLength": 1_000_000_000}),
            json!({"type": "string", "pattern": "^(((a{1,1000}){1,1000}){1,1000})$"}),
        ] {
            let guided = words.guide(&schema).map(|_| ());
            assert_eq!(guided, Ok(()), "{}", &schema.to_string()[..60]);
        }
    }

    #[test]
    fn without_an_end_there_are_no_grammars() {
        let error = Grammars::new(&[Piece::default()], &[]).unwrap_err();
        assert_eq!(error, "the model has no token that ends an answer");
    }
}
