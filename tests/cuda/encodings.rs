//! Weights and caches in the formats that no file has.
//!
//! The reference is a checkpoint whose weights are the quantized ones, written out in f32: the CPU
//! multiplies exactly what the card holds, so that the bound is that of 16-bit activations alone.

use std::path::Path;

use gemba::backend::{Backend, Sampling};
use gemba::cost::{Technique, Techniques};
use gemba::event::WallClock;
use gemba::model::{Encoding, LayerTensor, Model, Precision, TensorId, open};
use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::near;
use crate::numbers::{e4m3_bits, e4m3_value};
use crate::stepper::{LIMITS, Plain, Said, Sequence, on_cpu, small, step, tokens, whole};

/// The quantiles of NF4, to the bits that products in bf16 take.
const QUANTILES: [f32; 16] = [
    -1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0, 0.0796, 0.1609, 0.2461,
    0.3379, 0.4407, 0.5626, 0.723, 1.0,
];

/// A row as the card holds it.
fn quantized(encoding: Encoding, row: &[f32]) -> Vec<f32> {
    let largest =
        |row: &[f32]| row.iter().fold(0.0_f32, |a, b| if b.abs() > a.abs() { *b } else { a });
    let of_row = |range: f32| largest(row).abs() / range;
    match encoding {
        Encoding::E4m3 => {
            let scale = of_row(448.0);
            let code = |x: &f32| e4m3_bits(f64::from(x / scale));
            row.iter().map(|x| e4m3_value(code(x)) as f32 * scale).collect()
        }
        Encoding::I8 => {
            let scale = of_row(127.0);
            row.iter().map(|x| (x / scale).round_ties_even() * scale).collect()
        }
        Encoding::I4 => {
            let group = |group: &[f32]| {
                let scale = f16::from_f32(largest(group) / -8.0).to_f32();
                let code = move |x: &f32| (x / scale).round_ties_even().clamp(-8.0, 7.0) * scale;
                group.iter().map(code).collect::<Vec<_>>()
            };
            row.chunks(128).flat_map(group).collect()
        }
        _ => {
            let block = |block: &[f32]| {
                let scale = f16::from_f32(largest(block).abs()).to_f32();
                let near =
                    |x: f32, a: f32, b: f32| if (x - b).abs() < (x - a).abs() { b } else { a };
                let code = move |x: &f32| {
                    QUANTILES.iter().fold(f32::MAX, |best, q| near(x / scale, best, *q)) * scale
                };
                block.iter().map(code).collect::<Vec<_>>()
            };
            row.chunks(64).flat_map(block).collect()
        }
    }
}

fn name(id: TensorId) -> String {
    let (layer, tensor) = match id {
        TensorId::Embedding => return "model.embed_tokens.weight".to_owned(),
        TensorId::FinalNorm => return "model.norm.weight".to_owned(),
        TensorId::Head => return "lm_head.weight".to_owned(),
        TensorId::Layer(layer, tensor) => (layer, tensor),
    };
    let tensor = match tensor {
        LayerTensor::AttentionNorm => "input_layernorm",
        LayerTensor::FfnNorm => "post_attention_layernorm",
        LayerTensor::Query => "self_attn.q_proj",
        LayerTensor::Key => "self_attn.k_proj",
        LayerTensor::Value => "self_attn.v_proj",
        LayerTensor::Output => "self_attn.o_proj",
        LayerTensor::Gate => "mlp.gate_proj",
        LayerTensor::Up => "mlp.up_proj",
        LayerTensor::Down => "mlp.down_proj",
        other => panic!("{other:?} in a Llama"),
    };
    format!("model.layers.{layer}.{tensor}.weight")
}

/// A checkpoint of `model` with its matrices as the card holds them.
pub fn written_out(model: &Model, encoding: Encoding, folder: &Path) -> Model {
    let shape = model.shape();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim, "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context, "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope.theta,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shape
        .tensors()
        .map(|id| {
            let [rows, columns] = shape.dimensions(id).unwrap().map(|size| size as usize);
            let (dimensions, floats) = if id.is_vector() {
                (vec![columns], model.vector(id).unwrap())
            } else {
                let floats = model.tensor(id).unwrap().to_f32();
                let rows_of = floats.chunks(columns).flat_map(|row| quantized(encoding, row));
                (vec![rows, columns], rows_of.collect())
            };
            (name(id), dimensions, floats.iter().flat_map(|x| x.to_le_bytes()).collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, dimensions, bytes)| {
        (name, TensorView::new(Dtype::F32, dimensions.clone(), bytes).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
    open(folder.to_str().unwrap(), 0).unwrap()
}

/// A chunk and then single rows: logits of all of them.
fn logits(backend: &mut dyn Backend, text: &[u32]) -> Vec<Vec<f32>> {
    let mut sequence = Sequence::new(text, 0..4);
    let mut all = Vec::new();
    let first = text.len() - 2;
    for count in [first, 1, 1] {
        let Said { logits, .. } =
            step(backend, &mut [(&mut sequence, count)], Sampling::GREEDY).unwrap();
        all.extend(logits.into_iter().flatten());
    }
    all
}

pub fn farthest(expected: &[Vec<f32>], found: &[Vec<f32>]) -> f32 {
    assert_eq!(expected.len(), found.len());
    let pairs = expected.iter().zip(found);
    pairs.map(|(x, y)| near::distance(Precision::Bf16, x, y)).fold(0.0, f32::max)
}

fn plain(precision: Encoding, kv: Encoding, techniques: Techniques) -> Plain {
    Plain { precision, kv, limits: LIMITS, techniques }
}

const F16: Encoding = Encoding::Stored(Precision::F16);

#[test]
fn products_are_those_of_the_quantized_weights() {
    // Groups of 128 and of 64 that are not whole, and several of each.
    let model = small(|shape| (shape.hidden, shape.ffn, shape.layers) = (160, 288, 1));
    let text = tokens(22, 5, 300);
    for encoding in [Encoding::E4m3, Encoding::I8, Encoding::I4, Encoding::Nf4] {
        let folder = tempfile::tempdir().unwrap();
        let reference = written_out(&model, encoding, folder.path());
        let expected = whole(&mut on_cpu(&reference, Precision::F32, LIMITS), &text);
        let found = |techniques| {
            let plain = plain(encoding, F16, techniques);
            logits(&mut plain.on_card(&model, 66, WallClock::start()), &text)
        };
        let distance = farthest(&expected, &found(Techniques::ALL));
        assert!(distance < 1.0, "{encoding:?}: {distance} of the bound");
        // The weights that are not quantized would be told from these, in four bits at least.
        if matches!(encoding, Encoding::I4 | Encoding::Nf4) {
            let exact = whole(&mut on_cpu(&model, Precision::F32, LIMITS), &text);
            assert!(farthest(&exact, &expected) > 1.0, "{encoding:?}");
        }
        let apart = found(Techniques::ALL.without(Technique::FusedDequantize));
        let distance = farthest(&expected, &apart);
        assert!(distance < 1.0, "{encoding:?}, dequantized: {distance} of the bound");
    }
}

#[test]
fn caches_of_eight_bits() {
    let model = small(|shape| (shape.kv_heads, shape.layers) = (2, 1));
    let bf16 = Encoding::Stored(Precision::Bf16);
    let text = tokens(40, 6, 300);
    let expected = whole(&mut on_cpu(&model, Precision::Bf16, LIMITS), &text);
    // Half a step of i8 is as much as bf16 rounds; one of e4m3, eight times as much, but only of
    // what attention adds to the stream.
    for (kv, bounds) in [(Encoding::I8, 1.0), (Encoding::E4m3, 2.0)] {
        for techniques in [Techniques::ALL, Techniques::NONE] {
            let mut cuda = plain(bf16, kv, techniques).on_card(&model, 1, WallClock::start());
            let distance = farthest(&expected, &logits(&mut cuda, &text));
            assert!(distance < bounds, "{kv:?} {techniques:?}: {distance} of the bound");
            // 2 · 24 blocks of 16 tokens of 2 heads, 64 bytes and a scale each.
            assert_eq!(cuda.description().kv_pool.0, 2 * 24 * 16 * 2 * (64 + 4));
            let formulas = gemba::cost::Formulas::new(cuda.shape(), *cuda.storage());
            let load = formulas.load([(9, 1)], 1);
            let kernel = match techniques {
                Techniques::ALL => gemba::cost::Kernel::RopeAppend,
                _ => gemba::cost::Kernel::KvAppend,
            };
            assert_eq!(formulas.budget(kernel, &load).kv_bytes.0, 2 * 2 * (64 + 4));
        }
    }
}
