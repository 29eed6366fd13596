//! Declarative demand: who asks what, when.
