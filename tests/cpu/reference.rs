//! The forward pass in double precision, as plainly as it can be written.

use gemba::model::{LayerTensor, Model, Precision, RopeScaling, Shape, TensorId};

use crate::driver::{Driver, options, tokens};
use crate::shapes;

fn tensor(model: &Model, id: TensorId) -> Vec<Vec<f64>> {
    let tensor = model.tensor(id).unwrap();
    let values = tensor.to_f32();
    values.chunks(tensor.columns()).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
}

fn vector(model: &Model, id: TensorId) -> Vec<f64> {
    tensor(model, id).remove(0)
}

fn product(matrix: &[Vec<f64>], x: &[f64]) -> Vec<f64> {
    matrix.iter().map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

fn norm(x: &[f64], weight: &[f64], epsilon: f32) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + f64::from(epsilon)).sqrt();
    x.iter().zip(weight).map(|(x, weight)| x * factor * weight).collect()
}

fn frequency(shape: &Shape, i: usize) -> f64 {
    let half = f64::from(shape.head_dim) / 2.0;
    let plain = f64::from(shape.rope.theta).powf(-(i as f64) / half);
    match shape.rope.scaling {
        None => plain,
        Some(RopeScaling::Linear { factor }) => plain / f64::from(factor),
        Some(RopeScaling::Llama3 { factor, low, high, original_context }) => {
            let wavelength = std::f64::consts::TAU / plain;
            let context = f64::from(original_context);
            if wavelength < context / f64::from(high) {
                plain
            } else if wavelength > context / f64::from(low) {
                plain / f64::from(factor)
            } else {
                let smooth = (context / wavelength - f64::from(low)) / f64::from(high - low);
                (1.0 - smooth) * plain / f64::from(factor) + smooth * plain
            }
        }
    }
}

fn turn(shape: &Shape, head: &[f64], position: usize) -> Vec<f64> {
    let half = head.len() / 2;
    let mut out = head.to_vec();
    for i in 0..half {
        let (sin, cos) = (position as f64 * frequency(shape, i)).sin_cos();
        out[i] = head[i] * cos - head[i + half] * sin;
        out[i + half] = head[i + half] * cos + head[i] * sin;
    }
    out
}

/// Keys and values of one head, by position.
type History = Vec<(Vec<f64>, Vec<f64>)>;

fn attend(shape: &Shape, query: &[f64], history: &History) -> Vec<f64> {
    let window = shape.sliding_window.map_or(usize::MAX, |window| window as usize);
    let seen = &history[history.len().saturating_sub(window)..];
    let scale = f64::from(shape.head_dim).sqrt();
    let scores: Vec<f64> = seen
        .iter()
        .map(|(key, _)| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() / scale)
        .collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut out = vec![0.0; query.len()];
    for (weight, (_, value)) in weights.iter().zip(seen) {
        for (out, value) in out.iter_mut().zip(value) {
            *out += weight / sum * value;
        }
    }
    out
}

/// Logits of every position.
pub fn logits(model: &Model, tokens: &[u32]) -> Vec<Vec<f64>> {
    let shape = model.shape();
    let embedding = tensor(model, TensorId::Embedding);
    let mut rows: Vec<Vec<f64>> =
        tokens.iter().map(|token| embedding[*token as usize].clone()).collect();
    for layer in 0..shape.layers {
        let id = |tensor| TensorId::Layer(layer, tensor);
        let matrix = |name| tensor(model, id(name));
        let attention_norm = vector(model, id(LayerTensor::AttentionNorm));
        let projections = [LayerTensor::Query, LayerTensor::Key, LayerTensor::Value].map(matrix);
        let biases = [LayerTensor::QueryBias, LayerTensor::KeyBias, LayerTensor::ValueBias]
            .map(|name| shape.qkv_bias.then(|| vector(model, id(name))));
        let norms = [LayerTensor::QueryNorm, LayerTensor::KeyNorm]
            .map(|name| shape.qk_norm.then(|| vector(model, id(name))));
        let output = matrix(LayerTensor::Output);
        let ffn_norm = vector(model, id(LayerTensor::FfnNorm));
        let [gate, up, down] = [LayerTensor::Gate, LayerTensor::Up, LayerTensor::Down].map(matrix);
        let mut histories: Vec<History> = vec![Vec::new(); shape.kv_heads as usize];
        let dim = shape.head_dim as usize;
        for (position, row) in rows.iter_mut().enumerate() {
            let normed = norm(row, &attention_norm, shape.norm_eps);
            let [query, key, value] = std::array::from_fn(|i| {
                let mut out = product(&projections[i], &normed);
                if let Some(bias) = &biases[i] {
                    out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
                }
                out
            });
            let prepare = |head: &[f64], weight: &Option<Vec<f64>>| {
                let normed = weight.as_ref().map(|weight| norm(head, weight, shape.norm_eps));
                turn(shape, normed.as_deref().unwrap_or(head), position)
            };
            for (head, history) in histories.iter_mut().enumerate() {
                let part = head * dim..(head + 1) * dim;
                history.push((prepare(&key[part.clone()], &norms[1]), value[part].to_vec()));
            }
            let sharing = (shape.heads / shape.kv_heads) as usize;
            let mut attended = Vec::new();
            for (head, query) in query.chunks(dim).enumerate() {
                let query = prepare(query, &norms[0]);
                attended.extend(attend(shape, &query, &histories[head / sharing]));
            }
            let added = product(&output, &attended);
            row.iter_mut().zip(added).for_each(|(row, added)| *row += added);
            let normed = norm(row, &ffn_norm, shape.norm_eps);
            let (gated, raised) = (product(&gate, &normed), product(&up, &normed));
            let silu = |x: f64| x / (1.0 + (-x).exp());
            let hidden: Vec<f64> =
                gated.iter().zip(raised).map(|(gate, up)| silu(*gate) * up).collect();
            let added = product(&down, &hidden);
            row.iter_mut().zip(added).for_each(|(row, added)| *row += added);
        }
    }
    let final_norm = vector(model, TensorId::FinalNorm);
    let head = tensor(model, TensorId::Head);
    rows.iter().map(|row| product(&head, &norm(row, &final_norm, shape.norm_eps))).collect()
}

/// The largest and the typical difference, both over the spread of the expected logits.
fn errors(found: &[Vec<f32>], expected: &[Vec<f64>]) -> (f64, f64) {
    let all: Vec<f64> = expected.iter().flatten().copied().collect();
    let typical =
        |values: &[f64]| (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt();
    let differences: Vec<f64> =
        found.iter().flatten().zip(&all).map(|(x, y)| (f64::from(*x) - y).abs()).collect();
    let largest = differences.iter().copied().fold(0.0, f64::max);
    (largest / typical(&all), typical(&differences) / typical(&all))
}

#[test]
fn every_shape_matches_double_precision() {
    for (name, shape) in shapes::all() {
        let model = Model::random(name, shape.clone(), 11);
        let tokens = tokens(40, 5, shape.vocab);
        let expected = logits(&model, &tokens);
        let mut driver = Driver::new(&model, options(Precision::F32, Precision::F32, 2));
        let (exact, _) = errors(&driver.whole(&tokens), &expected);
        assert!(exact < 2e-5, "{name}: {exact}");
        let mut driver = Driver::new(&model, options(Precision::F32, Precision::F16, 2));
        let (halves, _) = errors(&driver.whole(&tokens), &expected);
        assert!(halves < 5e-3, "{name}: {halves}");
    }
}

#[test]
fn every_precision_is_as_close_as_its_bits_allow() {
    for (precision, tolerance) in [
        // The model's weights are exact in the first three; bf16 kernels round activations.
        (Precision::F32, 5e-6),
        (Precision::F16, 5e-6),
        (Precision::Bf16, 2e-2),
        (Precision::Q8_0, 8e-2),
        (Precision::Q4_0, 6e-1),
    ] {
        let shape = shapes::llama();
        let model = Model::random("llama", shape.clone(), 3);
        let tokens = tokens(24, 9, shape.vocab);
        let expected = logits(&model, &tokens);
        let mut driver = Driver::new(&model, options(precision, Precision::F32, 1));
        let (_, found) = errors(&driver.whole(&tokens), &expected);
        assert!(found < tolerance, "{}: {found}", precision.code());
    }
}
