//! What a replay changes in a workload before it is played: which part, how fast, how long.
//!
//! In this order: the part before the offset is left out, then all but the first so many
//! requests; arrivals are sped up or drawn anew; what then comes after the duration is left
//! out; lengths are scaled, cut, and fitted to the model's context. Every change is stated in a
//! note.

use std::num::NonZeroU32;

use super::draft::in_arrival_order;
use super::error::WorkloadError;
use super::field::MOST_TOKENS;
use super::note::{Note, NoteKind};
use super::request::{Content, RequestSpec, Workload};
use super::synthetic::{ArrivalProcess, arrival_times};
use crate::unit::{Nanos, grouped, si_nanos};

/// What a replay changes. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replay {
    /// Requests that arrive earlier are left out; the clock starts at the first that is left.
    pub start_offset: Nanos,
    /// At most so many requests, the first ones.
    pub num_requests: Option<usize>,
    /// Only requests that arrive earlier than this, in replayed time.
    pub duration: Option<Nanos>,
    /// When requests arrive.
    pub pace: Pace,
    /// How long they are.
    pub lengths: Lengths,
}

/// When requests arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When the recording says, so many times faster. Waits after a parent shrink alike; time
    /// limits of clients do not.
    Recorded {
        /// Above 1 is faster.
        speedup: f64,
    },
    /// As a process draws, in the recorded order, from the workload's seed.
    Drawn(ArrivalProcess),
}

impl Default for Pace {
    fn default() -> Self {
        Self::Recorded { speedup: 1.0 }
    }
}

/// How long prompts and outputs are.
///
/// Scaled lengths are rounded down, and no prompt or output has less than one token. Block ids
/// stay: a block of n tokens becomes one of n × factor, rounded, so that what was shared stays
/// shared. Literal token ids do not survive scaling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lengths {
    /// Prompts are this many times as long.
    pub prompt_factor: f64,
    /// Outputs are this many times as long.
    pub output_factor: f64,
    /// Longer prompts are cut, after the factor.
    pub max_prompt_tokens: Option<u32>,
    /// Longer outputs are cut, after the factor.
    pub max_output_tokens: Option<u32>,
    /// If any request is then longer than this, prompt and output together, all lengths are
    /// scaled by the one factor that makes the longest fit.
    pub context_tokens: Option<u32>,
}

impl Default for Lengths {
    fn default() -> Self {
        Self {
            prompt_factor: 1.0,
            output_factor: 1.0,
            max_prompt_tokens: None,
            max_output_tokens: None,
            context_tokens: None,
        }
    }
}

impl Workload {
    /// The workload as `replay` would have it, with a note for each change.
    ///
    /// # Errors
    /// When a setting makes no sense, no request is left, or a request cannot be made to fit the
    /// context.
    pub fn replayed(mut self, replay: &Replay) -> Result<Self, WorkloadError> {
        self.check(replay)?;
        self.select(replay)?;
        match replay.pace {
            Pace::Recorded { speedup } => self.speed_up(speedup),
            Pace::Drawn(process) => self.draw_arrivals(process),
        }
        if let Some(duration) = replay.duration {
            let all = self.requests.len();
            self.requests.retain(|request| request.arrival < duration);
            self.left_out(all, &format!("in the first {}", si_nanos(duration)))?;
        }
        let Lengths { prompt_factor, output_factor, .. } = replay.lengths;
        if (prompt_factor, output_factor) != (1.0, 1.0) {
            self.scale(prompt_factor, output_factor);
        }
        self.cut(&replay.lengths);
        match replay.lengths.context_tokens {
            Some(context) => self.fit(context),
            None => Ok(self),
        }
    }

    fn check(&self, replay: &Replay) -> Result<(), WorkloadError> {
        let Lengths { prompt_factor, output_factor, .. } = replay.lengths;
        let speedup = match replay.pace {
            Pace::Recorded { speedup } => speedup,
            Pace::Drawn(_) => 1.0,
        };
        for (factor, expected) in [
            (speedup, "a speed-up from 1e-6 to 1e9"),
            (prompt_factor, "a prompt factor from 1e-6 to 1e9"),
            (output_factor, "an output factor from 1e-6 to 1e9"),
        ] {
            if !(1e-6..=1e9).contains(&factor) {
                let (name, found) = (self.name.clone(), factor.to_string());
                return Err(WorkloadError::Setting { name, expected, found });
            }
        }
        if let Pace::Drawn(process) = replay.pace {
            process.check().map_err(|found| WorkloadError::Setting {
                name: self.name.clone(),
                expected: "an arrival process that makes sense",
                found,
            })?;
        }
        Ok(())
    }

    /// Leaves out what comes before the offset or after the count.
    fn select(&mut self, replay: &Replay) -> Result<(), WorkloadError> {
        let all = self.requests.len();
        let offset = replay.start_offset;
        if offset > Nanos::ZERO {
            let first = self.requests.partition_point(|request| request.arrival < offset);
            self.requests.drain(..first);
            for request in &mut self.requests {
                // A parent that was left out has answered long ago.
                request.parent = request.parent.and_then(|p| p.checked_sub(first as u32));
                request.wait_after_parent = request.parent.and(request.wait_after_parent);
            }
        }
        self.requests.truncate(replay.num_requests.unwrap_or(usize::MAX));
        let limit = replay.num_requests.map_or(String::new(), |n| format!(" among the first {n}"));
        self.left_out(all, &format!("after {}{limit}", si_nanos(offset)))?;
        let origin = self.requests.first().map_or(Nanos::ZERO, |request| request.arrival);
        if origin > Nanos::ZERO {
            for request in &mut self.requests {
                request.arrival = request.arrival.saturating_sub(origin);
            }
            let start = self.recorded_start_unix_nanos;
            self.recorded_start_unix_nanos = start.map(|start| start.saturating_add(origin.0));
        }
        Ok(())
    }

    fn left_out(&mut self, all: usize, window: &str) -> Result<(), WorkloadError> {
        let kept = self.requests.len();
        if kept == 0 {
            let (name, window) = (self.name.clone(), window.to_owned());
            return Err(WorkloadError::EmptyWindow { name, window });
        }
        if kept < all {
            let message = format!(
                "replaying {} of {} requests: those {window}",
                grouped(kept as i128),
                grouped(all as i128)
            );
            self.notes.push(Note::new(NoteKind::Window, message));
        }
        Ok(())
    }

    fn speed_up(&mut self, speedup: f64) {
        if speedup == 1.0 {
            return;
        }
        let faster = |time: Nanos| Nanos((time.0 as f64 / speedup).round() as u64);
        for request in &mut self.requests {
            request.arrival = faster(request.arrival);
            request.wait_after_parent = request.wait_after_parent.map(faster);
        }
        let message = format!("requests arrive {speedup} times as fast as recorded");
        self.notes.push(Note::new(NoteKind::Arrivals, message));
    }

    fn draw_arrivals(&mut self, process: ArrivalProcess) {
        let mut times = arrival_times(process, self.seed).map(Nanos::from_secs_f64);
        let origin = times.next().unwrap_or_default();
        let mut times = std::iter::once(origin).chain(times);
        for index in 0..self.requests.len() {
            let request = &self.requests[index];
            let chained = request.wait_after_parent.and(request.parent);
            let arrival = match chained {
                // A call of a session comes with its session.
                Some(parent) => self.requests[parent as usize].arrival,
                None => times.next().unwrap_or_default().saturating_sub(origin),
            };
            self.requests[index].arrival = arrival;
        }
        let requests = std::mem::take(&mut self.requests);
        (self.requests, _) = in_arrival_order(requests);
        self.recorded_start_unix_nanos = None;
        let untimed = [NoteKind::NoTimes, NoteKind::NotMeasured];
        let about_times = [NoteKind::CoarseTimes, NoteKind::SilentGap];
        self.notes.retain(|n| !untimed.contains(&n.kind) && !about_times.contains(&n.kind));
        let message = format!("arrival times are drawn anew: {process}");
        self.notes.push(Note::new(NoteKind::Arrivals, message));
    }

    /// Scales lengths, and block sizes with them.
    fn scale(&mut self, prompt_factor: f64, output_factor: f64) {
        let blocks = self.block_tokens.map(|tokens| (tokens, scaled_block(tokens, prompt_factor)));
        let mut literal = 0usize;
        for request in &mut self.requests {
            request.prompt_tokens = match (blocks, &request.hash_ids) {
                (Some(blocks), Some(ids)) => {
                    blockwise(request.prompt_tokens, ids.len(), blocks, prompt_factor)
                }
                _ => scaled(request.prompt_tokens, prompt_factor),
            };
            if request.output_tokens > 0 {
                request.output_tokens = scaled(request.output_tokens, output_factor);
            }
            if matches!(request.content.as_deref(), Some(Content::Tokens { .. })) {
                request.content = None;
                literal += 1;
            }
        }
        self.block_tokens = blocks.map(|(_, scaled)| scaled);
        let mut message = if prompt_factor == output_factor {
            format!("lengths are scaled by {prompt_factor:.6}")
        } else {
            format!("prompts are scaled by {prompt_factor:.6}, outputs by {output_factor:.6}")
        };
        if let Some((from, to)) = blocks {
            message.push_str(&format!("; blocks of {from} tokens become blocks of {to}"));
        }
        if literal > 0 {
            let count = grouped(literal as i128);
            message.push_str(&format!("; {count} prompts lose their literal token ids"));
        }
        self.notes.push(Note::new(NoteKind::Lengths, message));
    }

    /// Cuts what is longer than asked.
    fn cut(&mut self, lengths: &Lengths) {
        let (most_prompt, most_output) = (lengths.max_prompt_tokens, lengths.max_output_tokens);
        let (mut prompts, mut outputs) = (0usize, 0usize);
        let blocks = self.block_tokens;
        for request in &mut self.requests {
            if let Some(most) = most_prompt.filter(|&most| request.prompt_tokens > most) {
                prompts += 1;
                request.prompt_tokens = most.max(1);
                cut_ids(request, blocks);
            }
            if let Some(most) = most_output.filter(|&most| request.output_tokens > most) {
                outputs += 1;
                request.output_tokens = most.max(1);
            }
        }
        for (count, what, most) in
            [(prompts, "prompts", most_prompt), (outputs, "outputs", most_output)]
        {
            if count > 0 {
                let (count, most) = (grouped(count as i128), most.unwrap_or(0));
                let message = format!("{count} {what} are cut to {most} tokens");
                self.notes.push(Note::new(NoteKind::Lengths, message));
            }
        }
    }

    /// Scales all lengths by the one factor that makes the longest request fit, if it does not.
    fn fit(mut self, context_tokens: u32) -> Result<Self, WorkloadError> {
        if self.max_context_tokens() <= u64::from(context_tokens) {
            return Ok(self);
        }
        let mut factor = f64::from(context_tokens) / self.max_context_tokens() as f64;
        // Whole blocks and the least of one token can make the first guess too long. Each
        // further guess gives a block one token less, or is a hundredth shorter.
        for _ in 0..2_000 {
            if self.longest_scaled(factor) <= u64::from(context_tokens) {
                self.scale(factor, factor);
                return Ok(self);
            }
            factor = match self.block_tokens {
                Some(tokens) if scaled_block(tokens, factor).get() > 1 => {
                    let fewer = scaled_block(tokens, factor).get() - 1;
                    (factor * 0.99).min(f64::from(fewer) / f64::from(tokens.get()))
                }
                _ => factor * 0.99,
            };
        }
        let least = self.block_tokens.map(|_| " even with one token for each block");
        let (name, least) = (self.name.clone(), least.unwrap_or(" even at the least lengths"));
        let total = |r: &RequestSpec| self.scaled_total(r, factor);
        let longest = (0..).zip(&self.requests).max_by_key(|(_, request)| total(request));
        let (request, found_tokens) = longest.map_or((0, 0), |(index, r)| (index, total(r)));
        Err(WorkloadError::Context { name, context_tokens, found_tokens, request, least })
    }

    fn longest_scaled(&self, factor: f64) -> u64 {
        self.requests.iter().map(|r| self.scaled_total(r, factor)).max().unwrap_or(0)
    }

    fn scaled_total(&self, request: &RequestSpec, factor: f64) -> u64 {
        let prompt = match (self.block_tokens, &request.hash_ids) {
            (Some(tokens), Some(ids)) => {
                let blocks = (tokens, scaled_block(tokens, factor));
                blockwise(request.prompt_tokens, ids.len(), blocks, factor)
            }
            _ => scaled(request.prompt_tokens, factor),
        };
        let output = match request.output_tokens {
            0 => 0,
            tokens => scaled(tokens, factor),
        };
        u64::from(prompt) + u64::from(output)
    }
}

fn scaled(tokens: u32, factor: f64) -> u32 {
    // A hair above, so that 300 × (100/300) is 100.
    ((f64::from(tokens) * factor + 1e-6).min(MOST_TOKENS as f64) as u32).max(1)
}

fn scaled_block(tokens: NonZeroU32, factor: f64) -> NonZeroU32 {
    let rounded = (f64::from(tokens.get()) * factor).round().min(MOST_TOKENS as f64) as u32;
    NonZeroU32::new(rounded).unwrap_or(NonZeroU32::MIN)
}

/// The scaled length of a prompt with `ids` named blocks: whole blocks become whole scaled
/// blocks, the partial last one is scaled by itself, what no id names by the factor.
fn blockwise(tokens: u32, ids: usize, (from, to): (NonZeroU32, NonZeroU32), factor: f64) -> u32 {
    let named = u32::try_from(ids).unwrap_or(u32::MAX).saturating_mul(from.get()).min(tokens);
    let (whole, part) = (named / from.get(), named % from.get());
    let share = f64::from(part) * f64::from(to.get()) / f64::from(from.get());
    let part = if part == 0 { 0 } else { (share.round() as u32).clamp(1, to.get()) };
    let unnamed = if tokens == named { 0 } else { scaled(tokens - named, factor) };
    let total = u64::from(whole) * u64::from(to.get()) + u64::from(part) + u64::from(unnamed);
    u32::try_from(total.min(MOST_TOKENS)).unwrap_or(1)
}

/// Leaves no more ids than the prompt has blocks, and no literal tokens beyond its end.
fn cut_ids(request: &mut RequestSpec, block_tokens: Option<NonZeroU32>) {
    let Some(tokens) = block_tokens else { return };
    let blocks = request.prompt_tokens.div_ceil(tokens.get()) as usize;
    if let Some(ids) = request.hash_ids.as_mut().filter(|ids| ids.len() > blocks) {
        *ids = ids[..blocks].into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{OpenOptions, Summary, read};
    use std::path::Path;

    fn mooncake(rows: &[(u64, u32, u32, &[u64])]) -> Workload {
        let line = |(ms, prompt, output, ids): &(u64, u32, u32, &[u64])| {
            format!(
                "{{\"timestamp\":{ms},\"input_length\":{prompt},\"output_length\":{output},\
                 \"hash_ids\":{ids:?}}}\n"
            )
        };
        let text: String = rows.iter().map(line).collect();
        read(text.as_bytes(), Path::new("m"), &OpenOptions::default()).unwrap()
    }

    fn five() -> Workload {
        mooncake(&[
            (0, 100, 10, &[]),
            (1_000, 200, 20, &[]),
            (2_000, 300, 30, &[]),
            (4_000, 400, 40, &[]),
            (8_000, 500, 50, &[]),
        ])
    }

    fn arrivals(workload: &Workload) -> Vec<u64> {
        workload.requests.iter().map(|request| request.arrival.0 / 1_000_000).collect()
    }

    #[test]
    fn the_part_that_is_replayed() {
        let offset = |ms: u64| Replay { start_offset: Nanos(ms * 1_000_000), ..Replay::default() };
        assert_eq!(arrivals(&five().replayed(&offset(1_500)).unwrap()), [0, 2_000, 6_000]);
        let replay = Replay {
            num_requests: Some(2),
            pace: Pace::Recorded { speedup: 4.0 },
            ..offset(1_000)
        };
        let workload = five().replayed(&replay).unwrap();
        assert_eq!(arrivals(&workload), [0, 250]);
        assert_eq!(workload.requests[0].prompt_tokens, 200);
        assert_eq!(
            workload.notes.iter().map(|note| note.kind).collect::<Vec<_>>(),
            [NoteKind::NoPrefixes, NoteKind::Window, NoteKind::Arrivals]
        );
        let replay = Replay {
            duration: Some(Nanos(1_000_000_000)),
            pace: Pace::Recorded { speedup: 2.0 },
            ..Replay::default()
        };
        assert_eq!(arrivals(&five().replayed(&replay).unwrap()), [0, 500]);
        assert!(matches!(five().replayed(&offset(9_000)), Err(WorkloadError::EmptyWindow { .. })));
    }

    #[test]
    fn nothing_changes_nothing() {
        let workload = five().replayed(&Replay::default()).unwrap();
        assert_eq!(workload.requests, five().requests);
        assert_eq!(workload.notes, five().notes);
    }

    #[test]
    fn arrivals_drawn_anew() {
        let pace = Pace::Drawn(ArrivalProcess::Constant { rate: 10.0 });
        let workload = five().replayed(&Replay { pace, ..Replay::default() }).unwrap();
        assert_eq!(arrivals(&workload), [0, 100, 200, 300, 400]);
        let pace = Pace::Drawn(ArrivalProcess::Poisson { rate: 10.0 });
        let drawn = |seed| {
            let mut workload = five();
            workload.seed = seed;
            arrivals(&workload.replayed(&Replay { pace, ..Replay::default() }).unwrap())
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        assert_eq!(drawn(1)[0], 0);
    }

    #[test]
    fn a_chain_moves_with_its_session() {
        let text = "{\"session_id\":\"a\",\"arrival_time_ns\":5,\"sub_requests\":[\
            {\"input_toks\":9,\"output_toks\":9,\"tool_duration_ns\":80},\
            {\"input_toks\":9,\"output_toks\":9}]}\n\
            {\"arrival_time_ns\":7,\"input_toks\":9,\"output_toks\":9}\n";
        let open = || read(text.as_bytes(), Path::new("s"), &OpenOptions::default()).unwrap();
        let pace = Pace::Drawn(ArrivalProcess::Constant { rate: 1.0 });
        let drawn = open().replayed(&Replay { pace, ..Replay::default() }).unwrap();
        assert_eq!(arrivals(&drawn), [0, 0, 1_000]);
        assert_eq!(drawn.requests[1].parent, Some(0));
        let pace = Pace::Recorded { speedup: 2.0 };
        let fast = open().replayed(&Replay { pace, ..Replay::default() }).unwrap();
        assert_eq!(fast.requests[1].wait_after_parent, Some(Nanos(40)));
    }

    fn fitted(workload: Workload, context: u32) -> Result<Workload, WorkloadError> {
        let lengths = Lengths { context_tokens: Some(context), ..Lengths::default() };
        workload.replayed(&Replay { lengths, ..Replay::default() })
    }

    #[test]
    fn lengths_fit_the_context() {
        let workload = fitted(five(), 110).unwrap();
        assert_eq!(workload.max_context_tokens(), 110);
        assert_eq!(workload.requests[0].prompt_tokens, 20);
        assert_eq!(workload.requests[0].output_tokens, 2);
        assert!(workload.notes.iter().any(|note| note.message.contains("0.200000")));
        let untouched = fitted(five(), 550).unwrap();
        assert_eq!(untouched.requests, five().requests);
        assert_eq!(fitted(five(), 2).unwrap().max_context_tokens(), 2);
        assert!(matches!(fitted(five(), 1), Err(WorkloadError::Context { .. })));
    }

    #[test]
    fn scaling_keeps_what_was_shared() {
        let rows: [(u64, u32, u32, &[u64]); 3] =
            [(0, 1_500, 100, &[1, 2, 3]), (1, 1_500, 100, &[1, 2, 3]), (2, 1_400, 100, &[1, 2, 4])];
        let before = Summary::of(&mooncake(&rows)).ideal_prefix_hit_share;
        let workload = fitted(mooncake(&rows), 200).unwrap();
        assert!(workload.max_context_tokens() <= 200);
        let block = workload.block_tokens.unwrap().get();
        for request in &workload.requests {
            let ids = request.hash_ids.as_ref().unwrap().len();
            assert_eq!(request.prompt_tokens.div_ceil(block) as usize, ids);
        }
        let after = Summary::of(&workload).ideal_prefix_hit_share;
        assert!((before - after).abs() < 0.02, "{before} {after}");
        assert_eq!(workload.duplicate_of(), [None, Some(0), None]);
        // Three blocks cannot have fewer than three tokens, an output not less than one.
        assert_eq!(fitted(mooncake(&rows), 4).unwrap().max_context_tokens(), 4);
        let error = fitted(mooncake(&rows), 3).unwrap_err().to_string();
        assert!(error.contains("one token for each block"), "{error}");
    }

    #[test]
    fn factors_and_caps() {
        let lengths = Lengths {
            prompt_factor: 0.1,
            max_prompt_tokens: Some(40),
            max_output_tokens: Some(45),
            ..Lengths::default()
        };
        let workload = five().replayed(&Replay { lengths, ..Replay::default() }).unwrap();
        let shown: Vec<_> =
            workload.requests.iter().map(|r| (r.prompt_tokens, r.output_tokens)).collect();
        assert_eq!(shown, [(10, 10), (20, 20), (30, 30), (40, 40), (40, 45)]);
        for lengths in [
            Lengths { prompt_factor: 0.0, ..Lengths::default() },
            Lengths { output_factor: f64::NAN, ..Lengths::default() },
        ] {
            let replay = Replay { lengths, ..Replay::default() };
            assert!(matches!(five().replayed(&replay), Err(WorkloadError::Setting { .. })));
        }
    }
}
