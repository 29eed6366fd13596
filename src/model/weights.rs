//! Tensors that lie in files: which bytes, in which precision, in which order of rows.
//!
//! `hugging_face` and `gguf` say what a file holds, as [`Entry`]s by the file's own names; here
//! each tensor of the shape is looked up among them and checked, once, when the model is opened.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::block::{BLOCK, row_bytes};
use super::error::ModelError;
use super::shape::{Precision, Shape, TensorId};
use super::tensor::{RowOrder, Tensor};

/// The bytes of a file.
#[derive(Debug)]
pub(super) struct FileBytes {
    /// For messages.
    pub(super) path: PathBuf,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Mapped(Mmap),
    Memory(Vec<u8>),
}

impl FileBytes {
    /// Maps the file at `path`; nothing is read yet.
    #[expect(unsafe_code, reason = "a mapping is the only way to use weights without a copy")]
    pub(super) fn map(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            // An empty mapping is an error on some systems.
            return Ok(Self::memory(path, Vec::new()));
        }
        // SAFETY: the mapping is only read. A file that another process changes while it is
        // mapped can change the numbers read, or end the process if it is cut short; `open` says
        // that it must not be. No other promise of Rust rests on the content.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { path: path.to_owned(), content: Content::Mapped(map) })
    }

    /// Bytes that are in memory, as if they were the file at `path`.
    pub(super) fn memory(path: &Path, bytes: Vec<u8>) -> Self {
        Self { path: path.to_owned(), content: Content::Memory(bytes) }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Mapped(map) => map,
            Content::Memory(bytes) => bytes,
        }
    }
}

/// A tensor as a file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Index of the file that holds it.
    pub(super) file: usize,
    /// Its bytes there; within the file.
    pub(super) range: Range<usize>,
    /// Its dimensions, the outermost first.
    pub(super) dimensions: Vec<u64>,
    /// Its type, or the name of one that is not read.
    pub(super) precision: Result<Precision, String>,
}

/// How a file format names and orders what is in it.
pub(super) trait Naming {
    /// The types that are read, for messages.
    const TYPES: &'static str;

    /// The name of a tensor in the file.
    fn name(&self, id: TensorId) -> String;

    /// The order of its rows.
    fn order(&self, id: TensorId) -> RowOrder;

    /// Whether a tensor that the shape does not have may be there all the same.
    fn may_be_ignored(&self, name: &str) -> bool;
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
struct Place {
    file: usize,
    range: Range<usize>,
    dimensions: [usize; 2],
    precision: Precision,
    order: RowOrder,
}

/// The files of a model and where each of its tensors lies in them.
#[derive(Debug)]
pub(super) struct Weights {
    files: Vec<FileBytes>,
    places: HashMap<TensorId, Place>,
}

impl Weights {
    /// Finds every tensor of `shape` among `entries` and checks it. `path` is the file or folder
    /// that messages name where no single file is at fault.
    pub(super) fn new<N: Naming>(
        path: &Path,
        shape: &Shape,
        files: Vec<FileBytes>,
        mut entries: HashMap<String, Entry>,
        naming: &N,
    ) -> Result<Self, ModelError> {
        let mut places = HashMap::new();
        for id in shape.tensors() {
            let name = naming.name(id);
            let Some(entry) = entries.remove(&name) else {
                return Err(ModelError::MissingTensor { path: path.to_owned(), tensor: name });
            };
            let file = &files[entry.file].path;
            places.insert(id, place(shape, id, name, entry, file, naming)?);
        }
        // In order, so that the same files always give the same message.
        let mut rest: Vec<_> = entries.iter().collect();
        rest.sort_unstable_by_key(|(name, _)| *name);
        for (name, entry) in rest {
            if !naming.may_be_ignored(name) {
                let path = files[entry.file].path.clone();
                return Err(ModelError::UnknownTensor { path, tensor: name.clone() });
            }
        }
        Ok(Self { files, places })
    }

    /// The tensor, if the shape has it.
    pub(super) fn tensor(&self, id: TensorId) -> Option<Tensor<'_>> {
        let place = self.places.get(&id)?;
        let bytes = &self.files[place.file].bytes()[place.range.clone()];
        Some(Tensor::stored(place.dimensions, place.precision, bytes, place.order))
    }

    /// The files, in the order their tensors refer to.
    pub(super) fn files(&self) -> &[FileBytes] {
        &self.files
    }

    /// The precision that most weights of matrices come in; the narrower of two equals.
    pub(super) fn precision(&self) -> Precision {
        let weights = |precision| -> usize {
            self.places
                .iter()
                .filter(|(id, place)| !id.is_vector() && place.precision == precision)
                .map(|(_, place)| place.dimensions[0] * place.dimensions[1])
                .sum()
        };
        Precision::ALL
            .into_iter()
            .max_by_key(|&precision| weights(precision))
            .unwrap_or(Precision::F32)
    }
}

/// Checks one tensor against the shape.
fn place<N: Naming>(
    shape: &Shape,
    id: TensorId,
    name: String,
    entry: Entry,
    path: &Path,
    naming: &N,
) -> Result<Place, ModelError> {
    let path = path.to_owned();
    let [rows, columns] = shape.dimensions(id).unwrap_or([0, 0]);
    let expected = if id.is_vector() {
        vec![u64::from(columns)]
    } else {
        vec![u64::from(rows), u64::from(columns)]
    };
    if entry.dimensions != expected {
        let found = entry.dimensions;
        return Err(ModelError::TensorDimensions { path, tensor: name, expected, found });
    }
    let precision = entry.precision.map_err(|found| ModelError::TensorType {
        path: path.clone(),
        tensor: name.clone(),
        found,
        supported: N::TYPES,
    })?;
    let (rows, columns) = (rows as usize, columns as usize);
    let blocks = matches!(precision, Precision::Q8_0 | Precision::Q4_0);
    let what = if blocks && !columns.is_multiple_of(BLOCK) {
        format!("tensor {name}: expected rows of whole blocks of {BLOCK}, found {columns} columns")
    } else if entry.range.len() != rows * row_bytes(precision, columns) {
        let wanted = rows * row_bytes(precision, columns);
        format!("tensor {name}: expected {wanted} bytes, found {}", entry.range.len())
    } else {
        let order = naming.order(id);
        let dimensions = [rows, columns];
        return Ok(Place { file: entry.file, range: entry.range, dimensions, precision, order });
    };
    Err(ModelError::Malformed { path, what })
}
