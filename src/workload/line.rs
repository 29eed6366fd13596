//! Lines of a text file, one at a time, in a buffer that is bounded whatever the file holds.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::error::{Place, WorkloadError};

/// The most bytes a line may have. The longest real rows (an agent's session with the token
/// ids of each call) have about 10 MB.
pub(super) const LINE_LIMIT: usize = 32 << 20;

/// One line without its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// Counted from 1.
    pub number: u64,
    /// Its text, without `\n` or `\r\n`, and without a byte order mark.
    pub text: &'a str,
    /// Whether a line feed ended it; the last line of a file may lack one.
    pub ended: bool,
}

/// The lines of a reader.
pub(super) struct Lines<R> {
    reader: R,
    path: PathBuf,
    buffer: Vec<u8>,
    number: u64,
    limit: usize,
}

impl<R: BufRead> Lines<R> {
    /// The lines of `reader`, which reads the file at `path`.
    pub(super) fn new(reader: R, path: &Path) -> Self {
        Self { reader, path: path.to_path_buf(), buffer: Vec::new(), number: 0, limit: LINE_LIMIT }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next line that is not blank; `None` at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<Line<'_>>, WorkloadError> {
        loop {
            let Some(ended) = self.fill()? else { return Ok(None) };
            if self.buffer.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let at = Place::line(&self.path, self.number);
            if self.buffer.contains(&0) {
                let found = format!("a zero byte in line {}", self.number);
                return Err(WorkloadError::NotText { path: at.path, found });
            }
            return match std::str::from_utf8(&self.buffer) {
                Ok(text) => Ok(Some(Line { number: self.number, text, ended })),
                Err(error) => {
                    let valid = error.valid_up_to();
                    let byte = self.buffer.get(valid).copied().unwrap_or(0);
                    Err(WorkloadError::NotUtf8 { at, byte, column: valid + 1 })
                }
            };
        }
    }

    /// Reads one line into the buffer; says whether a line feed ended it, `None` at the end.
    fn fill(&mut self) -> Result<Option<bool>, WorkloadError> {
        self.buffer.clear();
        self.number += 1;
        loop {
            let available = self
                .reader
                .fill_buf()
                .map_err(|source| WorkloadError::Io { path: self.path.clone(), source })?;
            if available.is_empty() {
                self.trim();
                return Ok((!self.buffer.is_empty()).then_some(false));
            }
            let feed = available.iter().position(|&byte| byte == b'\n');
            let taken = feed.unwrap_or(available.len());
            if self.buffer.len() + taken > self.limit {
                let at = Place::line(&self.path, self.number);
                return Err(WorkloadError::LongLine { at, limit: self.limit });
            }
            self.buffer.extend_from_slice(&available[..taken]);
            self.reader.consume(taken + usize::from(feed.is_some()));
            if feed.is_some() {
                self.trim();
                return Ok(Some(true));
            }
        }
    }

    fn trim(&mut self) {
        if self.buffer.last() == Some(&b'\r') {
            self.buffer.pop();
        }
        if self.number == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
            self.buffer.drain(..3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<(u64, String, bool)>, WorkloadError> {
        let mut lines = Lines::new(std::io::BufReader::with_capacity(3, bytes), Path::new("x"));
        let mut out = Vec::new();
        while let Some(line) = lines.next()? {
            out.push((line.number, line.text.to_owned(), line.ended));
        }
        Ok(out)
    }

    #[test]
    fn ends_marks_and_blanks_are_taken_as_they_are() {
        let read = all(b"\xef\xbb\xbfone\r\n\r\n\ntwo\nthree").unwrap();
        let expected =
            [(1, "one".to_owned(), true), (4, "two".into(), true), (5, "three".into(), false)];
        assert_eq!(read, expected);
        assert!(all(b"").unwrap().is_empty());
        assert!(all(b"\r\n \n").unwrap().is_empty());
    }

    #[test]
    fn what_is_not_text_is_refused() {
        assert!(matches!(all(b"a\nb\0c\n"), Err(WorkloadError::NotText { .. })));
        let error = all(b"fine\nab\xffc\n").unwrap_err();
        assert!(matches!(error, WorkloadError::NotUtf8 { byte: 0xff, column: 3, .. }));
    }

    #[test]
    fn a_long_line_is_refused_before_it_is_held() {
        let mut lines = Lines::new(&b"0123456789\n"[..], Path::new("x"));
        lines.limit = 9;
        assert!(matches!(lines.next(), Err(WorkloadError::LongLine { .. })));
    }
}
