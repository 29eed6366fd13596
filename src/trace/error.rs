//! Why a run folder could not be written or read.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Why a run folder could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The log of a closed run is not what was written.
    #[error("read {path}: {what}")]
    Damaged {
        /// The log.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A table beside a run was made of another run's log.
    #[error("read {path}: expected a table of the run in run.json, found one of another run")]
    Foreign {
        /// The table.
        path: PathBuf,
    },
    /// A file could not be created, written, opened or read.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried: `create`, `write`, `read`, `rename`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder exists and holds a run already.
    #[error("create run folder {path}: it already holds a run")]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds no `run.json`.
    #[error("read run folder {path}: no run.json in it, so it is not a run folder")]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
    /// The folder was written by a newer version.
    #[error("read {path}: expected schema {expected}, found {found}")]
    Schema {
        /// The file.
        path: PathBuf,
        /// The newest schema this version reads.
        expected: &'static str,
        /// What the file says.
        found: String,
    },
    /// A file does not hold what its format promises.
    #[error("read {path}: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where, what was expected and what was found.
        what: String,
    },
    /// A table could not be written or read.
    #[cfg(feature = "analysis")]
    #[error("{action} {path}: {source}")]
    Table {
        /// What was tried.
        action: &'static str,
        /// The table.
        path: PathBuf,
        /// What the table library said.
        source: polars::error::PolarsError,
    },
    /// The folder has only an event log, and this build cannot make tables.
    #[error("read run folder {path}: this build has no tables (feature `analysis`)")]
    NoAnalysis {
        /// The folder.
        path: PathBuf,
    },
}

impl TraceError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    pub(super) fn malformed(path: &Path, what: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_path_buf(), what: what.into() }
    }

    /// Whether a place could not be written, so that what is only to be read may still be.
    #[must_use]
    pub fn is_unwritable(&self) -> bool {
        match self {
            #[cfg(feature = "analysis")]
            Self::Table { action, .. } => *action == "write",
            Self::Io { action, source, .. } => {
                *action != "read"
                    && matches!(
                        source.kind(),
                        ErrorKind::PermissionDenied
                            | ErrorKind::ReadOnlyFilesystem
                            | ErrorKind::StorageFull
                            | ErrorKind::QuotaExceeded
                            | ErrorKind::FileTooLarge
                    )
            }
            _ => false,
        }
    }

    /// What the user can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Io { source, .. } if source.kind() == ErrorKind::StorageFull => {
                Some("the disk is full; what was recorded until then stays readable")
            }
            Self::Io { source, .. } if source.kind() == ErrorKind::QuotaExceeded => {
                Some("the quota is used up; what was recorded until then stays readable")
            }
            Self::Io { source, .. } if source.kind() == ErrorKind::FileTooLarge => {
                Some("no larger file is allowed; what was recorded until then stays readable")
            }
            Self::Io { action, source, .. }
                if *action != "read"
                    && matches!(
                        source.kind(),
                        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
                    ) =>
            {
                Some("it may not be written; name another place with --output or --output-dir")
            }
            Self::Io { action, source, .. }
                if matches!(*action, "write" | "rename")
                    && source.kind() == ErrorKind::NotFound =>
            {
                Some("its folder was removed meanwhile")
            }
            Self::Damaged { .. } => Some(
                "restore it from a copy; or delete it, and tables that were made from it are read",
            ),
            Self::Foreign { .. } => Some("put the run's own events.log or tables into its folder"),
            Self::Occupied { .. } => Some("name another folder with --output-dir"),
            Self::NotARun { .. } => Some("`gemba run` writes such a folder"),
            Self::Schema { .. } => Some("read it with the version of gemba that wrote it"),
            Self::NoAnalysis { .. } => Some("read it with a build made with default features"),
            _ => None,
        }
    }
}
