//! Writing a workload: Gemba's own format keeps everything; the others keep what they can hold,
//! and say what they cannot.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::error::WorkloadError;
use super::note::{Note, NoteKind};
use super::request::{RequestSpec, Workload};
use super::{Format, canonical, field, mooncake};
use crate::event::Outcome;
use crate::unit::{Nanos, grouped};

/// Writes `workload` to `path`: beside it first, renamed when whole, so that no reader ever sees
/// a part. Gives a note for everything that `format` could not hold.
///
/// # Errors
/// When `format` cannot hold everything and `lossy` is false, when it is a format that is not
/// written, or when writing fails.
pub fn export(
    workload: &Workload,
    path: &Path,
    format: Format,
    lossy: bool,
) -> Result<Vec<Note>, WorkloadError> {
    let losses = losses(workload, format);
    if !lossy && !losses.is_empty() {
        let found = losses.iter().map(|note| note.message.as_str()).collect::<Vec<_>>().join("; ");
        return Err(WorkloadError::Loss { path: path.to_path_buf(), format, found });
    }
    let write: fn(&Workload, &mut dyn Write) -> std::io::Result<()> = match format {
        Format::Gemba => canonical::write,
        Format::Azure => write_azure,
        Format::Mooncake => write_mooncake,
        Format::Vidur => write_vidur,
        _ => {
            let found = "that it is only read; written are gemba, azure, mooncake and vidur";
            let (path, found) = (path.to_path_buf(), found.to_owned());
            return Err(WorkloadError::Loss { path, format, found });
        }
    };
    let whole = |file: File| {
        let mut out = BufWriter::new(file);
        write(workload, &mut out)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error)
    };
    let failed = |source| WorkloadError::Write { path: path.to_path_buf(), source };
    let target = match fs::metadata(path) {
        // A pipe or a device must not be replaced by a file.
        Ok(found) if !found.is_file() => {
            let through = File::options().write(true).open(path);
            through.and_then(whole).map_err(failed)?;
            return Ok(losses);
        }
        // A link stays one.
        Ok(_) => fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()),
        Err(_) => path.to_path_buf(),
    };
    let beside = beside(&target);
    let written = File::create(&beside).and_then(whole).and_then(|file| {
        file.sync_all()?;
        fs::rename(&beside, &target)
    });
    written.map_err(|source| {
        // What is half-written must not stay; that this fails too cannot be helped.
        let _gone = fs::remove_file(&beside);
        failed(source)
    })?;
    Ok(losses)
}

/// A name in the same folder, so that the rename stays on one file system.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

/// What `format` cannot hold of `workload`, a note for each; none if it holds everything.
#[must_use]
pub fn losses(workload: &Workload, format: Format) -> Vec<Note> {
    if format == Format::Gemba {
        return Vec::new();
    }
    let requests = &workload.requests;
    let count = |has: &dyn Fn(&RequestSpec) -> bool| requests.iter().filter(|r| has(r)).count();
    let grain = match format {
        Format::Azure => 100,
        Format::Mooncake => 1_000_000,
        _ => 1,
    };
    let holds_blocks =
        format == Format::Mooncake && workload.block_tokens == Some(mooncake::BLOCK_TOKENS);
    let classes = usize::from(workload.classes.len() > 1) * requests.len();
    let judged = workload.classes.iter().any(|class| class.checker.is_some());
    let targets = workload.slo != super::Slo::default()
        || workload.classes.iter().any(|class| class.slo != super::Slo::default());
    let patience = |r: &RequestSpec| r.cancel_after.is_some() || r.timeout.is_some();
    let relation = |r: &RequestSpec| r.parent.is_some() || r.task.is_some() || r.attempt != 1;
    let losses = [
        (count(&|r| r.arrival.0 % grain != 0), format!("arrival times finer than {grain} ns")),
        (
            if holds_blocks { 0 } else { count(&|r| r.hash_ids.is_some()) },
            "block ids of shared prefixes".to_owned(),
        ),
        (classes, "classes".to_owned()),
        (usize::from(targets) * requests.len(), "service level objectives".to_owned()),
        (usize::from(judged) * requests.len(), "checkers".to_owned()),
        (count(&relation), "sessions, parents and waits".to_owned()),
        (
            count(&|r| r.outcome != Outcome::Completed),
            "recorded outcomes (failures are left out)".to_owned(),
        ),
        (count(&patience), "cancellations and time limits".to_owned()),
        (count(&|r| r.content.is_some()), "literal text or token ids".to_owned()),
    ];
    losses
        .into_iter()
        .filter(|(requests, _)| *requests > 0)
        .map(|(requests, what)| {
            let message = format!("{what} of {} requests", grouped(requests as i128));
            Note::new(NoteKind::Loss, message)
        })
        .collect()
}

/// What the formats of others can express: requests that answer something.
fn answered(workload: &Workload) -> impl Iterator<Item = &RequestSpec> {
    workload.requests.iter().filter(|request| request.output_tokens > 0)
}

/// As the files of 2023: CRLF, seven fractional digits, no line end after the last row. Without
/// a recorded beginning the clock starts in 1970.
fn write_azure(workload: &Workload, out: &mut dyn Write) -> std::io::Result<()> {
    let start = workload.recorded_start_unix_nanos.unwrap_or(0);
    out.write_all(b"TIMESTAMP,ContextTokens,GeneratedTokens")?;
    for request in answered(workload) {
        let rounded = start.saturating_add(request.arrival.0).saturating_add(50);
        let time = field::calendar_text(rounded);
        write!(out, "\r\n{time},{},{}", request.prompt_tokens, request.output_tokens)?;
    }
    Ok(())
}

fn write_mooncake(workload: &Workload, out: &mut dyn Write) -> std::io::Result<()> {
    let blocks = workload.block_tokens == Some(mooncake::BLOCK_TOKENS);
    for request in answered(workload) {
        let millis = (request.arrival.0 + 500_000) / 1_000_000;
        let (prompt, output) = (request.prompt_tokens, request.output_tokens);
        write!(
            out,
            "{{\"timestamp\": {millis}, \"input_length\": {prompt}, \"output_length\": {output}, \
             \"hash_ids\": ["
        )?;
        let ids = request.hash_ids.as_deref().filter(|_| blocks).unwrap_or_default();
        for (index, id) in ids.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(out, "{comma}{id}")?;
        }
        out.write_all(b"]}\n")?;
    }
    Ok(())
}

fn write_vidur(workload: &Workload, out: &mut dyn Write) -> std::io::Result<()> {
    out.write_all(b"arrived_at,num_prefill_tokens,num_decode_tokens\n")?;
    for request in answered(workload) {
        let Nanos(nanos) = request.arrival;
        let (seconds, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        let (prompt, output) = (request.prompt_tokens, request.output_tokens);
        writeln!(out, "{seconds}.{fraction:09},{prompt},{output}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{OpenOptions, open, read};

    fn azure() -> Workload {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
                    2023-11-16 18:17:03.9799600,4808,10\r\n2023-11-16 18:17:04.0319600,3180,8";
        read(text.as_bytes(), Path::new("code.csv"), &OpenOptions::default()).unwrap()
    }

    fn written(workload: &Workload, format: Format, lossy: bool) -> (Vec<u8>, Workload) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        export(workload, &path, format, lossy).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        (fs::read(&path).unwrap(), open(&path, &OpenOptions::default()).unwrap())
    }

    #[test]
    fn azure_comes_back_to_the_byte() {
        let (bytes, again) = written(&azure(), Format::Azure, false);
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
             2023-11-16 18:17:03.9799600,4808,10\r\n2023-11-16 18:17:04.0319600,3180,8"
        );
        assert_eq!(again.requests, azure().requests);
    }

    #[test]
    fn the_same_rows_in_every_format() {
        for format in [Format::Azure, Format::Mooncake, Format::Vidur, Format::Gemba] {
            let (_, again) = written(&azure(), format, false);
            assert_eq!((again.format, &again.requests), (format, &azure().requests));
        }
    }

    #[test]
    fn what_cannot_be_held_is_refused_or_said() {
        let mut workload = azure();
        workload.requests[1].arrival = Nanos(52_000_123);
        workload.requests[1].timeout = Some(Nanos(5));
        let path = Path::new("/nowhere/at/all");
        let error = export(&workload, path, Format::Mooncake, false).unwrap_err().to_string();
        assert!(error.contains("arrival times finer than 1000000 ns of 1 requests"), "{error}");
        assert!(error.contains("time limits of 1 requests"), "{error}");
        let (_, again) = written(&workload, Format::Mooncake, true);
        assert_eq!(again.requests[1].arrival, Nanos(52_000_000));
        assert_eq!(losses(&workload, Format::Gemba), []);
        assert!(matches!(
            export(&workload, path, Format::Gemba, false),
            Err(WorkloadError::Write { .. })
        ));
        assert!(matches!(
            export(&azure(), path, Format::BurstGpt, true),
            Err(WorkloadError::Loss { .. })
        ));
    }
}
