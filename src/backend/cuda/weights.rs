//! The model's weights on a device.

use crate::backend::DeviceError;
use crate::backend::cpu::linear::{encode, row_bytes};
use crate::model::{Encoding, LayerTensor, Model, Tensor, TensorId};

use super::driver::{Address, Driver};
use super::image::Activation;
use super::layout::{Format, activations};

/// Bytes that are placed on the host before they are copied.
const STAGED: usize = 32 << 20;

/// A matrix `[rows, inputs]` in the format of all matrices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub weights: Address,
    /// None where the format has none.
    pub scales: Address,
    pub rows: u32,
    pub inputs: u32,
}

impl Matrix {
    /// Its elements.
    pub const fn elements(&self) -> u64 {
        self.rows as u64 * self.inputs as u64
    }
}

/// The weights of one layer.
pub(super) struct Layer {
    pub attention_norm: Address,
    pub qkv: Matrix,
    /// Of query, key and value, one after another; none where the model has none.
    pub qkv_bias: Address,
    /// Of each query head and each key head; none where the model has none.
    pub head_norms: [Address; 2],
    pub output: Matrix,
    pub ffn_norm: Address,
    /// Gates, then ups.
    pub gate_up: Matrix,
    pub down: Matrix,
}

/// All weights of a model.
pub(super) struct Weights {
    /// The head's matrix where the model ties them.
    pub embedding: Matrix,
    pub layers: Vec<Layer>,
    pub final_norm: Address,
    pub head: Matrix,
    /// Bytes that they take.
    pub bytes: u64,
}

impl Weights {
    /// Every matrix with whether SwiGLU follows it.
    pub fn products(&self) -> impl Iterator<Item = (&Matrix, bool)> {
        let of_layers = self.layers.iter().flat_map(|layer| {
            [
                (&layer.qkv, false),
                (&layer.output, false),
                (&layer.gate_up, true),
                (&layer.down, false),
            ]
        });
        of_layers.chain([(&self.head, false)])
    }
}

/// Memory of `bytes` for `what`.
///
/// # Errors
/// [`DeviceError::OutOfMemory`] with what is free.
pub(super) fn allocate(
    driver: &dyn Driver,
    what: &str,
    bytes: u64,
) -> Result<Address, DeviceError> {
    driver.allocate(bytes).map_err(|error| match error {
        super::driver::DriverError::OutOfMemory => DeviceError::OutOfMemory {
            what: what.to_owned(),
            needed: bytes,
            available: driver.free_memory().unwrap_or(0),
        },
        error => error.into(),
    })
}

/// Puts a model's weights on a device.
pub(super) struct Upload<'a> {
    driver: &'a dyn Driver,
    model: &'a Model,
    precision: Encoding,
    format: Format,
    activation: Activation,
    bytes: u64,
}

impl<'a> Upload<'a> {
    pub fn new(
        driver: &'a dyn Driver,
        model: &'a Model,
        precision: Encoding,
        (format, activation): (Format, Activation),
    ) -> Self {
        Self { driver, model, precision, format, activation, bytes: 0 }
    }

    /// All of them.
    ///
    /// # Errors
    /// [`DeviceError`] if a tensor is missing or does not fit, or the device fails.
    pub fn weights(mut self) -> Result<Weights, DeviceError> {
        let shape = self.model.shape();
        let layers =
            (0..shape.layers).map(|layer| self.layer(layer)).collect::<Result<Vec<_>, _>>()?;
        let final_norm = self.vector(&[TensorId::FinalNorm])?;
        let head = self.matrix(&[TensorId::Head])?;
        let embedding = match shape.tied_embeddings {
            true => head,
            false => self.matrix(&[TensorId::Embedding])?,
        };
        Ok(Weights { embedding, layers, final_norm, head, bytes: self.bytes })
    }

    fn layer(&mut self, layer: u32) -> Result<Layer, DeviceError> {
        use LayerTensor as T;
        let shape = self.model.shape();
        let id = |tensor| TensorId::Layer(layer, tensor);
        let qkv_bias = match shape.qkv_bias {
            true => self.vector(&[T::QueryBias, T::KeyBias, T::ValueBias].map(id))?,
            false => Address::NULL,
        };
        let head_norms = match shape.qk_norm {
            true => [self.vector(&[id(T::QueryNorm)])?, self.vector(&[id(T::KeyNorm)])?],
            false => [Address::NULL; 2],
        };
        Ok(Layer {
            attention_norm: self.vector(&[id(T::AttentionNorm)])?,
            qkv: self.matrix(&[T::Query, T::Key, T::Value].map(id))?,
            qkv_bias,
            head_norms,
            output: self.matrix(&[id(T::Output)])?,
            ffn_norm: self.vector(&[id(T::FfnNorm)])?,
            gate_up: self.matrix(&[T::Gate, T::Up].map(id))?,
            down: self.matrix(&[id(T::Down)])?,
        })
    }

    /// Vectors one after another, as activations.
    fn vector(&mut self, ids: &[TensorId]) -> Result<Address, DeviceError> {
        let mut floats = Vec::new();
        for id in ids {
            floats.extend(self.model.vector(*id)?);
        }
        let mut bytes = vec![0; 2 * floats.len()];
        activations(self.activation, &floats, &mut bytes);
        let address = self.room("a vector of weights", bytes.len())?;
        self.driver.write(address, &bytes)?;
        Ok(address)
    }

    fn room(&mut self, what: &str, bytes: usize) -> Result<Address, DeviceError> {
        self.bytes += bytes as u64;
        allocate(self.driver, what, bytes as u64)
    }

    /// The rows of several tensors as one matrix.
    fn matrix(&mut self, ids: &[TensorId]) -> Result<Matrix, DeviceError> {
        let tensors = ids.iter().map(|id| self.model.tensor(*id)).collect::<Result<Vec<_>, _>>()?;
        let rows: usize = tensors.iter().map(Tensor::rows).sum();
        let inputs = tensors.first().map_or(0, Tensor::columns);
        let (row, scale) = (self.format.row_bytes(inputs), self.format.scale_bytes(inputs));
        let weights = self.room("a weight matrix", rows * row)?;
        let scales = match scale {
            0 => Address::NULL,
            _ => self.room("scales of a weight matrix", rows * scale)?,
        };
        let (mut to_weights, mut to_scales) = (weights, scales);
        let at_once = (STAGED / row.max(1)).max(1);
        for tensor in &tensors {
            for first in (0..tensor.rows()).step_by(at_once) {
                let count = at_once.min(tensor.rows() - first);
                let (placed, placed_scales) = self.placed(tensor, first, count);
                self.driver.write(to_weights, &placed)?;
                to_weights = to_weights.plus(placed.len() as u64);
                if scale > 0 {
                    self.driver.write(to_scales, &placed_scales)?;
                    to_scales = to_scales.plus(placed_scales.len() as u64);
                }
            }
        }
        Ok(Matrix { weights, scales, rows: rows as u32, inputs: inputs as u32 })
    }

    /// `count` rows of a tensor from row `first` on, placed on all cores.
    fn placed(&self, tensor: &Tensor<'_>, first: usize, count: usize) -> (Vec<u8>, Vec<u8>) {
        let inputs = tensor.columns();
        let (row, scale) = (self.format.row_bytes(inputs), self.format.scale_bytes(inputs));
        let (mut weights, mut scales) = (vec![0; count * row], vec![0; count * scale]);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let share = count.div_ceil(cores).max(1);
        std::thread::scope(|scope| {
            let (mut weights, mut scales) = (&mut weights[..], &mut scales[..]);
            for from in (0..count).step_by(share) {
                let part = share.min(count - from);
                let (mine, rest) = weights.split_at_mut(part * row);
                let (my_scales, other_scales) = scales.split_at_mut(part * scale);
                (weights, scales) = (rest, other_scales);
                let rows = first + from..first + from + part;
                let (precision, format) = (self.precision, self.format);
                scope.spawn(move || place(precision, format, tensor, rows, mine, my_scales));
            }
        });
        (weights, scales)
    }
}

/// Places rows of a tensor one after another.
fn place(
    precision: Encoding,
    format: Format,
    tensor: &Tensor<'_>,
    rows: std::ops::Range<usize>,
    weights: &mut [u8],
    scales: &mut [u8],
) {
    let inputs = tensor.columns();
    let (row_len, scale_len) = (format.row_bytes(inputs), format.scale_bytes(inputs));
    let mut floats = vec![0.0; inputs];
    let stored_len = precision.stored().map_or(0, |precision| row_bytes(precision, inputs));
    let mut stored = vec![0; stored_len];
    for (at, row) in rows.enumerate() {
        let weights = &mut weights[at * row_len..(at + 1) * row_len];
        let scales = &mut scales[at * scale_len..(at + 1) * scale_len];
        let given = tensor.row_bytes(row).filter(|_| precision == tensor.precision().into());
        if let Some(given) = given {
            format.place(given, weights, scales);
            continue;
        }
        tensor.rows_f32(row..row + 1, &mut floats);
        match precision.stored() {
            Some(precision) => {
                encode(precision, &floats, &mut stored);
                format.place(&stored, weights, scales);
            }
            None => format.quantize(&floats, weights, scales),
        }
    }
}
