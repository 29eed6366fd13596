//! A file being read: its beginning can be looked at before it is consumed, and every byte that
//! passes is hashed.

use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::error::WorkloadError;

/// How much of a file's beginning is looked at to tell its format.
pub(super) const HEAD_BYTES: usize = 64 << 10;

/// A hash that is fed while someone else reads.
#[derive(Default)]
pub(super) struct Fingerprint(Sha256);

impl Fingerprint {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// In lower-case hexadecimal.
    pub(super) fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Reads from `inner` and feeds what passes to a hash.
pub(super) struct Hashing<'a, R> {
    inner: R,
    fingerprint: &'a mut Fingerprint,
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.fingerprint.update(&buffer[..n]);
        Ok(n)
    }
}

/// A file or bytes, with the beginning already read.
pub(super) struct Source<R> {
    head: Vec<u8>,
    rest: R,
}

/// Opens a file, and refuses a folder before anything tries to read it.
pub(super) fn open_file(path: &Path) -> Result<File, WorkloadError> {
    let io = |source| WorkloadError::Io { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.is_dir() {
        return Err(io(std::io::ErrorKind::IsADirectory.into()));
    }
    Ok(file)
}

impl<R: Read> Source<R> {
    /// Takes a reader, of the file at `path`, and looks at its beginning.
    pub(super) fn new(mut reader: R, path: &Path) -> Result<Self, WorkloadError> {
        let mut head = Vec::new();
        reader
            .by_ref()
            .take(HEAD_BYTES as u64)
            .read_to_end(&mut head)
            .map_err(|source| WorkloadError::Io { path: path.to_path_buf(), source })?;
        Ok(Self { head, rest: reader })
    }

    /// The beginning, at most [`HEAD_BYTES`].
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Everything, from the beginning, hashed as it passes.
    pub(super) fn reader(self, fingerprint: &mut Fingerprint) -> BufReader<impl Read> {
        let all = Cursor::new(self.head).chain(self.rest);
        BufReader::with_capacity(1 << 16, Hashing { inner: all, fingerprint })
    }
}
