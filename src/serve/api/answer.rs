//! Answers in the interface's shape: whole, and piece by piece.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::ask::{Delivery, Form};
use crate::model::Piece;

/// One token of an answer as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Spoken {
    /// Its id.
    pub token: u32,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens at its place.
    pub top: Vec<(u32, f32)>,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of its prompts.
    pub prompt: u64,
    /// Of these, tokens found in the prefix cache.
    pub cached: u64,
    /// Of its answers.
    pub completion: u64,
}

impl Usage {
    fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        })
    }
}

/// A piece of one answer, or all of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Which answer of the request.
    pub index: u32,
    /// Its text.
    pub text: String,
    /// Its tokens, where log-probabilities are wanted.
    pub tokens: Vec<Spoken>,
    /// `stop` or `length`, once it has ended.
    pub finish: Option<&'static str>,
    /// Bytes of the answer before this piece.
    pub offset: usize,
}

/// Words the answers to one request.
#[derive(Clone, Debug)]
pub struct Answerer {
    /// The interface that was asked.
    pub form: Form,
    /// How answers are handed over.
    pub delivery: Delivery,
    /// The request's name.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// The text of each token.
    pub pieces: Arc<Vec<Piece>>,
}

impl Answerer {
    fn envelope(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    /// The whole answer.
    #[must_use]
    pub fn whole(&self, choices: &[Choice], usage: Usage) -> Value {
        let choices = choices.iter().map(|choice| match self.form {
            Form::Chat => json!({
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text, "refusal": null},
                "logprobs": self.logprobs(choice),
                "finish_reason": choice.finish,
            }),
            Form::Text => json!({
                "index": choice.index,
                "text": choice.text,
                "logprobs": self.logprobs(choice),
                "finish_reason": choice.finish,
            }),
        });
        let object = match self.form {
            Form::Chat => "chat.completion",
            Form::Text => "text_completion",
        };
        let mut answer = self.envelope(object, choices.collect());
        answer["usage"] = usage.json();
        answer
    }

    /// The event before the first piece of a chat answer.
    #[must_use]
    pub fn opening(&self, index: u32) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        let choice = json!({
            "index": index, "delta": delta, "logprobs": null, "finish_reason": null,
        });
        (self.form == Form::Chat).then(|| self.chunk(vec![choice], None))
    }

    /// The event of a piece.
    #[must_use]
    pub fn piece(&self, choice: &Choice, usage: Usage) -> Value {
        let logprobs = self.logprobs(choice);
        let json = match self.form {
            Form::Chat => {
                let delta = match choice.text.is_empty() && choice.finish.is_some() {
                    true => json!({}),
                    false => json!({"content": choice.text}),
                };
                json!({
                    "index": choice.index, "delta": delta,
                    "logprobs": logprobs, "finish_reason": choice.finish,
                })
            }
            Form::Text => json!({
                "index": choice.index, "text": choice.text,
                "logprobs": logprobs, "finish_reason": choice.finish,
            }),
        };
        self.chunk(vec![json], self.delivery.continuous_usage.then_some(usage))
    }

    /// The event with the counts at the end of a stream.
    #[must_use]
    pub fn counts(&self, usage: Usage) -> Value {
        self.chunk(Vec::new(), Some(usage))
    }

    fn chunk(&self, choices: Vec<Value>, usage: Option<Usage>) -> Value {
        let object = match self.form {
            Form::Chat => "chat.completion.chunk",
            Form::Text => "text_completion",
        };
        let mut chunk = self.envelope(object, choices);
        if let Some(usage) = usage {
            chunk["usage"] = usage.json();
        } else if self.delivery.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn logprobs(&self, choice: &Choice) -> Value {
        if self.delivery.logprobs.is_none() || choice.tokens.is_empty() {
            return Value::Null;
        }
        match self.form {
            Form::Chat => {
                let content: Vec<Value> =
                    choice.tokens.iter().map(|spoken| self.chat_token(spoken)).collect();
                json!({"content": content, "refusal": null})
            }
            Form::Text => self.text_tokens(choice),
        }
    }

    fn chat_token(&self, spoken: &Spoken) -> Value {
        let mut token = self.token(spoken.token, spoken.logprob);
        let top: Vec<Value> =
            spoken.top.iter().map(|(token, logprob)| self.token(*token, *logprob)).collect();
        token["top_logprobs"] = Value::Array(top);
        token
    }

    fn token(&self, token: u32, logprob: f32) -> Value {
        let bytes = self.bytes(token);
        json!({"token": self.text(token), "logprob": finite(logprob), "bytes": bytes})
    }

    fn text_tokens(&self, choice: &Choice) -> Value {
        let mut offset = choice.offset;
        let (mut tokens, mut logprobs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
        for spoken in &choice.tokens {
            let text = self.text(spoken.token);
            offsets.push(offset);
            offset += text.len();
            tokens.push(text);
            logprobs.push(finite(spoken.logprob));
            let top = spoken
                .top
                .iter()
                .map(|(token, logprob)| (self.text(*token), json!(finite(*logprob))));
            tops.push(Value::Object(top.collect::<Map<_, _>>()));
        }
        json!({
            "tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops,
            "text_offset": offsets,
        })
    }

    fn bytes(&self, token: u32) -> &[u8] {
        self.pieces.get(token as usize).map_or(&[], |piece| &piece.bytes)
    }

    fn text(&self, token: u32) -> String {
        String::from_utf8_lossy(self.bytes(token)).into_owned()
    }
}

/// JSON has no infinities: the least log-probability that the interface shows.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

/// The description of the served model.
#[must_use]
pub fn model_object(name: &str, created: u64, context: u32) -> Value {
    json!({
        "id": name, "object": "model", "created": created, "owned_by": "gemba",
        "max_model_len": context,
    })
}

/// The list of models.
#[must_use]
pub fn model_list(model: Value) -> Value {
    json!({"object": "list", "data": [model]})
}
