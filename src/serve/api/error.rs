//! Errors in the interface's shape and words: `{"error":{message,type,param,code}}`.

use serde_json::{Value, json};

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: u16,
    message: String,
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
    /// Seconds after which to try again, where that may help.
    pub retry_after: Option<u64>,
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

/// The most characters of a message and of a parameter's name: what a client sent is not sent
/// back at any length.
const MESSAGE: usize = 1000;
const PARAM: usize = 200;

/// At most `most` characters of a text, with a sign where some are left out.
fn shortened(mut text: String, most: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
        text.push('…');
    }
    text
}

impl ApiError {
    fn new(status: u16, kind: &'static str, message: String) -> Self {
        let message = shortened(message, MESSAGE);
        Self { status, message, kind, param: None, code: None, retry_after: None }
    }

    fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    fn param(self, param: &str) -> Self {
        Self { param: Some(shortened(param.to_owned(), PARAM)), ..self }
    }

    /// The parameter `param` cannot be what it is.
    #[must_use]
    pub fn invalid(param: &str, code: &'static str, message: String) -> Self {
        Self::new(400, INVALID, message).param(param).code(code)
    }

    /// A parameter that the interface knows and this server does not do.
    #[must_use]
    pub fn unsupported(param: &str, what: &str) -> Self {
        let message = format!("Unsupported parameter: '{param}' {what}.");
        Self::invalid(param, "unsupported_parameter", message)
    }

    /// No answer can be kept to the schema of `response_format`.
    #[must_use]
    pub fn schema(what: &str) -> Self {
        let message = format!("Invalid schema for response_format: {what}.");
        Self::invalid("response_format", "invalid_json_schema", message)
    }

    /// The body is not JSON, or not an object.
    #[must_use]
    pub fn malformed(what: &str) -> Self {
        let message = format!("We could not parse the JSON body of your request. ({what})");
        Self::new(400, INVALID, message)
    }

    /// The body is in an encoding that is not read.
    #[must_use]
    pub fn encoding(header: &str, found: &str, expected: &str) -> Self {
        let message = format!("Unsupported {header}: expected {expected}, but got '{found}'.");
        Self::new(415, INVALID, message)
    }

    /// The body is longer than it may be.
    #[must_use]
    pub fn too_large(most: usize) -> Self {
        let message = format!("Request body is too large: at most {most} bytes are read.");
        Self::new(413, INVALID, message).code("request_too_large")
    }

    /// The body did not come in time.
    #[must_use]
    pub fn slow_body(seconds: u64) -> Self {
        let message = format!("The request body did not arrive within {seconds} seconds.");
        Self::new(408, INVALID, message).code("request_timeout")
    }

    /// No such model.
    #[must_use]
    pub fn no_model(name: &str) -> Self {
        let message = format!("The model `{name}` does not exist or you do not have access to it.");
        Self::new(404, INVALID, message).param("model").code("model_not_found")
    }

    /// No such address.
    #[must_use]
    pub fn no_url(method: &str, path: &str) -> Self {
        Self::new(404, INVALID, format!("Invalid URL ({method} {path})")).code("unknown_url")
    }

    /// The address answers other methods.
    #[must_use]
    pub fn no_method(method: &str, path: &str) -> Self {
        let message = format!("Invalid method for URL ({method} {path})");
        Self::new(405, INVALID, message).code("method_not_supported")
    }

    /// No key, or another one.
    #[must_use]
    pub fn no_key(given: bool) -> Self {
        let message = match given {
            true => "Incorrect API key provided.",
            false => {
                "You didn't provide an API key. You need to provide your API key in an \
                 Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
            }
        };
        let error = Self::new(401, INVALID, message.to_owned());
        if given { error.code("invalid_api_key") } else { error }
    }

    /// Prompt and answer do not fit in the model's context.
    #[must_use]
    pub fn too_long(context: u32, prompt: usize, answer: u32, param: &str) -> Self {
        let (part, both) = match param {
            "messages" => ("messages", "messages or completion"),
            _ => ("prompt", "prompt or completion"),
        };
        let message = if prompt >= context as usize {
            format!(
                "This model's maximum context length is {context} tokens. However, your {part} \
                 resulted in {prompt} tokens. Please reduce the length of the {part}."
            )
        } else {
            format!(
                "This model's maximum context length is {context} tokens. However, you requested \
                 {} tokens ({prompt} in the {part}, {answer} in the completion). Please reduce \
                 the length of the {both}.",
                prompt as u64 + u64::from(answer)
            )
        };
        Self::invalid(param, "context_length_exceeded", message)
    }

    /// The queue is full.
    #[must_use]
    pub fn crowded(open: u32, most: u32, retry_after: u64) -> Self {
        let message = format!(
            "The engine is currently overloaded: {open} requests run or wait, and {most} may. \
             Please try again in {retry_after}s."
        );
        let error = Self::new(429, "requests", message).code("rate_limit_exceeded");
        Self { retry_after: Some(retry_after), ..error }
    }

    /// The server does not take requests now.
    #[must_use]
    pub fn unavailable(why: &str) -> Self {
        let error = Self::new(503, SERVER, format!("The server is unavailable: {why}."));
        Self { retry_after: Some(1), ..error.code("unavailable") }
    }

    /// The request outlived its time limit.
    #[must_use]
    pub fn timed_out(seconds: u64) -> Self {
        let message = format!("The request did not complete within {seconds} seconds.");
        Self::new(504, SERVER, message).code("timeout")
    }

    /// The engine could not serve it.
    #[must_use]
    pub fn failed(why: &str) -> Self {
        let message = format!("The server had an error processing your request: {why}.");
        Self::new(500, SERVER, message).code("server_error")
    }

    /// As the body of an answer, or an event of a stream.
    #[must_use]
    pub fn body(&self) -> Value {
        let Self { message, kind, param, code, .. } = self;
        json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
    }
}
