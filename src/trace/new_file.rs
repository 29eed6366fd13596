//! A file that comes into being whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::TraceError;

/// Writes a file beside its place and renames it when it is whole: no reader ever sees half of
/// it, and one that is given up leaves what was there before.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    place: Place,
    file: Option<BufWriter<File>>,
}

impl NewFile {
    /// Begins the file, with the folders it lies in.
    ///
    /// # Errors
    /// [`TraceError::Io`] if it cannot be created.
    pub fn create(path: &Path) -> Result<Self, TraceError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(TraceError::io("create", folder))?;
        }
        let place = Place::of(path);
        let file = place.open().map_err(TraceError::io("create", path))?;
        let file = Some(BufWriter::with_capacity(1 << 18, file));
        Ok(Self { path: path.to_path_buf(), place, file })
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// [`TraceError::Io`] if the disk fails.
    pub fn finish(mut self) -> Result<(), TraceError> {
        let written = self.flush().map_err(TraceError::io("write", &self.path));
        self.file = None;
        written?;
        self.place.take().map_err(TraceError::io("rename", &self.path))
    }

    fn file(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.file.as_mut().ok_or_else(|| io::Error::other("the file is closed"))
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file()?.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After a rename there is nothing beside; before it, half a file must not stay.
        self.place.leave();
    }
}

/// Where what is written to a path goes.
#[derive(Debug)]
enum Place {
    /// Beside the file, until it is whole; a link stays one.
    Beside { beside: PathBuf, path: PathBuf },
    /// Into a device or a pipe, which must not be replaced by a file.
    Through(PathBuf),
}

impl Place {
    fn of(path: &Path) -> Self {
        let path = match fs::metadata(path) {
            Ok(found) if !found.is_file() => return Self::Through(path.to_path_buf()),
            Ok(_) => fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()),
            Err(_) => path.to_path_buf(),
        };
        let mut name = OsString::from(path.file_name().unwrap_or_default());
        name.push(".part");
        Self::Beside { beside: path.with_file_name(name), path }
    }

    fn open(&self) -> io::Result<File> {
        match self {
            Self::Beside { beside, .. } => File::create(beside),
            Self::Through(path) => File::options().write(true).open(path),
        }
    }

    fn take(&self) -> io::Result<()> {
        match self {
            Self::Beside { beside, path } => fs::rename(beside, path),
            Self::Through(_) => Ok(()),
        }
    }

    fn leave(&self) {
        if let Self::Beside { beside, .. } = self {
            // The error that matters came before.
            let _ = fs::remove_file(beside);
        }
    }
}

/// Writes a file so that no reader ever sees half of it: beside its place, then renamed. What is
/// no file, a pipe or a device, is written to as it is.
///
/// # Errors
/// [`TraceError::Io`]; nothing is left behind then.
pub fn write_beside(path: &Path, bytes: &[u8]) -> Result<(), TraceError> {
    let place = Place::of(path);
    let write = |bytes| place.open()?.write_all(bytes);
    let written = write(bytes).map_err(TraceError::io("write", path));
    let taken = written.and_then(|()| place.take().map_err(TraceError::io("rename", path)));
    if taken.is_err() {
        place.leave();
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.txt");
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"one").unwrap();
        assert!(!path.exists());
        file.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        let mut given_up = NewFile::create(&path).unwrap();
        given_up.write_all(b"two").unwrap();
        drop(given_up);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = NewFile::create(&dir.path().join("file/under")).unwrap_err();
        assert!(error.to_string().starts_with("create "), "{error}");
    }
}
