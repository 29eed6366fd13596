//! Techniques that can be switched off, so that what they save can be shown.

/// A way of computing that moves fewer bytes, or fills a device better, than the plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Technique {
    /// Products add their rows to the residual stream as they leave.
    FusedResidual,
    /// Where a product does not add its rows to the residual stream, the norm behind attention
    /// does.
    FusedAddNorm,
    /// SwiGLU is applied as gates and ups leave their product.
    FusedSwiglu,
    /// Biases, norms of heads, rotation and the append to the cache in one pass.
    FusedRope,
    /// Attention without scores in memory, only over what a row attends to.
    FusedAttention,
    /// The contexts of decoded rows are cut into pieces, so that a few fill a device.
    SplitKv,
    /// Weights are decoded where they are multiplied.
    FusedDequantize,
    /// Many rows are multiplied in 8 bits where weights have 8 bits, at twice the rate of 16.
    /// Unlike the others it changes results: a row is rounded to 8 bits before a product.
    QuantizedRows,
    /// Norms write their rows in 8 bits where the product behind them takes these.
    FusedQuantize,
    /// Tokens are chosen by thresholds in one pass over the logits.
    FusedSampling,
    /// Steps of decoded rows are written down once and asked for as a whole.
    Graphs,
    /// The next step is decided and launched while the last one runs; tokens that were chosen stay
    /// on the device.
    AsyncScheduling,
}

impl Technique {
    /// Every technique.
    pub const ALL: [Self; 12] = [
        Self::FusedResidual,
        Self::FusedAddNorm,
        Self::FusedSwiglu,
        Self::FusedRope,
        Self::FusedAttention,
        Self::SplitKv,
        Self::FusedDequantize,
        Self::QuantizedRows,
        Self::FusedQuantize,
        Self::FusedSampling,
        Self::Graphs,
        Self::AsyncScheduling,
    ];

    /// Its name, as it is written on a command line and in `run.json`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::FusedResidual => "fused_residual",
            Self::FusedAddNorm => "fused_add_norm",
            Self::FusedSwiglu => "fused_swiglu",
            Self::FusedRope => "fused_rope",
            Self::FusedAttention => "fused_attention",
            Self::SplitKv => "split_kv",
            Self::FusedDequantize => "fused_dequantize",
            Self::QuantizedRows => "quantized_rows",
            Self::FusedQuantize => "fused_quantize",
            Self::FusedSampling => "fused_sampling",
            Self::Graphs => "graphs",
            Self::AsyncScheduling => "async_scheduling",
        }
    }
}

/// Which techniques are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Techniques(u16);

impl Techniques {
    /// All of them.
    pub const ALL: Self = Self((1 << Technique::ALL.len()) - 1);
    /// None: every operation by itself.
    pub const NONE: Self = Self(0);

    /// These without one.
    #[must_use]
    pub const fn without(self, technique: Technique) -> Self {
        Self(self.0 & !(1 << technique as u8))
    }

    /// Whether every kernel is in its fused form.
    #[must_use]
    pub const fn fused(self) -> bool {
        let kernels = Self::ALL
            .without(Technique::Graphs)
            .without(Technique::AsyncScheduling)
            .without(Technique::FusedAddNorm)
            .without(Technique::QuantizedRows);
        self.0 & kernels.0 == kernels.0
    }

    /// Whether the norm behind attention adds its rows to the residual stream.
    #[must_use]
    pub const fn add_in_norm(self) -> bool {
        self.has(Technique::FusedAddNorm) && !self.has(Technique::FusedResidual)
    }

    /// Whether decode steps are asked for as a whole. Attention in its plain form launches as much
    /// as the longest context asks for, so that no two steps launch the same.
    #[must_use]
    pub const fn graphs(self) -> bool {
        self.has(Technique::Graphs) && self.has(Technique::FusedAttention)
    }

    /// Whether one of these is `technique`.
    #[must_use]
    pub const fn has(self, technique: Technique) -> bool {
        self.0 >> technique as u8 & 1 == 1
    }
}

impl Default for Techniques {
    fn default() -> Self {
        Self::ALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_left_out_and_the_others_stay() {
        for out in Technique::ALL {
            let rest = Techniques::ALL.without(out);
            for technique in Technique::ALL {
                assert_eq!(rest.has(technique), technique != out);
                assert!(Techniques::ALL.has(technique) && !Techniques::NONE.has(technique));
            }
        }
        let none = Technique::ALL.into_iter().fold(Techniques::default(), Techniques::without);
        assert_eq!(none, Techniques::NONE);
        for other in [
            Technique::Graphs,
            Technique::AsyncScheduling,
            Technique::QuantizedRows,
            Technique::FusedAddNorm,
        ] {
            assert!(Techniques::ALL.fused() && Techniques::ALL.without(other).fused());
        }
        assert!(!Techniques::ALL.without(Technique::SplitKv).fused());
    }
}
