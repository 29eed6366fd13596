//! The run folder: stored, versioned facts.
