//! Where the weights of a panel lie.
//!
//! A panel is `lanes` rows interleaved so that one vector register holds the same inputs of all
//! of them, and a dot product needs no sum across a register:
//!
//! ```text
//! f32        [input][lane]                    f32
//! f16        [input][lane]                    f16
//! bf16       [input / 2][lane][input % 2]     bf16
//! q8_0       [block / 2]{ scales [block % 2][lane] f16, then per block
//!              [input / 4 % 8][lane][input % 4]    i8, or u8 = i8 + 128 if biased }
//! q4_0       [block / 2]{ scales as above, then per block
//!              [input / 4 % 4][lane][input % 4]    u8, input in the low nibble and
//!                                                  input + 16 in the high one, each + 8 }
//! ```
//!
//! Two blocks share the place of their scales so that every register of quants is aligned. The
//! inputs of a panel are padded to a whole block and its rows to `lanes`, both with zeros.

use crate::model::Precision;

use super::BLOCK;

/// The layout of the panels of one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) precision: Precision,
    /// Rows of a panel.
    pub(super) lanes: usize,
    /// Whether bytes of q8_0 are stored with 128 added.
    pub(super) biased: bool,
    /// Blocks of [`BLOCK`] inputs, the last one perhaps padded.
    pub(super) blocks: usize,
}

/// Bytes of the scales that two blocks of a panel share.
pub(super) const fn scales_bytes(lanes: usize) -> usize {
    2 * 2 * lanes
}

impl Layout {
    /// Bytes of the weights of a block of a panel, without scales.
    pub(super) const fn block_bytes(self) -> usize {
        match self.precision {
            Precision::F32 => self.lanes * BLOCK * 4,
            Precision::F16 | Precision::Bf16 => self.lanes * BLOCK * 2,
            Precision::Q8_0 => self.lanes * BLOCK,
            Precision::Q4_0 => self.lanes * BLOCK / 2,
        }
    }

    /// Bytes of a panel.
    pub(super) const fn panel_bytes(self) -> usize {
        let scales = match self.precision {
            Precision::F32 | Precision::F16 | Precision::Bf16 => 0,
            Precision::Q8_0 | Precision::Q4_0 => self.blocks.div_ceil(2) * scales_bytes(self.lanes),
        };
        self.blocks * self.block_bytes() + scales
    }

    /// Where the scale of a row in a block lies, and where the weights of the block begin.
    const fn block_offsets(self, block: usize, lane: usize) -> (usize, usize) {
        let pair = block / 2 * (scales_bytes(self.lanes) + 2 * self.block_bytes());
        let scale = pair + (block % 2 * self.lanes + lane) * 2;
        let weights = pair + scales_bytes(self.lanes) + block % 2 * self.block_bytes();
        (scale, weights)
    }

    /// What a panel holds before its rows are scattered into it. Only rows that are there are
    /// scattered; the others must count as zero.
    pub(super) fn clear(self, panel: &mut [u8]) {
        // A zero scale makes any quant count as zero.
        panel.fill(0);
    }

    /// Puts a stored row into its lane of a panel.
    pub(super) fn scatter(self, stored: &[u8], lane: usize, panel: &mut [u8]) {
        let lanes = self.lanes;
        match self.precision {
            Precision::F32 => {
                for (input, weight) in stored.as_chunks::<4>().0.iter().enumerate() {
                    put(panel, (input * lanes + lane) * 4, *weight);
                }
            }
            Precision::F16 => {
                for (input, weight) in stored.as_chunks::<2>().0.iter().enumerate() {
                    put(panel, (input * lanes + lane) * 2, *weight);
                }
            }
            Precision::Bf16 => {
                for (input, weight) in stored.as_chunks::<2>().0.iter().enumerate() {
                    put(panel, ((input / 2 * lanes + lane) * 2 + input % 2) * 2, *weight);
                }
            }
            Precision::Q8_0 => {
                let flip = if self.biased { 0x80 } else { 0 };
                for (block, stored) in stored.as_chunks::<34>().0.iter().enumerate() {
                    let (scale, weights) = self.block_offsets(block, lane);
                    put(panel, scale, [stored[0], stored[1]]);
                    for (group, quants) in stored[2..].as_chunks::<4>().0.iter().enumerate() {
                        let quants = quants.map(|quant| quant ^ flip);
                        put(panel, weights + (group * lanes + lane) * 4, quants);
                    }
                }
            }
            Precision::Q4_0 => {
                for (block, stored) in stored.as_chunks::<18>().0.iter().enumerate() {
                    let (scale, weights) = self.block_offsets(block, lane);
                    put(panel, scale, [stored[0], stored[1]]);
                    for (group, quants) in stored[2..].as_chunks::<4>().0.iter().enumerate() {
                        put(panel, weights + (group * lanes + lane) * 4, *quants);
                    }
                }
            }
        }
    }

    /// Takes a lane of a panel back into its stored form.
    pub(super) fn gather(self, panel: &[u8], lane: usize, stored: &mut [u8]) {
        let lanes = self.lanes;
        match self.precision {
            Precision::F32 => {
                for (input, weight) in stored.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    *weight = take(panel, (input * lanes + lane) * 4);
                }
            }
            Precision::F16 => {
                for (input, weight) in stored.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    *weight = take(panel, (input * lanes + lane) * 2);
                }
            }
            Precision::Bf16 => {
                for (input, weight) in stored.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    *weight = take(panel, ((input / 2 * lanes + lane) * 2 + input % 2) * 2);
                }
            }
            Precision::Q8_0 => {
                let flip = if self.biased { 0x80 } else { 0 };
                for (block, stored) in stored.as_chunks_mut::<34>().0.iter_mut().enumerate() {
                    let (scale, weights) = self.block_offsets(block, lane);
                    [stored[0], stored[1]] = take(panel, scale);
                    for (group, quants) in stored[2..].as_chunks_mut::<4>().0.iter_mut().enumerate()
                    {
                        let found: [u8; 4] = take(panel, weights + (group * lanes + lane) * 4);
                        *quants = found.map(|quant| quant ^ flip);
                    }
                }
            }
            Precision::Q4_0 => {
                for (block, stored) in stored.as_chunks_mut::<18>().0.iter_mut().enumerate() {
                    let (scale, weights) = self.block_offsets(block, lane);
                    [stored[0], stored[1]] = take(panel, scale);
                    for (group, quants) in stored[2..].as_chunks_mut::<4>().0.iter_mut().enumerate()
                    {
                        *quants = take(panel, weights + (group * lanes + lane) * 4);
                    }
                }
            }
        }
    }
}

fn put<const N: usize>(panel: &mut [u8], offset: usize, bytes: [u8; N]) {
    panel[offset..offset + N].copy_from_slice(&bytes);
}

fn take<const N: usize>(panel: &[u8], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&panel[offset..offset + N]);
    bytes
}
