//! Binds workload, engine and recorder into a run.
