//! Text to token ids and back, and the ids that begin and end a text.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::ModelError;
use super::gguf::Vocabulary;
use super::own::Own;
use super::stand_in::{END, SMALLEST, StandIn};

/// A token's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes, which need not be whole characters; empty where it has no text.
    pub bytes: Vec<u8>,
    /// Whether it steers the model instead of being part of a text.
    pub control: bool,
}

/// A model's tokenizer. Shareable across threads.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    model: String,
    vocab: u32,
}

#[derive(Debug)]
enum Inner {
    /// The model's own.
    Own(Own),
    /// For random weights, which have none.
    StandIn(StandIn),
}

impl Tokenizer {
    /// A tokenizer for a model of `vocab` tokens that has none of its own: any text becomes ids
    /// and comes back, and the model's random answers become something that can be read.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if so few tokens cannot stand for every text.
    pub fn stand_in(model: &str, vocab: u32) -> Result<Self, ModelError> {
        if vocab < SMALLEST {
            let what = format!("expected a vocabulary of at least {SMALLEST}, found {vocab}");
            return Err(ModelError::Tokenizer { model: model.to_owned(), what });
        }
        let inner = Inner::StandIn(StandIn { vocab });
        Ok(Self { inner, model: model.to_owned(), vocab })
    }

    /// Whether it is a stand-in, not the model's own.
    #[must_use]
    pub const fn is_stand_in(&self) -> bool {
        matches!(self.inner, Inner::StandIn(_))
    }

    /// The tokens that end an answer by this tokenizer's own rules.
    #[must_use]
    pub const fn end(&self) -> Option<u32> {
        match self.inner {
            Inner::Own(_) => None,
            Inner::StandIn(_) => Some(END),
        }
    }

    /// The text of each token of the model's vocabulary, by id.
    #[must_use]
    pub fn pieces(&self) -> Vec<Piece> {
        match &self.inner {
            Inner::StandIn(words) => (0..self.vocab)
                .map(|id| Piece { bytes: words.bytes(id), control: id == END })
                .collect(),
            Inner::Own(own) => own.pieces(self.vocab),
        }
    }

    /// The ids of `text` as a prompt: with the begin token and what else the model wants around
    /// a text, where its tokenizer says so.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if it refuses the text or gives an id outside the vocabulary.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.ids(text, true)
    }

    /// The ids of `text` alone.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if it refuses the text or gives an id outside the vocabulary.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.ids(text, false)
    }

    /// How many tokens `text` alone is.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if it refuses the text or gives an id outside the vocabulary.
    pub fn count(&self, text: &str) -> Result<usize, ModelError> {
        Ok(self.ids(text, false)?.len())
    }

    /// The text of `ids`, without begin, end and other control tokens.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if it refuses them.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        match &self.inner {
            Inner::Own(own) => own.decode(ids).map_err(|what| self.refused(what)),
            Inner::StandIn(words) => Ok(words.decode(ids)),
        }
    }

    /// The id of a token's text.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        match &self.inner {
            Inner::Own(own) => own.id(token),
            Inner::StandIn(words) => match words.encode(token)[..] {
                [id] => Some(id),
                _ => None,
            },
        }
    }

    /// The name of a token, control tokens included, as the tokenizer spells it.
    #[must_use]
    pub fn name(&self, id: u32) -> Option<String> {
        match &self.inner {
            Inner::Own(own) => own.name(id),
            Inner::StandIn(_) => None,
        }
    }

    /// Tokens it knows, control tokens included.
    #[must_use]
    pub fn vocab(&self) -> usize {
        match &self.inner {
            Inner::Own(own) => own.vocab(),
            Inner::StandIn(words) => words.vocab as usize,
        }
    }

    fn ids(&self, text: &str, around: bool) -> Result<Vec<u32>, ModelError> {
        let own = match &self.inner {
            Inner::Own(own) => own,
            Inner::StandIn(words) => return Ok(words.encode(text)),
        };
        let ids = own.ids(text, around).map_err(|what| self.refused(what))?;
        match ids.iter().find(|&&id| id >= self.vocab) {
            None => Ok(ids),
            Some(id) => Err(self.refused(format!(
                "expected ids below the model's {} tokens, found {id}: the tokenizer is of \
                 another model",
                self.vocab
            ))),
        }
    }

    fn refused(&self, what: String) -> ModelError {
        ModelError::Tokenizer { model: self.model.clone(), what }
    }
}

/// Where a tokenizer comes from; it is read when text is first needed.
#[derive(Debug)]
pub(super) enum TokenizerSource {
    /// A `tokenizer.json`.
    File(PathBuf),
    /// The vocabulary in the GGUF file of the weights, or else the `tokenizer.json` beside it.
    Vocabulary {
        /// The `tokenizer.json`, if there is one.
        beside: Option<PathBuf>,
    },
    /// None; says why and how to bring one.
    Missing(String),
}

impl TokenizerSource {
    /// Reads the tokenizer of a model of that name with `vocab` tokens. `weights` is the file of
    /// the weights, for the vocabulary in a GGUF file.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn load(
        &self,
        model: &str,
        vocab: u32,
        weights: &[u8],
    ) -> Result<Tokenizer, String> {
        let inner = match self {
            Self::File(path) => from_file(path)?,
            Self::Vocabulary { beside } => match (from_vocabulary(weights), beside) {
                (Ok(tokenizer), _) => tokenizer,
                (Err(_), Some(path)) => from_file(path)?,
                (Err(why), None) => {
                    return Err(format!("{why}; put the model's tokenizer.json beside the file"));
                }
            },
            Self::Missing(reason) => return Err(reason.clone()),
        };
        let inner = Inner::Own(inner);
        Ok(Tokenizer { inner, model: model.to_owned(), vocab })
    }
}

fn from_file(path: &Path) -> Result<Own, String> {
    Own::read(path).map_err(|what| format!("read {}: {what}", path.display()))
}

fn from_vocabulary(file: &[u8]) -> Result<Own, String> {
    let text = Vocabulary::read(file)?.tokenizer_json()?;
    Own::parse(&text).map_err(|what| format!("vocabulary: {what}"))
}

/// The tokens that begin and end a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkerTokens {
    /// Put before a text, if any is known.
    pub begin: Option<u32>,
    /// Each of them ends a text; empty if none is known.
    pub end: Vec<u32>,
}

impl MarkerTokens {
    /// The first of `configs` that knows a token decides; `tokenizer` is a
    /// `tokenizer_config.json`, which names them by their text and lists their ids.
    pub(super) fn from_json(configs: &[&Value], tokenizer: &Value) -> Self {
        let first =
            |key: &str| configs.iter().map(|config| ids(&config[key])).find(|ids| !ids.is_empty());
        let named = |key: &str| added(tokenizer, &tokenizer[key]).into_iter().collect();
        let begin = first("bos_token_id").unwrap_or_else(|| named("bos_token"));
        let end = first("eos_token_id").unwrap_or_else(|| named("eos_token"));
        Self { begin: begin.first().copied(), end }
    }
}

/// One id or a list of ids; -1 and the like mean none.
fn ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(values) => values.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}

/// The id of a token that `tokenizer_config.json` names, as text or with its settings.
fn added(config: &Value, token: &Value) -> Option<u32> {
    let text = token.as_str().or_else(|| token["content"].as_str())?;
    let (id, _) = config["added_tokens_decoder"]
        .as_object()?
        .iter()
        .find(|(_, added)| added["content"].as_str() == Some(text))?;
    id.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_file_that_knows_the_tokens_decides() {
        let decoder = json!({"7": {"content": "<s>"}, "9": {"content": "</s>"}});
        let by_text = json!({
            "bos_token": {"content": "<s>"},
            "eos_token": "</s>",
            "added_tokens_decoder": decoder,
        });
        let null = Value::Null;
        let table = [
            (
                json!({"eos_token_id": [2, 3]}),
                json!({"bos_token_id": 1, "eos_token_id": 2}),
                &null,
                Some(1),
                vec![2, 3],
            ),
            (json!({}), json!({"bos_token_id": null, "eos_token_id": 5}), &null, None, vec![5]),
            (json!({"eos_token_id": -1}), json!({}), &by_text, Some(7), vec![9]),
            (json!({"eos_token_id": "x"}), json!({}), &null, None, vec![]),
        ];
        for (generation, config, tokenizer, begin, end) in table {
            let found = MarkerTokens::from_json(&[&generation, &config], tokenizer);
            assert_eq!(found, MarkerTokens { begin, end }, "{generation} {config}");
        }
    }
}
