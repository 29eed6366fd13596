//! A tensor as the backends see it: rows in one convention, whatever the file does.
//!
//! [`Tensor`] borrows from the model's source: mapped bytes of a file, or the recipe of a random
//! tensor. It is cheap to make, holds no copy and may be read from several threads at once.

use std::ops::Range;

use super::block::{decode_row, row_bytes};
use super::random::RandomTensor;
use super::shape::Precision;

/// A tensor of a model: `rows` (out) by `columns` (in), row-major. A norm or a bias is one row.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    rows: usize,
    columns: usize,
    precision: Precision,
    data: Data<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Data<'a> {
    Stored { bytes: &'a [u8], order: RowOrder },
    Random(RandomTensor),
}

/// In which order a file keeps the rows of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// As they are wanted.
    Straight,
    /// Of each head of `head_dim` rows, row `2i` is the wanted row `i` and row `2i + 1` the wanted
    /// row `i + head_dim / 2`: the order for rotating neighbours.
    Interleaved {
        /// Rows of a head; even.
        head_dim: usize,
    },
}

impl RowOrder {
    /// Where the file keeps the wanted `row`.
    #[must_use]
    pub(super) const fn stored(self, row: usize) -> usize {
        match self {
            Self::Straight => row,
            Self::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let half = head_dim / 2;
                head * head_dim + 2 * (within % half) + within / half
            }
        }
    }
}

impl<'a> Tensor<'a> {
    /// A tensor whose bytes lie in a file. `bytes` holds exactly `rows` rows.
    pub(super) const fn stored(
        [rows, columns]: [usize; 2],
        precision: Precision,
        bytes: &'a [u8],
        order: RowOrder,
    ) -> Self {
        Self { rows, columns, precision, data: Data::Stored { bytes, order } }
    }

    /// A tensor that is made when it is read.
    pub(super) const fn random([rows, columns]: [usize; 2], recipe: RandomTensor) -> Self {
        Self { rows, columns, precision: recipe.precision(), data: Data::Random(recipe) }
    }

    /// Rows, the output width; 1 for a norm or a bias.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Columns, the input width.
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// In which precision the values are exact.
    #[must_use]
    pub const fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of a row in the tensor's own precision.
    #[must_use]
    pub const fn row_len(&self) -> usize {
        row_bytes(self.precision, self.columns)
    }

    /// The row as it is stored, in [`Tensor::precision`]; `None` if the tensor is not stored but
    /// made (a random one). No alignment is promised.
    ///
    /// # Panics
    /// If the row is outside the tensor.
    #[must_use]
    pub fn row_bytes(&self, row: usize) -> Option<&'a [u8]> {
        assert!(row < self.rows, "row {row} of a tensor with {} rows", self.rows);
        match self.data {
            Data::Stored { bytes, order } => {
                let start = order.stored(row) * self.row_len();
                Some(&bytes[start..start + self.row_len()])
            }
            Data::Random(_) => None,
        }
    }

    /// All rows in order as one piece, where the file keeps them so; `None` for rows in another
    /// order and for random tensors. No alignment is promised.
    #[must_use]
    pub const fn bytes(&self) -> Option<&'a [u8]> {
        match self.data {
            Data::Stored { bytes, order: RowOrder::Straight } => Some(bytes),
            Data::Stored { .. } | Data::Random(_) => None,
        }
    }

    /// Writes the values of `rows` to `out`, `[rows.len(), columns]` row-major.
    ///
    /// # Panics
    /// If the rows are outside the tensor or `out` has another length.
    pub fn rows_f32(&self, rows: Range<usize>, out: &mut [f32]) {
        assert!(rows.end <= self.rows, "rows to {} of {}", rows.end, self.rows);
        assert_eq!(out.len(), rows.len() * self.columns, "length of the output");
        if self.columns == 0 {
            return;
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(self.columns)) {
            match self.data {
                Data::Random(recipe) => recipe.row(row, out),
                Data::Stored { bytes, order } => {
                    let start = order.stored(row) * self.row_len();
                    decode_row(self.precision, &bytes[start..start + self.row_len()], out);
                }
            }
        }
    }

    /// All values, `[rows, columns]` row-major.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.columns];
        self.rows_f32(0..self.rows, &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_rows_are_found_where_the_converter_put_them() {
        // convert_hf_to_gguf.py: reshape(heads, 2, head_dim / 2).swapaxes(1, 2)
        let (heads, head_dim) = (3, 8);
        let mut stored = Vec::new();
        for head in 0..heads {
            for pair in 0..head_dim / 2 {
                for half in 0..2 {
                    stored.push(head * head_dim + half * head_dim / 2 + pair);
                }
            }
        }
        let order = RowOrder::Interleaved { head_dim };
        for row in 0..heads * head_dim {
            assert_eq!(stored[order.stored(row)], row);
        }
    }

    #[test]
    fn rows_come_out_in_the_wanted_order() {
        let values: Vec<f32> = (0..8).map(|value| value as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let order = RowOrder::Interleaved { head_dim: 4 };
        let tensor = Tensor::stored([4, 2], Precision::F32, &bytes, order);
        assert_eq!(tensor.to_f32(), [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
        assert_eq!(tensor.row_bytes(1), Some(&bytes[16..24]));
        assert!(tensor.bytes().is_none());
        let straight = Tensor::stored([4, 2], Precision::F32, &bytes, RowOrder::Straight);
        assert_eq!(straight.to_f32(), values);
        assert_eq!(straight.bytes(), Some(&bytes[..]));
    }
}
