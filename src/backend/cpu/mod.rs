//! The embedded backend: any machine's own cores.

pub mod linear;
pub mod pool;
