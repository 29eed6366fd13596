//! Names: of the next run folder, and of the machine its calibration belongs to.

use std::path::{Path, PathBuf};

use super::super::Failure;

/// The next free folder under `runs`: `runs/0007-default-continuous`.
pub(in crate::command) fn next(workload: &str, scheduler: &str) -> Result<PathBuf, Failure> {
    let runs = Path::new("runs");
    let number = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.ok()?.file_name();
        name.to_str()?.split('-').next()?.parse::<u32>().ok()
    };
    let last = match std::fs::read_dir(runs) {
        Ok(entries) => entries.filter_map(number).max().unwrap_or(0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(Failure::new(format!("read runs: {error}"), None::<String>)),
    };
    let word: String = workload
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
        .take(40)
        .collect();
    Ok(runs.join(format!("{:04}-{word}-{scheduler}", last + 1)))
}

/// What tells machines apart as far as kernel times go, beside the device's name.
pub(in crate::command) fn machine(threads: usize) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if threads == 0 { cores } else { threads };
    format!("{} {threads} threads of {cores}", std::env::consts::ARCH)
}
