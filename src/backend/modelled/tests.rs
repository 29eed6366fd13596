//! The modelled device: memory that tells wrong tables, and times known beforehand.

use super::*;
use crate::backend::{Mask, Projection, Sampling};
use crate::cost::Techniques;
use crate::event::Dtype;
use crate::model::{Family, Precision, Rope};

fn shape() -> Shape {
    Shape {
        family: Family::Llama,
        layers: 1,
        hidden: 64,
        ffn: 128,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        vocab: 97,
        context: 128,
        rope: Rope { theta: 1e4, scaling: None },
        norm_eps: 1e-5,
        qkv_bias: false,
        qk_norm: false,
        tied_embeddings: true,
        sliding_window: None,
    }
}

fn device(timing: Timing, clock: &ManualClock) -> ModelledDevice {
    let storage = Storage {
        weights: Precision::F32.into(),
        kv: Precision::F32.into(),
        activation_bytes: 4,
        activation_dtype: Dtype::F32,
        block_tokens: 4,
        piece_tokens: None,
        quantized_rows: false,
        swiglu_rows: None,
        wide_rows: None,
        techniques: Techniques::ALL,
    };
    let limits = Limits { rows: 16, logits_rows: 4, kv_blocks: 8, block_tokens: 4 };
    ModelledDevice::new(shape(), storage, limits, timing, clock.clone())
}

/// Runs rows of one sequence and gives the token of the last.
fn run(device: &mut ModelledDevice, tokens: &[u32], context: u32, blocks: &[u32]) -> u32 {
    masked(device, tokens, (context, blocks), &[])
}

fn masked(
    device: &mut ModelledDevice,
    tokens: &[u32],
    (context, blocks): (u32, &[u32]),
    masks: &[Mask<'_>],
) -> u32 {
    let rows = tokens.len() as u32;
    let sequence = SequenceRows { rows: 0..rows, context, blocks };
    let inputs = StepInputs {
        masks,
        awaited: &[],
        tokens,
        sequences: &[sequence],
        logits_rows: &[rows - 1],
        sampling: &[Sampling::GREEDY],
    };
    let (mut spans, mut sampled) = (Vec::new(), Vec::new());
    device.begin_step(&inputs).unwrap();
    device.launch(Op::Sample).unwrap();
    device.end_step(&mut spans, &mut sampled).unwrap();
    assert_eq!(device.logits()[sampled[0].token as usize], 1.0);
    sampled[0].token
}

#[test]
fn a_token_depends_on_its_sequence_alone_and_on_nothing_less() {
    let mut device = device(Timing::default(), &ManualClock::start());
    let whole = run(&mut device, &[1, 2, 3, 4, 5, 6], 0, &[0, 1]);
    run(&mut device, &[1, 2, 3, 4, 5], 0, &[3, 2]);
    assert_eq!(run(&mut device, &[6], 5, &[3, 2]), whole, "cut into steps");
    assert_ne!(run(&mut device, &[6], 5, &[3, 4]), whole, "through a wrong block");
    assert_ne!(run(&mut device, &[1, 9, 3, 4, 5, 6], 0, &[0, 1]), whole);
}

#[test]
fn a_mask_moves_the_choice_to_the_next_allowed_token() {
    let mut device = device(Timing::default(), &ManualClock::start());
    let free = run(&mut device, &[1, 2, 3], 0, &[0]);
    let vocab = device.shape.vocab;
    for allowed in [free, (free + 5) % vocab, (free + vocab - 1) % vocab] {
        let mut words = vec![0; Mask::words(vocab)];
        words[(allowed / 32) as usize] |= 1 << (allowed % 32);
        let mask = Mask { row: 0, allowed: &words };
        assert_eq!(masked(&mut device, &[1, 2, 3], (0, &[0]), &[mask]), allowed);
    }
}

#[test]
fn time_is_floor_and_what_was_asked_for() {
    let ceilings = Ceilings {
        read_bytes_per_s: 1_000_000_000,
        cache_bytes_per_s: 1_000_000_000_000,
        ..Ceilings::default()
    };
    let timing = Timing {
        ceilings,
        host_per_step: Nanos(1_000),
        launch_gap: Nanos(10),
        launch_slack: Nanos(5),
        async_steps: false,
        host_link_bytes_per_s: 0,
        fails_at_step: Some(1),
    };
    let clock = ManualClock::start();
    let mut device = device(timing, &clock);
    let sequences = [SequenceRows { rows: 0..1, context: 0, blocks: &[0] }];
    let inputs = StepInputs {
        tokens: &[1],
        sequences: &sequences,
        logits_rows: &[],
        sampling: &[],
        masks: &[],
        awaited: &[],
    };
    let down = Op::Linear { layer: 0, projection: Projection::Down };
    device.begin_step(&inputs).unwrap();
    device.launch(down).unwrap();
    device.launch(down).unwrap();
    let mut spans = Vec::new();
    device.end_step(&mut spans, &mut Vec::new()).unwrap();
    // 128 × 64 weights of 4 bytes at a byte per nanosecond.
    let each = 128 * 64 * 4 + 5;
    let [first, second] = spans[..] else { panic!("{spans:?}") };
    assert_eq!(first, Span { start: Nanos(1_000), end: Nanos(1_000 + each) });
    assert_eq!(second.start, first.end + Nanos(10));
    assert_eq!(second.end, second.start + Nanos(each));
    assert_eq!(clock.now(), second.end);
    device.begin_step(&inputs).unwrap();
    assert!(matches!(device.launch(down), Err(DeviceError::Lost(_))));
}

#[test]
fn inputs_and_choices_cross_the_link_before_and_behind_the_operations() {
    let ceilings = Ceilings { read_bytes_per_s: 1_000_000_000, ..Ceilings::default() };
    for async_steps in [false, true] {
        let host_link_bytes_per_s = 2_000_000_000;
        let ceilings = ceilings.clone();
        let timing = Timing { ceilings, async_steps, host_link_bytes_per_s, ..Timing::default() };
        let mut device = device(timing, &ManualClock::start());
        let sequences = [SequenceRows { rows: 0..3, context: 0, blocks: &[0] }];
        let inputs = StepInputs {
            tokens: &[1, 2, 3],
            sequences: &sequences,
            logits_rows: &[2],
            sampling: &[Sampling::GREEDY],
            masks: &[],
            awaited: &[],
        };
        device.begin_step(&inputs).unwrap();
        device.launch(Op::Linear { layer: 0, projection: Projection::Down }).unwrap();
        let mut spans = Vec::new();
        device.end_step(&mut spans, &mut Vec::new()).unwrap();
        let [sent, fetched] = device.copies() else { panic!("{:?}", device.copies()) };
        assert_eq!((sent.bytes, fetched.bytes), (Bytes(3 * ROW_BYTES), Bytes(CHOICE_BYTES)));
        let directions = [sent.direction, fetched.direction];
        assert_eq!(directions, [Direction::ToDevice, Direction::ToHost]);
        assert_eq!(sent.span, Span { start: Nanos(0), end: Nanos(24) });
        assert_eq!(spans[0].start, sent.span.end);
        assert_eq!(fetched.span.start, spans[0].end);
        assert_eq!(fetched.span.end, spans[0].end + Nanos(4));
        assert_eq!(device.clock.now(), fetched.span.end);
    }
}

#[test]
fn a_step_that_breaks_the_contract_is_refused() {
    let mut device = device(Timing::default(), &ManualClock::start());
    let one = |rows, blocks| SequenceRows { rows, context: 0, blocks };
    for (tokens, sequences, logits, said) in [
        (2, vec![one(0..1, &[0])], 0, "2 rows, 1 of them in sequences"),
        (17, vec![one(0..17, &[0, 1, 2, 3, 4])], 0, "17 rows, 17 of them"),
        (2, vec![one(0..1, &[0]), one(0..2, &[1])], 0, "rows 0..2 where 1 comes next"),
        (5, vec![one(0..5, &[0])], 0, "no KV block for position 4"),
        (1, vec![one(0..1, &[8])], 0, "no KV block for position 0"),
        (2, vec![one(0..1, &[0]), one(1..2, &[0])], 0, "KV block 0 is written twice"),
        (3, vec![one(0..2, &[0]), one(2..3, &[1])], 0, "a sequence of one row behind"),
        (1, vec![one(0..1, &[0])], 1, "rows [1] ask for logits"),
    ] {
        let tokens = vec![0; tokens];
        let rows: Vec<u32> = (0..logits).map(|_| 1).collect();
        let inputs = StepInputs {
            masks: &[],
            awaited: &[],
            tokens: &tokens,
            sequences: &sequences,
            logits_rows: &rows,
            sampling: &vec![Sampling::GREEDY; logits],
        };
        let error = device.begin_step(&inputs).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}
