//! From a description to requests.

use std::num::NonZeroU32;
use std::path::Path;

use rand::RngExt;
use rand::distr::weighted::WeightedIndex;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::Distribution;

use super::arrival::ArrivalProcess;
use super::description::{ClassDescription, Description, Impatience};
use crate::event::Outcome;
use crate::unit::Nanos;
use crate::workload::draft::Draft;
use crate::workload::error::{Place, WorkloadError};
use crate::workload::open::name_of;
use crate::workload::request::{Class, RequestSpec, Workload};
use crate::workload::{Format, Note, NoteKind};

/// The most requests that a description may make.
const MOST_REQUESTS: usize = 1_000_000;

/// What a stream of random numbers decides. The numbers are part of the schema: they fix what
/// a seed makes.
#[derive(Clone, Copy)]
enum Stream {
    Arrivals = 0,
    Classes = 1,
    PromptLengths = 2,
    OutputLengths = 3,
    Prefixes = 4,
    Cancels = 5,
    Timeouts = 6,
}

struct Draws {
    classes: ChaCha12Rng,
    prompts: ChaCha12Rng,
    outputs: ChaCha12Rng,
    prefixes: ChaCha12Rng,
    cancels: ChaCha12Rng,
    timeouts: ChaCha12Rng,
}

fn stream(seed: u64, stream: Stream) -> ChaCha12Rng {
    let mut draw = ChaCha12Rng::seed_from_u64(seed);
    draw.set_stream(stream as u64);
    draw
}

/// The arrival times that a process and a seed make, in seconds, without end.
pub(in crate::workload) fn arrival_times(
    process: ArrivalProcess,
    seed: u64,
) -> impl Iterator<Item = f64> {
    process.times(stream(seed, Stream::Arrivals))
}

/// What a class has made so far.
struct Made<'a> {
    described: &'a ClassDescription,
    /// Block ids of each of its prefixes.
    prefixes: Vec<Vec<u64>>,
    prefix_weights: Option<WeightedIndex<f64>>,
    count: u64,
    last: Option<RequestSpec>,
}

/// Hands out block ids that no other block has.
struct FreshIds {
    next: u64,
    block_tokens: u32,
}

impl FreshIds {
    fn take(&mut self, tokens: u32) -> impl Iterator<Item = u64> {
        let first = self.next;
        self.next += u64::from(tokens.div_ceil(self.block_tokens));
        first..self.next
    }
}

/// Makes the requests that `description` describes.
pub(in crate::workload) fn generate(
    description: &Description,
    path: &Path,
    seed: Option<u64>,
    sha256: String,
) -> Result<Workload, WorkloadError> {
    let seed = seed.unwrap_or(description.seed);
    let at = Place::file(path);
    let mut draft = Draft::new(path);
    for class in &description.class {
        let slo = class.slo.slo();
        let class = Class { name: class.name.clone(), slo, checker: class.checker };
        draft.add_class(class, &at)?;
    }
    // Block ids are only needed where prompts share something.
    let shares =
        |class: &ClassDescription| class.prefixes.is_some() || class.duplicate_every.is_some();
    let named_blocks = description.class.iter().any(shares);
    push_requests(description, seed, named_blocks, &mut draft, &at)?;
    if let (true, Some(tokens)) = (named_blocks, NonZeroU32::new(description.block_tokens)) {
        draft.set_block_tokens(tokens);
    }
    let name = description.name.clone().unwrap_or_else(|| name_of(path));
    let mut workload = draft.finish(Format::Synthetic, name, sha256, seed)?;
    workload.slo = description.slo.slo();
    // What a recording may hide, a description says itself.
    workload.notes.retain(|note: &Note| note.kind == NoteKind::Duplicates);
    Ok(workload)
}

fn push_requests(
    description: &Description,
    seed: u64,
    named_blocks: bool,
    draft: &mut Draft,
    at: &Place,
) -> Result<(), WorkloadError> {
    let mut ids = FreshIds { next: 0, block_tokens: description.block_tokens };
    let mut made: Vec<Made<'_>> =
        description.class.iter().map(|class| Made::new(class, &mut ids)).collect();
    let weights = WeightedIndex::new(description.class.iter().map(|class| class.weight)).ok();
    let mut draws = Draws {
        classes: stream(seed, Stream::Classes),
        prompts: stream(seed, Stream::PromptLengths),
        outputs: stream(seed, Stream::OutputLengths),
        prefixes: stream(seed, Stream::Prefixes),
        cancels: stream(seed, Stream::Cancels),
        timeouts: stream(seed, Stream::Timeouts),
    };
    let wanted = description.requests.unwrap_or(u64::MAX);
    let until = description.duration_s.unwrap_or(f64::INFINITY);
    let process = description.arrival.unwrap_or(ArrivalProcess::AllAtOnce {});
    let times = arrival_times(process, seed);
    for (number, seconds) in (0u64..).zip(times) {
        if number >= wanted || seconds >= until {
            break;
        }
        if number >= MOST_REQUESTS as u64 {
            let (at, what) = (at.clone(), "requests");
            return Err(WorkloadError::TooMany { at, what, limit: MOST_REQUESTS });
        }
        let class = weights.as_ref().map_or(0, |weights| weights.sample(&mut draws.classes));
        let Some(made) = made.get_mut(class) else { continue };
        let mut request = made.next(&mut draws, named_blocks.then_some(&mut ids));
        request.arrival = Nanos::from_secs_f64(seconds);
        // In range: a draft holds at most a thousand classes.
        request.class = class as u16;
        draft.push(request, at)?;
    }
    Ok(())
}

impl<'a> Made<'a> {
    fn new(described: &'a ClassDescription, ids: &mut FreshIds) -> Self {
        let (mut prefixes, mut prefix_weights) = (Vec::new(), None);
        if let Some(group) = &described.prefixes {
            prefixes.extend((0..group.count).map(|_| ids.take(group.tokens).collect()));
            prefix_weights = group.weights.as_ref().and_then(|w| WeightedIndex::new(w).ok());
        }
        Self { described, prefixes, prefix_weights, count: 0, last: None }
    }

    /// The class's next request, without its arrival.
    fn next(&mut self, draws: &mut Draws, ids: Option<&mut FreshIds>) -> RequestSpec {
        self.count += 1;
        let is_kth = |every: Option<u64>| every.is_some_and(|k| self.count.is_multiple_of(k));
        let (duplicate, malformed) =
            (is_kth(self.described.duplicate_every), is_kth(self.described.malformed_every));
        let mut request = match self.last.clone().filter(|_| duplicate) {
            Some(last) => last,
            None => self.fresh(draws, ids),
        };
        let impatient = |impatience: Option<Impatience>, draw: &mut ChaCha12Rng| {
            let Impatience { share, after_ms } = impatience?;
            (draw.random::<f64>() < share).then(|| Nanos::from_secs_f64(after_ms / 1e3))
        };
        request.cancel_after = impatient(self.described.cancel, &mut draws.cancels);
        request.timeout = impatient(self.described.timeout, &mut draws.timeouts);
        request.outcome = if malformed { Outcome::Malformed } else { Outcome::Completed };
        self.last = Some(request.clone());
        request
    }

    fn fresh(&self, draws: &mut Draws, ids: Option<&mut FreshIds>) -> RequestSpec {
        let own = self.described.prompt_tokens.draw(&mut draws.prompts);
        let output = self.described.output_tokens.draw(&mut draws.outputs);
        let group = match &self.prefix_weights {
            Some(weights) => weights.sample(&mut draws.prefixes),
            None if self.prefixes.is_empty() => 0,
            None => draws.prefixes.random_range(0..self.prefixes.len()),
        };
        let shared = self.prefixes.get(group).map_or(&[][..], Vec::as_slice);
        let prefix_tokens = match &self.described.prefixes {
            Some(group) => group.tokens,
            None => 0,
        };
        let mut request = RequestSpec::new(Nanos::ZERO, prefix_tokens + own, output);
        request.hash_ids = ids.map(|ids| shared.iter().copied().chain(ids.take(own)).collect());
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{OpenOptions, Summary, read};

    fn made(text: &str) -> Result<Workload, WorkloadError> {
        read(text.as_bytes(), Path::new("w.toml"), &OpenOptions::default())
    }

    const TWO: &str = r#"
        schema = 1
        seed = 7
        requests = 400
        [arrival]
        process = "poisson"
        rate = 20.0
        [slo]
        ttft_ms = 200
        [[class]]
        name = "chat"
        weight = 3
        prompt_tokens = { distribution = "lognormal", median = 40, sigma = 0.8, max = 400 }
        output_tokens = { distribution = "uniform", min = 4, max = 64 }
        prefixes = { count = 2, tokens = 32, weights = [3, 1] }
        slo = { tpot_ms = 20.5 }
        cancel = { share = 0.25, after_ms = 300 }
        [[class]]
        name = "extract"
        prompt_tokens = { distribution = "constant", tokens = 100 }
        output_tokens = { distribution = "constant", tokens = 8 }
        checker = "recorded"
        malformed_every = 10
        duplicate_every = 4
    "#;

    #[test]
    fn classes_shares_and_plants_are_as_described() {
        let workload = made(TWO).unwrap();
        assert_eq!(workload.requests.len(), 400);
        let of = |class: u16| workload.requests.iter().filter(move |r| r.class == class);
        assert!((270..330).contains(&of(0).count()));
        let cancelled = of(0).filter(|r| r.cancel_after == Some(Nanos(300_000_000))).count();
        assert!((50..100).contains(&cancelled));
        assert!(of(1).all(|r| r.cancel_after.is_none() && r.prompt_tokens == 100));
        let malformed = of(1).filter(|r| r.outcome == Outcome::Malformed).count();
        assert_eq!(malformed, of(1).count() / 10);
        let twins = workload.duplicate_of();
        assert_eq!(twins.iter().flatten().count(), of(1).count() / 4);
        let first = workload.requests.iter().find(|r| r.class == 0).unwrap();
        assert_eq!(workload.slo_of(first).tpot, Some(Nanos(20_500_000)));
        assert_eq!(workload.slo_of(first).ttft, Some(Nanos(200_000_000)));
        let shared = Summary::of(&workload).ideal_prefix_hit_share;
        assert!((0.3..0.6).contains(&shared), "{shared}");
    }

    #[test]
    fn seeds_and_streams() {
        let one = made(TWO).unwrap();
        assert_eq!(one.requests, made(TWO).unwrap().requests);
        let options = OpenOptions { seed: Some(8), ..OpenOptions::default() };
        let other = read(TWO.as_bytes(), Path::new("w.toml"), &options).unwrap();
        assert_ne!(one.requests, other.requests);
        let longer = made(&TWO.replace("max = 64", "max = 65")).unwrap();
        let arrivals = |w: &Workload| w.requests.iter().map(|r| r.arrival).collect::<Vec<_>>();
        assert_eq!(arrivals(&one), arrivals(&longer));
    }

    /// Fixed for ever: a change here changes what every description and seed mean.
    #[test]
    fn what_a_seed_makes_is_pinned() {
        let workload = made(TWO).unwrap();
        let shown = |r: &RequestSpec| (r.arrival.0, r.class, r.prompt_tokens, r.output_tokens);
        let first: Vec<_> = workload.requests.iter().take(4).map(shown).collect();
        assert_eq!(
            first,
            [
                (0, 0, 67, 14),
                (24_510_507, 0, 49, 10),
                (30_287_213, 1, 100, 8),
                (67_556_243, 0, 49, 10)
            ]
        );
        let last = workload.requests.last().map(shown).unwrap();
        assert_eq!(last, (19892762736, 0, 78, 41));
    }

    #[test]
    fn duration_ends_it() {
        let text = TWO.replace("requests = 400", "duration_s = 5.0");
        let workload = made(&text).unwrap();
        assert!((70..130).contains(&workload.requests.len()));
        assert!(workload.span() < Nanos(5_000_000_000));
    }

    #[test]
    fn contradictions_are_refused() {
        for (old, new, found) in [
            ("schema = 1", "schema = 2", "found 2"),
            ("seed = 7", "sede = 7", "unknown field `sede`"),
            ("rate = 20.0", "rate = 0.0", "arrival.rate"),
            ("rate = 20.0", "rate = nan", "arrival.rate"),
            ("\"poisson\"", "\"posson\"", "unknown variant"),
            ("requests = 400", "", "found neither"),
            ("requests = 400", "requests = 0", "found 0"),
            ("requests = 400", "requests = 2000000", "at most 1000000 requests"),
            ("tokens = 32", "tokens = 33", "multiple of block_tokens"),
            ("weights = [3, 1]", "weights = [3]", "expected 2 prefixes.weights"),
            ("checker = \"recorded\"", "", "checker = \"recorded\""),
            ("share = 0.25", "share = 1.5", "cancel.share"),
            ("duplicate_every = 4", "duplicate_every = 1", "at least 2"),
            ("name = \"extract\"", "name = \"chat\"", "twice"),
            ("weight = 3", "weight = -3", "weight between 1e-9"),
            ("max = 64", "max = 3", "4 above 3"),
        ] {
            assert!(TWO.contains(old));
            let error = made(&TWO.replacen(old, new, 1)).unwrap_err().to_string();
            assert!(error.contains(found), "{new}: {error}");
        }
    }
}
