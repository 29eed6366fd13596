//! Reading a JSON object field by field, with the interface's words for what is wrong.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::ApiError;

/// The fields of an object that have not been read yet. `null` counts as absent.
#[derive(Debug)]
pub(super) struct Fields {
    /// Where the object stands, with a dot behind it: `stream_options.`.
    path: String,
    left: Map<String, Value>,
}

type Read<T> = Result<T, ApiError>;

impl Fields {
    /// The fields of the object at `path`, which is empty for the body itself.
    pub(super) fn new(path: &str, value: Value) -> Read<Self> {
        match value {
            Value::Object(left) if path.is_empty() => Ok(Self { path: String::new(), left }),
            Value::Object(left) => Ok(Self { path: format!("{path}."), left }),
            other if path.is_empty() => {
                Err(ApiError::malformed(&format!("expected an object, but got {}", kind(&other))))
            }
            other => Err(wrong_type(path, "an object", &other)),
        }
    }

    /// The full name of a field.
    pub(super) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.path)
    }

    /// A field whatever it is.
    pub(super) fn take(&mut self, field: &str) -> Option<Value> {
        self.left.remove(field).filter(|value| !value.is_null())
    }

    /// An object in the object.
    pub(super) fn object(&mut self, field: &str) -> Read<Option<Self>> {
        let name = self.name(field);
        self.take(field).map(|value| Self::new(&name, value)).transpose()
    }

    pub(super) fn boolean(&mut self, field: &str) -> Read<Option<bool>> {
        let name = self.name(field);
        self.take(field)
            .map(|value| value.as_bool().ok_or_else(|| wrong_type(&name, "a boolean", &value)))
            .transpose()
    }

    pub(super) fn string(&mut self, field: &str) -> Read<Option<String>> {
        let name = self.name(field);
        self.take(field)
            .map(|value| match value {
                Value::String(text) => Ok(text),
                other => Err(wrong_type(&name, "a string", &other)),
            })
            .transpose()
    }

    /// A field without which nothing can be done.
    pub(super) fn required<T>(&self, field: &str, value: Option<T>) -> Read<T> {
        let name = self.name(field);
        value.ok_or_else(|| {
            let message = format!("Missing required parameter: '{name}'.");
            ApiError::invalid(&name, "missing_required_parameter", message)
        })
    }

    pub(super) fn integer(&mut self, field: &str, range: RangeInclusive<i64>) -> Read<Option<i64>> {
        let name = self.name(field);
        let Some(value) = self.take(field) else { return Ok(None) };
        let wrong = |side: &str, code, sign: &str, limit: i64| {
            let message = format!(
                "Invalid '{name}': integer {side} value. Expected a value {sign} {limit}, but \
                 got {value} instead."
            );
            Err(ApiError::invalid(&name, code, message))
        };
        let (least, most) = (*range.start(), *range.end());
        match (value.as_i64(), value.as_u64()) {
            (Some(number), _) if number < least => {
                wrong("below minimum", "integer_below_min_value", ">=", least)
            }
            (Some(number), _) if number <= most => Ok(Some(number)),
            (Some(_), _) | (_, Some(_)) => {
                wrong("above maximum", "integer_above_max_value", "<=", most)
            }
            _ => Err(wrong_type(&name, "an integer", &value)),
        }
    }

    pub(super) fn decimal(&mut self, field: &str, range: RangeInclusive<f64>) -> Read<Option<f64>> {
        let name = self.name(field);
        let Some(value) = self.take(field) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| wrong_type(&name, "a decimal", &value))?;
        if range.contains(&number) {
            return Ok(Some(number));
        }
        let (side, code, word, limit) = if number < *range.start() {
            ("below minimum", "decimal_below_min_value", ">=", range.start())
        } else {
            ("above maximum", "decimal_above_max_value", "<=", range.end())
        };
        let message = format!(
            "Invalid '{name}': decimal {side} value. Expected a value {word} {limit}, but got \
             {value} instead."
        );
        Err(ApiError::invalid(&name, code, message))
    }

    /// A field that is known and whose only supported values are `neutral`.
    pub(super) fn neutral(&mut self, field: &str, neutral: &[Value]) -> Read<()> {
        let name = self.name(field);
        match self.take(field) {
            Some(value) if !neutral.iter().any(|neutral| same(neutral, &value)) => {
                Err(ApiError::unsupported(&name, "is not supported by this server"))
            }
            _ => Ok(()),
        }
    }

    /// A field that changes nothing here.
    pub(super) fn ignore(&mut self, field: &str) {
        self.left.remove(field);
    }

    /// All fields have been read; what is left is unknown.
    pub(super) fn finish(self) -> Read<()> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(field) => {
                let name = self.name(field);
                let message = format!("Unknown parameter: '{name}'.");
                Err(ApiError::invalid(&name, "unknown_parameter", message))
            }
        }
    }
}

/// Equal values; numbers by their amount.
fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// What a value is, as the interface calls it.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A value of another type than `expected`.
pub(super) fn wrong_type(name: &str, expected: &str, found: &Value) -> ApiError {
    let message =
        format!("Invalid type for '{name}': expected {expected}, but got {} instead.", kind(found));
    ApiError::invalid(name, "invalid_type", message)
}

/// A value that is none of those allowed.
pub(super) fn wrong_value(name: &str, expected: &str, found: &Value) -> ApiError {
    let message = format!("Invalid value: {found}. Supported values for '{name}' are: {expected}.");
    ApiError::invalid(name, "invalid_value", message)
}

/// An array of another length than it may have.
pub(super) fn wrong_length(name: &str, found: usize, most: usize) -> ApiError {
    let (side, code, word, limit) = match found {
        0 => ("empty array", "empty_array", "minimum", 1),
        _ => ("array too long", "array_above_max_length", "maximum", most),
    };
    let message = format!(
        "Invalid '{name}': {side}. Expected an array with {word} length {limit}, but got an array \
         with length {found} instead."
    );
    ApiError::invalid(name, code, message)
}
