//! ShareGPT conversations: one JSON array of
//! `{"conversations": [{"from": …, "value": …}, …]}`.
//!
//! As vLLM's loader does, the first turn is the prompt and the second the answer, and
//! conversations with fewer turns are left out (counted). Lengths need a tokenizer, which the
//! caller passes in; there are no times.
//!
//! The file is one value of hundreds of megabytes, so it is parsed as it is read: one
//! conversation is held at a time, and a conversation may not pass a limit.

use std::cell::Cell;
use std::io::{BufRead, Read};
use std::path::Path;
use std::rc::Rc;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};

use super::draft::Draft;
use super::error::{Place, WorkloadError};
use super::json;
use super::note::{Note, NoteKind};
use super::open::TokenCounter;
use super::request::{Content, RequestSpec};
use crate::unit::{Nanos, grouped};

use super::field::MOST_TOKENS;

/// The most bytes of one conversation in the file.
const CONVERSATION_LIMIT: u64 = 64 << 20;

#[derive(Deserialize)]
struct Conversation {
    conversations: FirstTurns,
}

#[derive(Deserialize)]
struct Turn {
    value: String,
}

/// The first two turns; the others are parsed and forgotten.
struct FirstTurns(Option<(String, String)>);

impl<'de> Deserialize<'de> for FirstTurns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Turns;
        impl<'de> Visitor<'de> for Turns {
            type Value = FirstTurns;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of turns")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut turns: A) -> Result<FirstTurns, A::Error> {
                let first = turns.next_element::<Turn>()?;
                let second = turns.next_element::<Turn>()?;
                while turns.next_element::<IgnoredAny>()?.is_some() {}
                Ok(FirstTurns(first.zip(second).map(|(a, b)| (a.value, b.value))))
            }
        }
        deserializer.deserialize_seq(Turns)
    }
}

/// Ends the reading when one conversation has taken too many bytes.
struct Metered<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        match self.left.get().checked_sub(n as u64) {
            Some(left) => self.left.set(left),
            None => return Err(std::io::Error::other(TOO_LONG)),
        }
        Ok(n)
    }
}

const TOO_LONG: &str = "a conversation of more than 67108864 bytes";

/// Takes one conversation after the other.
struct All<'a, 'c> {
    draft: &'a mut Draft,
    count_tokens: TokenCounter<'c>,
    left: Rc<Cell<u64>>,
    skipped: usize,
    number: u64,
    at: Place,
    /// What was wrong with a conversation, kept beside the parser's own error.
    refused: Option<WorkloadError>,
}

impl<'de> DeserializeSeed<'de> for &mut All<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut All<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of conversations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<(), A::Error> {
        while let Some(Conversation { conversations }) = all.next_element()? {
            self.number += 1;
            self.left.set(CONVERSATION_LIMIT);
            if let Err(error) = self.take(conversations) {
                self.refused = Some(error);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

impl All<'_, '_> {
    fn take(&mut self, FirstTurns(turns): FirstTurns) -> Result<(), WorkloadError> {
        let lengths = turns.as_ref().map(|(prompt, answer)| {
            ((self.count_tokens)(prompt) as u64, (self.count_tokens)(answer) as u64)
        });
        let (Some((prompt, _)), Some((prompt_tokens, output_tokens))) = (turns, lengths) else {
            self.skipped += 1;
            return Ok(());
        };
        if prompt_tokens == 0 || output_tokens == 0 {
            self.skipped += 1;
            return Ok(());
        }
        let length = |tokens: u64| {
            u32::try_from(tokens).ok().filter(|_| tokens <= MOST_TOKENS).ok_or_else(|| {
                WorkloadError::Row {
                    at: self.at.clone(),
                    expected: format!("turns of at most {MOST_TOKENS} tokens"),
                    found: format!("{tokens} in conversation {}", self.number),
                }
            })
        };
        let mut request =
            RequestSpec::new(Nanos::ZERO, length(prompt_tokens)?, length(output_tokens)?);
        request.content = Some(Box::new(Content::Text(prompt.into_boxed_str())));
        self.draft.push(request, &self.at)?;
        Ok(())
    }
}

/// Reads the conversations into `draft`.
pub(super) fn read(
    reader: impl BufRead,
    path: &Path,
    count_tokens: Option<TokenCounter<'_>>,
    draft: &mut Draft,
) -> Result<(), WorkloadError> {
    let Some(count_tokens) = count_tokens else {
        return Err(WorkloadError::NoTokenizer { path: path.to_path_buf() });
    };
    let left = Rc::new(Cell::new(CONVERSATION_LIMIT));
    let metered = Metered { inner: reader, left: Rc::clone(&left) };
    let mut parser =
        serde_json::Deserializer::from_reader(std::io::BufReader::with_capacity(1 << 16, metered));
    let at = Place::file(path);
    let mut all = All { draft, count_tokens, left, skipped: 0, number: 0, at, refused: None };
    let parsed = (&mut all).deserialize(&mut parser).and_then(|()| parser.end());
    let (skipped, number, refused) = (all.skipped, all.number, all.refused.take());
    if let Some(refused) = refused {
        return Err(refused);
    }
    parsed.map_err(|error| broken(&error, path))?;
    if skipped > 0 {
        let message = format!(
            "{} of {} conversations have fewer than two turns with text; left out",
            grouped(skipped as i128),
            grouped(i128::from(number))
        );
        draft.note(Note::new(NoteKind::Skipped, message));
    }
    draft.no_times();
    Ok(())
}

fn broken(error: &serde_json::Error, path: &Path) -> WorkloadError {
    let at = Place::line(path, error.line() as u64);
    let expected = "a list of {\"conversations\": [{\"value\": text}, …]}".to_owned();
    if error.is_io() {
        if error.to_string().contains(TOO_LONG) {
            let expected = "conversations of at most 67108864 bytes".to_owned();
            return WorkloadError::Row { at, expected, found: "a longer one".to_owned() };
        }
        let source = std::io::Error::other(error.to_string());
        return WorkloadError::Io { path: path.to_path_buf(), source };
    }
    let found = json::described(error);
    if error.is_eof() {
        return WorkloadError::Truncated { at, expected, found };
    }
    WorkloadError::Row { at, expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{OpenOptions, Workload, read as read_any};

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn opened(bytes: &[u8]) -> Result<Workload, WorkloadError> {
        let options = OpenOptions { count_tokens: Some(&words), ..OpenOptions::default() };
        read_any(bytes, Path::new("s.json"), &options)
    }

    #[test]
    fn the_first_two_turns_count() {
        let text = r#"[
            {"id": "a", "conversations": [
                {"from": "human", "value": "one two three"},
                {"from": "gpt", "value": "four five"},
                {"from": "human", "value": "six", "more": [1, {"x": null}]}]},
            {"id": "b", "conversations": [{"from": "human", "value": "alone"}]},
            {"id": "c", "conversations": []},
            {"id": "d", "conversations": [{"value": "q"}, {"value": ""}], "x": 1.5},
            {"id": "e", "conversations": [{"value": "\u00e4 \ud83d\ude00"}, {"value": "z"}]}
        ]"#;
        let workload = opened(text.as_bytes()).unwrap();
        let shown: Vec<_> =
            workload.requests.iter().map(|r| (r.prompt_tokens, r.output_tokens)).collect();
        assert_eq!(shown, [(3, 2), (2, 1)]);
        assert_eq!(crate::workload::Prompts::text(&workload.requests[1]), Some("ä 😀"));
        let said = |kind| workload.notes.iter().find(|n| n.kind == kind).unwrap().to_string();
        assert!(said(NoteKind::Skipped).starts_with("3 of 5 conversations"));
        assert!(said(NoteKind::NoTimes).contains("arrive at 0"));
    }

    #[test]
    fn broken_files_are_refused() {
        let turns = format!("[{{\"conversations\": {}", "[".repeat(200_000));
        let ignored = format!("[{{\"x\": {}", "[".repeat(200_000));
        for (bytes, found) in [
            (&b"[{\"conversations\": [{\"value\": \"a"[..], "found the end of the file"),
            (b"[{\"conversations\": [{\"value\": 5}, {}]}]", "expected a list of"),
            (b"[{\"id\": 1}]", "missing field `conversations`"),
            (b"[]", "expected at least one request"),
            (b"[{\"conversations\": []}]\n[]", "trailing characters"),
            (b"[{\"conversations\": [{\"value\": \"\xff\"}]}]", "s.json:1"),
            (turns.as_bytes(), "invalid type: sequence"),
            (ignored.as_bytes(), "found the end of the file"),
        ] {
            let error = opened(bytes).unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
        }
        let error = read_any(&b"[{}]"[..], Path::new("s"), &OpenOptions::default()).unwrap_err();
        assert!(matches!(error, WorkloadError::NoTokenizer { .. }));
        assert!(error.hint().unwrap().contains("--tokenizer"));
    }

    #[test]
    fn an_endless_conversation_is_refused() {
        let start = &b"[{\"conversations\": [{\"value\": \""[..];
        let endless = start.chain(std::io::repeat(b'a').take(80 << 20));
        let options = OpenOptions { count_tokens: Some(&words), ..OpenOptions::default() };
        let error = read_any(endless, Path::new("s"), &options).unwrap_err().to_string();
        assert!(error.contains("conversations of at most"), "{error}");
    }
}
