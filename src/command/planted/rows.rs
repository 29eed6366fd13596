//! Scenarios that plant rows: counted to the row. Where the rows have steps of their own, so
//! that the clock says how long they took, their device time is a row of the matrix too.

use super::PlantError;
use super::scenario::Kind::{Engine, Facts};
use super::scenario::{Planting, Scenario};
use super::stage::{Played, Stage, demand, order, own};
use crate::engine::{Order, Verdict};
use crate::event::{Fact, Fate, Outcome, Phase, RequestId, Row, StepId};
use crate::schedule::Scheduling;
use crate::unit::Nanos;
use crate::waste::Commodity::{DeviceTime, Rows};
use crate::waste::{Cause, SubReason};

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        Cause::Padding,
        Rows,
        Engine,
        "Requests of known lengths run as one static batch.",
        padding,
    ),
    Scenario::new(
        Cause::Padding,
        Rows,
        Engine,
        "Decode steps of three rows are filled up to four, for a device that replays graphs.",
        filled_up,
    ),
    Scenario::new(
        Cause::RejectedDraft,
        Rows,
        Facts,
        "Each step checks three drafted tokens that are not accepted.",
        rejected_draft,
    ),
    Scenario::new(
        Cause::Overrun,
        Rows,
        Engine,
        "Stops are looked for in every fourth step only.",
        overrun_rows,
    ),
    Scenario::new(
        Cause::Overrun,
        DeviceTime,
        Engine,
        "Stops are looked for in every fourth step only.",
        overrun_time,
    ),
    Scenario::new(
        Cause::Orphaned,
        Rows,
        Engine,
        "Three clients disconnect after 5 ms, and their requests run to their ends.",
        orphaned_rows,
    ),
    Scenario::new(
        Cause::Orphaned,
        DeviceTime,
        Engine,
        "Three clients disconnect after 5 ms, and their requests run to their ends.",
        orphaned_time,
    ),
    Scenario::new(
        Cause::Duplicate,
        Rows,
        Engine,
        "A request that was answered is sent four times more.",
        duplicate_rows,
    ),
    Scenario::new(
        Cause::Duplicate,
        DeviceTime,
        Engine,
        "A request that was answered is sent four times more.",
        duplicate_time,
    ),
    Scenario::new(
        Cause::PrefixRecompute,
        Rows,
        Engine,
        "Five requests share a prefix of 16 tokens, and the prefix cache is off.",
        prefix_disabled,
    )
    .because(SubReason::Disabled),
    Scenario::new(
        Cause::PrefixRecompute,
        Rows,
        Engine,
        "Between two requests with one prefix of 16 tokens, another takes the whole KV pool.",
        prefix_evicted,
    )
    .because(SubReason::Evicted),
    Scenario::new(
        Cause::PrefixRecompute,
        Rows,
        Engine,
        "Five requests share a prefix that ends 2 tokens behind a block of the prefix cache.",
        prefix_unaligned,
    )
    .because(SubReason::Unaligned),
    Scenario::new(
        Cause::PreemptRecompute,
        Rows,
        Engine,
        "The KV pool is too small for two requests; one of them is computed again.",
        preempt_recompute,
    ),
    Scenario::new(
        Cause::FailedRequest,
        Rows,
        Engine,
        "Three more requests come, and fail when their answers are whole.",
        failed_rows,
    ),
    Scenario::new(
        Cause::FailedRequest,
        DeviceTime,
        Engine,
        "Three more requests come, and fail when their answers are whole.",
        failed_time,
    ),
    Scenario::new(
        Cause::FailedRequest,
        Rows,
        Engine,
        "One more request comes, and its client's time limit ends in the middle of its answer.",
        timed_out_rows,
    ),
    Scenario::new(
        Cause::FailedRequest,
        DeviceTime,
        Engine,
        "One more request comes, and its client's time limit ends in the middle of its answer.",
        timed_out_time,
    ),
    Scenario::new(
        Cause::Malformed,
        Rows,
        Engine,
        "After every second request another one comes, whose answer is refused.",
        malformed_rows,
    ),
    Scenario::new(
        Cause::Malformed,
        DeviceTime,
        Engine,
        "After every second request another one comes, whose answer is refused.",
        malformed_time,
    ),
    Scenario::new(
        Cause::WipOpen,
        Rows,
        Engine,
        "The run ends in the middle of one more answer.",
        open_rows,
    ),
    Scenario::new(
        Cause::WipOpen,
        DeviceTime,
        Engine,
        "The run ends in the middle of one more answer.",
        open_time,
    ),
];

/// Two runs and the rows that the second has more.
struct Pair {
    base: Played,
    planted: Played,
    rows: u64,
}

impl Pair {
    fn rows(&self) -> Result<Planting, PlantError> {
        Planting::new(&self.base, &self.planted, self.rows.into())
    }

    /// The device never rests in either run, so the longer one is longer by what was planted.
    fn time(&self) -> Result<Planting, PlantError> {
        Planting::new(&self.base, &self.planted, self.planted.length() - self.base.length())
    }
}

/// Rows of a request that delivers `output` tokens: all tokens but the last are computed.
fn rows_of(prompt: usize, output: u32) -> u64 {
    prompt as u64 + u64::from(output) - 1
}

/// One request at a time.
fn one_by_one(orders: Vec<Order<'static>>) -> Stage {
    Stage::of(orders).with(|stage| stage.options.batching.max_num_seqs = 1)
}

/// Prompts are padded to the longest; slots run until the longest answer ends.
fn padding() -> Result<Planting, PlantError> {
    let lengths = [(9_usize, 2_u32), (4, 6), (7, 1)];
    let orders =
        (0..).zip(lengths).map(|(id, (prompt, output))| order(id, own(id, prompt), output));
    let continuous = Stage::of(orders.collect());
    let batch = continuous.with(|stage| stage.options.batching.scheduling = Scheduling::Static);
    let prompts = (9 - 4) + (9 - 7);
    let answers = (6 - 2) + (6 - 1);
    Planting::new(&continuous.play()?, &batch.play()?, prompts + answers)
}

/// The first tokens come with the prompts, and each step behind them has a row of nobody.
fn filled_up() -> Result<Planting, PlantError> {
    let plain = Stage::of((0..3).map(|id| order(id, own(id, 8), 5)).collect());
    let filled = plain.with(|stage| stage.options.batching.decode_buckets = true);
    Planting::new(&plain.play()?, &filled.play()?, 4)
}

fn rejected_draft() -> Result<Planting, PlantError> {
    let base = Stage::of(demand()).play()?;
    let mut planted = base.clone();
    let mut steps: Vec<StepId> = Vec::new();
    for fact in &mut planted.facts {
        if let Fact::Step(step) = fact {
            step.rows_verify += 3;
            steps.push(step.step);
        }
    }
    let rows = 3 * steps.len() as u128;
    planted.facts.extend(steps.into_iter().map(|step| {
        Fact::Row(Row {
            step,
            request: Some(RequestId(0)),
            phase: Phase::Verify,
            rows: 3,
            context_tokens: 8,
            cached_tokens: 0,
            sequence_rows: 3,
            logits_rows: 3,
            fate: Fate::Rejected,
        })
    }));
    Planting::new(&base, &planted, rows)
}

/// A request alone takes as many steps as it has output tokens, and then runs on until the
/// number of its steps is a multiple of four.
fn overrun() -> Result<Pair, PlantError> {
    let outputs = [3, 6, 4, 9, 2_u32];
    let orders = (0..).zip(outputs).map(|(id, output)| order(id, own(id, 8), output));
    let stage = one_by_one(orders.collect());
    let planted = stage.with(|stage| stage.options.stopping.check_interval = 4).play()?;
    let rows = outputs.iter().map(|output| u64::from(output.next_multiple_of(4) - output)).sum();
    Ok(Pair { base: stage.play()?, planted, rows })
}

fn overrun_rows() -> Result<Planting, PlantError> {
    overrun()?.rows()
}

fn overrun_time() -> Result<Planting, PlantError> {
    overrun()?.time()
}

/// What was not delivered was computed for nobody.
fn orphaned() -> Result<Pair, PlantError> {
    const OUTPUT: u32 = 40;
    let mut stage = Stage::of((0..3).map(|id| order(id, own(id, 8), OUTPUT)).collect());
    stage.cancels = (0..3).map(|id| (RequestId(id), Nanos(5_000_000))).collect();
    let base = stage.play()?;
    let mut rows = 0;
    for id in 0..3 {
        rows += u64::from(OUTPUT - base.finish(id)?.output_tokens);
    }
    let planted = stage.with(|stage| stage.options.stopping.honour_cancel = false).play()?;
    Ok(Pair { base, planted, rows })
}

fn orphaned_rows() -> Result<Planting, PlantError> {
    orphaned()?.rows()
}

fn orphaned_time() -> Result<Planting, PlantError> {
    orphaned()?.time()
}

fn duplicate() -> Result<Pair, PlantError> {
    let same = |count: u64| one_by_one((0..count).map(|id| order(id, own(7, 8), 5)).collect());
    Ok(Pair { base: same(1).play()?, planted: same(5).play()?, rows: 4 * rows_of(8, 5) })
}

fn duplicate_rows() -> Result<Planting, PlantError> {
    duplicate()?.rows()
}

fn duplicate_time() -> Result<Planting, PlantError> {
    duplicate()?.time()
}

/// A prompt of `shared` tokens that all have, and `own` of its own.
fn behind_prefix(id: u64, shared: usize, own: usize) -> Order<'static> {
    let prompt = std::iter::repeat_n(100, shared).chain(self::own(id, own)).collect();
    order(id, prompt, 2)
}

fn prefix_disabled() -> Result<Planting, PlantError> {
    let off = one_by_one((0..5).map(|id| behind_prefix(id, 16, 4)).collect());
    let on = off.with(|stage| stage.options.memory.prefix_cache = true);
    Planting::new(&on.play()?, &off.play()?, 4 * 16)
}

/// The request between needs 10 blocks for its prompt and one more for its answer.
fn prefix_evicted() -> Result<Planting, PlantError> {
    let orders = vec![behind_prefix(0, 16, 4), order(1, own(1, 40), 2), behind_prefix(2, 16, 4)];
    let roomy = one_by_one(orders).with(|stage| stage.options.memory.prefix_cache = true);
    let tight = roomy.with(|stage| stage.options.memory.kv_blocks = 11);
    Planting::new(&roomy.play()?, &tight.play()?, 16)
}

/// 18 tokens are nine blocks of two, or four blocks of four and two tokens.
fn prefix_unaligned() -> Result<Planting, PlantError> {
    let orders = (0..5).map(|id| behind_prefix(id, 18, 6)).collect();
    let unaligned = one_by_one(orders).with(|stage| stage.options.memory.prefix_cache = true);
    let aligned = unaligned.with(|stage| stage.options.memory.block_tokens = 2);
    Planting::new(&aligned.play()?, &unaligned.play()?, 4 * 2)
}

/// Two prompts of ten blocks, and one block more: the older request takes it for its first
/// token, the newer one loses its 40 rows and comes back when the older one has ended.
fn preempt_recompute() -> Result<Planting, PlantError> {
    let roomy = Stage::of((0..2).map(|id| order(id, own(id, 40), 6)).collect());
    let tight = roomy.with(|stage| stage.options.memory.kv_blocks = 21);
    Planting::new(&roomy.play()?, &tight.play()?, 40)
}

/// The demand, one by one, and the same with `more` behind it.
fn followed_by(more: Vec<Order<'static>>) -> (Stage, Stage) {
    let stage = one_by_one(demand());
    let longer = stage.with(|stage| stage.orders.extend(more));
    (stage, longer)
}

fn failed() -> Result<Pair, PlantError> {
    let more = (10..13).map(|id| Order {
        verdict: Verdict::Recorded(Outcome::Failed),
        ..order(id, own(id, 9), 7)
    });
    let (base, planted) = followed_by(more.collect());
    Ok(Pair { base: base.play()?, planted: planted.play()?, rows: 3 * rows_of(9, 7) })
}

fn failed_rows() -> Result<Planting, PlantError> {
    failed()?.rows()
}

fn failed_time() -> Result<Planting, PlantError> {
    failed()?.time()
}

/// Its own end says how many tokens it had got.
fn timed_out() -> Result<Pair, PlantError> {
    let base = one_by_one(demand()).play()?;
    let deadline = Some(base.header.window.end_ns + Nanos(5_000_000));
    let (_, planted) = followed_by(vec![Order { deadline, ..order(10, own(10, 9), 100) }]);
    let planted = planted.play()?;
    let finish = planted.finish(10)?;
    if finish.outcome != Outcome::TimedOut {
        return Err(PlantError::Missing("a request that ran out of time".to_owned()));
    }
    Ok(Pair { base, rows: rows_of(9, finish.output_tokens), planted })
}

fn timed_out_rows() -> Result<Planting, PlantError> {
    timed_out()?.rows()
}

fn timed_out_time() -> Result<Planting, PlantError> {
    timed_out()?.time()
}

fn malformed() -> Result<Pair, PlantError> {
    let mixed = |refused: bool| {
        let orders = (0..12).filter(|id| refused || id % 3 != 2).map(|id| {
            let outcome = if id % 3 == 2 { Outcome::Malformed } else { Outcome::Completed };
            Order { verdict: Verdict::Recorded(outcome), ..order(id, own(id, 8), 5) }
        });
        one_by_one(orders.collect()).play()
    };
    Ok(Pair { base: mixed(false)?, planted: mixed(true)?, rows: 4 * rows_of(8, 5) })
}

fn malformed_rows() -> Result<Planting, PlantError> {
    malformed()?.rows()
}

fn malformed_time() -> Result<Planting, PlantError> {
    malformed()?.time()
}

/// Its prompt in one step and nine tokens in nine more.
fn open() -> Result<Pair, PlantError> {
    let (base, planted) = followed_by(vec![order(10, own(10, 9), 100)]);
    let base = base.play()?;
    let most_steps = base.steps().count() as u64 + 10;
    let planted = planted.with(|stage| stage.most_steps = most_steps).play()?;
    Ok(Pair { base, planted, rows: 9 + 9 })
}

fn open_rows() -> Result<Planting, PlantError> {
    open()?.rows()
}

fn open_time() -> Result<Planting, PlantError> {
    open()?.time()
}
