//! `events.log`: an eight-byte magic, then frames.
//!
//! ```text
//! ┌────────────┬────────────┬──────────────────────┐
//! │ length u32 │ crc32 u32  │ payload              │  little-endian
//! └────────────┴────────────┴──────────────────────┘
//! ```
//! The payload is a run of facts in postcard's encoding, whole facts only. The magic ends in the
//! version; a new encoding gets a new magic and keeps this decoder. Version 2 adds a kind of fact,
//! copies, behind those of version 1 and changes none of them: one decoder reads both. A reader
//! stops at the first frame that is cut short or does not match its checksum: that is where the
//! writer died.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::TraceError;
use crate::event::Fact;

/// The first bytes of the log, version included.
pub const MAGIC: &[u8; 8] = b"GEMBA\0\0\x02";

/// The versions that are read.
const VERSIONS: std::ops::RangeInclusive<u8> = 1..=2;

/// No frame is longer; a longer length is a lie.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

/// Appends the encoding of `facts` to `frames` as one or more frames.
pub(super) fn encode(facts: &[Fact], frames: &mut Vec<u8>) -> Result<(), postcard::Error> {
    // A fact takes some tens of bytes; names are bounded by the readers that made them.
    for chunk in facts.chunks(1 << 15) {
        let start = frames.len();
        frames.extend_from_slice(&[0; 8]);
        for fact in chunk {
            *frames = postcard::to_extend(fact, std::mem::take(frames))?;
        }
        let payload = start + 8;
        let length = u32::try_from(frames.len() - payload)
            .map_err(|_| postcard::Error::SerializeBufferFull)?;
        let crc = crc32fast::hash(&frames[payload..]);
        frames[start..start + 4].copy_from_slice(&length.to_le_bytes());
        frames[start + 4..payload].copy_from_slice(&crc.to_le_bytes());
    }
    Ok(())
}

/// Reads a log frame by frame, in bounded memory.
pub struct LogReader<R = BufReader<File>> {
    path: PathBuf,
    source: R,
    payload: Vec<u8>,
    offset: u64,
    intact: bool,
}

impl LogReader {
    /// Opens a log and checks its magic.
    ///
    /// # Errors
    /// [`TraceError::Io`] if it cannot be read, [`TraceError::Malformed`] if it is no log,
    /// [`TraceError::Schema`] if a newer version wrote it.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        // Opening a pipe would wait for a writer.
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(TraceError::malformed(path, "expected a file"));
        }
        let file = File::open(path).map_err(TraceError::io("read", path))?;
        Self::new(BufReader::with_capacity(1 << 20, file), path)
    }

    /// The version of a log; none if it cannot be read or is no log of a version that is known.
    #[cfg(feature = "analysis")]
    pub(super) fn version(path: &Path) -> Option<u8> {
        let mut magic = [0; 8];
        File::open(path).ok()?.read_exact(&mut magic).ok()?;
        check_magic(&magic, path).ok().map(|()| magic[7])
    }
}

impl<R: Read> LogReader<R> {
    /// A reader of any source; `path` is for messages.
    ///
    /// # Errors
    /// As [`LogReader::open`].
    pub fn new(mut source: R, path: &Path) -> Result<Self, TraceError> {
        let mut magic = [0; 8];
        let found = fill(&mut source, &mut magic).map_err(TraceError::io("read", path))?;
        if found < magic.len() {
            return Err(TraceError::malformed(path, "expected an event log, found other bytes"));
        }
        check_magic(&magic, path)?;
        let path = path.to_path_buf();
        Ok(Self { path, source, payload: Vec::new(), offset: 8, intact: true })
    }

    /// Whether every frame read so far was whole. After [`LogReader::next_frame`] has returned
    /// nothing, `false` means that the writer died.
    #[must_use]
    pub const fn intact(&self) -> bool {
        self.intact
    }

    /// What is wrong with a log that its run has closed, after its last frame has been read.
    ///
    /// # Errors
    /// [`TraceError::Damaged`] if it breaks off.
    pub fn check_whole(&self) -> Result<(), TraceError> {
        if self.intact {
            return Ok(());
        }
        let what = format!("the run is closed, but its log is damaged at byte {}", self.offset);
        Err(TraceError::Damaged { path: self.path.clone(), what })
    }

    /// Appends the facts of the next frame to `facts`; `false` at the end.
    ///
    /// # Errors
    /// [`TraceError::Io`] if the disk fails; [`TraceError::Malformed`] if a frame matches its
    /// checksum and still is no run of facts: then a program was wrong, not a disk.
    pub fn next_frame(&mut self, facts: &mut Vec<Fact>) -> Result<bool, TraceError> {
        let mut head = [0; 8];
        let got = self.read(&mut head)?;
        if got < head.len() {
            self.intact &= got == 0;
            return Ok(false);
        }
        let Head { length, crc } = Head::of(head);
        if !Head::is_length(length) {
            self.intact = false;
            return Ok(false);
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(length, 0);
        let whole = self.read(&mut payload)? == length && crc32fast::hash(&payload) == crc;
        self.payload = payload;
        if !whole {
            self.intact = false;
            return Ok(false);
        }
        decode(&self.payload, usize::MAX, self.offset, &self.path, facts)?;
        self.offset += 8 + length as u64;
        Ok(true)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, TraceError> {
        fill(&mut self.source, into).map_err(TraceError::io("read", &self.path))
    }
}

/// What stands before the facts of a frame.
pub(super) struct Head {
    /// Bytes of the facts.
    pub(super) length: usize,
    /// Their checksum.
    pub(super) crc: u32,
}

impl Head {
    pub(super) const fn of(bytes: [u8; 8]) -> Self {
        let [a, b, c, d, crc @ ..] = bytes;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        Self { length, crc: u32::from_le_bytes(crc) }
    }

    /// Whether a frame may be so long. One of nothing is never written, but zeros look like one.
    pub(super) const fn is_length(length: usize) -> bool {
        length > 0 && length <= MAX_FRAME_BYTES
    }
}

/// Appends facts of a frame that begins at byte `offset`, at most `most`; gives the bytes of the
/// others.
pub(super) fn decode<'a>(
    payload: &'a [u8],
    most: usize,
    offset: u64,
    path: &Path,
    facts: &mut Vec<Fact>,
) -> Result<&'a [u8], TraceError> {
    let mut rest = payload;
    let full = facts.len().saturating_add(most);
    while !rest.is_empty() && facts.len() < full {
        let (fact, tail) = postcard::take_from_bytes(rest).map_err(|error| {
            let what = format!("frame at byte {offset}: expected a fact, found {error}");
            TraceError::malformed(path, what)
        })?;
        facts.push(fact);
        rest = tail;
    }
    Ok(rest)
}

/// Whether these are the first bytes of a log that this version reads.
pub(super) fn check_magic(magic: &[u8; 8], path: &Path) -> Result<(), TraceError> {
    if magic[..7] != MAGIC[..7] {
        return Err(TraceError::malformed(path, "expected an event log, found other bytes"));
    }
    if !VERSIONS.contains(&magic[7]) {
        return Err(TraceError::Schema {
            path: path.to_path_buf(),
            expected: "event log version 1 or 2",
            found: format!("version {}", magic[7]),
        });
    }
    Ok(())
}

/// Reads until `into` is full or the source ends.
fn fill(source: &mut impl Read, into: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while got < into.len() {
        match source.read(&mut into[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{
        Cargo, DeviceState, Direction, KernelId, MemoryCopy, Power, Provenance, StateChange,
        StepId, Throttle,
    };
    use crate::unit::{Bytes, Nanos};

    fn state(at: u64) -> Fact {
        Fact::State(StateChange { device: 0, at: Nanos(at), state: DeviceState::Host })
    }

    fn read_all(bytes: &[u8]) -> Result<(Vec<Fact>, bool), TraceError> {
        let mut reader = LogReader::new(bytes, Path::new("events.log"))?;
        let mut facts = Vec::new();
        while reader.next_frame(&mut facts)? {}
        Ok((facts, reader.intact()))
    }

    fn log(frames: &[&[Fact]]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for facts in frames {
            encode(facts, &mut bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = log(&[&[state(1), state(2)], &[state(3)]]);
        assert_eq!(read_all(&bytes).unwrap(), (vec![state(1), state(2), state(3)], true));
    }

    /// A log as version 1 wrote it: a kernel's name, a state, a reading of a meter.
    #[test]
    fn a_log_of_the_first_version_is_read_for_ever() {
        let frame = [
            0, 3, 3, b'q', b'k', b'v', // kernel 3, "qkv"
            1, 0, 7, 4, // device 0 is in `host` from 7 ns on
            8, 0, 9, 12, 3, 0xbc, 0x0f, 2, 0, // 12 µJ, 3 mW, 1980 MHz, thermal, measured
        ];
        let mut bytes = b"GEMBA\0\0\x01".to_vec();
        bytes.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&frame).to_le_bytes());
        bytes.extend_from_slice(&frame);
        let (facts, whole) = read_all(&bytes).unwrap();
        let expected = [
            Fact::Kernel { id: KernelId(3), name: "qkv".to_owned() },
            state(7),
            Fact::Power(Power {
                device: 0,
                at: Nanos(9),
                energy_uj: 12,
                power_mw: 3,
                clock_mhz: 1980,
                throttle: Throttle::Thermal,
                basis: Provenance::Measured,
            }),
        ];
        assert_eq!((facts.as_slice(), whole), (&expected[..], true));
    }

    #[test]
    fn copies_stand_behind_the_facts_of_the_first_version() {
        let copy = Fact::Copy(MemoryCopy {
            device: 0,
            stream: 0,
            step: Some(StepId(2)),
            start: Nanos(3),
            end: Nanos(4),
            cargo: Cargo::KvBlocks,
            direction: Direction::ToHost,
            bytes: Bytes(5),
        });
        let bytes = log(&[std::slice::from_ref(&copy)]);
        assert_eq!((bytes[7], &bytes[16..]), (2, &[9, 0, 0, 1, 2, 3, 4, 1, 1, 5][..]));
        assert_eq!(read_all(&bytes).unwrap(), (vec![copy], true));
    }

    #[test]
    fn other_files_and_newer_logs_are_refused() {
        let message = |bytes: &[u8]| read_all(bytes).unwrap_err().to_string();
        assert_eq!(message(b"PAR1"), "read events.log: expected an event log, found other bytes");
        assert_eq!(
            message(b"GEMBA\0\0\x07"),
            "read events.log: expected schema event log version 1 or 2, found version 7"
        );
    }

    #[test]
    fn a_checked_frame_that_is_no_fact_is_an_error() {
        let mut bytes = MAGIC.to_vec();
        let payload = [0xff; 9];
        bytes.extend_from_slice(&9u32.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        bytes.extend_from_slice(&payload);
        assert!(read_all(&bytes).unwrap_err().to_string().contains("frame at byte 8"));
    }

    proptest! {
        #[test]
        fn a_cut_loses_at_most_the_last_frame(cut in 8usize..200) {
            let frames: Vec<Vec<Fact>> = (0..10).map(|i| vec![state(i), state(i + 1)]).collect();
            let slices: Vec<&[Fact]> = frames.iter().map(Vec::as_slice).collect();
            let bytes = log(&slices);
            let cut = cut.min(bytes.len());
            let whole = (0..=10).rev().find(|n| log(&slices[..*n]).len() <= cut).unwrap();
            let (facts, intact) = read_all(&bytes[..cut]).unwrap();
            prop_assert_eq!(facts.len(), 2 * whole);
            prop_assert_eq!(intact, log(&slices[..whole]).len() == cut);
        }

        #[test]
        fn arbitrary_bytes_never_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(noise);
            let _ = read_all(&bytes);
        }
    }
}
