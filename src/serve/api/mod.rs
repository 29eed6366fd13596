//! The OpenAI-compatible interface as data: what may be asked, what is answered, and how errors
//! are worded. Nothing here listens or runs.

mod answer;
mod ask;
mod error;
mod fields;
mod input;

pub(super) use answer::{Answerer, Choice, Spoken, Usage, model_list, model_object};
pub(super) use ask::{Ask, Form, Format, Settings};
pub(super) use error::ApiError;
pub(super) use input::{Input, Prompt};
