//! The embedded backend: any machine's own cores.
