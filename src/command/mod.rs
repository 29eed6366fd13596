//! One file per subcommand: the only place where both arms meet. Composes; computes nothing.

pub mod bench;
pub mod workload;
