//! From a name or a path to a model.

use super::error::ModelError;
use super::fingerprint::Fingerprint;
use super::random::{GENERATOR, RandomTensor};
use super::registry::{published, shape_names};
use super::shape::{Precision, Shape, TensorId};
use super::tensor::Tensor;

/// A model: its dimensions and where its tensors come from. Shareable across threads.
#[derive(Debug)]
pub struct Model {
    name: String,
    shape: Shape,
    precision: Precision,
    fingerprint: Fingerprint,
    source: Source,
}

/// Where tensors come from.
#[derive(Debug)]
enum Source {
    Random { seed: u64 },
}

/// Opens `spec`: `shape:NAME` for a published model's dimensions with random weights of `seed`,
/// a Hugging Face folder, or a `.gguf` file. Files are mapped, not read; they must not be cut
/// short while the model is in use.
///
/// # Errors
/// [`ModelError`] if there is no such model or it cannot be run as it is.
pub fn open(spec: &str, seed: u64) -> Result<Model, ModelError> {
    if let Some(name) = spec.strip_prefix("shape:") {
        return random(name, seed);
    }
    let why = "found none of them".to_owned();
    Err(ModelError::NotAModel { found: spec.to_owned(), why })
}

/// A published shape with random weights.
fn random(name: &str, seed: u64) -> Result<Model, ModelError> {
    let (name, shape) = published(name).ok_or_else(|| ModelError::UnknownShape {
        found: name.to_owned(),
        known: shape_names().join(", "),
    })?;
    Ok(Model::random(&format!("shape:{name}"), shape, seed))
}

impl Model {
    /// Random weights of `seed` in a shape of one's own, which must be valid.
    #[must_use]
    pub fn random(name: &str, shape: Shape, seed: u64) -> Self {
        let recipe = format!("gemba random weights {GENERATOR} seed {seed} shape {shape:?}");
        Self {
            name: name.to_owned(),
            shape,
            precision: Precision::Bf16,
            fingerprint: Fingerprint::of_recipe(&recipe),
            source: Source::Random { seed },
        }
    }

    /// What it is called in reports: `shape:NAME`, or the name of the folder or file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its dimensions.
    #[must_use]
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The precision most of its matrices' weights come in; bf16 for random weights, which are
    /// exact in it.
    #[must_use]
    pub const fn precision(&self) -> Precision {
        self.precision
    }

    /// What identifies the weights.
    #[must_use]
    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// A tensor. The head of a model with tied embeddings is the embedding.
    ///
    /// # Errors
    /// [`ModelError::NoSuchTensor`] if a model of this shape has none.
    pub fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ModelError> {
        let id = match id {
            TensorId::Head if self.shape.tied_embeddings => TensorId::Embedding,
            other => other,
        };
        let [rows, columns] = self.shape.dimensions(id).ok_or_else(|| {
            ModelError::NoSuchTensor { tensor: format!("{id:?}"), model: self.name.clone() }
        })?;
        let dimensions = [rows as usize, columns as usize];
        match &self.source {
            Source::Random { seed } => {
                Ok(Tensor::random(dimensions, RandomTensor::new(*seed, id, columns as usize)))
            }
        }
    }

    /// The values of a norm or a bias.
    ///
    /// # Errors
    /// [`ModelError::NoSuchTensor`] if a model of this shape has none.
    pub fn vector(&self, id: TensorId) -> Result<Vec<f32>, ModelError> {
        Ok(self.tensor(id)?.to_f32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LayerTensor;

    #[test]
    fn a_named_shape_has_every_tensor_of_its_dimensions() {
        let model = open("shape:Qwen2.5-0.5B", 1).unwrap();
        assert_eq!(model.name(), "shape:qwen2.5-0.5b");
        for id in model.shape().tensors() {
            let tensor = model.tensor(id).unwrap();
            let [rows, columns] = model.shape().dimensions(id).unwrap();
            assert_eq!([tensor.rows(), tensor.columns()], [rows as usize, columns as usize]);
        }
        let embedding = model.tensor(TensorId::Embedding).unwrap();
        let head = model.tensor(TensorId::Head).unwrap();
        let (mut left, mut right) = (vec![0.0; 896], vec![0.0; 896]);
        embedding.rows_f32(77..78, &mut left);
        head.rows_f32(77..78, &mut right);
        assert_eq!(left, right);
    }

    #[test]
    fn seeds_give_other_weights_and_other_fingerprints() {
        let (one, again, two) = (
            open("shape:stories15m", 1).unwrap(),
            open("shape:stories15m", 1).unwrap(),
            open("shape:stories15m", 2).unwrap(),
        );
        let bias_free = TensorId::Layer(0, LayerTensor::Down);
        let values = |model: &Model| model.tensor(bias_free).unwrap().to_f32();
        assert_eq!(values(&one), values(&again));
        assert_eq!(one.fingerprint(), again.fingerprint());
        assert_ne!(values(&one), values(&two));
        assert_ne!(one.fingerprint(), two.fingerprint());
    }

    #[test]
    fn a_model_is_shared_across_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Model>();
        shared::<Tensor<'_>>();
    }

    #[test]
    fn what_is_not_there_is_named() {
        let model = open("shape:stories15m", 1).unwrap();
        let bias = TensorId::Layer(0, LayerTensor::QueryBias);
        assert_eq!(
            model.tensor(bias).unwrap_err().to_string(),
            "read tensor Layer(0, QueryBias): no such tensor in model shape:stories15m"
        );
        let message = open("shape:gpt-2", 0).unwrap_err().to_string();
        assert!(message.starts_with("find model shape: expected one of stories15m, "));
        assert!(message.ends_with("found \"gpt-2\""), "{message}");
    }
}
