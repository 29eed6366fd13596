//! Requests that nobody sent, on a device that nobody uses yet.

use std::collections::BTreeSet;

use crate::backend::{Backend, DeviceError};
use crate::engine::{Answer, Engine, EngineError, Order, Turn, Verdict};
use crate::event::{Arrival, Clock, Forget, Outcome, Recorder, RequestId};
use crate::schedule::{Options, Outlook, Scheduling};

/// Why preparation failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Rows of the first step: more than 64, from where on a device may have other products.
const ROWS: u32 = 96;
/// Tokens of its answer.
const TOKENS: u32 = 3;

/// An engine of its own for runs beside the workload: the same memory, nothing clever.
pub(super) fn engine<'c>(
    backend: Box<dyn Backend>,
    mut options: Options,
    clock: &'c dyn Clock,
) -> Result<Engine<'c>, EngineError> {
    options.batching.scheduling = Scheduling::Continuous;
    options.batching.chunked_prefill = true;
    options.memory.prefix_cache = false;
    options.stopping.check_interval = 1;
    options.stopping.honour_cancel = true;
    Engine::new(backend, options, 0, clock)
}

/// An order for `max_tokens` tokens behind a prompt of `prompt_tokens`.
pub(super) fn order(request: u64, prompt_tokens: u32, max_tokens: u32) -> Order<'static> {
    Order {
        arrival: Arrival {
            request: RequestId(request),
            parent: None,
            task: None,
            attempt: 1,
            class: String::new(),
            route: String::new(),
            at: crate::unit::Nanos::ZERO,
            prompt_tokens,
            max_tokens,
        },
        prompt: vec![0; prompt_tokens as usize],
        answer: Answer::Pinned(Vec::new()),
        verdict: Verdict::Recorded(Outcome::Completed),
        deadline: None,
        pauses: Vec::new(),
    }
}

/// One step more. `false` if nothing is left to run.
pub(super) fn step(
    engine: &mut Engine<'_>,
    recorder: &mut dyn Recorder,
) -> Result<bool, DeviceError> {
    let outlook = Outlook { closed: true, external: 0 };
    Ok(engine.turn(outlook, recorder)? == Turn::Ran)
}

/// Runs one short request, so that every kernel has run and all memory has been touched once. Where
/// decode steps are filled up, it also runs one of each number of rows.
pub(super) fn warm_up(
    backend: Box<dyn Backend>,
    options: Options,
    clock: &dyn Clock,
) -> Result<Box<dyn Backend>, PrepareError> {
    let most = options
        .memory
        .max_sequence_tokens
        .min(options.memory.kv_blocks.saturating_mul(options.memory.block_tokens));
    let rows = ROWS.min(options.batching.max_num_batched_tokens).min(most.saturating_sub(TOKENS));
    let mut engine = engine(backend, options, clock)?;
    engine.submit(order(0, rows.max(1), TOKENS.min(most.saturating_sub(1)).max(1)), &mut Forget);
    while step(&mut engine, &mut Forget)? {}
    if options.batching.decode_buckets {
        // All begin at once, and after each step as many end as there are in the largest bucket
        // and not in the next.
        let buckets: BTreeSet<u32> =
            (1..=options.batching.max_num_seqs).map(|rows| options.batching.bucket(rows)).collect();
        for rows in 1..=options.batching.max_num_seqs {
            let steps = buckets.range(rows..).count() as u32;
            let tokens = steps.min(most.saturating_sub(1)).max(1);
            engine.submit(order(rows.into(), 1, tokens), &mut Forget);
        }
        while step(&mut engine, &mut Forget)? {}
    }
    Ok(engine.into_backend())
}
