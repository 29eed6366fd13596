//! How long each kernel takes for so much of what its cost grows with.
//!
//! Real operations of real steps are timed on the backend that will run them, over a sweep of
//! amounts. Each layer is one repeat, so that weights are as cold as in a step; the median
//! counts. The tables say what a step would have cost with fewer rows, and so what wasted rows
//! cost.

use std::collections::BTreeMap;
use std::path::Path;

use crate::backend::{Backend, DeviceError, Op, Sampling, SequenceRows, Span, StepInputs, kept};
use crate::cost::{Formulas, Kernel, StepLoad};
use crate::event::{Calibration, Driver};
use crate::unit::Nanos;

use super::forward;

/// Rows of the steps that are timed.
const ROWS: [u32; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// Contexts that decode rows are timed behind.
const CONTEXTS: [u32; 8] = [15, 63, 255, 1023, 2047, 4095, 8191, 16_383];

/// Sequences that share long KV amounts, as they would in a running batch.
const DECODE_SEQUENCES: [u32; 3] = [1, 4, 16];

/// Layers are added to a timed step until there are this many…
const LEAST_LAYERS: u32 = 3;
/// …and they took this long together, or there are no more.
const ENOUGH: Nanos = Nanos(30_000_000);

/// The tables of `backend`, from `folder` if they are kept there for this `machine`, model,
/// precision and limits; else measured and kept. Measuring takes one or two seconds for small
/// models, and a few steps for large ones. What the KV cache held is lost.
///
/// # Errors
/// [`DeviceError`] if the backend fails.
pub fn kept_calibration(
    backend: &mut dyn Backend,
    machine: &str,
    folder: Option<&Path>,
) -> Result<Vec<Calibration>, DeviceError> {
    let description = backend.description();
    let key = format!(
        "calibration|{}|{}|{}|{}|{machine}|{:?}|{:?}|{:?}",
        env!("CARGO_PKG_VERSION"),
        description.kind,
        description.name,
        backend.timed_by().code(),
        backend.storage(),
        backend.limits(),
        backend.shape(),
    );
    kept(folder, "calibration", &key, |before| before.map_or_else(|| calibrate(backend), Ok))
}

/// Measures the tables of `backend`. What the KV cache held is lost.
///
/// # Errors
/// [`DeviceError`] if the backend fails.
pub fn calibrate(backend: &mut dyn Backend) -> Result<Vec<Calibration>, DeviceError> {
    let mut sweep = Sweep::new(backend);
    sweep.warm_up()?;
    for rows in ROWS {
        sweep.rows(rows)?;
    }
    for sequences in DECODE_SEQUENCES {
        for context in CONTEXTS {
            sweep.decode(sequences, context)?;
        }
    }
    sweep.long_prefill()?;
    Ok(sweep.tables())
}

/// Sequences of a timed step: cached tokens and rows.
type Batch = Vec<(u32, u32)>;

struct Sweep<'a> {
    backend: &'a mut dyn Backend,
    formulas: Formulas,
    /// Where the next step's layers begin, so that steps take turns with them.
    next_layer: u32,
    /// Times per kernel and amount.
    times: BTreeMap<(Kernel, u64), Vec<u64>>,
}

impl<'a> Sweep<'a> {
    fn new(backend: &'a mut dyn Backend) -> Self {
        let formulas = Formulas::new(backend.shape(), *backend.storage());
        Self { backend, formulas, next_layer: 0, times: BTreeMap::new() }
    }

    /// The most tokens that one sequence can hold.
    fn positions(&self) -> u64 {
        let limits = self.backend.limits();
        let pool = u64::from(limits.kv_blocks) * u64::from(limits.block_tokens);
        pool.min(self.backend.shape().context.into())
    }

    /// First launches are slower than any later one.
    fn warm_up(&mut self) -> Result<(), DeviceError> {
        self.step(&vec![(0, 1)], 1, true, |_| true)?;
        self.times.clear();
        Ok(())
    }

    /// A step of `rows` rows: one chunk from an empty context. As many of them as may ask for
    /// logits.
    fn rows(&mut self, rows: u32) -> Result<(), DeviceError> {
        let limits = self.backend.limits();
        if rows > limits.rows || u64::from(rows) > self.positions() {
            return Ok(());
        }
        let logits_rows = if rows <= limits.logits_rows { rows } else { 0 };
        self.step(&vec![(0, rows)], logits_rows, true, |_| true)
    }

    /// A step of single rows behind `context` tokens each; only attention is timed.
    fn decode(&mut self, sequences: u32, context: u32) -> Result<(), DeviceError> {
        let limits = self.backend.limits();
        let blocks = u64::from(context + 1).div_ceil(limits.block_tokens.into());
        let fits = blocks * u64::from(sequences) <= limits.kv_blocks.into()
            && sequences <= limits.rows
            && u64::from(context) < self.positions();
        if !fits {
            return Ok(());
        }
        let batch = vec![(context, 1); sequences as usize];
        self.step(&batch, 0, false, |op| op.kernel().driver() == Driver::KvTokens)
    }

    /// A step of one chunk behind ever longer contexts; only attention is timed.
    fn long_prefill(&mut self) -> Result<(), DeviceError> {
        let rows = ROWS.into_iter().rfind(|rows| *rows <= self.backend.limits().rows).unwrap_or(1);
        for context in CONTEXTS {
            if u64::from(context) + u64::from(rows) <= self.positions() {
                let is_attention = |op: &Op| op.kernel().driver() == Driver::QueryContext;
                self.step(&vec![(context, rows)], 0, false, is_attention)?;
            }
        }
        Ok(())
    }

    /// Times the operations of a step that `timed` picks, and `outer` ones outside the layers.
    fn step(
        &mut self,
        batch: &Batch,
        logits_rows: u32,
        outer: bool,
        timed: impl Fn(&Op) -> bool,
    ) -> Result<(), DeviceError> {
        let load = self.formulas.load(batch.iter().copied(), logits_rows);
        // The operations of a model of one layer; the layer is put in as it comes.
        let (inner, ends): (Vec<Op>, Vec<Op>) = forward::operations(1, &self.formulas, &load)
            .filter(|op| timed(op))
            .partition(|op| op.layer().is_some());
        if outer {
            for _ in 0..LEAST_LAYERS {
                self.launch(batch, &load, &ends)?;
            }
        }
        let layers = self.backend.shape().layers;
        let mut spent = Nanos::ZERO;
        for done in 0..layers {
            if done >= LEAST_LAYERS && spent >= ENOUGH {
                break;
            }
            let layer = self.next_layer % layers;
            let inner: Vec<Op> = inner.iter().map(|op| op.in_layer(layer)).collect();
            spent += self.launch(batch, &load, &inner)?;
            self.next_layer += 1;
        }
        Ok(())
    }

    /// Runs `ops` as a step, notes the time of each, and says how long they took together.
    fn launch(&mut self, batch: &Batch, load: &StepLoad, ops: &[Op]) -> Result<Nanos, DeviceError> {
        self.begin(batch, load.logits_rows as u32)?;
        for op in ops {
            self.backend.launch(*op)?;
        }
        let (mut spans, mut sampled) = (Vec::new(), Vec::new());
        self.backend.end_step(&mut spans, &mut sampled)?;
        self.note(load, ops, &spans);
        Ok(spans.iter().map(|span| span.end.saturating_sub(span.start)).sum())
    }

    fn begin(&mut self, batch: &Batch, logits_rows: u32) -> Result<(), DeviceError> {
        let block_tokens = self.backend.limits().block_tokens;
        let rows: u32 = batch.iter().map(|(_, rows)| rows).sum();
        let vocab = self.backend.shape().vocab;
        let tokens: Vec<u32> = (0..rows).map(|row| row.wrapping_mul(40_503) % vocab).collect();
        let mut next_block = 0;
        let tables: Vec<Vec<u32>> = batch
            .iter()
            .map(|(context, rows)| {
                let blocks = (context + rows).div_ceil(block_tokens);
                next_block += blocks;
                (next_block - blocks..next_block).collect()
            })
            .collect();
        let mut next_row = 0;
        let sequences: Vec<SequenceRows<'_>> = batch
            .iter()
            .zip(&tables)
            .map(|((context, rows), blocks)| {
                next_row += rows;
                SequenceRows { rows: next_row - rows..next_row, context: *context, blocks }
            })
            .collect();
        let logits_rows: Vec<u32> = (0..logits_rows).collect();
        let sampling = vec![Sampling::GREEDY; logits_rows.len()];
        self.backend.begin_step(&StepInputs {
            masks: &[],
            awaited: &[],
            tokens: &tokens,
            sequences: &sequences,
            logits_rows: &logits_rows,
            sampling: &sampling,
        })
    }

    fn note(&mut self, load: &StepLoad, launched: &[Op], spans: &[Span]) {
        for (op, span) in launched.iter().zip(spans) {
            let kernel = op.kernel();
            let amount = load.amount(kernel.driver());
            let time = span.end.saturating_sub(span.start).0;
            self.times.entry((kernel, amount)).or_default().push(time);
        }
    }

    fn tables(self) -> Vec<Calibration> {
        let mut tables: BTreeMap<Kernel, Vec<(u64, u64)>> = BTreeMap::new();
        for ((kernel, amount), times) in self.times {
            tables.entry(kernel).or_default().push((amount, median(times)));
        }
        tables
            .into_iter()
            .map(|(kernel, points)| Calibration {
                kernel: kernel.name().to_owned(),
                driver: kernel.driver(),
                points: rising(points),
            })
            .collect()
    }
}

/// The middle of the times; the lower one of two.
fn median(mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

/// The nearest table whose times never fall: neighbours that do are given their mean.
fn rising(points: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    // Sum and count of each level.
    let mut levels: Vec<(u64, u64)> = Vec::new();
    for (_, time) in &points {
        levels.push((*time, 1));
        while let [.., (before, n), (sum, m)] = levels[..] {
            if u128::from(before) * u128::from(m) <= u128::from(sum) * u128::from(n) {
                break;
            }
            levels.pop();
            levels.pop();
            levels.push((before + sum, n + m));
        }
    }
    let times = levels.iter().flat_map(|(sum, n)| (0..*n).map(move |_| sum / n));
    points.iter().zip(times).map(|((amount, _), time)| (*amount, time)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::Limits;
    use crate::backend::cpu::{Cpu, Options};
    use crate::event::WallClock;
    use crate::model::{Family, Model, Precision, Rope, Shape};

    fn backend() -> Cpu {
        let shape = Shape {
            family: Family::Llama,
            layers: 4,
            hidden: 32,
            ffn: 64,
            heads: 2,
            kv_heads: 1,
            head_dim: 16,
            vocab: 50,
            context: 300,
            rope: Rope { theta: 10_000.0, scaling: None },
            norm_eps: 1e-5,
            qkv_bias: false,
            qk_norm: false,
            tied_embeddings: true,
            sliding_window: None,
        };
        let options = Options {
            precision: Precision::Q8_0,
            kv_precision: Precision::F16,
            limits: Limits { rows: 40, logits_rows: 4, kv_blocks: 64, block_tokens: 16 },
            threads: 2,
        };
        let model = Model::random("small", shape, 1);
        Cpu::load(&model, options, Arc::new(WallClock::start())).unwrap()
    }

    #[test]
    fn every_kernel_has_a_rising_table_within_the_limits() {
        let tables = calibrate(&mut backend()).unwrap();
        let names: Vec<_> = tables.iter().map(|table| table.kernel.as_str()).collect();
        let fused = Formulas::new(backend().shape(), *backend().storage());
        let load = fused.load([(3, 1), (0, 2)], 1);
        let ran = Kernel::ALL.iter().filter(|kernel| fused.runs(**kernel, &load));
        let catalogue: Vec<_> = ran.map(|kernel| kernel.name()).collect();
        assert_eq!(catalogue.len(), 13);
        assert_eq!(names, catalogue);
        for table in &tables {
            assert!(table.points.len() >= 3, "{table:?}");
            assert!(table.points.windows(2).all(|pair| pair[0].0 < pair[1].0), "{table:?}");
            assert!(table.points.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{table:?}");
        }
        let amounts = |kernel: Kernel| -> Vec<u64> {
            let table = tables.iter().find(|table| table.kernel == kernel.name()).unwrap();
            assert_eq!(table.driver, kernel.driver());
            table.points.iter().map(|(amount, _)| *amount).collect()
        };
        assert_eq!(amounts(Kernel::Down), [1, 2, 4, 8, 16, 32]);
        assert_eq!(amounts(Kernel::Head), [1, 2, 4]);
        // One, four and sixteen sequences: 16, 64 and 256 tokens each, as the pool allows.
        assert_eq!(amounts(Kernel::AttentionDecode), [1, 16, 64, 256, 1024]);
        // Chunks of 2 to 32 from nothing, and of 32 behind 15, 63 and 255 tokens.
        let long = |context: u64| 32 * context + 32 * 33 / 2;
        let expected = [3, 10, 36, 136, 528, long(15), long(63), long(255)];
        assert_eq!(amounts(Kernel::AttentionPrefill), expected);
        assert_eq!(Kernel::AttentionPrefill.driver(), Driver::QueryContext);
    }

    #[test]
    fn a_kept_calibration_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut backend = backend();
        let measured = kept_calibration(&mut backend, "2", Some(folder.path())).unwrap();
        let read = kept_calibration(&mut backend, "2", Some(folder.path())).unwrap();
        assert_eq!(measured, read);
        kept_calibration(&mut backend, "4", Some(folder.path())).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn falling_times_are_evened_out() {
        for (times, expected) in [
            (&[1, 2, 3][..], &[1, 2, 3][..]),
            (&[3, 2, 1], &[2, 2, 2]),
            (&[1, 5, 3, 9], &[1, 4, 4, 9]),
            (&[10, 1, 1, 20], &[4, 4, 4, 20]),
            (&[], &[]),
        ] {
            let points = times.iter().enumerate().map(|(i, time)| (i as u64, *time)).collect();
            let found: Vec<u64> = rising(points).iter().map(|(_, time)| *time).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        for (times, expected) in [(vec![], 0), (vec![5], 5), (vec![9, 1], 1), (vec![7, 1, 3], 3)] {
            assert_eq!(median(times), expected);
        }
    }
}
