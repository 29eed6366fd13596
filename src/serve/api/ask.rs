//! A request as it may be asked, checked.

use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::{Fields, wrong_length, wrong_type, wrong_value};
use super::input::{Input, messages, prompts};

/// The most answers to one prompt.
const CHOICES: i64 = 128;
/// The most texts that end an answer, and the longest of them in bytes.
const STOPS: usize = 4;
const STOP_BYTES: usize = 1024;
/// The most alternatives shown beside a token.
const TOP_CHAT: i64 = 20;
const TOP_TEXT: i64 = 20;

/// Which interface a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
}

impl Form {
    /// The class of its requests in the run folder.
    #[must_use]
    pub const fn class(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Text => "text",
        }
    }
}

/// The form that answers must have.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Any text.
    Text,
    /// JSON that satisfies this schema.
    Json(Value),
}

/// How answers are made.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The most tokens of an answer; what the context leaves where nothing is said.
    pub max_tokens: Option<u32>,
    /// Answers to each prompt.
    pub n: u32,
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Only the likeliest tokens that together reach this probability.
    pub top_p: f32,
    /// 0 for all tokens.
    pub top_k: u32,
    /// Of all draws; the server's choice where nothing is said.
    pub seed: Option<u64>,
    /// Where answers end.
    pub ending: Ending,
    /// The form they must have.
    pub format: Format,
}

/// Where answers end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Texts that end an answer and do not belong to it.
    pub stop: Vec<String>,
    /// The model's own end tokens do not end it.
    pub ignore_eos: bool,
    /// Nothing but the length ends it before so many tokens.
    pub min_tokens: u32,
}

/// How answers are handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Piece by piece.
    pub stream: bool,
    /// With the count of tokens at the end of a stream.
    pub include_usage: bool,
    /// And with every piece.
    pub continuous_usage: bool,
    /// The prompt stands before the answer.
    pub echo: bool,
    /// Log-probabilities of the tokens, and of so many likeliest ones.
    pub logprobs: Option<u32>,
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The model that is asked.
    pub model: String,
    /// What is to be answered.
    pub input: Input,
    /// How answers are made.
    pub settings: Settings,
    /// How they are handed over.
    pub delivery: Delivery,
}

impl Ask {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// [`ApiError`] names the first field that is wrong, unknown or not supported.
    pub fn read(form: Form, body: &[u8]) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| ApiError::malformed(&error.to_string()))?;
        let mut fields = Fields::new("", value)?;
        let model = fields.string("model")?;
        let model = fields.required("model", model)?;
        let input = match form {
            Form::Chat => {
                let value = fields.take("messages");
                messages(fields.required("messages", value)?)?
            }
            Form::Text => {
                let value = fields.take("prompt");
                prompts(fields.required("prompt", value)?)?
            }
        };
        let settings = settings(form, &mut fields)?;
        let delivery = delivery(form, &mut fields)?;
        leave_out(form, settings.n, &mut fields)?;
        fields.finish()?;
        Ok(Self { model, input, settings, delivery })
    }
}

fn settings(form: Form, fields: &mut Fields) -> Result<Settings, ApiError> {
    let whole = 1..=i64::from(u32::MAX);
    let old = fields.integer("max_tokens", whole.clone())?;
    // Load generators send both names to either interface.
    let new = fields.integer("max_completion_tokens", whole)?;
    let default = match form {
        Form::Chat => None,
        // The interface's own.
        Form::Text => Some(16),
    };
    let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX))?.unwrap_or(0);
    Ok(Settings {
        max_tokens: new.or(old).or(default).map(|tokens| tokens as u32),
        n: fields.integer("n", 1..=CHOICES)?.unwrap_or(1) as u32,
        temperature: fields.decimal("temperature", 0.0..=2.0)?.unwrap_or(1.0) as f32,
        top_p: fields.decimal("top_p", 0.0..=1.0)?.unwrap_or(1.0) as f32,
        top_k: top_k.max(0) as u32,
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64),
        ending: Ending {
            stop: stop(fields)?,
            ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
            min_tokens: fields.integer("min_tokens", 0..=i64::from(u32::MAX))?.unwrap_or(0) as u32,
        },
        format: format(fields)?,
    })
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let items = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(one @ Value::String(_)) => vec![one],
        Some(other) => return Err(wrong_type("stop", "a string or an array of strings", &other)),
    };
    if items.len() > STOPS {
        return Err(wrong_length("stop", items.len(), STOPS));
    }
    items
        .into_iter()
        .map(|item| match item {
            Value::String(text) if text.is_empty() || text.len() > STOP_BYTES => {
                let message = format!(
                    "Invalid 'stop': expected strings of 1 to {STOP_BYTES} bytes, but got one of \
                     {}.",
                    text.len()
                );
                Err(ApiError::invalid("stop", "invalid_value", message))
            }
            Value::String(text) => Ok(text),
            other => Err(wrong_type("stop", "a string or an array of strings", &other)),
        })
        .collect()
}

fn format(fields: &mut Fields) -> Result<Format, ApiError> {
    let Some(mut object) = fields.object("response_format")? else { return Ok(Format::Text) };
    let kind = object.string("type")?;
    let kind = object.required("type", kind)?;
    let format = match kind.as_str() {
        "text" => Format::Text,
        "json_object" => Format::Json(json!({"type": "object"})),
        "json_schema" => {
            let schema = object.object("json_schema")?;
            let mut schema = object.required("json_schema", schema)?;
            let name = schema.string("name")?;
            schema.required("name", name)?;
            let value = schema.take("schema").unwrap_or_else(|| json!({}));
            // Every schema is kept to, strictly or not.
            schema.boolean("strict")?;
            schema.string("description")?;
            schema.finish()?;
            Format::Json(value)
        }
        _ => {
            let expected = "'json_object', 'json_schema', and 'text'";
            return Err(wrong_value("response_format.type", expected, &json!(kind)));
        }
    };
    object.finish()?;
    Ok(format)
}

fn delivery(form: Form, fields: &mut Fields) -> Result<Delivery, ApiError> {
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let mut delivery = Delivery { stream, ..Delivery::default() };
    if let Some(mut options) = fields.object("stream_options")? {
        if !stream {
            let message =
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
            let code = "invalid_value";
            return Err(ApiError::invalid("stream_options", code, message.to_owned()));
        }
        delivery.include_usage = options.boolean("include_usage")?.unwrap_or(false);
        delivery.continuous_usage = options.boolean("continuous_usage_stats")?.unwrap_or(false);
        options.neutral("include_obfuscation", &[json!(false)])?;
        options.finish()?;
    }
    match form {
        Form::Chat => {
            let wanted = fields.boolean("logprobs")?.unwrap_or(false);
            let top = fields.integer("top_logprobs", 0..=TOP_CHAT)?;
            if top.is_some() && !wanted {
                let message = "The 'top_logprobs' parameter is only allowed when 'logprobs' is \
                               enabled.";
                let code = "invalid_value";
                return Err(ApiError::invalid("top_logprobs", code, message.to_owned()));
            }
            delivery.logprobs = wanted.then_some(top.unwrap_or(0) as u32);
        }
        Form::Text => {
            let top = fields.integer("logprobs", 0..=TOP_TEXT)?;
            delivery.logprobs = top.map(|top| top as u32);
            delivery.echo = fields.boolean("echo")?.unwrap_or(false);
            if delivery.echo && delivery.logprobs.is_some() {
                return Err(ApiError::unsupported(
                    "echo",
                    "together with 'logprobs' is not supported by this server",
                ));
            }
        }
    }
    Ok(delivery)
}

/// What the interface knows and this server does not do, or need not.
fn leave_out(form: Form, n: u32, fields: &mut Fields) -> Result<(), ApiError> {
    let zero = [json!(0)];
    let one = [json!(1)];
    let off = [json!(false)];
    let empty = [json!([]), json!({}), json!("")];
    fields.neutral("frequency_penalty", &zero)?;
    fields.neutral("presence_penalty", &zero)?;
    fields.neutral("min_p", &zero)?;
    fields.neutral("priority", &zero)?;
    fields.neutral("repetition_penalty", &one)?;
    fields.neutral("length_penalty", &one)?;
    fields.neutral("logit_bias", &empty)?;
    fields.neutral("use_beam_search", &off)?;
    fields.neutral("include_stop_str_in_output", &off)?;
    fields.neutral("skip_special_tokens", &[json!(true)])?;
    for name in ["user", "metadata", "store", "service_tier", "safety_identifier"] {
        fields.ignore(name);
    }
    for name in ["prompt_cache_key", "request_id", "spaces_between_special_tokens"] {
        fields.ignore(name);
    }
    match form {
        Form::Chat => {
            for name in ["tools", "functions"] {
                fields.neutral(name, &empty)?;
            }
            let none = [json!("none"), json!("auto")];
            fields.neutral("tool_choice", &none)?;
            fields.neutral("function_call", &none)?;
            fields.ignore("parallel_tool_calls");
            fields.neutral("modalities", &[json!(["text"])])?;
            fields.neutral("audio", &[])?;
            fields.neutral("prediction", &[])?;
            fields.neutral("reasoning_effort", &[])?;
            fields.neutral("add_generation_prompt", &[json!(true)])?;
            fields.neutral("continue_final_message", &off)
        }
        Form::Text => {
            fields.neutral("best_of", &[json!(n)])?;
            fields.neutral("suffix", &empty)?;
            fields.neutral("add_special_tokens", &[json!(true)])
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chat(text: &str) -> Result<Ask, ApiError> {
        Ask::read(Form::Chat, text.as_bytes())
    }

    #[test]
    fn what_is_left_out_is_as_the_interface_has_it() {
        let ask =
            chat(r#"{"model": "m", "messages": [{"role": "user", "content": "x"}]}"#).unwrap();
        let Settings { max_tokens, n, temperature, top_p, top_k, seed, ending, format } =
            ask.settings;
        assert_eq!((max_tokens, n, temperature, top_p, top_k), (None, 1, 1.0, 1.0, 0));
        assert_eq!((seed, ending, format), (None, Ending::default(), Format::Text));
        assert_eq!(ask.delivery, Delivery::default());
        let ask = Ask::read(Form::Text, br#"{"model": "m", "prompt": [3, 1]}"#).unwrap();
        assert_eq!(ask.settings.max_tokens, Some(16));
        assert_eq!(ask.input, Input::Prompts(vec![super::super::Prompt::Tokens(vec![3, 1])]));
    }

    #[test]
    fn parts_of_a_message_are_joined() {
        let text = r#"{"model": "m", "messages": [{"role": "user", "content":
            [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}"#;
        let Input::Messages(messages) = chat(text).unwrap().input else { panic!("{text}") };
        assert_eq!(messages, [json!({"role": "user", "content": "a\nb"})]);
    }

    /// Any JSON of a small depth.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-z_]{1,8}", inner, 0..4)
                    .prop_map(|fields| fields.into_iter().collect()),
            ]
        })
    }

    const FIELDS: [&str; 16] = [
        "model",
        "messages",
        "prompt",
        "max_tokens",
        "n",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "logprobs",
        "top_logprobs",
        "response_format",
        "tools",
    ];

    proptest! {
        /// Whatever stands in a field, the answer is a request or an error in the interface's
        /// shape.
        #[test]
        fn any_value_in_any_field_is_read_or_refused(
            field in 0..FIELDS.len(), value in values(), form in any::<bool>(),
        ) {
            let form = if form { Form::Chat } else { Form::Text };
            let mut body = json!({"model": "m"});
            match form {
                Form::Chat => body["messages"] = json!([{"role": "user", "content": "x"}]),
                Form::Text => body["prompt"] = json!("x"),
            }
            body[FIELDS[field]] = value;
            if let Err(error) = Ask::read(form, body.to_string().as_bytes()) {
                prop_assert!(error.status == 400);
                prop_assert!(error.body()["error"]["message"].is_string());
            }
        }
    }
}
