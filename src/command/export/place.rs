//! Where an export goes: a file that appears when it is whole, or stdout.

use std::io::{self, BufWriter, Stdout, Write};
use std::path::{Path, PathBuf};

use super::super::{Failure, print};
use crate::trace::{NewFile, TraceError};

/// A file that is being written, or stdout.
pub(super) enum Place {
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// What is written of it.
        file: NewFile,
    },
    /// Whoever reads stdout.
    Stdout(BufWriter<Stdout>),
}

impl Place {
    /// The place that `path` names; `-` is stdout.
    ///
    /// # Errors
    /// [`Failure`] if the file cannot be created.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Stdout(BufWriter::new(io::stdout())));
        }
        Ok(Self::File { path: path.to_path_buf(), file: NewFile::create(path)? })
    }

    /// Fills it with what `write` writes, and closes it.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written.
    pub(super) fn fill(
        mut self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), Fault>,
    ) -> Result<(), Failure> {
        match write(&mut self) {
            Ok(()) => self.close(),
            Err(Fault::Read(error)) => Err(error.into()),
            Err(Fault::Write(error)) => self.fail(&error),
        }
    }

    /// A reader of stdout that has gone is no failure.
    fn fail(&self, error: &io::Error) -> Result<(), Failure> {
        let path = match self {
            Self::File { path, .. } => path.as_path(),
            Self::Stdout(_) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Self::Stdout(_) => Path::new("stdout"),
        };
        Err(Failure::new(format!("write {}: {error}", path.display()), None::<String>))
    }

    /// Puts the file in its place and says where that is.
    fn close(mut self) -> Result<(), Failure> {
        if let Err(error) = self.flush() {
            return self.fail(&error);
        }
        match self {
            Self::File { path, file } => {
                file.finish()?;
                tell(&path)
            }
            Self::Stdout(_) => Ok(()),
        }
    }
}

/// Why an export stopped.
pub(super) enum Fault {
    /// The run could not be read.
    Read(TraceError),
    /// The export could not be written.
    Write(io::Error),
}

impl From<TraceError> for Fault {
    fn from(error: TraceError) -> Self {
        Self::Read(error)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// Prints where the export is.
pub(super) fn tell(path: &Path) -> Result<(), Failure> {
    print(&format!("{}\n", path.display()))
}

impl Write for Place {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File { file, .. } => file.write(bytes),
            Self::Stdout(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File { file, .. } => file.flush(),
            Self::Stdout(out) => out.flush(),
        }
    }
}
