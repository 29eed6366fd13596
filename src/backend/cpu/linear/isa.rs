//! The instruction sets that have kernels, and which of them this processor has.

/// An instruction set with kernels of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust; every processor.
    Portable,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Self; 1] = [Self::Portable];

    /// The fastest one this processor has.
    #[must_use]
    pub fn detect() -> Self {
        Self::ALL.into_iter().rev().find(|isa| isa.available()).unwrap_or(Self::Portable)
    }

    /// Whether this processor has it.
    #[must_use]
    pub fn available(self) -> bool {
        match self {
            Self::Portable => true,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Portable => "portable",
        }
    }

    /// Rows of weights that lie interleaved in a panel.
    pub(super) const fn lanes(self) -> usize {
        match self {
            Self::Portable => 8,
        }
    }

    /// Whether its kernels want the bytes of q8_0 with 128 added.
    pub(super) const fn biased(self) -> bool {
        match self {
            Self::Portable => false,
        }
    }
}
