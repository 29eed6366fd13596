//! One safetensors file: its header, every claim checked against the file's length.
//!
//! The `safetensors` crate's own reader adds up the header's offsets without a check and does
//! not say which tensor it refuses, so only its types are used.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use ::safetensors::Dtype;
use ::safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::shape::Precision;
use super::weights::Entry;

/// Bytes before the header: its length as u64.
const LENGTH_BYTES: usize = 8;

/// The most bytes of a header that the format allows.
const HEADER_MOST: u64 = 100_000_000;

/// The tensors of a file by name, with their bytes' places in the file. `file` is the index that
/// the entries get.
///
/// # Errors
/// Says where, what was expected and what was found.
pub(super) fn entries(bytes: &[u8], file: usize) -> Result<BTreeMap<String, Entry>, String> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!("expected a length of {LENGTH_BYTES} bytes, found {}", bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > HEADER_MOST {
        return Err(format!("header length: expected at most {HEADER_MOST}, found {length}"));
    }
    // At most 100 000 000.
    let length = length as usize;
    let Some((header, data)) = rest.split_at_checked(length) else {
        return Err(format!("header: expected {length} bytes, found {}", rest.len()));
    };
    let header: Header =
        serde_json::from_slice(header).map_err(|error| format!("header: {error}"))?;
    cover(&header, data.len())?;
    let start = LENGTH_BYTES + length;
    let entries = header.tensors.into_iter().map(|(name, info)| {
        let (from, to) = info.data_offsets;
        let entry = Entry {
            file,
            range: start + from..start + to,
            dimensions: info.shape.iter().map(|&dimension| dimension as u64).collect(),
            precision: precision(info.dtype).ok_or_else(|| info.dtype.to_string()),
        };
        (name, entry)
    });
    Ok(entries.collect())
}

/// The tensors must follow one another from the first byte to the last, each as long as its
/// dimensions and type say.
fn cover(header: &Header, data: usize) -> Result<(), String> {
    let mut tensors: Vec<_> = header.tensors.iter().collect();
    tensors.sort_unstable_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, info) in tensors {
        let (from, to) = info.data_offsets;
        if from != end {
            return Err(format!("tensor {name}: expected its data at {end}, found {from}"));
        }
        if to < from || to > data {
            return Err(format!(
                "tensor {name}: expected its data to end between {from} and {data}, the end of \
                 the file, found {to}"
            ));
        }
        let elements =
            info.shape.iter().try_fold(1_usize, |product, &width| product.checked_mul(width));
        let bits = elements.and_then(|elements| elements.checked_mul(info.dtype.bitsize()));
        if bits.is_none_or(|bits| !bits.is_multiple_of(8) || bits / 8 != to - from) {
            return Err(format!(
                "tensor {name}: expected {} bytes of {:?} {}, found {}",
                bits.map_or_else(|| "countable".to_owned(), |bits| (bits / 8).to_string()),
                info.shape,
                info.dtype,
                to - from
            ));
        }
        end = to;
    }
    if end != data {
        return Err(format!("expected {end} bytes of tensors, found {data}"));
    }
    Ok(())
}

/// The precision of a type that is read.
const fn precision(dtype: Dtype) -> Option<Precision> {
    match dtype {
        Dtype::F32 => Some(Precision::F32),
        Dtype::BF16 => Some(Precision::Bf16),
        Dtype::F16 => Some(Precision::F16),
        _ => None,
    }
}

/// A header: tensors by name, in order. Two of one name are refused.
#[derive(Debug)]
struct Header {
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Tensors;

        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut tensors, mut names) = (Vec::new(), HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!("second entry named {name}")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(Header { tensors })
            }
        }

        from.deserialize_map(Tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn tensors_are_found_in_any_order() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"F16","shape":[2,2],"data_offsets":[8,16]},
            "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
            "c":{"dtype":"I64","shape":[],"data_offsets":[16,24]}}"#;
        let bytes = file(header, 24);
        let entries = entries(&bytes, 3).unwrap();
        let start = 8 + header.len();
        let entry = |range: std::ops::Range<usize>, dimensions: &[u64], precision| Entry {
            file: 3,
            range: start + range.start..start + range.end,
            dimensions: dimensions.to_vec(),
            precision,
        };
        assert_eq!(entries["a"], entry(0..8, &[2], Ok(Precision::F32)));
        assert_eq!(entries["b"], entry(8..16, &[2, 2], Ok(Precision::F16)));
        assert_eq!(entries["c"], entry(16..24, &[], Err("I64".to_owned())));
    }

    #[test]
    fn every_lie_is_named() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let twice = r#"{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
                        "a":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}"#;
        let far = format!("[0,{}]", u64::MAX);
        let table = [
            (vec![1, 2, 3], "expected a length of 8 bytes, found 3"),
            (
                u64::MAX.to_le_bytes().to_vec(),
                "header length: expected at most 100000000, found 18446744073709551615",
            ),
            (99_u64.to_le_bytes().to_vec(), "header: expected 99 bytes, found 0"),
            (file("{", 0), "header: EOF while parsing an object at line 1 column 1"),
            (file(twice, 8), "header: second entry named a at line 2 column 27"),
            (
                file(&one("F33", "[1]", "[0,4]"), 4),
                "header: unknown variant `F33`, expected one of",
            ),
            (file(&one("F32", "[1]", "[4,8]"), 8), "tensor a: expected its data at 0, found 4"),
            (
                file(&one("F32", "[2]", "[0,8]"), 7),
                "tensor a: expected its data to end between 0 and 7, the end of the file, found 8",
            ),
            (
                file(&one("F32", "[2]", &far), 7),
                "tensor a: expected its data to end between 0 and 7, the end of the file, found \
                 18446744073709551615",
            ),
            (
                file(&one("F32", "[3]", "[0,8]"), 8),
                "tensor a: expected 12 bytes of [3] F32, found 8",
            ),
            (
                file(&one("F32", "[4294967296,4294967296]", "[0,8]"), 8),
                "tensor a: expected countable bytes of [4294967296, 4294967296] F32, found 8",
            ),
            (file(&one("F32", "[2]", "[0,8]"), 9), "expected 8 bytes of tensors, found 9"),
        ];
        for (bytes, message) in table {
            let found = entries(&bytes, 0).unwrap_err();
            assert!(found.starts_with(message), "{found}");
        }
    }
}
