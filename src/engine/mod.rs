//! One step: decision, launches, tokens, facts.
