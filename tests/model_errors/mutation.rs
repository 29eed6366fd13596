//! Bytes changed at random, and all that is read of what they still open as.

use std::path::Path;

use gemba::model::{Model, ModelError};
use proptest::prelude::*;

/// A file of the reference vectors.
pub fn vectors(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)).unwrap()
}

/// Reads all that a model has to offer.
pub fn read_all(model: Result<Model, ModelError>) {
    let Ok(model) = model else { return };
    for id in model.shape().tensors() {
        drop(model.tensor(id).unwrap().to_f32());
    }
    if let Ok(tokenizer) = model.tokenizer() {
        drop(tokenizer.encode("The books close to zero."));
    }
}

/// Changes bytes, most of them near the start, where headers are; cuts the end off.
pub fn mutate(bytes: &mut Vec<u8>, changes: &[(f64, u8)], keep: f64) {
    for &(place, value) in changes {
        let at = (place.powi(3) * bytes.len() as f64) as usize;
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
    }
    bytes.truncate((keep * bytes.len() as f64).ceil() as usize);
}

/// What [`mutate`] does to some bytes.
pub fn changes() -> impl Strategy<Value = (Vec<(f64, u8)>, f64)> {
    let changes = prop::collection::vec((0.0..1.0, any::<u8>()), 1..8);
    (changes, prop_oneof![4 => Just(1.0), 1 => 0.0..1.0])
}
