//! Columns in and out: integers, words of a fixed vocabulary, absent values.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use foldhash::fast::RandomState;
use polars::io::parquet::metadata::FileMetadataRef;
use polars::io::parquet::read::FileMetadata;
use polars::io::parquet::write::KeyValueMetadata;
use polars::prelude::*;

use super::super::{NewFile, TraceError};
use crate::unit::printable;

/// Stands for an absent value while a column is a plain list.
pub(super) const ABSENT: u64 = u64::MAX;

pub(super) fn failed(
    action: &'static str,
    path: &Path,
) -> impl Fn(PolarsError) -> TraceError + use<> {
    let path = path.to_path_buf();
    move |source| TraceError::Table { action, path: path.clone(), source }
}

/// Collects the columns of one table.
#[derive(Default)]
pub(super) struct Columns(Vec<Column>);

impl Columns {
    /// A column of integers.
    pub(super) fn int(mut self, name: &str, values: impl Iterator<Item = u64>) -> Self {
        self.0.push(UInt64Chunked::from_iter_values(name.into(), values).into_series().into());
        self
    }

    /// A column of integers, some absent.
    pub(super) fn maybe(mut self, name: &str, values: impl Iterator<Item = Option<u64>>) -> Self {
        let column: UInt64Chunked = values.collect_ca(name.into());
        self.0.push(column.into_series().into());
        self
    }

    /// A column of free text.
    pub(super) fn text<'a>(mut self, name: &str, values: impl Iterator<Item = &'a str>) -> Self {
        let column: StringChunked = values.map(Some).collect_ca(name.into());
        self.0.push(column.into_series().into());
        self
    }

    /// A column of words out of `vocabulary`, given by their places in it; absent where there
    /// is no such place.
    pub(super) fn words(
        mut self,
        name: &str,
        vocabulary: &Vocabulary,
        places: impl Iterator<Item = Option<usize>>,
    ) -> PolarsResult<Self> {
        let dtype = vocabulary.0.clone();
        let column = match dtype.cat_physical()? {
            CategoricalPhysical::U8 => {
                let codes: UInt8Chunked = narrow(places).collect_ca(name.into());
                Categorical8Chunked::from_cats_and_dtype(codes, dtype).into_series()
            }
            CategoricalPhysical::U16 => {
                let codes: UInt16Chunked = narrow(places).collect_ca(name.into());
                Categorical16Chunked::from_cats_and_dtype(codes, dtype).into_series()
            }
            CategoricalPhysical::U32 => {
                let codes: UInt32Chunked = narrow(places).collect_ca(name.into());
                Categorical32Chunked::from_cats_and_dtype(codes, dtype).into_series()
            }
        };
        self.0.push(column.into());
        Ok(self)
    }

    /// A column of decimals without fraction.
    pub(super) fn decimal(
        mut self,
        name: &str,
        values: impl Iterator<Item = i128>,
    ) -> PolarsResult<Self> {
        let column = Int128Chunked::from_iter_values(name.into(), values);
        self.0.push(column.into_decimal(38, 0)?.into_series().into());
        Ok(self)
    }

    pub(super) fn frame(self) -> PolarsResult<DataFrame> {
        DataFrame::new_infer_height(self.0)
    }
}

/// Places as codes of a narrower type.
fn narrow<T: TryFrom<usize>>(
    places: impl Iterator<Item = Option<usize>>,
) -> impl Iterator<Item = Option<T>> {
    places.map(|place| place.and_then(|place| T::try_from(place).ok()))
}

/// The words a column may hold.
pub(super) struct Vocabulary(DataType);

impl Vocabulary {
    pub(super) fn new<'a>(words: impl IntoIterator<Item = &'a str>) -> PolarsResult<Self> {
        let frozen = FrozenCategories::new(words)?;
        Ok(Self(DataType::from_frozen_categories(frozen)))
    }
}

/// The key under which a table says of which run it is.
const RUN: &str = "gemba.run";

/// What a table says of itself: of which run it is.
pub(super) fn origin(run: Option<&str>) -> Option<KeyValueMetadata> {
    let pair = |run: &str| (RUN.to_owned(), run.to_owned());
    run.map(|run| KeyValueMetadata::from_static(vec![pair(run)]))
}

/// Whether a table is of the run `run`, as far as both say.
pub(super) fn check_origin(
    reader: &mut ParquetReader<File>,
    path: &Path,
    run: Option<&str>,
) -> Result<(), TraceError> {
    let metadata = reader.get_metadata().map_err(failed("read", path))?;
    let said = metadata.key_value_metadata.iter().flatten().find(|pair| pair.key == RUN);
    match said.and_then(|pair| pair.value.as_deref()) == run {
        true => Ok(()),
        false => Err(TraceError::Foreign { path: path.to_path_buf() }),
    }
}

/// A table that is about to be read.
pub(super) fn reader(path: &Path) -> Result<ParquetReader<File>, TraceError> {
    let file = File::open(path).map_err(TraceError::io("read", path))?;
    Ok(ParquetReader::new(file))
}

/// What a table says of itself but that words are categories: looking up the category of every
/// row costs more than comparing the words as they lie in the file.
pub(super) fn plain(
    reader: &mut ParquetReader<File>,
    path: &Path,
) -> Result<FileMetadataRef, TraceError> {
    let metadata = reader.get_metadata().map_err(failed("read", path))?;
    let mut metadata = FileMetadata::clone(metadata);
    metadata.key_value_metadata = None;
    Ok(Arc::new(metadata))
}

/// Writes a small table of the run `run` beside its place and renames it.
pub(super) fn write(path: &Path, columns: Columns, run: Option<&str>) -> Result<(), TraceError> {
    let write = failed("write", path);
    let mut frame = columns.frame().map_err(&write)?;
    let mut file = NewFile::create(path)?;
    ParquetWriter::new(&mut file)
        .with_compression(ParquetCompression::Zstd(None))
        .with_key_value_metadata(origin(run))
        .finish(&mut frame)
        .map_err(&write)?;
    file.finish()
}

/// A table, or a slice of one, that is being read.
pub(super) struct Table<'a> {
    pub(super) path: &'a Path,
    pub(super) frame: DataFrame,
}

impl<'a> Table<'a> {
    pub(super) fn read(path: &'a Path, run: Option<&str>) -> Result<Self, TraceError> {
        let mut reader = reader(path)?;
        check_origin(&mut reader, path, run)?;
        let metadata = plain(&mut reader, path)?;
        reader.set_metadata(metadata);
        let frame = reader.finish().map_err(failed("read", path))?;
        Ok(Self { path, frame })
    }

    fn column(&self, name: &str) -> Result<&Series, TraceError> {
        let column = self.frame.column(name).map_err(failed("read", self.path))?;
        Ok(column.as_materialized_series())
    }

    /// A column of integers; absent values become [`ABSENT`].
    pub(super) fn ints(&self, name: &str) -> Result<Cow<'_, [u64]>, TraceError> {
        let read = failed("read", self.path);
        let series = self.column(name)?;
        // As they lie in memory, where they do.
        if let Ok(values) = series.u64().and_then(|column| column.cont_slice()) {
            return Ok(Cow::Borrowed(values));
        }
        let series = series.strict_cast(&DataType::UInt64).map_err(&read)?;
        let column = series.u64().map_err(&read)?;
        Ok(column.iter().map(|value| value.unwrap_or(ABSENT)).collect())
    }

    /// A column of integers that fit a narrower type, none absent.
    pub(super) fn narrow<T: TryFrom<u64>>(&self, name: &str) -> Result<Vec<T>, TraceError> {
        self.ints(name)?
            .iter()
            .map(|&value| {
                T::try_from(value).map_err(|_| {
                    TraceError::malformed(self.path, format!("column {name}: {value} is too large"))
                })
            })
            .collect()
    }

    /// A column of free text; absent values become empty.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>, TraceError> {
        let read = failed("read", self.path);
        let series = self.column(name)?.cast(&DataType::String).map_err(&read)?;
        let column = series.str().map_err(&read)?;
        Ok(column.iter().map(|text| printable(text.unwrap_or_default()).into_owned()).collect())
    }

    /// The words that occur in a column, in the order of their first occurrence.
    pub(super) fn distinct_words(&self, name: &str) -> Result<Vec<String>, TraceError> {
        let read = failed("read", self.path);
        let distinct = self.column(name)?.unique_stable().map_err(&read)?;
        let words = distinct.cast(&DataType::String).map_err(&read)?;
        let words = words.str().map_err(&read)?;
        Ok(words.iter().flatten().map(str::to_owned).collect())
    }

    /// A column of words, each mapped by `parse`; a word that is not known is an error.
    pub(super) fn words<T: Copy>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, TraceError> {
        let read = failed("read", self.path);
        let unknown = |word: &str| {
            TraceError::malformed(self.path, format!("column {name}: the word {word:?} is unknown"))
        };
        let series = self.column(name)?;
        let column = series.str().map_err(&read)?;
        let mut words = Vec::with_capacity(column.len());
        for array in column.downcast_iter() {
            // Few words, many rows: views that are the same bits are the same word.
            let mut met: HashMap<u128, T, RandomState> = HashMap::default();
            for (view, word) in array.views().iter().zip(array.iter()) {
                let parsed = match word.and_then(|_| met.get(&view.as_u128())) {
                    Some(parsed) => *parsed,
                    None => {
                        let parsed = word.and_then(&parse);
                        let parsed = parsed.ok_or_else(|| unknown(word.unwrap_or("")))?;
                        met.insert(view.as_u128(), parsed);
                        parsed
                    }
                };
                words.push(parsed);
            }
        }
        Ok(words)
    }
}

/// `None` for [`ABSENT`].
pub(super) fn present(value: u64) -> Option<u64> {
    (value != ABSENT).then_some(value)
}
