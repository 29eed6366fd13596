//! The GGUF container, versions 2 and 3: metadata and tensors of one mapped file.
//!
//! ```text
//! "GGUF" version:u32 tensors:u64 entries:u64
//! entries × (key:string type:u32 value)
//! tensors × (name:string dimensions:u32 dimensions × u64, innermost first, type:u32 offset:u64)
//! padding to the alignment, then the data; offsets count from there
//! ```
//!
//! A string is a u64 of bytes and the bytes; an array is a type, a u64 of elements and the
//! elements. Every count and length is held against the bytes that are left before anything is
//! made of it, so a header that lies costs nothing. `architecture` makes a shape of the
//! metadata, `vocabulary` a tokenizer.

mod architecture;
mod vocabulary;

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fmt;
use std::ops::Range;

use super::block::{BLOCK, row_bytes};
use super::shape::Precision;

pub(super) use architecture::{open, open_bytes};
pub(super) use vocabulary::Vocabulary;

const MAGIC: &[u8; 4] = b"GGUF";

/// Where tensors begin, unless the metadata say otherwise.
const ALIGNMENT: u64 = 32;

/// The most dimensions of a tensor.
const DIMENSIONS_MOST: u32 = 4;

/// The fewest bytes of a metadata entry: an empty key, a type and a one-byte value.
const ENTRY_LEAST: u64 = 8 + 4 + 1;

/// The fewest bytes of a tensor's description: an empty name, no dimensions, type and offset.
const TENSOR_LEAST: u64 = 8 + 4 + 4 + 8;

/// A parsed header; strings and arrays stay in the file.
#[derive(Debug, PartialEq)]
struct Container<'a> {
    metadata: BTreeMap<&'a str, Value<'a>>,
    tensors: BTreeMap<&'a str, TensorInfo>,
}

/// A value of the metadata.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(number) => write!(to, "{number}"),
            Self::Signed(number) => write!(to, "{number}"),
            Self::Float(number) => write!(to, "{number}"),
            Self::Bool(value) => write!(to, "{value}"),
            Self::String(text) => write!(to, "{text:?}"),
            Self::Array(array) => write!(to, "an array of {}", array.count),
        }
    }
}

/// An array of the metadata, as its bytes; strings were checked to be whole and UTF-8.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Array<'a> {
    kind: Kind,
    count: usize,
    bytes: &'a [u8],
}

/// A tensor's description.
#[derive(Clone, Debug, PartialEq)]
struct TensorInfo {
    /// Innermost first.
    dimensions: Vec<u64>,
    precision: Result<Precision, String>,
    /// Its bytes in the file; empty if its type is not read.
    range: Range<usize>,
}

/// A type of metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Bytes of a value; `None` where they vary.
    const fn bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

/// Reads a header and checks it against the file's length.
///
/// # Errors
/// Says where, what was expected and what was found.
fn parse(bytes: &[u8]) -> Result<Container<'_>, String> {
    let mut reader = Reader { bytes, at: 0 };
    let magic = reader.take(MAGIC.len(), "magic")?;
    if magic != MAGIC {
        let found = String::from_utf8_lossy(magic);
        return Err(format!("magic: expected \"GGUF\", found {found:?}"));
    }
    let version = reader.u32("version")?;
    if !matches!(version, 2 | 3) {
        return Err(format!("version: expected 2 or 3, little-endian, found {version}"));
    }
    let tensor_count = reader.count("tensors", TENSOR_LEAST)?;
    let entry_count = reader.count("metadata entries", ENTRY_LEAST)?;
    let mut metadata = BTreeMap::new();
    for _ in 0..entry_count {
        let key = reader.string("metadata key")?;
        let kind = reader.kind(key)?;
        let value = reader.value(kind, key)?;
        let btree_map::Entry::Vacant(entry) = metadata.entry(key) else {
            return Err(format!("metadata {key}: second entry of that name"));
        };
        entry.insert(value);
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(&Value::Unsigned(alignment)) if alignment.is_power_of_two() => alignment,
        Some(other) => {
            return Err(format!("general.alignment: expected a power of two, found {other}"));
        }
    };
    let mut described = Vec::new();
    for _ in 0..tensor_count {
        described.push(reader.tensor()?);
    }
    let data = (reader.at as u64).next_multiple_of(alignment);
    let tensors = place(described, data, alignment, bytes.len() as u64)?;
    Ok(Container { metadata, tensors })
}

/// A tensor as it is described, before its bytes are found.
struct Described<'a> {
    name: &'a str,
    dimensions: Vec<u64>,
    kind: u32,
    offset: u64,
}

/// Finds each tensor's bytes between `data` and `end`.
fn place(
    described: Vec<Described<'_>>,
    data: u64,
    alignment: u64,
    end: u64,
) -> Result<BTreeMap<&str, TensorInfo>, String> {
    let mut tensors = BTreeMap::new();
    let mut ranges = Vec::new();
    for Described { name, dimensions, kind, offset } in described {
        if !offset.is_multiple_of(alignment) {
            return Err(format!(
                "tensor {name}: expected an offset that is a multiple of {alignment}, found \
                 {offset}"
            ));
        }
        let precision = precision(kind);
        let length = match precision {
            Ok(precision) => length(precision, &dimensions).map_err(|what| {
                format!("tensor {name}: {what}, found dimensions {dimensions:?}")
            })?,
            Err(_) => 0,
        };
        let left = end.saturating_sub(data);
        if offset.checked_add(length).is_none_or(|end| end > left) {
            return Err(format!(
                "tensor {name}: expected {length} bytes at {offset}, found {left} bytes of data"
            ));
        }
        let start = data + offset;
        // Within the file, whose length is a usize.
        let range = start as usize..(start + length) as usize;
        ranges.push((range.clone(), name));
        if tensors.insert(name, TensorInfo { dimensions, precision, range }).is_some() {
            return Err(format!("tensor {name}: second one of that name"));
        }
    }
    ranges.sort_unstable_by_key(|(range, _)| (range.start, range.end));
    for pair in ranges.windows(2) {
        let [(first, first_name), (second, second_name)] = pair else { continue };
        if first.end > second.start {
            return Err(format!("tensor {second_name}: overlaps tensor {first_name}"));
        }
    }
    Ok(tensors)
}

/// Bytes of a tensor.
fn length(precision: Precision, dimensions: &[u64]) -> Result<u64, &'static str> {
    let uncountable = "expected a number of bytes that can be counted";
    let (&columns, outer) = dimensions.split_first().ok_or("expected at least one dimension")?;
    if matches!(precision, Precision::Q8_0 | Precision::Q4_0) && columns % BLOCK as u64 != 0 {
        return Err("expected rows of whole blocks of 32");
    }
    let rows = outer.iter().try_fold(1_u64, |product, &width| product.checked_mul(width));
    let columns = usize::try_from(columns).ok().filter(|&columns| columns <= usize::MAX / 8);
    let row = columns.map(|columns| row_bytes(precision, columns) as u64);
    rows.zip(row).and_then(|(rows, row)| rows.checked_mul(row)).ok_or(uncountable)
}

/// The precision of a GGML type, or the name of one that is not read.
fn precision(kind: u32) -> Result<Precision, String> {
    let name = match kind {
        0 => return Ok(Precision::F32),
        1 => return Ok(Precision::F16),
        2 => return Ok(Precision::Q4_0),
        8 => return Ok(Precision::Q8_0),
        30 => return Ok(Precision::Bf16),
        3 => "Q4_1",
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return Err(format!("GGML type {kind}")),
    };
    Err(name.to_owned())
}

/// Reads forward through the file. Each method names what it reads for its messages.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8], String> {
        let Some(taken) = self.bytes[self.at..].get(..length) else {
            let (at, left) = (self.at, self.left());
            return Err(format!("{what}: expected {length} bytes at {at}, found {left}"));
        };
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A number of things that take at least `least` bytes each.
    fn count(&mut self, what: &str, least: u64) -> Result<usize, String> {
        let at = self.at;
        let count = self.u64(what)?;
        let most = self.left() as u64 / least;
        if count > most {
            return Err(format!(
                "{what}: expected at most the {most} that the file has room for, found {count} at \
                 {at}"
            ));
        }
        // At most the file's length, which is a usize.
        Ok(count as usize)
    }

    fn string(&mut self, what: &str) -> Result<&'a str, String> {
        let length = self.count(what, 1)?;
        let at = self.at;
        std::str::from_utf8(self.take(length, what)?)
            .map_err(|error| format!("{what}: expected UTF-8 at {at}, found {error}"))
    }

    fn kind(&mut self, key: &str) -> Result<Kind, String> {
        let number = self.u32(key)?;
        Kind::from_number(number)
            .ok_or_else(|| format!("metadata {key}: expected a type of 0 to 12, found {number}"))
    }

    fn value(&mut self, kind: Kind, key: &str) -> Result<Value<'a>, String> {
        Ok(match kind {
            Kind::U8 => Value::Unsigned(u8::from_le_bytes(self.array(key)?).into()),
            Kind::I8 => Value::Signed(i8::from_le_bytes(self.array(key)?).into()),
            Kind::U16 => Value::Unsigned(u16::from_le_bytes(self.array(key)?).into()),
            Kind::I16 => Value::Signed(i16::from_le_bytes(self.array(key)?).into()),
            Kind::U32 => Value::Unsigned(self.u32(key)?.into()),
            Kind::I32 => Value::Signed(i32::from_le_bytes(self.array(key)?).into()),
            Kind::F32 => Value::Float(f32::from_le_bytes(self.array(key)?).into()),
            Kind::Bool => Value::Bool(self.array::<1>(key)? != [0]),
            Kind::String => Value::String(self.string(key)?),
            Kind::Array => Value::Array(self.values(key)?),
            Kind::U64 => Value::Unsigned(self.u64(key)?),
            Kind::I64 => Value::Signed(i64::from_le_bytes(self.array(key)?)),
            Kind::F64 => Value::Float(f64::from_le_bytes(self.array(key)?)),
        })
    }

    fn values(&mut self, key: &str) -> Result<Array<'a>, String> {
        let kind = self.kind(key)?;
        if kind == Kind::Array {
            return Err(format!("metadata {key}: expected an array of values, found of arrays"));
        }
        let count = self.count(key, kind.bytes().unwrap_or(8) as u64)?;
        let start = self.at;
        match kind.bytes() {
            Some(bytes) => _ = self.take(count * bytes, key)?,
            None => {
                for _ in 0..count {
                    self.string(key)?;
                }
            }
        }
        Ok(Array { kind, count, bytes: &self.bytes[start..self.at] })
    }

    fn tensor(&mut self) -> Result<Described<'a>, String> {
        let name = self.string("tensor name")?;
        let count = self.u32(name)?;
        if !(1..=DIMENSIONS_MOST).contains(&count) {
            return Err(format!(
                "tensor {name}: expected 1 to {DIMENSIONS_MOST} dimensions, found {count}"
            ));
        }
        let dimensions = (0..count).map(|_| self.u64(name)).collect::<Result<_, _>>()?;
        Ok(Described { name, dimensions, kind: self.u32(name)?, offset: self.u64(name)? })
    }
}

impl<'a> Array<'a> {
    /// The strings, if it is of strings.
    fn strings(self) -> Option<impl Iterator<Item = &'a str>> {
        let mut reader = Reader { bytes: self.bytes, at: 0 };
        // They were read once already, so that none can fail.
        (self.kind == Kind::String)
            .then(|| (0..self.count).map_while(move |_| reader.string("").ok()))
    }

    /// The numbers, if it is of numbers.
    fn numbers(self) -> Option<impl Iterator<Item = f64> + use<'a>> {
        let (kind, mut reader) = (self.kind, Reader { bytes: self.bytes, at: 0 });
        kind.bytes().is_some().then(|| {
            (0..self.count).map_while(move |_| match reader.value(kind, "").ok()? {
                Value::Unsigned(value) => Some(value as f64),
                Value::Signed(value) => Some(value as f64),
                Value::Float(value) => Some(value),
                Value::Bool(value) => Some(f64::from(u8::from(value))),
                Value::String(_) | Value::Array(_) => None,
            })
        })
    }
}
