//! Duty 5: the result of a row depends on its sequence alone, to the last bit.

use gemba::model::{Model, Precision, Shape};
use proptest::prelude::*;

use crate::driver::{Driver, Sequence, options, tokens};
use crate::shapes;

fn bits(logits: &[Vec<f32>]) -> Vec<u32> {
    logits.iter().flatten().map(|x| x.to_bits()).collect()
}

/// A shape whose contexts span several pieces at blocks of eight tokens.
fn shape(kind: usize) -> (Shape, Precision) {
    let shapes = shapes::all();
    let (_, shape) = &shapes[kind % shapes.len()];
    (shape.clone(), Precision::ALL[kind % Precision::ALL.len()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn chunks_neighbours_threads_and_blocks_change_nothing(
        kind in 0_usize..30,
        length in 2_usize..150,
        cuts in prop::collection::vec(1_usize..60, 1..6),
        others in prop::collection::vec(0_usize..9, 1..5),
        threads in 1_usize..4,
        start in 0_u32..20,
    ) {
        let (shape, precision) = shape(kind);
        let model = Model::random("bits", shape.clone(), kind as u64);
        let all = tokens(length, kind as u32, shape.vocab);
        let mut alone = Driver::new(&model, options(precision, Precision::F16, 1));
        let whole = alone.whole(&all);

        let mut driver = Driver::new(&model, options(precision, Precision::F16, threads));
        // Its blocks lie backwards among those of a neighbour.
        let blocks = (0..20).map(|block| start + 2 * (19 - block));
        let mut sequence = Sequence::new(&all, blocks);
        let beside = tokens(200, 77, shape.vocab);
        let mut neighbour = Sequence::new(&beside, (0..20).map(|block| start + 2 * block + 1));
        let mut found = Vec::new();
        let mut turn = 0;
        while sequence.done < length {
            let rows = cuts[turn % cuts.len()].min(length - sequence.done);
            let other = others[turn % others.len()].min(150 - neighbour.done);
            let step = driver.step(&mut [(&mut neighbour, other), (&mut sequence, rows)]);
            found.extend(step.into_iter().nth(1).unwrap());
            turn += 1;
        }
        prop_assert_eq!(bits(&found), bits(&whole));
    }
}

#[test]
fn a_shared_prefix_gives_the_same_bits_as_computing_it() {
    for (name, shape) in shapes::all() {
        let model = Model::random(name, shape.clone(), 2);
        let prefix = tokens(48, 1, shape.vocab);
        let continued = |seed| [&prefix[..], &tokens(20, seed, shape.vocab)].concat();
        let (first, second) = (continued(8), continued(9));
        let mut driver = Driver::new(&model, options(Precision::Q8_0, Precision::F16, 2));
        let whole = driver.whole(&second);
        // Six blocks of eight hold the prefix; the second sequence takes them over.
        let mut one = Sequence::new(&first, 10..20);
        driver.step(&mut [(&mut one, first.len())]);
        let mut two = Sequence::new(&second, (10..16).chain(30..40));
        two.done = prefix.len();
        let found = driver.step(&mut [(&mut two, 20)]).remove(0);
        assert_eq!(bits(&found), bits(&whole[48..]), "{name}");
    }
}

#[test]
fn decode_steps_of_a_batch_equal_one_prefill() {
    let shape = shapes::llama();
    for precision in Precision::ALL {
        let model = Model::random("llama", shape.clone(), 21);
        let mut driver = Driver::new(&model, options(precision, Precision::F16, 2));
        let all: Vec<Vec<u32>> =
            (0..5).map(|i| tokens(30 + 4 * i, i as u32, shape.vocab)).collect();
        let whole: Vec<_> = all.iter().map(|tokens| driver.whole(tokens)).collect();
        let mut sequences: Vec<Sequence> = all
            .iter()
            .enumerate()
            .map(|(i, tokens)| Sequence::new(tokens, (0..8).map(|block| block * 5 + i as u32)))
            .collect();
        let mut found = vec![Vec::new(); 5];
        for _ in 0..50 {
            let mut rows: Vec<_> = sequences
                .iter_mut()
                .map(|sequence| {
                    let left = usize::from(sequence.done < sequence.tokens.len());
                    (sequence, left)
                })
                .collect();
            if rows.iter().all(|(_, left)| *left == 0) {
                break;
            }
            for (found, logits) in found.iter_mut().zip(driver.step(&mut rows)) {
                found.extend(logits);
            }
        }
        for (found, whole) in found.iter().zip(&whole) {
            assert_eq!(bits(found), bits(whole), "{}", precision.code());
        }
    }
}
