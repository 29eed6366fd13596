//! BurstGPT traces: CSV with `Timestamp` (s), `Model`, `Request tokens`, `Response tokens`,
//! `Log Type`; newer files add `Session ID` and `Elapsed time`. Columns are found by name.
//!
//! `Response tokens` 0 is a recorded failure: the request is kept, and will fail.

use std::io::BufRead;

use super::draft::Draft;
use super::error::{Place, WorkloadError};
use super::field::{self, TimeUnit};
use super::line::Lines;
use super::note::{Note, NoteKind};
use super::request::RequestSpec;
use super::table::Table;
use crate::event::Outcome;
use crate::unit::{Nanos, grouped};

/// Reads the rows into `draft`.
pub(super) fn read<R: BufRead>(
    lines: &mut Lines<R>,
    draft: &mut Draft,
) -> Result<(), WorkloadError> {
    let required = ["Timestamp", "Request tokens", "Response tokens"];
    let table = Table::open(lines, &required, &["Model", "Log Type", "Session ID"])?;
    let path = lines.path().to_path_buf();
    let mut without_prompt = 0usize;
    while let Some(line) = lines.next()? {
        let at = Place::line(&path, line.number);
        let [time, prompt, output, model, log, session] = table.row::<6>(line, &at)?;
        let nanos = field::time(&time, TimeUnit::Seconds, "Timestamp", &at)?;
        let output = field::count(&output, "Response tokens", 0, &at)?;
        let failed = output == 0;
        let prompt = field::count(&prompt, "Request tokens", u64::from(!failed), &at)?;
        if prompt == 0 {
            without_prompt += 1;
            continue;
        }
        let mut request = RequestSpec::new(Nanos(nanos), prompt, output);
        if failed {
            request.outcome = Outcome::Failed;
        }
        let class = match (model.trim(), log.trim()) {
            ("", "") => "default".to_owned(),
            (one, "") | ("", one) => one.to_owned(),
            (model, log) => format!("{model}, {log}"),
        };
        request.class = draft.class(&class, &at)?;
        if !session.trim().is_empty() {
            request.task = Some(draft.task(session.trim(), &at)?);
        }
        draft.push(request, &at)?;
    }
    if without_prompt > 0 {
        let message = format!(
            "{} failures have no prompt either: nothing to replay, left out",
            grouped(without_prompt as i128)
        );
        draft.note(Note::new(NoteKind::Skipped, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Format, OpenOptions, Workload, read as read_any};
    use std::path::Path;

    fn opened(text: &str) -> Result<Workload, WorkloadError> {
        read_any(text.as_bytes(), Path::new("f"), &OpenOptions::default())
    }

    #[test]
    fn columns_by_name_and_failures_kept() {
        let old = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                   5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,API log\n\
                   118.5,GPT-4,417,276,693,Conversation log\n46,ChatGPT,0,0,0,API log\n";
        let workload = opened(old).unwrap();
        assert_eq!((workload.format, workload.requests.len()), (Format::BurstGpt, 3));
        let failed = &workload.requests[1];
        assert_eq!((failed.outcome, failed.output_tokens), (Outcome::Failed, 0));
        assert_eq!(workload.requests[2].arrival, Nanos(113_500_000_000));
        let names: Vec<_> = workload.classes.iter().map(|class| class.name.as_str()).collect();
        assert_eq!(
            names,
            ["ChatGPT, Conversation log", "ChatGPT, API log", "GPT-4, Conversation log"]
        );
        for kind in [NoteKind::RecordedFailures, NoteKind::Skipped] {
            assert!(workload.notes.iter().any(|note| note.kind == kind));
        }
        let new = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,\
                   Total tokens,Log Type\n5,a,1.5,M,4,18,22,L\n6,b,1.5,M,4,18,22,L\n\
                   7,a,1.5,M,4,18,22,L\n";
        let tasks: Vec<_> = opened(new).unwrap().requests.iter().map(|r| r.task).collect();
        assert_eq!(tasks, [Some(0), Some(1), Some(0)]);
    }

    #[test]
    fn a_zero_prompt_with_an_answer_is_refused() {
        let text = "Timestamp,Request tokens,Response tokens\n5,0,18\n";
        let error = opened(text).unwrap_err().to_string();
        assert!(error.contains("f:2: expected Request tokens from 1"), "{error}");
    }
}
