//! From a name or a path to a model.

use std::path::Path;
use std::sync::OnceLock;

use super::error::ModelError;
use super::fingerprint::Fingerprint;
use super::gguf;
use super::hugging_face;
use super::random::{GENERATOR, RandomTensor};
use super::registry::{published, shape_names};
use super::shape::{Precision, Shape, TensorId};
use super::tensor::Tensor;
use super::tokenizer::{MarkerTokens, Tokenizer, TokenizerSource};
use super::weights::{FileBytes, Weights};

/// A model: its dimensions and where its tensors come from. Shareable across threads.
#[derive(Debug)]
pub struct Model {
    name: String,
    shape: Shape,
    precision: Precision,
    fingerprint: Fingerprint,
    markers: MarkerTokens,
    source: Source,
    tokenizer: TokenizerSource,
    chat_template: Option<String>,
    /// Read when text is first needed.
    loaded: OnceLock<Result<Tokenizer, String>>,
}

/// What the files of a model hold.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) shape: Shape,
    pub(super) weights: Weights,
    pub(super) markers: MarkerTokens,
    pub(super) tokenizer: TokenizerSource,
    pub(super) chat_template: Option<String>,
}

/// Where tensors come from.
#[derive(Debug)]
enum Source {
    Random { seed: u64 },
    Files(Weights),
}

/// Opens `spec`: `shape:NAME` for a published model's dimensions with random weights of `seed`,
/// a Hugging Face folder, or a `.gguf` file. Files are mapped, not read; they must not be cut
/// short or written to while the model is in use.
///
/// # Errors
/// [`ModelError`] if there is no such model or it cannot be run as it is.
pub fn open(spec: &str, seed: u64) -> Result<Model, ModelError> {
    if let Some(name) = spec.strip_prefix("shape:") {
        return random(name, seed);
    }
    let not_a_model =
        |why: &str| ModelError::NotAModel { found: spec.to_owned(), why: why.to_owned() };
    let path = Path::new(spec);
    let name = path.file_stem().map_or_else(|| spec.to_owned(), |s| s.to_string_lossy().into());
    if path.is_dir() {
        if !path.join("config.json").exists() {
            return Err(not_a_model("found a folder without config.json"));
        }
        let name = path.canonicalize().ok();
        let name = name.as_deref().unwrap_or(path).file_name();
        let name = name.map_or_else(|| spec.to_owned(), |name| name.to_string_lossy().into());
        return Ok(Model::from_parts(name, hugging_face::open(path)?));
    }
    if !path.exists() {
        return Err(not_a_model("found nothing there"));
    }
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("gguf")) {
        return Err(not_a_model("found a file of another name"));
    }
    Ok(Model::from_parts(name, gguf::open(path)?))
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
        let why = "random weights have none; name a Hugging Face folder or a GGUF file".to_owned();
        Self {
            name: name.to_owned(),
            shape,
            precision: Precision::Bf16,
            fingerprint: Fingerprint::of_recipe(&recipe),
            markers: MarkerTokens::default(),
            source: Source::Random { seed },
            tokenizer: TokenizerSource::Missing(why),
            chat_template: None,
            loaded: OnceLock::new(),
        }
    }

    /// A model from the bytes of a GGUF file.
    ///
    /// # Errors
    /// As [`open`].
    pub fn from_gguf(name: &str, file: Vec<u8>) -> Result<Self, ModelError> {
        let file = FileBytes::memory(Path::new(name), file);
        Ok(Self::from_parts(name.to_owned(), gguf::open_bytes(file)?))
    }

    /// A model from the text of a `config.json` and the bytes of one safetensors file.
    ///
    /// # Errors
    /// As [`open`].
    pub fn from_checkpoint(
        name: &str,
        config: &[u8],
        weights: Vec<u8>,
    ) -> Result<Self, ModelError> {
        let path = Path::new(name);
        let file = FileBytes::memory(&path.join("model.safetensors"), weights);
        let parts = hugging_face::assemble(path, config, vec![file])?;
        Ok(Self::from_parts(name.to_owned(), parts))
    }

    fn from_parts(name: String, parts: Parts) -> Self {
        let Parts { shape, weights, markers, tokenizer, chat_template } = parts;
        Self {
            name,
            shape,
            precision: weights.precision(),
            fingerprint: Fingerprint::of_files(weights.files()),
            markers,
            source: Source::Files(weights),
            tokenizer,
            chat_template,
            loaded: OnceLock::new(),
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
            // Every tensor of the shape was found when the model was opened.
            Source::Files(weights) => weights.tensor(id).ok_or_else(|| self.no_such_tensor(id)),
        }
    }

    fn no_such_tensor(&self, id: TensorId) -> ModelError {
        ModelError::NoSuchTensor { tensor: format!("{id:?}"), model: self.name.clone() }
    }

    /// The tokens that begin and end a text, as far as the model's files say.
    #[must_use]
    pub const fn markers(&self) -> &MarkerTokens {
        &self.markers
    }

    /// How a conversation becomes a prompt: a Jinja template, where the model's files hold one.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Whether its weights are random.
    #[must_use]
    pub const fn is_random(&self) -> bool {
        matches!(self.source, Source::Random { .. })
    }

    /// The tokenizer, read on the first call.
    ///
    /// # Errors
    /// [`ModelError::NoTokenizer`] if the model has none or it cannot be read.
    pub fn tokenizer(&self) -> Result<&Tokenizer, ModelError> {
        let loaded = self.loaded.get_or_init(|| self.load_tokenizer());
        loaded.as_ref().map_err(|why| self.no_tokenizer(why.clone()))
    }

    /// The tokenizer, read for the caller alone.
    ///
    /// # Errors
    /// As [`Model::tokenizer`].
    pub fn open_tokenizer(&self) -> Result<Tokenizer, ModelError> {
        self.load_tokenizer().map_err(|why| self.no_tokenizer(why))
    }

    fn load_tokenizer(&self) -> Result<Tokenizer, String> {
        let weights = match &self.source {
            Source::Files(weights) => weights.files().first().map_or(&[][..], FileBytes::bytes),
            Source::Random { .. } => &[],
        };
        self.tokenizer.load(&self.name, self.shape.vocab, weights)
    }

    fn no_tokenizer(&self, why: String) -> ModelError {
        ModelError::NoTokenizer { model: self.name.clone(), why }
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
