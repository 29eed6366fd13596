//! `launches.parquet`: the one table that may be larger than memory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use polars::io::parquet::metadata::FileMetadataRef;
use polars::io::parquet::write::BatchedWriter;
use polars::polars_utils::compression::ZstdLevel;
use polars::prelude::*;

use super::super::run::{Launches, sorted_names};
use super::super::{TraceError, plausible};
use super::columns::{
    ABSENT, Columns, Table, Vocabulary, check_origin, failed, origin, plain, present, reader,
};
use crate::event::{Driver, Dtype, KernelId, Launch, StepId};
use crate::unit::{Bytes, Nanos, Ops, make_printable, printable};

/// Rows of a row group, and of a chunk when reading.
const CHUNK: usize = 1 << 18;

/// Writes `launches.parquet` in chunks.
pub struct TableWriter {
    path: PathBuf,
    beside: PathBuf,
    places: Vec<KernelId>,
    words: Words,
    waiting: Vec<Launch>,
    writer: Option<BatchedWriter<File>>,
    rows: u64,
}

struct Words {
    kernel: Vocabulary,
    dtype: Vocabulary,
    driver: Vocabulary,
}

impl TableWriter {
    /// Begins a table of the run `run` beside `path`; `kernels` names the kernels by number.
    ///
    /// # Errors
    /// [`TraceError`] if the file cannot be created.
    pub fn create(path: &Path, kernels: &[String], run: Option<&str>) -> Result<Self, TraceError> {
        let write = failed("write", path);
        let (names, places) = sorted_names(kernels);
        let words = Words {
            kernel: Vocabulary::new(names.iter().map(String::as_str)).map_err(&write)?,
            dtype: Vocabulary::new(Dtype::ALL.iter().map(|d| d.code())).map_err(&write)?,
            driver: Vocabulary::new(Driver::ALL.iter().map(|d| d.code())).map_err(&write)?,
        };
        let (path, beside) = (path.to_path_buf(), path.with_extension("parquet.part"));
        let waiting = Vec::new();
        let mut table = Self { path, beside, places, words, waiting, writer: None, rows: 0 };
        let schema = table.frame(&[]).map_err(failed("write", &table.path))?;
        let file = File::create(&table.beside).map_err(TraceError::io("create", &table.path))?;
        let writer = ParquetWriter::new(file)
            .with_compression(ParquetCompression::Zstd(Some(
                ZstdLevel::try_new(1).map_err(failed("write", &table.path))?,
            )))
            .with_statistics(StatisticsOptions::empty())
            .with_row_group_size(Some(CHUNK))
            .with_key_value_metadata(origin(run))
            .batched(schema.schema())
            .map_err(failed("write", &table.path))?;
        table.writer = Some(writer);
        Ok(table)
    }

    /// Appends launches, which come in the canonical order.
    ///
    /// # Errors
    /// [`TraceError`] if the disk is full or fails.
    pub fn write(&mut self, launches: &[Launch]) -> Result<(), TraceError> {
        self.waiting.extend_from_slice(launches);
        while self.waiting.len() >= CHUNK {
            let rest = self.waiting.split_off(CHUNK);
            self.flush()?;
            self.waiting = rest;
        }
        Ok(())
    }

    /// Ends the table and puts it in its place; returns its rows.
    ///
    /// # Errors
    /// [`TraceError`] if the disk is full or fails.
    pub fn finish(mut self) -> Result<u64, TraceError> {
        self.flush()?;
        if let Some(writer) = self.writer.take() {
            writer.finish().map_err(failed("write", &self.path))?;
        }
        std::fs::rename(&self.beside, &self.path).map_err(TraceError::io("rename", &self.path))?;
        Ok(self.rows)
    }

    fn flush(&mut self) -> Result<(), TraceError> {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() && self.rows > 0 {
            return Ok(());
        }
        let write = failed("write", &self.path);
        let frame = self.frame(&waiting).map_err(&write)?;
        self.rows += waiting.len() as u64;
        match &mut self.writer {
            Some(writer) => writer.write_batch(&frame).map_err(&write),
            None => Ok(()),
        }
    }

    fn frame(&self, launches: &[Launch]) -> PolarsResult<DataFrame> {
        let all = || launches.iter();
        let place = |l: &Launch| self.places.get(usize::from(l.kernel.0));
        let kernel = |l: &Launch| place(l).map(|place| usize::from(place.0));
        Columns::default()
            .int("device", all().map(|l| l.device.into()))
            .int("stream", all().map(|l| l.stream.into()))
            .maybe("step_id", all().map(|l| l.step.map(|step| step.0)))
            .maybe("layer", all().map(|l| l.layer.map(u64::from)))
            .words("kernel", &self.words.kernel, all().map(kernel))?
            .int("start_ns", all().map(|l| l.start.0))
            .int("end_ns", all().map(|l| l.end.0))
            .int("weight_bytes", all().map(|l| l.weight_bytes.0))
            .int("kv_bytes", all().map(|l| l.kv_bytes.0))
            .int("activation_bytes", all().map(|l| l.activation_bytes.0))
            .int("excess_bytes", all().map(|l| l.excess_bytes.0))
            .int("ops", all().map(|l| l.ops.0))
            .words(
                "dtype",
                &self.words.dtype,
                all().map(|l| Dtype::ALL.iter().position(|d| *d == l.dtype)),
            )?
            .words(
                "driver",
                &self.words.driver,
                all().map(|l| Driver::ALL.iter().position(|d| *d == l.driver)),
            )?
            .frame()
    }
}

impl Drop for TableWriter {
    fn drop(&mut self) {
        // After a rename there is nothing beside; before it, half a table must not stay.
        let _ = std::fs::remove_file(&self.beside);
    }
}

/// Opens a table: its launches and its kernels' names.
pub(super) fn open(path: &Path, run: Option<&str>) -> Result<(Launches, Vec<String>), TraceError> {
    if let Some((rows, mut kernels)) = declared(path, run)? {
        kernels.iter_mut().for_each(make_printable);
        kernels.sort();
        kernels.dedup();
        return Ok((Launches::Table { path: path.to_path_buf(), rows }, kernels));
    }
    let mut kernels: Vec<String> = Vec::new();
    let rows = scan(path, "kernel", |table| {
        for mut name in table.distinct_words("kernel")? {
            make_printable(&mut name);
            if !kernels.contains(&name) {
                kernels.push(name);
            }
        }
        Ok(())
    })?;
    kernels.sort();
    Ok((Launches::Table { path: path.to_path_buf(), rows }, kernels))
}

/// The rows of a table and the words that its column of kernels may hold, if the table says so,
/// as ours do. Others are read through for them.
fn declared(path: &Path, run: Option<&str>) -> Result<Option<(u64, Vec<String>)>, TraceError> {
    let mut reader = reader(path)?;
    check_origin(&mut reader, path, run)?;
    let rows = reader.num_rows().map_err(failed("read", path))?;
    let schema = reader.schema().map_err(failed("read", path))?;
    let Some(DataType::Enum(words, _)) = schema.get("kernel").map(|field| Field::from(field).dtype)
    else {
        return Ok(None);
    };
    let words = words.categories().values_iter().map(str::to_owned).collect();
    Ok(Some((rows as u64, words)))
}

/// When the last launch of a table ended.
pub(super) fn last_end(path: &Path) -> Result<Nanos, TraceError> {
    let mut last = Nanos::ZERO;
    scan(path, "end_ns", |table| {
        last = last.max(Nanos(table.ints("end_ns")?.iter().copied().max().unwrap_or(0)));
        Ok(())
    })?;
    Ok(last)
}

/// Goes through one column and gives the number of rows.
fn scan(
    path: &Path,
    column: &str,
    mut each: impl FnMut(&Table<'_>) -> Result<(), TraceError>,
) -> Result<u64, TraceError> {
    let metadata = plain(&mut reader(path)?, path)?;
    let mut at = 0;
    while at < metadata.num_rows {
        let table = slice(path, &metadata, at, Some(&[column]))?;
        if table.frame.height() == 0 {
            return Err(TraceError::malformed(path, "it ends before its last row"));
        }
        at += table.frame.height();
        each(&table)?;
    }
    Ok(at as u64)
}

fn slice<'a>(
    path: &'a Path,
    metadata: &FileMetadataRef,
    at: usize,
    columns: Option<&[&str]>,
) -> Result<Table<'a>, TraceError> {
    let columns = columns.map(|names| names.iter().map(|&name| name.to_owned()).collect());
    let mut reader = reader(path)?;
    reader.set_metadata(Arc::clone(metadata));
    let frame = reader
        .with_columns(columns)
        .with_slice(Some((at, CHUNK)))
        .finish()
        .map_err(failed("read", path))?;
    Ok(Table { path, frame })
}

fn decode(table: &Table<'_>, kernels: &[String]) -> Result<Vec<Launch>, TraceError> {
    let id = |name: &str| {
        let name = printable(name);
        let place = kernels.iter().position(|kernel| *kernel == name)?;
        Some(KernelId(u16::try_from(place).ok()?))
    };
    let device: Vec<u16> = table.narrow("device")?;
    let stream: Vec<u16> = table.narrow("stream")?;
    let step = table.ints("step_id")?;
    let layer = table.ints("layer")?;
    let kernel = table.words("kernel", id)?;
    let start = table.ints("start_ns")?;
    let end = table.ints("end_ns")?;
    let weight = table.ints("weight_bytes")?;
    let kv = table.ints("kv_bytes")?;
    let activation = table.ints("activation_bytes")?;
    let excess = table.ints("excess_bytes")?;
    let ops = table.ints("ops")?;
    let dtype =
        table.words("dtype", |word| Dtype::ALL.iter().copied().find(|d| d.code() == word))?;
    let driver =
        table.words("driver", |word| Driver::ALL.iter().copied().find(|d| d.code() == word))?;
    let launch = |i: usize| Launch {
        device: device[i],
        stream: stream[i],
        step: present(step[i]).map(StepId),
        layer: (layer[i] != ABSENT).then(|| layer[i] as u16),
        kernel: kernel[i],
        start: Nanos(start[i]),
        end: Nanos(end[i]),
        weight_bytes: Bytes(weight[i]),
        kv_bytes: Bytes(kv[i]),
        activation_bytes: Bytes(activation[i]),
        excess_bytes: Bytes(excess[i]),
        ops: Ops(ops[i]),
        dtype: dtype[i],
        driver: driver[i],
    };
    let checked = |i: usize| {
        let launch = launch(i);
        let lies = |what| TraceError::malformed(table.path, what);
        plausible::launch(&launch).map_err(lies)?;
        if launch.end < launch.start {
            return Err(lies(format!("launch at {} ns: it ends before it starts", launch.start.0)));
        }
        Ok(launch)
    };
    (0..table.frame.height()).map(checked).collect()
}

/// Gives a table's launches in chunks, the next one being decoded meanwhile.
pub(in crate::trace) fn each_chunk<E: From<TraceError>>(
    path: &Path,
    rows: u64,
    kernels: &[String],
    mut each: impl FnMut(&[Launch]) -> Result<(), E>,
) -> Result<(), E> {
    std::thread::scope(|scope| {
        let (sender, chunks) = mpsc::sync_channel(1);
        scope.spawn(move || {
            let metadata = match reader(path).and_then(|mut reader| plain(&mut reader, path)) {
                Ok(metadata) => metadata,
                // A receiver that has gone has its error already.
                Err(error) => return drop(sender.send(Err(error))),
            };
            let mut at = 0;
            while at < rows as usize {
                let table = slice(path, &metadata, at, None);
                let chunk = table.and_then(|table| decode(&table, kernels));
                let got = chunk.as_ref().map_or(0, Vec::len);
                at += got;
                if sender.send(chunk).is_err() || got == 0 {
                    return;
                }
            }
        });
        for chunk in chunks {
            each(&chunk?)?;
        }
        Ok(())
    })
}
