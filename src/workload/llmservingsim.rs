//! LLMServingSim workloads: JSONL, two kinds of line that may be mixed.
//!
//! A flat line is a request: `arrival_time_ns`, `input_toks`, `output_toks`. A line with
//! `sub_requests` is an agent's session: its calls come one after the other, each after the
//! answer to the one before and the `tool_duration_ns` that stands with it.
//!
//! Both may carry token ids. They are replayed as they are, and block ids are made from them, so
//! that shared prefixes are known.

use std::io::BufRead;
use std::num::NonZeroU32;

use serde::Deserialize;
use serde_json::Number;
use sha2::{Digest, Sha256};

use super::draft::Draft;
use super::error::{Place, WorkloadError};
use super::field::{self, TimeUnit};
use super::json;
use super::line::Lines;
use super::request::{Content, RequestSpec};
use crate::unit::Nanos;

/// Tokens of the blocks that are made from token ids.
const BLOCK_TOKENS: NonZeroU32 = NonZeroU32::new(16).unwrap();

#[derive(Deserialize)]
struct Row {
    arrival_time_ns: Number,
    session_id: Option<SessionId>,
    sub_requests: Option<Vec<Call>>,
    input_toks: Option<Number>,
    output_toks: Option<Number>,
    #[serde(default)]
    input_tok_ids: Vec<u32>,
    #[serde(default)]
    output_tok_ids: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SessionId {
    Text(String),
    Number(i64),
}

#[derive(Deserialize)]
struct Call {
    input_toks: Number,
    output_toks: Number,
    tool_duration_ns: Option<Number>,
    #[serde(default)]
    input_tok_ids: Vec<u32>,
    #[serde(default)]
    output_tok_ids: Vec<u32>,
}

const EXPECTED: &str = "an object with arrival_time_ns, input_toks, output_toks, or with \
                        session_id, arrival_time_ns, sub_requests";

/// Reads the rows into `draft`.
pub(super) fn read<R: BufRead>(
    lines: &mut Lines<R>,
    draft: &mut Draft,
) -> Result<(), WorkloadError> {
    let path = lines.path().to_path_buf();
    let mut with_ids = false;
    while let Some(line) = lines.next()? {
        let at = Place::line(&path, line.number);
        let mut row: Row = json::row(line, &at, EXPECTED)?;
        let time = row.arrival_time_ns.to_string();
        let arrival = Nanos(field::time(&time, TimeUnit::Nanos, "arrival_time_ns", &at)?);
        if let Some(calls) = row.sub_requests.take() {
            with_ids |= push_session(draft, &row, arrival, calls, &at)?;
            continue;
        }
        let (Some(input_toks), Some(output_toks)) = (row.input_toks, row.output_toks) else {
            let found = "neither input_toks with output_toks nor sub_requests".to_owned();
            return Err(WorkloadError::Row { at, expected: EXPECTED.to_owned(), found });
        };
        let (input_tok_ids, output_tok_ids) = (row.input_tok_ids, row.output_tok_ids);
        let tool_duration_ns = None;
        let call =
            Call { input_toks, output_toks, tool_duration_ns, input_tok_ids, output_tok_ids };
        let request = request(call, arrival, &at)?;
        with_ids |= request.hash_ids.is_some();
        draft.push(request, &at)?;
    }
    if with_ids {
        draft.set_block_tokens(BLOCK_TOKENS);
    }
    Ok(())
}

/// Pushes the calls of a session, each with the one before as its parent. Says whether any has
/// token ids.
fn push_session(
    draft: &mut Draft,
    row: &Row,
    arrival: Nanos,
    calls: Vec<Call>,
    at: &Place,
) -> Result<bool, WorkloadError> {
    if calls.is_empty() {
        let (expected, found) = ("at least one of sub_requests".into(), "none".into());
        return Err(WorkloadError::Row { at: at.clone(), expected, found });
    }
    let task = match &row.session_id {
        Some(SessionId::Text(name)) => draft.task(name, at)?,
        Some(SessionId::Number(number)) => draft.task(&number.to_string(), at)?,
        None => {
            let (expected, found) = ("session_id beside sub_requests".into(), "none".into());
            return Err(WorkloadError::Row { at: at.clone(), expected, found });
        }
    };
    let mut before: Option<(u32, Nanos)> = None;
    let mut with_ids = false;
    for call in calls {
        let wait = match &call.tool_duration_ns {
            Some(wait) => field::time(&wait.to_string(), TimeUnit::Nanos, "tool_duration_ns", at)?,
            None => 0,
        };
        let mut request = request(call, arrival, at)?;
        request.task = Some(task);
        request.parent = before.map(|(parent, _)| parent);
        request.wait_after_parent = before.map(|(_, wait)| wait);
        with_ids |= request.hash_ids.is_some();
        before = Some((draft.push(request, at)?, Nanos(wait)));
    }
    Ok(with_ids)
}

fn request(call: Call, arrival: Nanos, at: &Place) -> Result<RequestSpec, WorkloadError> {
    let prompt = field::count_json(&call.input_toks, "input_toks", 1, at)?;
    let output = field::count_json(&call.output_toks, "output_toks", 1, at)?;
    let ids = [
        ("input_tok_ids", call.input_tok_ids.len(), prompt),
        ("output_tok_ids", call.output_tok_ids.len(), output),
    ];
    for (name, found, expected) in ids {
        if found != 0 && found != expected as usize {
            let (expected, found) = (format!("{expected} {name}"), found.to_string());
            return Err(WorkloadError::Row { at: at.clone(), expected, found });
        }
    }
    let mut request = RequestSpec::new(arrival, prompt, output);
    if !call.input_tok_ids.is_empty() {
        request.hash_ids = Some(block_ids(&call.input_tok_ids));
        let (prompt, output) = (call.input_tok_ids.into(), call.output_tok_ids.into());
        request.content = Some(Box::new(Content::Tokens { prompt, output }));
    }
    Ok(request)
}

/// An id for each block, made from its tokens and all before it: equal ids are equal prefixes.
fn block_ids(tokens: &[u32]) -> Box<[u64]> {
    let mut id = 0u64;
    let blocks = tokens.chunks(BLOCK_TOKENS.get() as usize);
    blocks
        .map(|block| {
            let mut hash = Sha256::new();
            hash.update(id.to_le_bytes());
            block.iter().for_each(|token| hash.update(token.to_le_bytes()));
            let digest = hash.finalize();
            id = digest.iter().take(8).fold(0, |id, &byte| id << 8 | u64::from(byte));
            id
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{OpenOptions, Workload, read as read_any};
    use std::path::Path;

    fn opened(text: &str) -> Result<Workload, WorkloadError> {
        read_any(text.as_bytes(), Path::new("f"), &OpenOptions::default())
    }

    #[test]
    fn sessions_become_chains() {
        let text = "{\"session_id\":\"s\",\"arrival_time_ns\":4059740,\"sub_requests\":[\
            {\"input_toks\":1472,\"output_toks\":133,\"tool_duration_ns\":127348767},\
            {\"input_toks\":1582,\"output_toks\":125,\"tool_duration_ns\":197295027},\
            {\"input_toks\":1734,\"output_toks\":77,\"tool_duration_ns\":0}]}\n\
            {\"input_toks\":100,\"output_toks\":50,\"arrival_time_ns\":0}\n";
        let workload = opened(text).unwrap();
        let shown: Vec<_> = workload
            .requests
            .iter()
            .map(|r| (r.arrival.0, r.prompt_tokens, r.parent, r.wait_after_parent, r.task))
            .collect();
        assert_eq!(
            shown,
            [
                (0, 100, None, None, None),
                (4_059_740, 1_472, None, None, Some(0)),
                (4_059_740, 1_582, Some(1), Some(Nanos(127_348_767)), Some(0)),
                (4_059_740, 1_734, Some(2), Some(Nanos(197_295_027)), Some(0)),
            ]
        );
        assert_eq!(workload.block_tokens, None);
    }

    #[test]
    fn token_ids_are_kept_and_their_prefixes_known() {
        let row = |last: u32| {
            let ids: Vec<u32> = (0..19).chain([last]).collect();
            format!(
                "{{\"input_toks\":20,\"output_toks\":2,\"arrival_time_ns\":0,\
                 \"input_tok_ids\":{ids:?},\"output_tok_ids\":[5,6]}}\n"
            )
        };
        let workload = opened(&(row(90) + &row(91) + &row(90))).unwrap();
        assert_eq!(workload.duplicate_of(), [None, None, Some(0)]);
        let share = crate::workload::ideal_prefix_hits(&workload);
        assert_eq!((share.part, share.whole), (16 + 20, 60));
        assert!(matches!(
            workload.requests[0].content.as_deref(),
            Some(Content::Tokens { prompt, output }) if prompt.len() == 20 && output[..] == [5, 6]
        ));
    }

    #[test]
    fn contradictions_are_refused() {
        for (text, found) in [
            ("{\"arrival_time_ns\":1,\"input_toks\":3}\n", "neither input_toks with"),
            (
                "{\"arrival_time_ns\":1,\"input_toks\":3,\"output_toks\":1,\
                 \"input_tok_ids\":[1]}\n",
                "expected 3 input_tok_ids, found 1",
            ),
            (
                "{\"arrival_time_ns\":1,\"session_id\":1,\"sub_requests\":[]}\n",
                "at least one of sub_requests",
            ),
            (
                "{\"arrival_time_ns\":1,\"sub_requests\":[{\"input_toks\":1,\"output_toks\":1}]}\n",
                "expected session_id",
            ),
            (
                "{\"arrival_time_ns\":-1,\"input_toks\":3,\"output_toks\":1}\n",
                "expected arrival_time_ns as nanoseconds",
            ),
        ] {
            let error = opened(text).unwrap_err().to_string();
            assert!(error.contains(found), "{text}: {error}");
        }
    }
}
