//! Gemba's own file: JSONL that keeps everything a [`Workload`] knows.
//!
//! The first line describes the workload, each further line is a request. Fields that say
//! nothing are left out. `docs/workloads.md` lists them.

use std::io::{BufRead, Write};
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use serde_json::Number;

use super::draft::Draft;
use super::error::{Place, WorkloadError, quoted};
use super::field;
use super::json;
use super::line::Lines;
use super::note::Note;
use super::request::{Checker, Class, Content, RequestSpec, Slo, Workload};
use crate::event::Outcome;
use crate::unit::Nanos;

/// The version that is written.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    gemba_workload: u32,
    name: String,
    seed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    block_tokens: Option<NonZeroU32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recorded_start_unix_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Targets::is_empty")]
    slo: Targets,
    #[serde(default)]
    classes: Vec<ClassLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    notes: Option<Vec<Note>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassLine {
    name: String,
    #[serde(default, skip_serializing_if = "Targets::is_empty")]
    slo: Targets,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checker: Option<Checker>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Targets {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttft_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tpot_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e2el_ns: Option<u64>,
}

impl Targets {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn of(slo: Slo) -> Self {
        let nanos = |target: Option<Nanos>| target.map(|nanos| nanos.0);
        Self { ttft_ns: nanos(slo.ttft), tpot_ns: nanos(slo.tpot), e2el_ns: nanos(slo.e2el) }
    }

    fn slo(self) -> Slo {
        let target = |nanos: Option<u64>| nanos.map(Nanos);
        Slo { ttft: target(self.ttft_ns), tpot: target(self.tpot_ns), e2el: target(self.e2el_ns) }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    arrival_ns: u64,
    prompt_tokens: Number,
    output_tokens: Number,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash_ids: Option<Box<[u64]>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wait_after_parent_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cancel_after_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prompt_ids: Option<Box<[u32]>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output_ids: Option<Box<[u32]>>,
}

const EXPECTED_HEADER: &str =
    "an object with gemba_workload, name, seed, and optionally block_tokens, slo, classes, notes";
const EXPECTED: &str = "an object with arrival_ns, prompt_tokens, output_tokens";

/// What the first line says of the workload as a whole.
pub(super) struct Described {
    pub name: String,
    pub seed: u64,
    pub slo: Slo,
    /// Everything that is to be said; `None` where the file leaves that to inspection.
    pub notes: Option<Vec<Note>>,
}

/// Reads the rows into `draft`.
pub(super) fn read<R: BufRead>(
    lines: &mut Lines<R>,
    draft: &mut Draft,
) -> Result<Described, WorkloadError> {
    let path = lines.path().to_path_buf();
    let Some(first) = lines.next()? else { return Err(WorkloadError::Empty { path }) };
    let at = Place::line(&path, first.number);
    let header: Header = json::row(first, &at, EXPECTED_HEADER)?;
    if header.gemba_workload != VERSION {
        let expected = format!("gemba_workload {VERSION}");
        let found = header.gemba_workload.to_string();
        return Err(WorkloadError::Row { at, expected, found });
    }
    for class in header.classes {
        let slo = class.slo.slo();
        draft.add_class(Class { name: class.name, slo, checker: class.checker }, &at)?;
    }
    if let Some(tokens) = header.block_tokens {
        draft.set_block_tokens(tokens);
    }
    if let Some(start) = header.recorded_start_unix_ns {
        draft.recorded_start(start);
    }
    while let Some(line) = lines.next()? {
        let at = Place::line(&path, line.number);
        let row: Line = json::row(line, &at, EXPECTED)?;
        let request = request(row, header.block_tokens, draft, &at)?;
        draft.push(request, &at)?;
    }
    let slo = header.slo.slo();
    Ok(Described { name: header.name, seed: header.seed, slo, notes: header.notes })
}

fn request(
    row: Line,
    block_tokens: Option<NonZeroU32>,
    draft: &mut Draft,
    at: &Place,
) -> Result<RequestSpec, WorkloadError> {
    let wrong = |expected: String, found: String| {
        Err(WorkloadError::Row { at: at.clone(), expected, found })
    };
    let outcome = row.outcome.unwrap_or(Outcome::Completed);
    if !matches!(outcome, Outcome::Completed | Outcome::Failed | Outcome::Malformed) {
        let expected = "outcome completed, failed or malformed".to_owned();
        return wrong(expected, quoted(outcome.code()));
    }
    let prompt_tokens = field::count_json(&row.prompt_tokens, "prompt_tokens", 1, at)?;
    let least = u64::from(outcome != Outcome::Failed);
    let output_tokens = field::count_json(&row.output_tokens, "output_tokens", least, at)?;
    let blocks = block_tokens.map_or(0, |tokens| prompt_tokens.div_ceil(tokens.get())) as usize;
    if row.hash_ids.as_ref().is_some_and(|ids| ids.len() > blocks) {
        let expected = format!("at most {blocks} hash_ids for {prompt_tokens} tokens");
        return wrong(expected, row.hash_ids.map_or(0, |ids| ids.len()).to_string());
    }
    let parent = row.parent.filter(|&parent| (parent as usize) < draft.len());
    if row.parent != parent {
        let expected = "parent as the number of an earlier request, counted from 0".to_owned();
        return wrong(expected, row.parent.unwrap_or(0).to_string());
    }
    if row.wait_after_parent_ns.is_some() && parent.is_none() {
        return wrong("a parent beside wait_after_parent_ns".to_owned(), "none".to_owned());
    }
    for nanos in [row.arrival_ns, row.wait_after_parent_ns.unwrap_or(0)] {
        field::time(&nanos.to_string(), field::TimeUnit::Nanos, "a time", at)?;
    }
    if row.attempt == Some(0) {
        return wrong("attempt counted from 1".to_owned(), "0".to_owned());
    }
    for (name, wait) in [("cancel_after_ns", row.cancel_after_ns), ("timeout_ns", row.timeout_ns)] {
        if wait == Some(0) {
            return wrong(format!("{name} above 0"), "0".to_owned());
        }
        field::time(&wait.unwrap_or(0).to_string(), field::TimeUnit::Nanos, "a time", at)?;
    }
    let class = match &row.class {
        Some(name) => draft.class(name, at)?,
        None => 0,
    };
    let mut request = RequestSpec::new(Nanos(row.arrival_ns), prompt_tokens, output_tokens);
    request.hash_ids = row.hash_ids.filter(|ids| !ids.is_empty());
    request.class = class;
    request.task = row.task;
    request.parent = parent;
    request.wait_after_parent = row.wait_after_parent_ns.map(Nanos);
    request.attempt = row.attempt.unwrap_or(1);
    request.outcome = outcome;
    request.cancel_after = row.cancel_after_ns.map(Nanos);
    request.timeout = row.timeout_ns.map(Nanos);
    request.content = content(row.text, row.prompt_ids, row.output_ids, at)?;
    Ok(request)
}

fn content(
    text: Option<Box<str>>,
    prompt: Option<Box<[u32]>>,
    output: Option<Box<[u32]>>,
    at: &Place,
) -> Result<Option<Box<Content>>, WorkloadError> {
    Ok(match (text, prompt, output) {
        (Some(text), None, None) => Some(Box::new(Content::Text(text))),
        (None, Some(prompt), output) => {
            Some(Box::new(Content::Tokens { prompt, output: output.unwrap_or_default() }))
        }
        (None, None, None) => None,
        _ => {
            let expected = "either text, or prompt_ids with or without output_ids".to_owned();
            let found = "another combination".to_owned();
            return Err(WorkloadError::Row { at: at.clone(), expected, found });
        }
    })
}

/// Writes a workload so that reading it gives the same one.
pub(super) fn write(workload: &Workload, out: &mut dyn Write) -> std::io::Result<()> {
    let class = |class: &Class| ClassLine {
        name: class.name.clone(),
        slo: Targets::of(class.slo),
        checker: class.checker,
    };
    let header = Header {
        gemba_workload: VERSION,
        name: workload.name.clone(),
        seed: workload.seed,
        block_tokens: workload.block_tokens,
        recorded_start_unix_ns: workload.recorded_start_unix_nanos,
        slo: Targets::of(workload.slo),
        classes: workload.classes.iter().map(class).collect(),
        notes: Some(workload.notes.clone()),
    };
    serde_json::to_writer(&mut *out, &header)?;
    out.write_all(b"\n")?;
    for request in &workload.requests {
        serde_json::to_writer(&mut *out, &line(workload, request))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn line(workload: &Workload, request: &RequestSpec) -> Line {
    let nanos = |time: Option<Nanos>| time.map(|nanos| nanos.0);
    let (text, prompt_ids, output_ids) = match request.content.as_deref() {
        Some(Content::Text(text)) => (Some(text.clone()), None, None),
        Some(Content::Tokens { prompt, output }) => {
            (None, Some(prompt.clone()), (!output.is_empty()).then(|| output.clone()))
        }
        None => (None, None, None),
    };
    Line {
        arrival_ns: request.arrival.0,
        prompt_tokens: request.prompt_tokens.into(),
        output_tokens: request.output_tokens.into(),
        class: (workload.classes.len() > 1).then(|| workload.class_of(request).name.clone()),
        hash_ids: request.hash_ids.clone(),
        task: request.task,
        parent: request.parent,
        wait_after_parent_ns: nanos(request.wait_after_parent),
        attempt: (request.attempt != 1).then_some(request.attempt),
        outcome: (request.outcome != Outcome::Completed).then_some(request.outcome),
        cancel_after_ns: nanos(request.cancel_after),
        timeout_ns: nanos(request.timeout),
        text,
        prompt_ids,
        output_ids,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{OpenOptions, read as read_any};
    use std::path::Path;

    fn opened(bytes: &[u8]) -> Result<Workload, WorkloadError> {
        read_any(bytes, Path::new("g.jsonl"), &OpenOptions::default())
    }

    fn written(workload: &Workload) -> Vec<u8> {
        let mut out = Vec::new();
        write(workload, &mut out).unwrap();
        out
    }

    #[test]
    fn everything_comes_back() {
        let text = concat!(
            r#"{"gemba_workload":1,"name":"n","seed":9,"block_tokens":16,"#,
            r#""recorded_start_unix_ns":77,"slo":{"ttft_ns":5},"classes":[{"name":"a"},"#,
            r#"{"name":"b","slo":{"e2el_ns":8},"checker":"json"}],"#,
            r#""notes":[{"kind":"lengths","message":"lengths are scaled by 0.5"}]}"#,
            "\n",
            r#"{"arrival_ns":0,"prompt_tokens":20,"output_tokens":2,"class":"b","#,
            r#""hash_ids":[1,18446744073709551615]}"#,
            "\n",
            r#"{"arrival_ns":0,"prompt_tokens":3,"output_tokens":2,"class":"a","task":4,"#,
            r#""parent":0,"wait_after_parent_ns":6,"attempt":2,"outcome":"malformed","#,
            r#""cancel_after_ns":7,"timeout_ns":8,"prompt_ids":[1,2,3],"output_ids":[4,5]}"#,
            "\n",
            r#"{"arrival_ns":9,"prompt_tokens":3,"output_tokens":0,"class":"a","#,
            r#""outcome":"failed","text":"a\nb"}"#,
            "\n",
        );
        let workload = opened(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(written(&workload)).unwrap(), text);
        assert_eq!(workload.slo_of(&workload.requests[0]).e2el, Some(Nanos(8)));
        assert_eq!(workload.requests[1].wait_after_parent, Some(Nanos(6)));
        assert_eq!(workload.notes.len(), 1);
    }

    #[test]
    fn a_file_by_hand_needs_little() {
        let text = b"{\"gemba_workload\":1,\"name\":\"n\",\"seed\":0}\n\
            {\"arrival_ns\":5,\"prompt_tokens\":3,\"output_tokens\":1}\n\
            {\"arrival_ns\":2,\"prompt_tokens\":4,\"output_tokens\":1}";
        let workload = opened(text).unwrap();
        assert_eq!(workload.requests[0].prompt_tokens, 4);
        assert_eq!(workload.requests[1].arrival, Nanos(3));
        assert!(workload.notes.iter().any(|n| n.kind == crate::workload::NoteKind::Unsorted));
    }

    #[test]
    fn contradictions_are_refused() {
        let header = "{\"gemba_workload\":1,\"name\":\"n\",\"seed\":0,\"block_tokens\":16}\n";
        let row = |rest: &str| {
            format!("{header}{{\"arrival_ns\":0,\"prompt_tokens\":16,\"output_tokens\":1{rest}}}\n")
        };
        for (text, found) in [
            (header.replace("\":1", "\":2"), "expected gemba_workload 1, found 2"),
            (row(",\"hash_ids\":[1,2]"), "expected at most 1 hash_ids"),
            (row(",\"parent\":0"), "expected parent as the number of an earlier request"),
            (row(",\"wait_after_parent_ns\":0"), "expected a parent beside"),
            (row(",\"outcome\":\"rejected\""), "expected outcome completed, failed or malformed"),
            (row(",\"text\":\"a\",\"prompt_ids\":[1]"), "expected either text, or prompt_ids"),
            (row(",\"attempt\":0"), "expected attempt counted from 1, found 0"),
            (row(",\"cancel_after_ns\":0"), "expected cancel_after_ns above 0, found 0"),
            (row(",\"timeout_ns\":0"), "expected timeout_ns above 0, found 0"),
            (row(",\"class\":\" \""), "expected a class name, found \" \""),
            (
                header.replace("}", ",\"classes\":[{\"name\":\"a\"},{\"name\":\"a\"}]}"),
                "expected each class once, found \"a\" twice",
            ),
            (row(",\"colour\":1"), "unknown field `colour`"),
            (row(",\"arrival_ns\":1"), "duplicate field"),
            (row("").replace(":16,\"output", ":-16,\"output"), "expected prompt_tokens from 1"),
        ] {
            let error = opened(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(found), "{text}: {error}");
        }
    }
}
