//! The model's words: text to ids and back, conversations to prompts, grammars over tokens.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::guide::{Grammars, Guide};
use super::template::Template;
use crate::model::{Model, ModelError, Piece, Tokenizer};

/// What the server needs of a model to speak with clients. Shared by all its threads.
#[derive(Debug)]
pub struct Words {
    tokenizer: Tokenizer,
    template: Template,
    begin: Option<u32>,
    end: Arc<[u32]>,
    pieces: Arc<Vec<Piece>>,
    grammars: OnceLock<Result<Grammars, String>>,
}

impl Words {
    /// The words of `model`: its own tokenizer, or the stand-in where its weights are random and
    /// it has none; its chat template, or a plain one.
    ///
    /// # Errors
    /// [`ModelError`] if a model of files has no tokenizer, or random weights have too few
    /// tokens for the stand-in; a template that does not parse.
    pub fn of(model: &Model) -> Result<Self, ModelError> {
        let tokenizer = match model.open_tokenizer() {
            Err(_) if model.is_random() => Tokenizer::stand_in(model.name(), model.shape().vocab)?,
            other => other?,
        };
        let markers = model.markers();
        let end: Arc<[u32]> = markers.end.iter().copied().chain(tokenizer.end()).collect();
        let name = |id: Option<&u32>| id.and_then(|id| tokenizer.name(*id)).unwrap_or_default();
        let (first, last) = (name(markers.begin.as_ref()), name(end.first()));
        let template = Template::new(model.chat_template(), first, last)
            .map_err(|what| ModelError::Tokenizer { model: model.name().to_owned(), what })?;
        let pieces = Arc::new(tokenizer.pieces());
        Ok(Self {
            tokenizer,
            template,
            begin: markers.begin,
            end,
            pieces,
            grammars: OnceLock::new(),
        })
    }

    /// What a user must know of these words before trusting an answer.
    #[must_use]
    pub fn notes(&self) -> Vec<&'static str> {
        let mut notes = Vec::new();
        if self.tokenizer.is_stand_in() {
            notes.push(
                "the weights are random: a stand-in tokenizer makes text of the answers, and \
                 they mean nothing",
            );
        }
        if self.template.is_plain() {
            notes.push(
                "the model has no chat template: messages become plain \"role: content\" lines",
            );
        }
        notes
    }

    /// The ids of a prompt, with what the tokenizer puts around a text.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let ids = self.tokenizer.encode(text)?;
        // A text of nothing is still a beginning where there is one.
        Ok(if ids.is_empty() { self.begin.into_iter().collect() } else { ids })
    }

    /// The ids of a conversation.
    pub(super) fn converse(&self, messages: &[Value]) -> Result<Vec<u32>, ConverseError> {
        let text = self.template.render(messages).map_err(ConverseError::Template)?;
        let ids = match self.template.is_plain() {
            true => self.encode(&text),
            // The template writes the begin token itself.
            false => self.tokenizer.encode_plain(&text),
        };
        ids.map_err(ConverseError::Model)
    }

    /// The text of ids. What a tokenizer refuses to decode has none.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids).unwrap_or_default()
    }

    /// The tokens that end an answer.
    pub(super) fn end(&self) -> &Arc<[u32]> {
        &self.end
    }

    /// The text of each token.
    pub(super) fn pieces(&self) -> &Arc<Vec<Piece>> {
        &self.pieces
    }

    /// What keeps an answer to a JSON schema.
    ///
    /// # Errors
    /// What is wrong with the schema, or why there are no grammars over these tokens.
    pub(super) fn guide(&self, schema: &Value) -> Result<Guide, String> {
        let grammars = self.grammars.get_or_init(|| Grammars::new(self.pieces(), &self.end));
        grammars.as_ref().map_err(Clone::clone)?.guide(schema)
    }
}

/// Why a conversation cannot become a prompt.
#[derive(Debug)]
pub(super) enum ConverseError {
    /// The model's template refuses it.
    Template(String),
    /// Its text cannot become tokens.
    Model(ModelError),
}

#[cfg(test)]
impl Words {
    /// Words of single bytes.
    pub(super) fn of_bytes() -> Self {
        let tokenizer = Tokenizer::stand_in("bytes", 257).unwrap();
        let pieces = Arc::new(tokenizer.pieces());
        Self {
            tokenizer,
            template: Template::new(None, String::new(), String::new()).unwrap(),
            begin: None,
            end: [0].into(),
            pieces,
            grammars: OnceLock::new(),
        }
    }

    pub(super) fn encode_plain(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode_plain(text).unwrap()
    }
}
