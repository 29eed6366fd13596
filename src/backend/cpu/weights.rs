//! The model's weights, packed for the kernels.

use crate::backend::DeviceError;
use crate::model::{LayerTensor, Model, Precision, Shape, Tensor, TensorId};

use super::linear::{
    Arena, Arrangement, Isa, LinearError, Memory, PackedMatrix, PackedShape, Source, decode,
    encode, row_bytes,
};
use super::parallel::{Disjoint, for_ranges};
use super::pool::Pool;

/// The weights of one layer.
pub(super) struct Layer {
    pub attention_norm: Vec<f32>,
    pub qkv: PackedMatrix,
    /// Of query, key and value, one after another.
    pub qkv_bias: Option<Vec<f32>>,
    /// Of each query head and each key head.
    pub head_norms: Option<[Vec<f32>; 2]>,
    pub output: PackedMatrix,
    pub ffn_norm: Vec<f32>,
    pub gate_up: PackedMatrix,
    pub down: PackedMatrix,
}

/// All weights of a model.
pub(super) struct Weights {
    /// Row-major in its stored form; `None` where the head is the embedding.
    embedding: Option<Memory>,
    pub layers: Vec<Layer>,
    pub final_norm: Vec<f32>,
    pub head: PackedMatrix,
    row_bytes: usize,
    precision: Precision,
}

impl From<LinearError> for DeviceError {
    fn from(error: LinearError) -> Self {
        match error {
            LinearError::OutOfMemory { bytes, .. } => Self::OutOfMemory {
                what: "a weight matrix".to_owned(),
                needed: bytes as u64,
                available: super::room::available(),
            },
            error => Self::Unsupported(error.to_string()),
        }
    }
}

impl Weights {
    /// Packs the weights of `model` in `precision` on all workers of `pool`.
    ///
    /// # Errors
    /// [`DeviceError`] if a tensor is missing, cannot be packed or does not fit.
    pub fn load(
        pool: &Pool,
        isa: Isa,
        model: &Model,
        precision: Precision,
    ) -> Result<Self, DeviceError> {
        let shape = model.shape();
        let packing = Packing { pool, arena: Arena::new(), isa, model, precision };
        let hidden = shape.hidden as usize;
        let embedding = if shape.tied_embeddings {
            None
        } else {
            Some(packing.rows(&model.tensor(TensorId::Embedding)?)?)
        };
        let layers = (0..shape.layers).map(|layer| packing.layer(shape, layer));
        Ok(Self {
            embedding,
            layers: layers.collect::<Result<_, _>>()?,
            final_norm: model.vector(TensorId::FinalNorm)?,
            head: packing.matrix(&[TensorId::Head], Arrangement::Plain)?,
            row_bytes: row_bytes(precision, hidden),
            precision,
        })
    }

    /// Bytes that they take, padding included.
    pub fn bytes(&self) -> u64 {
        let vector = |vector: &Vec<f32>| vector.len() * 4;
        let layer = |layer: &Layer| {
            let matrices = [&layer.qkv, &layer.output, &layer.gate_up, &layer.down];
            matrices.iter().map(|matrix| matrix.bytes()).sum::<usize>()
                + vector(&layer.attention_norm)
                + vector(&layer.ffn_norm)
                + layer.qkv_bias.as_ref().map_or(0, vector)
                + layer.head_norms.as_ref().map_or(0, |norms| norms.iter().map(vector).sum())
        };
        let embedding = self.embedding.as_ref().map_or(0, |memory| memory.as_slice().len());
        let layers = self.layers.iter().map(layer).sum::<usize>();
        (embedding + layers + vector(&self.final_norm) + self.head.bytes()) as u64
    }

    /// Bytes of a stored row of the embedding.
    pub const fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Writes the embedding of `token`; `stored` has room for a stored row.
    pub fn embed(&self, token: usize, stored: &mut [u8], row: &mut [f32]) {
        match &self.embedding {
            Some(memory) => {
                let stored = &memory.as_slice()[token * self.row_bytes..][..self.row_bytes];
                decode(self.precision, stored, row);
            }
            None => {
                self.head.read_stored_row(token, stored);
                decode(self.precision, stored, row);
            }
        }
    }
}

/// What weights of a model will take, padding of panels left out.
pub(super) fn estimate(shape: &Shape, precision: Precision) -> u64 {
    shape.weight_bytes(precision)
}

struct Packing<'a> {
    pool: &'a Pool,
    arena: Arena,
    isa: Isa,
    model: &'a Model,
    precision: Precision,
}

impl Packing<'_> {
    fn layer(&self, shape: &Shape, layer: u32) -> Result<Layer, DeviceError> {
        let id = |tensor| TensorId::Layer(layer, tensor);
        let vector = |tensor| self.model.vector(id(tensor));
        let plain = Arrangement::Plain;
        let qkv = [LayerTensor::Query, LayerTensor::Key, LayerTensor::Value].map(id);
        let qkv_bias = if shape.qkv_bias {
            let mut bias = vector(LayerTensor::QueryBias)?;
            bias.extend(vector(LayerTensor::KeyBias)?);
            bias.extend(vector(LayerTensor::ValueBias)?);
            Some(bias)
        } else {
            None
        };
        let head_norms = if shape.qk_norm {
            Some([vector(LayerTensor::QueryNorm)?, vector(LayerTensor::KeyNorm)?])
        } else {
            None
        };
        let gate_up = [LayerTensor::Gate, LayerTensor::Up].map(id);
        Ok(Layer {
            attention_norm: vector(LayerTensor::AttentionNorm)?,
            qkv: self.matrix(&qkv, plain)?,
            qkv_bias,
            head_norms,
            output: self.matrix(&[id(LayerTensor::Output)], plain)?,
            ffn_norm: vector(LayerTensor::FfnNorm)?,
            gate_up: self.matrix(&gate_up, Arrangement::GateUp)?,
            down: self.matrix(&[id(LayerTensor::Down)], plain)?,
        })
    }

    /// Packs the rows of several tensors as one matrix.
    fn matrix(
        &self,
        ids: &[TensorId],
        arrangement: Arrangement,
    ) -> Result<PackedMatrix, DeviceError> {
        let tensors = ids.iter().map(|id| self.model.tensor(*id)).collect::<Result<Vec<_>, _>>()?;
        let ends: Vec<usize> = tensors
            .iter()
            .scan(0, |end, tensor| {
                *end += tensor.rows();
                Some(*end)
            })
            .collect();
        let find = |row: usize| {
            let index = ends.partition_point(|end| *end <= row);
            let tensor = tensors[index];
            (tensor, row + tensor.rows() - ends[index])
        };
        let shape = PackedShape {
            precision: self.precision,
            outputs: ends.last().copied().unwrap_or(0),
            inputs: tensors.first().map_or(0, Tensor::columns),
            arrangement,
        };
        let as_stored = tensors
            .iter()
            .all(|tensor| tensor.precision() == self.precision && tensor.row_bytes(0).is_some());
        let packed = if as_stored {
            let give = |row| {
                let (tensor, row) = find(row);
                tensor.row_bytes(row).unwrap_or_default()
            };
            PackedMatrix::pack(self.pool, &self.arena, self.isa, shape, Source::Stored(&give))
        } else {
            let fill = |row, weights: &mut [f32]| {
                let (tensor, row) = find(row);
                tensor.rows_f32(row..row + 1, weights);
            };
            PackedMatrix::pack(self.pool, &self.arena, self.isa, shape, Source::F32(&fill))
        };
        Ok(packed?)
    }

    /// The rows of a tensor in their stored form, one after another.
    fn rows(&self, tensor: &Tensor<'_>) -> Result<Memory, DeviceError> {
        let in_blocks = matches!(self.precision, Precision::Q8_0 | Precision::Q4_0);
        if in_blocks && !tensor.columns().is_multiple_of(super::linear::BLOCK) {
            let (inputs, precision) = (tensor.columns(), self.precision);
            return Err(LinearError::PartialBlock { inputs, precision }.into());
        }
        let row_len = row_bytes(self.precision, tensor.columns());
        let mut memory = Memory::zeroed(tensor.rows() * row_len)?;
        let shared = Disjoint::new(memory.as_mut_slice());
        for_ranges(self.pool, tensor.rows(), 64, |_, rows| {
            let mut weights = vec![0.0; tensor.columns()];
            for row in rows {
                // SAFETY: each row has its own part.
                let stored = unsafe { shared.part(row * row_len..(row + 1) * row_len) };
                let given = tensor.row_bytes(row);
                match given.filter(|_| tensor.precision() == self.precision) {
                    Some(given) => stored.copy_from_slice(given),
                    None => {
                        tensor.rows_f32(row..row + 1, &mut weights);
                        encode(self.precision, &weights, stored);
                    }
                }
            }
        });
        Ok(memory)
    }
}
