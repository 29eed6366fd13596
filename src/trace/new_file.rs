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
    beside: PathBuf,
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
        let mut name = OsString::from(path.file_name().unwrap_or_default());
        name.push(".part");
        let beside = path.with_file_name(name);
        let file = File::create(&beside).map_err(TraceError::io("create", path))?;
        let file = Some(BufWriter::with_capacity(1 << 18, file));
        Ok(Self { path: path.to_path_buf(), beside, file })
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// [`TraceError::Io`] if the disk fails.
    pub fn finish(mut self) -> Result<(), TraceError> {
        let written = self.flush().map_err(TraceError::io("write", &self.path));
        self.file = None;
        written?;
        fs::rename(&self.beside, &self.path).map_err(TraceError::io("rename", &self.path))
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
        let _ = fs::remove_file(&self.beside);
    }
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
