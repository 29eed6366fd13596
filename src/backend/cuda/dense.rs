//! Products of many rows, by a library.
//!
//! Beyond 64 rows a product of 16-bit weights is bound by arithmetic, and there a card's maker has
//! ways that the kernels here have not (a card's own instructions for whole tiles). Where its
//! library is on the machine it computes those products. SwiGLU, which it does not know, follows by
//! a kernel of its own within the same operation.

use super::device::Cuda;
use super::driver::{Dense, DriverError};
use super::launches::Product;

impl Cuda {
    /// Asks the library for a product; whether it is enqueued. If it is not, the kernels here
    /// compute it.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device fails.
    pub(super) fn multiply_dense(&self, product: &Product) -> Result<bool, DriverError> {
        let Some(silu_mul) = self.kernels.silu_mul else { return Ok(false) };
        let Product { matrix, out, x, bias, adds, rows, swiglu, wide } = *product;
        let dense = Dense {
            out: if swiglu { self.rooms.between.gate_up } else { out },
            x,
            weights: matrix.weights,
            bias,
            workspace: self.rooms.dense,
            rows,
            outputs: matrix.rows,
            inputs: matrix.inputs,
            activation: self.plan.activation,
            adds,
            wide,
        };
        let enqueued = self.driver.multiply(&dense)?;
        if enqueued && swiglu {
            self.silu_mul(silu_mul)?;
        }
        Ok(enqueued)
    }
}
