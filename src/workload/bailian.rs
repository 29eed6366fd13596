//! Qwen-Bailian traces: JSONL like Mooncake's, with times in seconds, blocks of 16 tokens, and
//! conversations: each request names its own `chat_id` and its `parent_chat_id` (−1 for a root).
//!
//! Requests keep their recorded times; the parent says only what they build on.

use std::collections::HashMap;
use std::io::BufRead;
use std::num::NonZeroU32;

use serde::Deserialize;
use serde_json::Number;

use super::draft::Draft;
use super::error::{Place, WorkloadError};
use super::field::{self, TimeUnit};
use super::json;
use super::line::Lines;
use super::mooncake::BlockIds;
use super::note::{Note, NoteKind};
use super::request::RequestSpec;
use crate::unit::{Nanos, grouped};

const BLOCK_TOKENS: NonZeroU32 = NonZeroU32::new(16).unwrap();

#[derive(Deserialize)]
struct Row {
    chat_id: i64,
    #[serde(default = "root")]
    parent_chat_id: i64,
    timestamp: Number,
    input_length: Number,
    output_length: Number,
    #[serde(default = "unnamed", rename = "type")]
    kind: String,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

const fn root() -> i64 {
    -1
}

fn unnamed() -> String {
    "default".to_owned()
}

const EXPECTED: &str =
    "an object with chat_id, parent_chat_id, timestamp, input_length, output_length, hash_ids";

/// Reads the rows into `draft`.
pub(super) fn read<R: BufRead>(
    lines: &mut Lines<R>,
    draft: &mut Draft,
) -> Result<(), WorkloadError> {
    let path = lines.path().to_path_buf();
    let mut blocks = BlockIds::of(BLOCK_TOKENS);
    let mut index_of_chat = HashMap::new();
    let mut children = Vec::new();
    while let Some(line) = lines.next()? {
        let at = Place::line(&path, line.number);
        let row: Row = json::row(line, &at, EXPECTED)?;
        let time = row.timestamp.to_string();
        let nanos = field::time(&time, TimeUnit::Seconds, "timestamp", &at)?;
        let prompt = field::count_json(&row.input_length, "input_length", 1, &at)?;
        let output = field::count_json(&row.output_length, "output_length", 1, &at)?;
        let mut request = RequestSpec::new(Nanos(nanos), prompt, output);
        request.hash_ids = blocks.take(row.hash_ids, prompt, &at)?;
        request.class = draft.class(&row.kind, &at)?;
        let index = draft.push(request, &at)?;
        index_of_chat.insert(row.chat_id, index);
        if row.parent_chat_id >= 0 {
            children.push((index, row.parent_chat_id));
        }
    }
    let parents =
        children.iter().map(|&(child, chat)| (child, index_of_chat.get(&chat).copied())).collect();
    relate(draft, parents);
    blocks.finish(draft);
    Ok(())
}

/// Sets parents, and numbers conversations by their first request. A parent that the file does
/// not hold, or that comes later than its child, is dropped and counted.
fn relate(draft: &mut Draft, parents: Vec<(u32, Option<u32>)>) {
    let mut lost = 0usize;
    for (child, parent) in parents {
        let earlier = parent.filter(|&parent| draft.comes_before(parent, child));
        lost += usize::from(earlier.is_none());
        if let Some(request) = draft.request_mut(child) {
            request.parent = earlier;
        }
    }
    draft.number_tasks_by_root();
    if lost > 0 {
        let message = format!(
            "{} requests name a parent that the file does not hold before them; they are \
             replayed as beginnings of a conversation",
            grouped(lost as i128)
        );
        draft.note(Note::new(NoteKind::LostRelation, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{OpenOptions, Workload, read as read_any};
    use std::path::Path;

    fn opened(text: &str) -> Result<Workload, WorkloadError> {
        read_any(text.as_bytes(), Path::new("f"), &OpenOptions::default())
    }

    fn row(chat: i64, parent: i64, time: f64, length: u32, ids: &[u64]) -> String {
        format!(
            "{{\"chat_id\":{chat},\"parent_chat_id\":{parent},\"timestamp\":{time:?},\
             \"input_length\":{length},\"output_length\":5,\"type\":\"text\",\"turn\":1,\
             \"hash_ids\":{ids:?}}}\n"
        )
    }

    #[test]
    fn conversations_are_related() {
        let text = row(7, -1, 0.5, 20, &[1, 2])
            + &row(8, -1, 0.75, 16, &[3])
            + &row(9, 7, 61.114, 40, &[1, 4, 5])
            + &row(10, 9, 70.0, 48, &[1, 4, 6])
            + &row(11, 99, 71.0, 16, &[9]);
        let workload = opened(&text).unwrap();
        assert_eq!(workload.block_tokens, NonZeroU32::new(16));
        let of = |i: usize| (workload.requests[i].parent, workload.requests[i].task);
        assert_eq!(of(0), (None, Some(0)));
        assert_eq!(of(1), (None, Some(1)));
        assert_eq!(of(2), (Some(0), Some(0)));
        assert_eq!(of(3), (Some(2), Some(0)));
        assert_eq!(of(4), (None, Some(2)));
        assert_eq!(workload.requests[2].arrival, Nanos(60_614_000_000));
        assert_eq!(workload.requests[2].wait_after_parent, None);
        assert_eq!(workload.class_of(&workload.requests[0]).name, "text");
        assert!(workload.notes.iter().any(|note| note.kind == NoteKind::LostRelation));
    }

    #[test]
    fn loops_among_parents_are_cut() {
        let text = row(1, 2, 0.0, 16, &[1]) + &row(2, 1, 0.0, 16, &[2]) + &row(3, 3, 1.0, 9, &[]);
        let workload = opened(&text).unwrap();
        let parents: Vec<_> = workload.requests.iter().map(|r| r.parent).collect();
        assert_eq!(parents, [None, Some(0), None]);
    }

    #[test]
    fn more_ids_than_blocks_are_refused() {
        let error = opened(&row(1, -1, 0.0, 16, &[1, 2])).unwrap_err().to_string();
        assert!(error.contains("f:1: expected at most 1 hash_ids for 16 tokens"), "{error}");
    }
}
