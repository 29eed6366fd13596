//! Reads a log that is still being written: whole frames as they come.

use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::log::{Head, check_magic, decode};
use super::{TraceError, plausible};
use crate::event::Fact;

/// Bytes asked of the source at once.
const CHUNK: usize = 1 << 18;

/// Facts given at once: few enough to lie in a cache while they are taken.
const AT_ONCE: usize = 1 << 10;

/// Follows an event log. What of it is there is read; a frame that is not whole yet waits.
///
/// Unlike a [`LogReader`](super::LogReader), it does not take the end of the source for the end
/// of the log, and every fact it gives has been checked for being plausible.
pub struct LogTail<R> {
    path: PathBuf,
    source: R,
    /// The first `held` bytes are of the log; the rest is room that is not cleared every time.
    bytes: Vec<u8>,
    held: usize,
    /// Bytes of the log before these.
    before: u64,
    /// Where the frame begins that comes next, or that is open.
    next: usize,
    /// What of the open frame is still to be given.
    open: Range<usize>,
}

impl<R: Read> LogTail<R> {
    /// A tail of `source` from its first byte; `path` is for messages.
    pub fn new(source: R, path: &Path) -> Self {
        let path = path.to_path_buf();
        Self { path, source, bytes: Vec::new(), held: 0, before: 0, next: 0, open: 0..0 }
    }

    /// The source.
    pub const fn source(&self) -> &R {
        &self.source
    }

    /// Bytes of the frames given so far, the magic included.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.before + self.next as u64
    }

    /// Appends facts of frames that are whole, a thousand at most, and reads once if there are
    /// none. `false` where the source has no more at the moment.
    ///
    /// # Errors
    /// [`TraceError::Io`] if the source fails; [`TraceError::Malformed`] if a frame does not
    /// match its checksum, is no run of facts, or claims what cannot be;
    /// [`TraceError::Schema`] if a newer version wrote the log.
    pub fn poll(&mut self, facts: &mut Vec<Fact>) -> Result<bool, TraceError> {
        let first = facts.len();
        if self.open.is_empty() && !self.open_frame()? {
            if self.read()? == 0 {
                return Ok(false);
            }
            self.open_frame()?;
        }
        while !self.open.is_empty() && facts.len() - first < AT_ONCE {
            let most = AT_ONCE - (facts.len() - first);
            let payload = &self.bytes[self.open.clone()];
            let rest = decode(payload, most, self.offset(), &self.path, facts)?;
            self.open.start = self.open.end - rest.len();
            if self.open.is_empty() {
                self.next = self.open.end;
                self.open_frame()?;
            }
        }
        for fact in &facts[first..] {
            plausible::fact(fact).map_err(|what| self.malformed(&what))?;
        }
        Ok(true)
    }

    /// Reads once; gives the bytes.
    fn read(&mut self) -> Result<usize, TraceError> {
        self.bytes.copy_within(self.next..self.held, 0);
        self.before += self.next as u64;
        self.held -= self.next;
        (self.next, self.open) = (0, 0..0);
        let room = self.held..self.held + CHUNK;
        if self.bytes.len() < room.end {
            self.bytes.resize(room.end, 0);
        }
        let got = loop {
            match self.source.read(&mut self.bytes[room.clone()]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let got = got.map_err(TraceError::io("read", &self.path))?;
        self.held += got;
        Ok(got)
    }

    /// Opens the next frame, if it is whole.
    fn open_frame(&mut self) -> Result<bool, TraceError> {
        if self.offset() == 0 {
            let Some(magic) = self.bytes[..self.held].first_chunk::<8>() else { return Ok(false) };
            check_magic(magic, &self.path)?;
            self.next = magic.len();
        }
        let held = &self.bytes[self.next..self.held];
        let Some(head) = held.first_chunk::<8>() else { return Ok(false) };
        let Head { length, crc } = Head::of(*head);
        if !Head::is_length(length) {
            return Err(self.malformed(&format!("expected a frame, found {length} bytes")));
        }
        let Some(payload) = held.get(8..8 + length) else { return Ok(false) };
        if crc32fast::hash(payload) != crc {
            return Err(self.malformed("the frame does not match its checksum"));
        }
        self.open = self.next + 8..self.next + 8 + length;
        Ok(true)
    }

    fn malformed(&self, what: &str) -> TraceError {
        TraceError::malformed(&self.path, format!("frame at byte {}: {what}", self.offset()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::log::{MAGIC, encode};
    use super::*;
    use crate::event::{DeviceState, StateChange, Step};
    use crate::unit::Nanos;

    fn state(at: u64) -> Fact {
        Fact::State(StateChange { device: 0, at: Nanos(at), state: DeviceState::Host })
    }

    fn log(frames: u64) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        (0..frames).for_each(|at| encode(&[state(at), state(at + 1)], &mut bytes).unwrap());
        bytes
    }

    /// Gives its bytes in pieces, with an end between any two.
    struct Growing {
        pieces: Vec<Vec<u8>>,
        ended: bool,
    }

    impl Read for Growing {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            self.ended = !self.ended;
            if self.ended || self.pieces.is_empty() {
                return Ok(0);
            }
            let piece = self.pieces.remove(0);
            into[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let read = |bytes: &[u8]| {
            let mut facts = Vec::new();
            let mut tail = LogTail::new(bytes, Path::new("events.log"));
            tail.poll(&mut facts).err().map(|error| error.to_string())
        };
        let other = "read events.log: expected an event log, found other bytes";
        assert_eq!(read(b"PAR1PAR1").as_deref(), Some(other));
        let newer = "read events.log: expected schema event log version 1 or 2, found version 9";
        assert_eq!(read(b"GEMBA\0\0\x09").as_deref(), Some(newer));
        let mut flipped = log(2);
        *flipped.last_mut().unwrap() ^= 1;
        let said = read(&flipped).unwrap();
        assert!(said.ends_with("the frame does not match its checksum"), "{said}");
        let mut impossible = MAGIC.to_vec();
        let step = Step { start: Nanos(5), end: Nanos(4), ..Step::default() };
        encode(&[Fact::Step(step)], &mut impossible).unwrap();
        let said = read(&impossible).unwrap();
        assert!(said.ends_with("it ends before it starts"), "{said}");
    }

    proptest! {
        #[test]
        fn a_log_that_grows_in_any_pieces_is_read_whole(
            cuts in prop::collection::vec(0usize..400, 0..12),
        ) {
            let bytes = log(9);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect();
            let mut tail = LogTail::new(Growing { pieces, ended: false }, Path::new("events.log"));
            let mut facts = Vec::new();
            for _ in 0..40 {
                tail.poll(&mut facts).unwrap();
            }
            prop_assert_eq!(facts.len(), 18);
            prop_assert_eq!(tail.offset(), bytes.len() as u64);
        }

        #[test]
        fn arbitrary_bytes_never_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(noise);
            let mut tail = LogTail::new(bytes.as_slice(), Path::new("events.log"));
            while let Ok(true) = tail.poll(&mut Vec::new()) {}
        }
    }
}
