//! From a workload to orders for the engine.

use std::num::NonZeroU32;
use std::rc::Rc;

use crate::backend::Sampling;
use crate::engine::{Answer, Checker, Order, Verdict};
use crate::event::{Arrival, Outcome, RequestId};
use crate::model::ModelError;
use crate::unit::Nanos;
use crate::workload::{self, Prompts, RequestSpec, Workload};

use super::options::Generation;

/// The model's tokenizer, as far as a session needs one.
pub struct Words<'a> {
    /// A prompt's text to token ids.
    pub encode: &'a dyn Fn(&str) -> Result<Vec<u32>, ModelError>,
    /// Token ids to text.
    pub decode: &'a dyn Fn(&[u32]) -> Result<String, ModelError>,
}

/// Accepts answers that are JSON.
pub(super) struct JsonChecker<'a> {
    words: &'a Words<'a>,
    /// Tokens that end an answer and are not part of its text.
    end_tokens: &'a [u32],
}

impl std::fmt::Debug for JsonChecker<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JsonChecker")
    }
}

impl Checker for JsonChecker<'_> {
    fn accepts(&self, output: &[u32]) -> bool {
        let text = match output.split_last() {
            Some((last, text)) if self.end_tokens.contains(last) => text,
            _ => output,
        };
        let text = (self.words.decode)(text);
        text.is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text.trim()).is_ok())
    }
}

/// Makes orders of a workload's requests.
pub(super) struct Demand<'a> {
    workload: &'a Workload,
    prompts: Prompts,
    generation: &'a Generation,
    words: Option<&'a Words<'a>>,
    json: Option<JsonChecker<'a>>,
    end_tokens: Rc<[u32]>,
}

impl<'a> Demand<'a> {
    /// For a model of `vocabulary` tokens.
    pub(super) fn new(
        workload: &'a Workload,
        vocabulary: u32,
        generation: &'a Generation,
        words: Option<&'a Words<'a>>,
    ) -> Self {
        let end_tokens = match generation {
            Generation::Pinned => &[][..],
            Generation::Free(free) => &free.end_tokens,
        };
        Self {
            workload,
            prompts: Prompts::new(workload, NonZeroU32::new(vocabulary).unwrap_or(NonZeroU32::MIN)),
            generation,
            words,
            json: words.map(|words| JsonChecker { words, end_tokens }),
            end_tokens: end_tokens.into(),
        }
    }

    pub(super) fn workload(&self) -> &'a Workload {
        self.workload
    }

    /// The order of request number `index`, which arrives at `at`.
    ///
    /// # Errors
    /// [`ModelError`] if its text cannot be put into tokens.
    pub(super) fn order(&self, index: usize, at: Nanos) -> Result<Order<'_>, ModelError> {
        let spec = &self.workload.requests[index];
        let prompt = match (Prompts::text(spec), self.words) {
            (Some(text), Some(words)) => {
                self.prompts.prompt_of_text(index, spec, &(words.encode)(text)?)
            }
            _ => self.prompts.prompt(index, spec),
        };
        // A recorded failure has no answer; it fails when the first token would be there.
        let max_tokens = spec.output_tokens.max(1);
        let arrival = Arrival {
            request: RequestId(index as u64),
            parent: spec.parent.map(|parent| RequestId(parent.into())),
            task: spec.task,
            attempt: spec.attempt,
            class: self.workload.class_of(spec).name.clone(),
            route: String::new(),
            at,
            prompt_tokens: prompt.len() as u32,
            max_tokens,
        };
        Ok(Order {
            arrival,
            prompt,
            answer: self.answer(index, spec),
            verdict: self.verdict(spec),
            deadline: spec.timeout.map(|timeout| Nanos(at.0.saturating_add(timeout.0))),
            pauses: Vec::new(),
        })
    }

    fn answer(&self, index: usize, spec: &RequestSpec) -> Answer {
        match self.generation {
            Generation::Pinned => Answer::Pinned(self.prompts.output(index, spec)),
            Generation::Free(free) => Answer::Free {
                sampling: Sampling {
                    temperature: free.temperature,
                    top_k: free.top_k,
                    top_p: free.top_p,
                    seed: free.seed ^ (index as u64).wrapping_mul(0xd134_2543_de82_ef95),
                },
                end_tokens: Rc::clone(&self.end_tokens),
            },
        }
    }

    /// Pinned tokens say nothing: only the model's own are looked at.
    fn verdict(&self, spec: &RequestSpec) -> Verdict<'_> {
        let checker = self.workload.class_of(spec).checker;
        let free = matches!(self.generation, Generation::Free(_));
        match (&self.json, checker) {
            (Some(json), Some(workload::Checker::Json))
                if free && spec.outcome == Outcome::Completed =>
            {
                Verdict::Checked(json)
            }
            _ => Verdict::Recorded(spec.outcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::FreeTokens;

    fn words() -> Words<'static> {
        Words {
            encode: &|text| Ok(text.bytes().map(u32::from).collect()),
            decode: &|ids| Ok(ids.iter().map(|&id| id as u8 as char).collect()),
        }
    }

    fn ids(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    #[test]
    fn json_is_judged_by_its_form_alone() {
        let words = words();
        let checker = JsonChecker { words: &words, end_tokens: &[0] };
        for (text, accepted) in [
            ("{\"a\": [1, 2]}", true),
            (" {\"a\": 1}\n\0", true),
            ("7", true),
            ("{\"a\": 1", false),
            ("{\"a\": 1} and more", false),
            ("", false),
        ] {
            assert_eq!(checker.accepts(&ids(text)), accepted, "{text:?}");
        }
    }

    #[test]
    fn a_request_becomes_an_order() {
        let mut workload = workload_of(&[RequestSpec::new(Nanos(5), 4, 2)]);
        workload.requests[0].timeout = Some(Nanos(30));
        workload.requests[0].content = Some(Box::new(crate::workload::Content::Text("ab".into())));
        let words = words();
        let generation = Generation::Pinned;
        let demand = Demand::new(&workload, 50, &generation, Some(&words));
        let order = demand.order(0, Nanos(105)).unwrap();
        assert_eq!(order.arrival.request, RequestId(0));
        assert_eq!(order.arrival.at, Nanos(105));
        assert_eq!((order.arrival.prompt_tokens, order.arrival.max_tokens), (4, 2));
        assert_eq!(order.prompt[..2], ids("ab"));
        assert_eq!(order.deadline, Some(Nanos(135)));
        assert!(matches!(&order.answer, Answer::Pinned(tokens) if tokens.len() == 2));
        assert!(matches!(order.verdict, Verdict::Recorded(Outcome::Completed)));
    }

    #[test]
    fn the_checker_looks_at_free_answers_only() {
        let mut workload = workload_of(&[RequestSpec::new(Nanos(0), 4, 2)]);
        workload.classes[0].checker = Some(workload::Checker::Json);
        let words = words();
        let free = Generation::Free(FreeTokens {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
            end_tokens: vec![2],
        });
        let verdict = |generation: &Generation, words| {
            let demand = Demand::new(&workload, 50, generation, words);
            matches!(demand.order(0, Nanos(0)).unwrap().verdict, Verdict::Checked(_))
        };
        assert!(verdict(&free, Some(&words)));
        assert!(!verdict(&free, None));
        assert!(!verdict(&Generation::Pinned, Some(&words)));
    }

    fn workload_of(requests: &[RequestSpec]) -> Workload {
        Workload {
            name: "test".to_owned(),
            format: crate::workload::Format::Synthetic,
            sha256: String::new(),
            seed: 1,
            block_tokens: None,
            classes: vec![workload::Class::named("any")],
            slo: workload::Slo::default(),
            requests: requests.to_vec(),
            notes: Vec::new(),
            recorded_start_unix_nanos: None,
        }
    }
}
