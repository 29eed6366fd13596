//! Why a model could not be read.

use std::path::PathBuf;

/// Why a model could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be opened or read.
    #[error("read model file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what its format promises.
    #[error("read model file {path}: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where, what was expected and what was found.
        what: String,
    },
    /// The name after `shape:` is none of the known shapes.
    #[error("find model shape: expected one of {known}, found {found:?}")]
    UnknownShape {
        /// What was asked for.
        found: String,
        /// The names there are, separated by commas.
        known: String,
    },
    /// The path is neither a folder with a `config.json` nor a `.gguf` file.
    #[error(
        "open model {found:?}: expected shape:NAME, a folder with config.json or a .gguf file, \
         {why}"
    )]
    NotAModel {
        /// What was asked for.
        found: String,
        /// What is there instead.
        why: String,
    },
    /// The file is of an architecture outside the Llama family.
    #[error("read model file {path}: expected an architecture of {supported}, found {found:?}")]
    UnknownArchitecture {
        /// The file.
        path: PathBuf,
        /// The architecture it names.
        found: String,
        /// The ones that run.
        supported: &'static str,
    },
    /// A setting would change the mathematics in a way that the engine does not do.
    #[error("read model file {path}: {field}: expected {supported}, found {found}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The setting.
        field: String,
        /// What it is set to.
        found: String,
        /// What runs.
        supported: String,
    },
    /// A tensor that the shape needs is not in the files.
    #[error("read model file {path}: expected tensor {tensor}, found none of that name")]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name in the files.
        tensor: String,
    },
    /// A tensor in the files has no place in the shape.
    #[error("read model file {path}: tensor {tensor}: no place for it in a model of this shape")]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
    },
    /// A tensor has other dimensions than the shape gives it.
    #[error(
        "read model file {path}: tensor {tensor}: expected dimensions {expected:?}, found {found:?}"
    )]
    TensorDimensions {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// `[out, in]` or `[width]`, from the shape.
        expected: Vec<u64>,
        /// What the file says.
        found: Vec<u64>,
    },
    /// A tensor is stored in a format that is not read.
    #[error("read model file {path}: tensor {tensor}: expected type {supported}, found {found}")]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The type it is stored in.
        found: String,
        /// The types that are read.
        supported: &'static str,
    },
    /// The shape has no such tensor.
    #[error("read tensor {tensor}: no such tensor in model {model}")]
    NoSuchTensor {
        /// What was asked for.
        tensor: String,
        /// The model's name.
        model: String,
    },
    /// Text was asked of a model without a tokenizer.
    #[error("tokenize text for model {model}: {why}")]
    NoTokenizer {
        /// The model's name.
        model: String,
        /// Why there is none, and how to bring one.
        why: String,
    },
    /// The tokenizer refused a text or token.
    #[error("tokenize text for model {model}: {what}")]
    Tokenizer {
        /// The model's name.
        model: String,
        /// What it said.
        what: String,
    },
}

impl ModelError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::UnknownShape { .. } | Self::NotAModel { .. } => {
                "`gemba model show shape:tinyllama-1.1b` shows a shape with random weights"
            }
            Self::TensorType { .. } => {
                "use the model's safetensors, or a GGUF of pure q8_0 or q4_0 \
                 (llama-quantize --pure)"
            }
            Self::NoTokenizer { .. } => "prompts that are lengths or token ids need no tokenizer",
            Self::UnknownArchitecture { .. } | Self::Unsupported { .. } => {
                "shape:NAME runs dimensions like those of many models with random weights; \
                 `gemba model show shape:` lists the names"
            }
            Self::Malformed { .. }
            | Self::MissingTensor { .. }
            | Self::UnknownTensor { .. }
            | Self::TensorDimensions { .. } => {
                "fetch the model's files again; if they are whole, this version cannot read them"
            }
            Self::Io { .. } | Self::NoSuchTensor { .. } | Self::Tokenizer { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
