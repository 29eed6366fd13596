//! What identifies a model's weights, as one hash.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::weights::FileBytes;

/// Files of at most this many bytes together are hashed whole.
const WHOLE_MOST: u64 = 64 << 20;

/// Of larger files, so many pieces each, evenly spaced from the first byte to the last.
const PIECES: u64 = 1024;

/// Bytes of a piece.
const PIECE_BYTES: u64 = 4096;

/// What a [`Fingerprint`] was taken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FingerprintOf {
    /// Shape, seed and generator of random weights.
    Recipe,
    /// Every byte of the weights files.
    Files,
    /// Size, header and evenly spaced pieces of the weights files, which are large.
    Samples,
}

/// A SHA-256 that identifies the weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// 64 hexadecimal digits.
    pub sha256: String,
    /// What they are the hash of.
    pub of: FingerprintOf,
}

impl Fingerprint {
    /// The hash of a recipe's text.
    pub(super) fn of_recipe(recipe: &str) -> Self {
        Self { sha256: hex(Sha256::digest(recipe).as_slice()), of: FingerprintOf::Recipe }
    }
}

impl Fingerprint {
    /// The hash of weights files, one after another. A single small file gives what `sha256sum`
    /// gives.
    pub(super) fn of_files(files: &[FileBytes]) -> Self {
        let total: u64 = files.iter().map(|file| file.bytes().len() as u64).sum();
        let mut hash = Sha256::new();
        if total <= WHOLE_MOST {
            files.iter().for_each(|file| hash.update(file.bytes()));
            return Self { sha256: hex(hash.finalize().as_slice()), of: FingerprintOf::Files };
        }
        for file in files {
            sample(&mut hash, file.bytes());
        }
        Self { sha256: hex(hash.finalize().as_slice()), of: FingerprintOf::Samples }
    }
}

/// Hashes the length of `bytes` and pieces of them; the first piece holds the header's start.
fn sample(hash: &mut Sha256, bytes: &[u8]) {
    let length = bytes.len() as u64;
    hash.update(length.to_le_bytes());
    if length <= PIECES * PIECE_BYTES {
        hash.update(bytes);
        return;
    }
    let last = length - PIECE_BYTES;
    for piece in 0..PIECES {
        // Below the length, which is a usize.
        let start = (u128::from(last) * u128::from(piece) / u128::from(PIECES - 1)) as usize;
        hash.update(&bytes[start..start + PIECE_BYTES as usize]);
    }
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn file(length: usize) -> FileBytes {
        FileBytes::memory(Path::new("a"), (0..length).map(|index| index as u8).collect())
    }

    #[test]
    fn a_small_file_has_the_hash_of_its_bytes() {
        let found = Fingerprint::of_files(&[FileBytes::memory(Path::new("a"), b"abc".to_vec())]);
        assert_eq!(
            found.sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(found.of, FingerprintOf::Files);
    }

    #[test]
    fn samples_see_both_ends_and_the_length() {
        let length = (PIECES * PIECE_BYTES * 2) as usize;
        let hashed = |bytes: &[u8]| {
            let mut hash = Sha256::new();
            sample(&mut hash, bytes);
            hash.finalize()
        };
        let mut bytes = file(length).bytes().to_vec();
        let first = hashed(&bytes);
        assert_ne!(first, hashed(&bytes[..length - 1]));
        for index in [0, length - 1] {
            bytes[index] ^= 1;
            assert_ne!(first, hashed(&bytes), "{index}");
            bytes[index] ^= 1;
        }
        assert_eq!(first, hashed(&bytes));
    }
}
