//! From a request to token ids: the same for the same workload and seed, for ever.
//!
//! Equal block ids give equal tokens, so that an engine's prefix cache really hits where the
//! recorded system's would have. What no id covers is the request's own: prompts without ids
//! differ pairwise from their first token on, for as many requests as there are tokens in the
//! vocabulary, and from their second beyond that.
//!
//! Tokens come from ChaCha8, keyed by seed, purpose and id; its output is fixed by its
//! definition, not by a library's version.

use std::num::NonZeroU32;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::inspect::greatest_divisor;
use super::request::{Content, RequestSpec, Workload};

/// What a stream of tokens is for; streams of different purpose never coincide.
#[derive(Clone, Copy)]
enum Purpose {
    Block = 1,
    Own = 2,
    Output = 3,
    Order = 4,
}

/// Makes the prompts and pinned outputs of one workload.
#[derive(Clone, Debug)]
pub struct Prompts {
    seed: u64,
    vocabulary: NonZeroU32,
    block_tokens: usize,
    /// Two shuffles of the vocabulary, as multiplier and offset: the first two tokens of request
    /// `i` are its number in base `vocabulary`, each digit shuffled.
    shuffles: [(u64, u64); 2],
}

impl Prompts {
    /// For token ids below `vocabulary`.
    #[must_use]
    pub fn new(workload: &Workload, vocabulary: NonZeroU32) -> Self {
        let mut draw = stream(workload.seed, Purpose::Order, 0);
        let size = u64::from(vocabulary.get());
        let shuffle = |draw: &mut ChaCha8Rng| {
            let mut multiplier = draw.next_u64() % size;
            while greatest_divisor(multiplier, size) != 1 {
                multiplier += 1;
            }
            (multiplier, draw.next_u64() % size)
        };
        Self {
            seed: workload.seed,
            vocabulary,
            block_tokens: workload.block_tokens.map_or(1, |tokens| tokens.get() as usize),
            shuffles: [shuffle(&mut draw), shuffle(&mut draw)],
        }
    }

    /// The prompt of `request`, which is number `index` of the workload:
    /// [`RequestSpec::prompt_tokens`] ids.
    ///
    /// A request with literal text gets it only through [`Self::prompt_of_text`]; here it is
    /// treated as one without.
    #[must_use]
    pub fn prompt(&self, index: usize, request: &RequestSpec) -> Vec<u32> {
        let length = request.prompt_tokens as usize;
        let mut tokens = Vec::with_capacity(length);
        match request.content.as_deref() {
            Some(Content::Tokens { prompt, .. }) => {
                tokens.extend(prompt.iter().take(length).map(|&id| id % self.vocabulary));
            }
            _ => self.push_blocks(request, length, &mut tokens),
        }
        self.push_own(index, length, &mut tokens);
        tokens
    }

    /// The prompt of a request whose text the caller has put into tokens: cut or filled up to
    /// the recorded (perhaps scaled) length.
    #[must_use]
    pub fn prompt_of_text(&self, index: usize, request: &RequestSpec, text: &[u32]) -> Vec<u32> {
        let length = request.prompt_tokens as usize;
        let mut tokens: Vec<u32> = text.iter().take(length).copied().collect();
        self.push_own(index, length, &mut tokens);
        tokens
    }

    /// The text that a request's prompt literally is, if the source holds it.
    #[must_use]
    pub fn text(request: &RequestSpec) -> Option<&str> {
        match request.content.as_deref() {
            Some(Content::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The ids that the request generates, whatever the model says:
    /// [`RequestSpec::output_tokens`] of them.
    ///
    /// Requests with equal prompts by block ids are the same deterministic request and get equal
    /// outputs.
    #[must_use]
    pub fn output(&self, index: usize, request: &RequestSpec) -> Vec<u32> {
        let length = request.output_tokens as usize;
        let mut tokens: Vec<u32> = match request.content.as_deref() {
            Some(Content::Tokens { output, .. }) => {
                output.iter().take(length).map(|&id| id % self.vocabulary).collect()
            }
            _ => Vec::with_capacity(length),
        };
        // The last block's id stands for the whole prompt in a trace of prefix hashes.
        let whole = request
            .hash_ids
            .as_deref()
            .filter(|ids| ids.len() * self.block_tokens >= request.prompt_tokens as usize);
        let id = whole.and_then(<[u64]>::last).map_or(index as u64, |&id| id | 1 << 63);
        let mut draw = stream(self.seed, Purpose::Output, id);
        while tokens.len() < length {
            tokens.push(self.below_vocabulary(&mut draw));
        }
        tokens
    }

    fn push_blocks(&self, request: &RequestSpec, length: usize, tokens: &mut Vec<u32>) {
        for &id in request.hash_ids.as_deref().unwrap_or_default() {
            let mut draw = stream(self.seed, Purpose::Block, id);
            for _ in 0..self.block_tokens.min(length - tokens.len()) {
                tokens.push(self.below_vocabulary(&mut draw));
            }
        }
    }

    fn push_own(&self, index: usize, length: usize, tokens: &mut Vec<u32>) {
        let size = u64::from(self.vocabulary.get());
        let mut number = index as u64;
        let mut draw = stream(self.seed, Purpose::Own, number);
        for (multiplier, offset) in self.shuffles {
            if tokens.len() < length {
                let digit = (number % size * multiplier + offset) % size;
                tokens.push(digit as u32);
                number /= size;
            }
        }
        while tokens.len() < length {
            tokens.push(self.below_vocabulary(&mut draw));
        }
    }

    fn below_vocabulary(&self, draw: &mut ChaCha8Rng) -> u32 {
        // The high half of a product: even to one part in 2³² / vocabulary.
        ((u64::from(draw.next_u32()) * u64::from(self.vocabulary.get())) >> 32) as u32
    }
}

fn stream(seed: u64, purpose: Purpose, id: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8] = purpose as u8;
    key[16..24].copy_from_slice(&id.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Nanos;
    use crate::workload::{OpenOptions, read};
    use std::path::Path;

    const VOCABULARY: NonZeroU32 = NonZeroU32::new(32_000).unwrap();

    fn mooncake(text: &str) -> Workload {
        read(text.as_bytes(), Path::new("m.jsonl"), &OpenOptions::default()).unwrap()
    }

    fn rows(rows: &[(u32, &[u64])]) -> Workload {
        let line = |(tokens, ids): &(u32, &[u64])| {
            format!(
                "{{\"timestamp\":0,\"input_length\":{tokens},\"output_length\":9,\
                 \"hash_ids\":{ids:?}}}\n"
            )
        };
        mooncake(&rows.iter().map(line).collect::<String>())
    }

    fn prompts(workload: &Workload, vocabulary: NonZeroU32) -> Vec<Vec<u32>> {
        let prompts = Prompts::new(workload, vocabulary);
        workload.requests.iter().enumerate().map(|(i, r)| prompts.prompt(i, r)).collect()
    }

    #[test]
    fn equal_block_ids_are_equal_tokens() {
        let all = prompts(
            &rows(&[(1_300, &[5, 6, 7]), (1_100, &[5, 6, 8]), (1_300, &[5, 6, 7]), (600, &[5, 7])]),
            VOCABULARY,
        );
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [1_300, 1_100, 1_300, 600]);
        assert_eq!(all[0][..1_024], all[1][..1_024]);
        assert_ne!(all[0][1_024], all[1][1_024]);
        assert_eq!(all[0], all[2]);
        assert_eq!(all[0][..512], all[3][..512]);
        // A partial block is the beginning of the whole one.
        assert_eq!(all[3][512..600], all[0][1_024..1_112]);
        assert!(all.iter().flatten().all(|&token| token < VOCABULARY.get()));
    }

    #[test]
    fn what_no_id_covers_is_the_requests_own() {
        let all = prompts(&rows(&[(1_024, &[5]), (1_024, &[5])]), VOCABULARY);
        assert_eq!(all[0][..512], all[1][..512]);
        assert_ne!(all[0][512], all[1][512]);
    }

    #[test]
    fn prompts_without_ids_differ_from_the_first_token() {
        let size = NonZeroU32::new(30).unwrap();
        let all = prompts(&rows(&vec![(3, &[][..]); 900]), size);
        let first: std::collections::HashSet<u32> = all[..30].iter().map(|p| p[0]).collect();
        assert_eq!(first.len(), 30);
        let two: std::collections::HashSet<&[u32]> = all.iter().map(|p| &p[..2]).collect();
        assert_eq!(two.len(), 900);
    }

    #[test]
    fn the_seed_decides() {
        let mut workload = rows(&[(20, &[1]), (20, &[])]);
        let zero = prompts(&workload, VOCABULARY);
        assert_eq!(zero, prompts(&workload, VOCABULARY));
        workload.seed = 1;
        let one = prompts(&workload, VOCABULARY);
        assert_ne!(zero[0], one[0]);
        assert_ne!(zero[1], one[1]);
    }

    /// Fixed for ever: a change here changes what every recorded seed means.
    #[test]
    fn tokens_are_pinned() {
        let workload = rows(&[(4, &[1]), (4, &[])]);
        let made = Prompts::new(&workload, VOCABULARY);
        assert_eq!(made.prompt(0, &workload.requests[0]), [23877, 21455, 20667, 25766]);
        assert_eq!(made.prompt(1, &workload.requests[1]), [8630, 17214, 10679, 19454]);
        assert_eq!(made.output(1, &workload.requests[1])[..4], [25045, 22558, 30869, 28666]);
    }

    #[test]
    fn text_and_literal_tokens() {
        let workload = rows(&[(4, &[])]);
        let made = Prompts::new(&workload, VOCABULARY);
        let mut request = RequestSpec::new(Nanos::ZERO, 4, 2);
        let filled = made.prompt_of_text(0, &request, &[7, 8]);
        assert_eq!((filled.len(), &filled[..2]), (4, &[7, 8][..]));
        assert_eq!(made.prompt_of_text(0, &request, &[1, 2, 3, 4, 5]), [1, 2, 3, 4]);
        let (prompt, output) = ([32_001, 2, 3, 4].into(), [9, 9, 9].into());
        request.content = Some(Box::new(Content::Tokens { prompt, output }));
        assert_eq!(made.prompt(0, &request), [1, 2, 3, 4]);
        assert_eq!(made.output(0, &request), [9, 9]);
    }

    #[test]
    fn the_same_prompt_has_the_same_output() {
        let workload = rows(&[(600, &[1, 2]), (600, &[1, 2]), (600, &[1, 3])]);
        let made = Prompts::new(&workload, VOCABULARY);
        let output = |i: usize| made.output(i, &workload.requests[i]);
        assert_eq!(output(0), output(1));
        assert_ne!(output(0), output(2));
    }
}
