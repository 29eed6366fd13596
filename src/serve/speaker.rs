//! One answer on its way from the engine to its client.
//!
//! A speaker lives on the engine's thread. It makes text of tokens, sees where the answer ends,
//! and puts pieces into a channel that has room for all of them: it never waits for a client.

use std::sync::Arc;

use tokio::sync::mpsc::Sender;

use super::api::Spoken;
use super::door::Seat;
use super::guide::Guide;
use super::metrics::{Ended, Metrics};
use super::text::Text;
use crate::backend::Sampled;
use crate::engine::Consumer;
use crate::event::{Finish, Outcome};
use crate::unit::Nanos;

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// By itself.
    Stop,
    /// It is as long as it may be.
    Length,
    /// It outlived its time.
    TimedOut,
    /// The server gave it up.
    Dropped,
    /// Its schema cannot be kept to any further.
    Unkept(String),
    /// It cannot go on.
    Failed(String),
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    /// A token, with the text that can be shown since.
    Token {
        choice: u32,
        text: String,
        /// If log-probabilities were asked for.
        spoken: Option<Spoken>,
    },
    /// The end of one answer, with the text that was held back until then.
    End { choice: u32, text: String, reason: Reason, tokens: u32, cached: u32 },
}

/// What ends an answer, beside its length.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) end: Arc<[u32]>,
    /// There are texts that stop it.
    pub(super) stops: bool,
    pub(super) ignore_eos: bool,
    pub(super) min_tokens: u32,
    /// Log-probabilities are wanted, of so many likeliest tokens beside.
    pub(super) logprobs: Option<u32>,
}

/// One answer.
#[derive(Debug)]
pub(super) struct Speaker {
    pub(super) choice: u32,
    pub(super) sender: Sender<Said>,
    pub(super) text: Text,
    pub(super) guide: Option<Guide>,
    pub(super) rules: Rules,
    pub(super) metrics: Arc<Metrics>,
    pub(super) arrived: Nanos,
    pub(super) prompt_tokens: u32,
    pub(super) progress: Progress,
    /// Given back when the request has left.
    pub(super) seat: Option<Seat>,
}

/// How far an answer is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    tokens: u32,
    last: Option<Nanos>,
    ended: Option<Reason>,
    /// The guide has seen the end of its grammar.
    whole: bool,
}

impl Speaker {
    /// Tells the client; one that has gone is found out elsewhere.
    fn say(&self, said: Said) {
        let _ = self.sender.try_send(said);
    }

    /// Whether the answer ends with this token, as far as the token itself decides.
    fn ends(&mut self, token: u32, may: bool) -> Result<bool, String> {
        if let Some(guide) = &mut self.guide {
            self.progress.whole = guide.take(token)?;
        }
        let end = self.rules.end.contains(&token) && !self.rules.ignore_eos && may;
        Ok(end || self.progress.whole)
    }
}

impl Consumer for Speaker {
    fn steers(&self) -> bool {
        self.guide.is_some() || self.rules.stops || self.rules.min_tokens > 0
    }

    fn waits(&self) -> bool {
        self.guide.is_some() || self.rules.logprobs.is_some_and(|top| top > 0)
    }

    fn allowed(&mut self) -> Option<&[u32]> {
        if self.progress.ended.is_some() {
            return None;
        }
        match self.guide.as_mut()?.allowed() {
            Ok(allowed) => Some(allowed),
            Err(error) => {
                self.progress.ended = Some(Reason::Unkept(error));
                None
            }
        }
    }

    fn take(&mut self, sampled: Sampled, logits: &[f32], at: Nanos) -> bool {
        if self.progress.ended.is_some() {
            return true;
        }
        self.metrics.token(self.arrived, self.progress.last.replace(at), at);
        self.progress.tokens += 1;
        let token = sampled.token;
        let may = self.progress.tokens >= self.rules.min_tokens;
        let ends = self.ends(token, may);
        let silent = self.rules.end.contains(&token);
        let (text, stopped) =
            if silent { (String::new(), false) } else { self.text.push(token, may) };
        let spoken = self.rules.logprobs.map(|top| Spoken {
            token,
            logprob: sampled.logprob,
            top: likeliest(logits, top as usize, &sampled),
        });
        self.say(Said::Token { choice: self.choice, text, spoken });
        self.progress.ended = match ends {
            Err(error) => Some(Reason::Unkept(error)),
            Ok(ends) => (ends || stopped).then_some(Reason::Stop),
        };
        self.progress.ended.is_some()
    }

    fn accepts(&self) -> bool {
        self.guide.is_none() || self.progress.whole
    }

    fn leave(&mut self, finish: &Finish) {
        let reason = match finish.outcome {
            Outcome::Completed | Outcome::Malformed => {
                self.progress.ended.take().unwrap_or(Reason::Length)
            }
            Outcome::TimedOut => Reason::TimedOut,
            Outcome::Cancelled => Reason::Dropped,
            Outcome::Failed => Reason::Failed("the device failed".to_owned()),
            Outcome::Rejected => Reason::Failed("the engine refused it".to_owned()),
        };
        let ended = match reason {
            Reason::Stop => Ended::Stop,
            Reason::Length => Ended::Length,
            _ => Ended::Abort,
        };
        let request = (self.arrived, self.prompt_tokens);
        self.metrics.left(request, finish, self.progress.last, ended);
        let text = self.text.finish();
        self.say(Said::End {
            choice: self.choice,
            text,
            reason,
            tokens: finish.output_tokens,
            cached: finish.cached_tokens,
        });
        // Should it go on for nobody, nothing more is said.
        self.progress.ended = Some(Reason::Dropped);
        self.seat = None;
    }
}

/// The likeliest tokens of a row with their log-probabilities, likeliest first; `sampled` tells
/// how the two scales stand to each other.
fn likeliest(logits: &[f32], count: usize, sampled: &Sampled) -> Vec<(u32, f32)> {
    if count == 0 {
        return Vec::new();
    }
    let shift = sampled.logprob - logits[sampled.token as usize];
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let likelier = |a: &u32, b: &u32| {
        let logit = |token: &u32| {
            let logit = logits[*token as usize];
            if logit.is_nan() { f32::NEG_INFINITY } else { logit }
        };
        logit(b).total_cmp(&logit(a)).then(a.cmp(b))
    };
    let count = count.min(order.len());
    if count < order.len() {
        order.select_nth_unstable_by(count, likelier);
        order.truncate(count);
    }
    order.sort_unstable_by(likelier);
    order.into_iter().map(|token| (token, logits[token as usize] + shift)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_tokens_come_first_with_their_logprobs() {
        // Probabilities 0.2, 0.5, 0.3 with logits shifted by 7.
        let logits = [0.2_f32.ln() + 7.0, 0.5_f32.ln() + 7.0, 0.3_f32.ln() + 7.0];
        let sampled = Sampled { token: 2, logprob: 0.3_f32.ln() };
        let top = likeliest(&logits, 2, &sampled);
        assert_eq!(top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 2]);
        assert!((top[0].1 - 0.5_f32.ln()).abs() < 1e-5, "{top:?}");
        assert!(likeliest(&logits, 0, &sampled).is_empty());
        assert_eq!(likeliest(&logits, 20, &sampled).len(), 3);
    }
}
