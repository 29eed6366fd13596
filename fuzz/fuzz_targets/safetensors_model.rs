//! A Hugging Face checkpoint: the text of a `config.json`, a zero byte, a safetensors file.

#![no_main]

use gemba::model::Model;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let (config, weights) = bytes.split_at(end);
    let weights = weights.get(1..).unwrap_or_default().to_vec();
    let Ok(model) = Model::from_checkpoint("fuzz", config, weights) else { return };
    for id in model.shape().tensors() {
        let tensor = model.tensor(id).expect("every tensor of the shape was found");
        let values = tensor.to_f32();
        assert_eq!(values.len(), tensor.rows() * tensor.columns());
        assert!(tensor.row_bytes(tensor.rows() - 1).is_some());
    }
});
