//! What is to be answered: a conversation, or prompts.

use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::{Fields, wrong_length, wrong_type, wrong_value};

/// The most prompts of one request.
const PROMPTS: usize = 128;

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// A text to go on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// As text.
    Text(String),
    /// As token ids.
    Tokens(Vec<u32>),
}

/// What is to be answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A conversation: objects with `role` and `content`, a text or null.
    Messages(Vec<Value>),
    /// Prompts.
    Prompts(Vec<Prompt>),
}

impl Input {
    /// The parameter it came in.
    #[must_use]
    pub const fn param(&self) -> &'static str {
        match self {
            Self::Messages(_) => "messages",
            Self::Prompts(_) => "prompt",
        }
    }
}

/// The messages of a conversation.
pub(super) fn messages(value: Value) -> Result<Input, ApiError> {
    let Value::Array(items) = value else {
        return Err(wrong_type("messages", "an array of objects", &value));
    };
    if items.is_empty() {
        return Err(wrong_length("messages", 0, usize::MAX));
    }
    let messages = items.into_iter().enumerate().map(|(at, item)| message(at, item));
    Ok(Input::Messages(messages.collect::<Result<_, _>>()?))
}

fn message(at: usize, item: Value) -> Result<Value, ApiError> {
    let path = format!("messages[{at}]");
    let mut fields = Fields::new(&path, item)?;
    let role = fields.string("role")?;
    let role = fields.required("role", role)?;
    if !ROLES.contains(&role.as_str()) {
        let expected = ROLES.map(|role| format!("'{role}'")).join(", ");
        return Err(wrong_value(&format!("{path}.role"), &expected, &json!(role)));
    }
    let calls = fields.take("tool_calls");
    let content = match fields.take("content") {
        Some(value) => Value::String(content(&format!("{path}.content"), value)?),
        // What an assistant asked a tool may stand without words.
        None if calls.is_some() => Value::Null,
        None => return fields.required("content", None),
    };
    let mut message = json!({"role": role, "content": content});
    for name in ["name", "tool_call_id"] {
        if let Some(text) = fields.string(name)? {
            message[name] = Value::String(text);
        }
    }
    if let Some(calls) = calls {
        message["tool_calls"] = calls;
    }
    fields.neutral("refusal", &[])?;
    fields.finish()?;
    Ok(message)
}

/// A content: a text, or parts that are texts.
fn content(name: &str, value: Value) -> Result<String, ApiError> {
    let parts = match value {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(wrong_type(name, "a string or an array of objects", &other)),
    };
    let mut texts = Vec::new();
    for (at, part) in parts.into_iter().enumerate() {
        let path = format!("{name}[{at}]");
        let mut fields = Fields::new(&path, part)?;
        let kind = fields.string("type")?;
        let kind = fields.required("type", kind)?;
        if kind != "text" {
            return Err(wrong_value(&format!("{path}.type"), "'text'", &json!(kind)));
        }
        let text = fields.string("text")?;
        texts.push(fields.required("text", text)?);
        fields.finish()?;
    }
    Ok(texts.join("\n"))
}

/// The prompts of a text completion: a text, texts, ids, or lists of ids.
pub(super) fn prompts(value: Value) -> Result<Input, ApiError> {
    let one = |prompt| Ok(Input::Prompts(vec![prompt]));
    let items = match value {
        Value::String(text) => return one(Prompt::Text(text)),
        Value::Array(items) => items,
        other => return Err(wrong_type("prompt", "a string or an array", &other)),
    };
    if items.is_empty() || items.len() > PROMPTS && !items[0].is_number() {
        return Err(wrong_length("prompt", items.len(), PROMPTS));
    }
    if items[0].is_number() {
        return one(Prompt::Tokens(ids("prompt", &items)?));
    }
    let prompts = items.into_iter().enumerate().map(|(at, item)| match item {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(items) => Ok(Prompt::Tokens(ids(&format!("prompt[{at}]"), &items)?)),
        other => Err(wrong_type(&format!("prompt[{at}]"), "a string or an array", &other)),
    });
    Ok(Input::Prompts(prompts.collect::<Result<_, _>>()?))
}

fn ids(name: &str, items: &[Value]) -> Result<Vec<u32>, ApiError> {
    let id = |(at, item): (usize, &Value)| {
        let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| wrong_type(&format!("{name}[{at}]"), "a token id", item))
    };
    items.iter().enumerate().map(id).collect()
}
