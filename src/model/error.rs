//! Why a model could not be read.

use std::path::PathBuf;

/// Why a model could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be opened or read.
    #[error("read model file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what its format promises.
    #[error("read model file {path}: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where, what was expected and what was found.
        what: String,
    },
}
