//! What recorded rows show about their recording: order, duplicates, a coarse clock, holes,
//! caps, failures.

use super::note::{Note, NoteKind};
use super::request::RequestSpec;
use crate::event::Outcome;
use crate::unit::{Nanos, grouped, si_nanos};

/// Below this many requests nothing is said about the clock, holes or caps.
const ENOUGH: usize = 20;

/// Notes about `requests`, which are in order of arrival.
pub(super) fn inspect(requests: &[RequestSpec], unsorted: usize, timeless: bool) -> Vec<Note> {
    let count = |n: usize| grouped(n as i128);
    let mut notes = Vec::new();
    if unsorted > 0 {
        let message = format!("{} rows stood out of order of arrival; sorted", count(unsorted));
        notes.push(Note::new(NoteKind::Unsorted, message));
    }
    let duplicates = duplicates(requests);
    if duplicates > 0 {
        let message = format!("{} rows are exact duplicates of another; kept", count(duplicates));
        notes.push(Note::new(NoteKind::Duplicates, message));
    }
    if !timeless {
        notes.extend(clock(requests));
    }
    notes.extend(cap(requests));
    let failed = requests.iter().filter(|r| r.outcome == Outcome::Failed).count();
    if failed > 0 {
        let message = format!("{} requests are recorded failures, without output", count(failed));
        notes.push(Note::new(NoteKind::RecordedFailures, message));
    }
    if requests.iter().all(|request| request.hash_ids.is_none()) {
        let message = "the file names no shared prefixes: it cannot tell what a prefix cache \
                       would save, and prompts are replayed as if they shared nothing";
        notes.push(Note::new(NoteKind::NoPrefixes, message));
    }
    notes
}

/// Rows that equal an earlier one in everything, time included.
fn duplicates(requests: &[RequestSpec]) -> usize {
    let same_time = requests.chunk_by(|a, b| a.arrival == b.arrival);
    let key = |r: &&RequestSpec| (r.prompt_tokens, r.output_tokens);
    same_time
        .map(|run| {
            if run.len() == 1 {
                return 0;
            }
            let mut run: Vec<&RequestSpec> = run.iter().filter(|r| r.parent.is_none()).collect();
            run.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.hash_ids.cmp(&b.hash_ids)));
            run.windows(2).filter(|pair| pair[0] == pair[1]).count()
        })
        .sum()
}

/// A clock that did not run, ran in coarse steps, or stood still for long.
fn clock(requests: &[RequestSpec]) -> Vec<Note> {
    let arrivals: Vec<Nanos> =
        requests.iter().filter(|r| r.wait_after_parent.is_none()).map(|r| r.arrival).collect();
    let (Some(&first), Some(&last)) = (arrivals.first(), arrivals.last()) else { return vec![] };
    let span = last.saturating_sub(first);
    let mut notes = Vec::new();
    if arrivals.len() > 1 && span == Nanos::ZERO {
        let message = "the time is the same in every row: not measured, all requests arrive at 0";
        notes.push(Note::new(NoteKind::NotMeasured, message));
        return notes;
    }
    if arrivals.len() < ENOUGH {
        return notes;
    }
    let mut steps: Vec<Nanos> = arrivals.windows(2).map(|w| w[1].saturating_sub(w[0])).collect();
    let longest = steps.iter().copied().max().unwrap_or_default();
    steps.retain(|&step| step > Nanos::ZERO);
    steps.sort_unstable();
    let typical = steps.get(steps.len() / 2).copied().unwrap_or_default();
    let grain = Nanos(steps.iter().fold(0, |grain, step| greatest_divisor(grain, step.0)));
    let distinct = steps.len() + 1;
    if distinct * 2 <= arrivals.len() || grain >= Nanos(1_000_000_000) {
        let message = format!(
            "the recording's clock is coarse: {} requests have {} distinct arrival times, \
             typically {} apart; shorter inter-arrival times are artefacts",
            grouped(arrivals.len() as i128),
            grouped(distinct as i128),
            si_nanos(typical)
        );
        notes.push(Note::new(NoteKind::CoarseTimes, message));
    }
    let mean = span.0 / arrivals.len() as u64;
    if longest.0 > span.0 / 20 && longest.0 > mean.saturating_mul(20) {
        let message = format!(
            "for {} nothing arrived; whether there was no demand or a hole in the recording, the \
             data cannot tell",
            si_nanos(longest)
        );
        notes.push(Note::new(NoteKind::SilentGap, message));
    }
    notes
}

/// The greatest number that divides both; the other one where one is zero.
pub(super) fn greatest_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Many outputs that end at exactly the greatest length.
fn cap(requests: &[RequestSpec]) -> Option<Note> {
    let most = requests.iter().map(|r| r.output_tokens).max()?;
    let at_most = requests.iter().filter(|r| r.output_tokens == most).count();
    let capped = requests.len() >= ENOUGH && at_most >= 3 && at_most * 2 < requests.len();
    (capped && most > 1).then(|| {
        let message = format!(
            "{} outputs have exactly {} tokens, the greatest length: a cap, the wanted lengths \
             are not known",
            grouped(at_most as i128),
            grouped(i128::from(most))
        );
        Note::new(NoteKind::OutputCap, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64, prompt: u32, output: u32) -> RequestSpec {
        RequestSpec::new(Nanos::from_secs_f64(seconds), prompt, output)
    }

    fn kinds(requests: &[RequestSpec]) -> Vec<NoteKind> {
        inspect(requests, 0, false).into_iter().map(|note| note.kind).collect()
    }

    #[test]
    fn duplicates_are_rows_equal_in_everything() {
        let mut twin = at(0.0, 5, 5);
        twin.hash_ids = Some([1].into());
        let rows = [at(0.0, 5, 5), twin.clone(), at(0.0, 5, 6), twin, at(0.0, 5, 5)];
        assert_eq!(duplicates(&rows), 2);
        assert_eq!(duplicates(&[at(0.0, 5, 5), at(1.0, 5, 5)]), 0);
    }

    #[test]
    fn a_coarse_clock_is_said() {
        let coarse: Vec<_> = (0..60).map(|i| at(f64::from(i / 10) * 3.0, 9, i as u32)).collect();
        assert!(kinds(&coarse).contains(&NoteKind::CoarseTimes));
        let seconds: Vec<_> = (0..60).map(|i| at(f64::from(i * 7 % 11 + 20 * i), 9, 1)).collect();
        assert!(kinds(&seconds).contains(&NoteKind::CoarseTimes));
        let fine: Vec<_> = (0..60).map(|i| at(f64::from(i) * 0.377, 9, 1)).collect();
        assert!(!kinds(&fine).contains(&NoteKind::CoarseTimes));
    }

    #[test]
    fn a_hole_and_a_clock_that_stood_still() {
        let hole: Vec<_> =
            (0..100).map(|i| at(f64::from(i) * 0.1 + f64::from(i / 50) * 9.0, 9, 1)).collect();
        assert!(kinds(&hole).contains(&NoteKind::SilentGap));
        assert!(kinds(&[at(0.0, 1, 1), at(0.0, 2, 2)]).contains(&NoteKind::NotMeasured));
    }

    #[test]
    fn a_cap_is_the_greatest_length_many_times() {
        let rows = |outputs: &dyn Fn(u32) -> u32| {
            (0..40).map(|i| at(f64::from(i) * 0.377, 9, outputs(i))).collect::<Vec<_>>()
        };
        assert!(kinds(&rows(&|i| i.min(35))).contains(&NoteKind::OutputCap));
        assert!(!kinds(&rows(&|i| i)).contains(&NoteKind::OutputCap));
        assert!(!kinds(&rows(&|_| 64)).contains(&NoteKind::OutputCap));
    }
}
