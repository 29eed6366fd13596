//! How a device holds numbers: as files store them, or in a format of its own.

use super::Precision;

/// How weights, or keys and values, lie in a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// As files have them.
    Stored(Precision),
    /// Bytes with four bits of exponent and three of mantissa, largest 448. Weights have an f32
    /// scale per row, keys and values one per token and head.
    E4m3,
    /// Signed bytes, scaled as [`Encoding::E4m3`].
    I8,
    /// Nibbles less eight, an f16 scale per group of 128 inputs.
    I4,
    /// The sixteen quantiles of a normal distribution, an f16 scale per block of 64 inputs.
    Nf4,
}

impl From<Precision> for Encoding {
    fn from(precision: Precision) -> Self {
        Self::Stored(precision)
    }
}

impl Encoding {
    /// Every encoding.
    pub const ALL: [Self; 9] = [
        Self::Stored(Precision::F32),
        Self::Stored(Precision::Bf16),
        Self::Stored(Precision::F16),
        Self::Stored(Precision::Q8_0),
        Self::Stored(Precision::Q4_0),
        Self::E4m3,
        Self::I8,
        Self::I4,
        Self::Nf4,
    ];

    /// The word on the command line and in `run.json`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Stored(precision) => precision.code(),
            Self::E4m3 => "e4m3",
            Self::I8 => "i8",
            Self::I4 => "i4",
            Self::Nf4 => "nf4",
        }
    }

    /// The encoding of that name; the field's other words for it are understood too.
    ///
    /// # Errors
    /// A message with the names there are.
    pub fn named(word: &str) -> Result<Self, String> {
        let code = match word {
            "fp8" | "fp8_e4m3" => "e4m3",
            "int8" => "i8",
            "int4" => "i4",
            word => word,
        };
        Self::ALL.into_iter().find(|encoding| encoding.code() == code).ok_or_else(|| {
            let known = Self::ALL.map(Self::code).join(", ");
            format!("expected one of {known}")
        })
    }

    /// The precision, where files store it so.
    #[must_use]
    pub const fn stored(self) -> Option<Precision> {
        match self {
            Self::Stored(precision) => Some(precision),
            _ => None,
        }
    }

    /// Whether a weight is a float of at least 16 bits.
    #[must_use]
    pub const fn is_plain(self) -> bool {
        matches!(self, Self::Stored(Precision::F32 | Precision::F16 | Precision::Bf16))
    }

    /// Bytes of a matrix of `rows` rows of `inputs` weights, scales included.
    #[must_use]
    pub const fn matrix_bytes(self, rows: u64, inputs: u64) -> u64 {
        match self {
            Self::Stored(precision) => precision.bytes(rows * inputs),
            Self::E4m3 | Self::I8 => rows * (inputs + 4),
            Self::I4 => rows * (inputs.div_ceil(2) + 2 * inputs.div_ceil(128)),
            Self::Nf4 => rows * (inputs.div_ceil(2) + 2 * inputs.div_ceil(64)),
        }
    }

    /// Bytes of `heads` keys or values of `head_dim` elements each, scales included.
    #[must_use]
    pub const fn kv_bytes(self, heads: u64, head_dim: u64) -> u64 {
        match self {
            Self::Stored(precision) => precision.bytes(heads * head_dim),
            encoding => encoding.matrix_bytes(heads, head_dim),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_encoding() {
        for encoding in Encoding::ALL {
            assert_eq!(Encoding::named(encoding.code()), Ok(encoding));
        }
        for (word, expected) in [("fp8", Encoding::E4m3), ("int8", Encoding::I8)] {
            assert_eq!(Encoding::named(word), Ok(expected));
        }
        let said = Encoding::named("q3").unwrap_err();
        assert_eq!(said, "expected one of f32, bf16, f16, q8_0, q4_0, e4m3, i8, i4, nf4");
        for precision in Precision::ALL {
            assert_eq!(Encoding::from(precision).stored(), Some(precision));
        }
    }

    #[test]
    fn bytes_count_scales() {
        for (encoding, expected) in [
            (Encoding::Stored(Precision::Bf16), 3 * 384 * 2),
            (Encoding::Stored(Precision::Q4_0), 3 * 12 * 18),
            (Encoding::E4m3, 3 * (384 + 4)),
            (Encoding::I8, 3 * (384 + 4)),
            (Encoding::I4, 3 * (192 + 3 * 2)),
            (Encoding::Nf4, 3 * (192 + 6 * 2)),
        ] {
            assert_eq!(encoding.matrix_bytes(3, 384), expected, "{encoding:?}");
        }
        // A group that is not whole has its scale.
        assert_eq!(Encoding::I4.matrix_bytes(1, 160), 80 + 4);
        assert_eq!(Encoding::I8.kv_bytes(5, 64), 5 * 68);
        assert_eq!(Encoding::Stored(Precision::F16).kv_bytes(5, 64), 640);
    }
}
