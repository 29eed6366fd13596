//! The OpenAI-compatible interface as data: what may be asked, what is answered, and how errors
//! are worded. Nothing here listens or runs.

mod answer;
mod ask;
mod error;
mod fields;
mod input;

pub use answer::{Answerer, Choice, Spoken, Usage, model_list, model_object};
pub use ask::{Ask, Delivery, Ending, Form, Format, Settings};
pub use error::ApiError;
pub use input::{Input, Prompt};
