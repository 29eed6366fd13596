//! A GGUF file: header, shape, every tensor, and the tokenizer made of its vocabulary.

#![no_main]

use gemba::model::Model;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = Model::from_gguf("fuzz.gguf", bytes.to_vec()) else { return };
    for id in model.shape().tensors() {
        let tensor = model.tensor(id).expect("every tensor of the shape was found");
        let values = tensor.to_f32();
        assert_eq!(values.len(), tensor.rows() * tensor.columns());
        assert!(tensor.row_bytes(tensor.rows() - 1).is_some());
    }
    if let Ok(tokenizer) = model.tokenizer() {
        if let Ok(ids) = tokenizer.encode("The books close to zero. Où va le temps?") {
            assert!(ids.iter().all(|&id| id < model.shape().vocab));
            let _ = tokenizer.decode(&ids);
        }
    }
});
