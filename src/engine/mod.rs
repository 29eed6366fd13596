//! One step: decision, launches, tokens, facts.

pub mod forward;
