//! What identifies a model's weights, as one hash.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
