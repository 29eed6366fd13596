//! `run.json`: what ran, on what, how. No environment, command line, host or user name.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{CountersHeader, MeterHeader, TraceError};
use crate::event::{Calibration, Ceilings};
use crate::unit::{Bytes, Nanos, make_printable};

/// The schema this version writes. Readers refuse a newer one.
pub const SCHEMA: &str = "gemba.run/1";

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is being written, or its writer was killed.
    Running,
    /// It ended by itself.
    Complete,
    /// It was interrupted: what is there is right, and there could have been more.
    Truncated,
    /// The device or the disk failed.
    Failed,
}

impl Status {
    /// The word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Truncated => "truncated",
            Self::Failed => "failed",
        }
    }
}

/// The time that is accounted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Where it begins.
    pub start_ns: Nanos,
    /// Where it ends (half-open).
    pub end_ns: Nanos,
}

/// A device of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceHeader {
    /// Its number.
    pub id: u16,
    /// `cpu` or `cuda`.
    pub kind: String,
    /// The maker's name for it.
    pub name: String,
    /// Memory it has.
    pub memory_bytes: Bytes,
    /// Its measured roofs.
    pub ceilings: Ceilings,
    /// The measured time of each kernel by its amount.
    #[serde(default)]
    pub calibration: Vec<Calibration>,
}

/// The model that ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelHeader {
    /// What the user called it.
    pub name: String,
    /// What identifies its weights.
    pub sha256: String,
    /// Its dimensions.
    pub shape: serde_json::Value,
    /// The format its matrices were multiplied in.
    pub precision: String,
    /// The format of the KV cache.
    pub kv_precision: String,
}

/// The workload that ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadHeader {
    /// What the user called it.
    pub name: String,
    /// Of its file.
    pub sha256: String,
    /// Of everything random in it.
    pub seed: u64,
    /// Requests it asked for.
    pub requests: u64,
    /// What was done to it and what it could not say: factors, sorting, duplicates.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What the consumer was promised, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slo {
    /// Time to the first token.
    pub ttft_ns: Option<Nanos>,
    /// Time per output token after the first.
    pub tpot_ns: Option<Nanos>,
    /// Time from arrival to the last token.
    pub e2e_ns: Option<Nanos>,
}

impl Slo {
    /// Whether anything was promised.
    #[must_use]
    pub const fn is_some(&self) -> bool {
        self.ttft_ns.is_some() || self.tpot_ns.is_some() || self.e2e_ns.is_some()
    }
}

/// What a device costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Pico-dollars per device and hour.
    pub picodollars_per_device_hour: u64,
}

/// The declared power of a device without a meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnergyModel {
    /// Milliwatts whether it works or not.
    pub idle_mw: u64,
    /// Milliwatts while it works.
    pub busy_mw: u64,
}

/// What recording cost, from paired runs with and without it. What it takes to time operations is a
/// part of it where a device can leave that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observer {
    /// Pairs of runs.
    pub pairs: u32,
    /// The median extra time per launch; zero where none could be seen.
    pub ns_per_launch: u64,
    /// The median extra share of run time, in parts per million; may be negative: noise.
    pub share_ppm: i64,
    /// The quartiles of that share.
    pub share_ppm_quartiles: [i64; 2],
}

/// Who wrote the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GembaHeader {
    /// The version.
    pub version: String,
}

/// `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`SCHEMA`].
    pub schema: String,
    /// How the run stands.
    pub status: Status,
    /// The time that is accounted for.
    pub window: Window,
    /// The devices.
    pub devices: Vec<DeviceHeader>,
    /// The model.
    pub model: ModelHeader,
    /// Every switch of the engine, as the engine spells it.
    pub engine: serde_json::Value,
    /// Sequences that a step of this deployment can hold: the batch at which moving the
    /// weights is as cheap per row as it gets here.
    pub reference_batch: u32,
    /// Bytes of KV cache per token.
    #[serde(default)]
    pub kv_bytes_per_token: u64,
    /// The workload.
    pub workload: WorkloadHeader,
    /// The promise.
    #[serde(default)]
    pub slo: Slo,
    /// The price, if one was declared.
    pub price: Option<Price>,
    /// The declared power, if there is no meter.
    pub energy: Option<EnergyModel>,
    /// What recording cost, if it was measured.
    pub observer: Option<Observer>,
    /// What the meters of devices came to; a device without one has no entry.
    #[serde(default)]
    pub meters: Vec<MeterHeader>,
    /// What devices' own counters told; a processor has no entry.
    #[serde(default)]
    pub counters: Vec<CountersHeader>,
    /// What tells this run from all others: the tables that are made of its log carry it. Absent
    /// from folders that others write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Bytes of the event log, once it is closed: with fewer or more it is not the log of this
    /// run any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<u64>,
    /// Who wrote it.
    pub gemba: GembaHeader,
}

impl Header {
    /// The header that `json` says; `path` is for messages.
    ///
    /// # Errors
    /// [`TraceError::Schema`] if another version wrote it, [`TraceError::Malformed`] if it does
    /// not say what a header says.
    pub fn parse(json: &[u8], path: &Path) -> Result<Self, TraceError> {
        #[derive(Deserialize)]
        struct Version {
            schema: String,
        }
        let malformed = |error: serde_json::Error| TraceError::malformed(path, error.to_string());
        // The version first: a newer header need not fit this one's fields.
        let Version { schema: found } = serde_json::from_slice(json).map_err(malformed)?;
        if found != SCHEMA {
            return Err(TraceError::Schema { path: path.to_path_buf(), expected: SCHEMA, found });
        }
        let mut header: Self = serde_json::from_slice(json).map_err(malformed)?;
        header.names().for_each(make_printable);
        Ok(header)
    }

    /// Everything in it that is printed as it stands.
    fn names(&mut self) -> impl Iterator<Item = &mut String> {
        let devices = self.devices.iter_mut().flat_map(|d| [&mut d.kind, &mut d.name]);
        let model = &mut self.model;
        let model = [&mut model.name, &mut model.precision, &mut model.kv_precision];
        let workload = &mut self.workload;
        let own = [&mut workload.name, &mut self.gemba.version];
        let doubts = self.meters.iter_mut().flat_map(|meter| &mut meter.validity.reasons);
        let lacks = self.counters.iter_mut().filter_map(|counters| counters.why.as_mut());
        devices.chain(model).chain(own).chain(&mut workload.notes).chain(doubts).chain(lacks)
    }

    /// A header of this version for a run that has just begun.
    #[must_use]
    pub fn begin() -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            status: Status::Running,
            window: Window::default(),
            devices: Vec::new(),
            model: ModelHeader::default(),
            engine: serde_json::Value::Null,
            reference_batch: 1,
            kv_bytes_per_token: 0,
            workload: WorkloadHeader::default(),
            slo: Slo::default(),
            price: None,
            energy: None,
            observer: None,
            meters: Vec::new(),
            counters: Vec::new(),
            id: None,
            log_bytes: None,
            gemba: GembaHeader { version: env!("CARGO_PKG_VERSION").to_owned() },
        }
    }
}
