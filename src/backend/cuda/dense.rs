//! Products of many rows, by a library, and in 8 bits.
//!
//! Beyond 64 rows a product is bound by arithmetic. With 16-bit weights, and with e4m3 on both
//! sides, a card's maker has ways there that the kernels here have not (a card's own instructions
//! for whole tiles). Where its library is on the machine it computes those products. Rows in i8 are
//! multiplied by a kernel here. SwiGLU, which neither knows, follows by a kernel of its own within
//! the same operation.

use crate::backend::{DeviceError, Projection};
use crate::model::Shape;

use super::device::Cuda;
use super::driver::{Address, Arguments, Dense, Driver, DriverError, Function, Scales};
use super::launches::{Product, TILE_ROWS};
use super::plan::{Narrow, Plan};

/// Outputs of a block of the product in i8.
const I8_OUTPUTS: u32 = 64;

/// The kernels of rows in 8 bits.
#[derive(Clone, Copy)]
pub(super) struct InNarrow {
    /// Of the stream, and of the stream with rows added to it.
    pub norms: [Function; 2],
    quantize: Function,
    /// None where a library multiplies.
    product: Option<Function>,
}

impl InNarrow {
    /// Those of a format, as `find` gives them.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if one is not in the loaded programs.
    pub fn of(
        find: &dyn Fn(String) -> Result<Function, DriverError>,
        narrow: Narrow,
    ) -> Result<Self, DriverError> {
        let name = narrow.name();
        let product = (narrow == Narrow::I8).then(|| find("gemm_i8_i8".to_owned()));
        Ok(Self {
            norms: [find(format!("rms_norm_{name}"))?, find(format!("add_rms_norm_{name}"))?],
            quantize: find(format!("quantize_{name}"))?,
            product: product.transpose()?,
        })
    }
}

/// In which 8 bits the products of a layer take many rows: e4m3 only where a library has a way for
/// each of their matrices.
///
/// # Errors
/// [`DeviceError::Lost`] if the device or the library fails.
pub(super) fn narrow(
    driver: &dyn Driver,
    shape: &Shape,
    plan: &Plan,
) -> Result<Option<Narrow>, DeviceError> {
    let narrow = plan.narrow_as();
    if narrow != Some(Narrow::E4m3) {
        return Ok(narrow);
    }
    if !driver.multiplies()? {
        return Ok(None);
    }
    let somewhere = Address(1 << 20);
    let product = |outputs, inputs, biased| Dense {
        out: somewhere,
        x: somewhere,
        weights: somewhere,
        scales: Some(Scales { rows: somewhere, outputs: somewhere }),
        bias: if biased { somewhere } else { Address::NULL },
        workspace: somewhere,
        rows: 0,
        outputs,
        inputs,
        activation: plan.activation,
        adds: false,
        wide: false,
    };
    let biased = shape.qkv_bias && plan.uses(crate::cost::Technique::FusedRope);
    let matrices = [
        product(shape.q_width() + 2 * shape.kv_width(), shape.hidden, biased),
        product(shape.hidden, shape.q_width(), false),
        product(2 * shape.ffn, shape.hidden, false),
        product(shape.hidden, shape.ffn, false),
    ];
    for matrix in matrices {
        for rows in [TILE_ROWS + 1, plan.limits.rows] {
            if !driver.can_multiply(&Dense { rows, ..matrix })? {
                return Ok(None);
            }
        }
    }
    Ok(narrow)
}

impl Cuda {
    /// The kernels of rows in 8 bits, if the products of this step's layers take them.
    pub(super) fn in_narrow(&self) -> Option<&InNarrow> {
        let kernels = self.kernels.narrow.as_ref();
        kernels.filter(|_| self.plan.narrow(self.step.placed.rows).is_some())
    }

    /// The rows that a product takes, in 8 bits.
    pub(super) fn quantize(&self, projection: Projection) -> Result<(), DriverError> {
        let Some(kernels) = self.in_narrow() else {
            let what = format!("rows of {projection:?} in 8 bits, which it does not take");
            return Err(DriverError::Failed { call: "launch".to_owned(), what });
        };
        let (rooms, shape) = (&self.rooms, &self.shape);
        let (x, width) = match projection {
            Projection::Output => (rooms.attended, shape.q_width()),
            Projection::Down => (rooms.ffn, shape.ffn),
            Projection::Qkv | Projection::GateUp | Projection::Head => (rooms.normed, shape.hidden),
        };
        let arguments = Arguments::new().addresses(rooms.narrow).address(x).int(width);
        self.driver.launch(kernels.quantize, [self.step.placed.rows, 1, 1], 256, &arguments)
    }

    /// Asks the library for a product; whether it is enqueued. If it is not, the kernels here
    /// compute it.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device fails.
    pub(super) fn multiply_dense(&self, product: &Product) -> Result<bool, DriverError> {
        if !self.plan.dense && !product.narrow {
            return Ok(false);
        }
        let scales = Scales { rows: self.rooms.narrow[1], outputs: product.matrix.scales };
        let dense = Dense {
            out: self.product_out(product),
            x: product.x,
            weights: product.matrix.weights,
            scales: product.narrow.then_some(scales),
            bias: product.bias,
            workspace: self.rooms.dense,
            rows: product.rows,
            outputs: product.matrix.rows,
            inputs: product.matrix.inputs,
            activation: self.plan.activation,
            adds: product.adds,
            wide: product.wide,
        };
        let enqueued = self.driver.multiply(&dense)?;
        if enqueued {
            self.swiglu_behind(product)?;
        }
        Ok(enqueued)
    }

    /// A product of rows in 8 bits.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device fails, or the library that has a way for most and
    /// fewest rows has none for those between.
    pub(super) fn multiply_narrow(&self, product: &Product) -> Result<(), DriverError> {
        let Product { matrix, rows, adds, .. } = *product;
        let Some(kernel) = self.kernels.narrow.and_then(|kernels| kernels.product) else {
            if self.multiply_dense(product)? {
                return Ok(());
            }
            let (outputs, inputs) = (matrix.rows, matrix.inputs);
            let what = format!("no algorithm for {rows} rows, {inputs} inputs, {outputs} outputs");
            return Err(DriverError::Failed { call: "cublasLtMatmul".to_owned(), what });
        };
        let out = self.product_out(product);
        let arguments = Arguments::new()
            .addresses([out, product.x, self.rooms.narrow[1], matrix.weights, matrix.scales])
            .addresses([product.bias, if adds { out } else { Address::NULL }])
            .ints([rows, matrix.rows, matrix.inputs, u32::from(product.wide)]);
        let grid = [matrix.rows.div_ceil(I8_OUTPUTS), rows.div_ceil(TILE_ROWS), 1];
        self.driver.launch(kernel, grid, 128, &arguments)?;
        self.swiglu_behind(product)
    }

    /// Where a product leaves its rows, SwiGLU still to come.
    const fn product_out(&self, product: &Product) -> Address {
        if product.swiglu { self.rooms.between.gate_up } else { product.out }
    }

    fn swiglu_behind(&self, product: &Product) -> Result<(), DriverError> {
        match self.kernels.silu_mul {
            Some(silu_mul) if product.swiglu => self.silu_mul(silu_mul),
            _ => Ok(()),
        }
    }
}
