//! A device and the header of the run that is recorded on it: what `run` and `serve` share.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::super::Failure;
use super::super::device::{Device, DeviceName, Placement};
use super::folder::machine;
use crate::backend::cpu::{POWERCAP, Rapl};
use crate::backend::cuda::{Counters, Library, Nvml, ThisMachine, look};
use crate::backend::{Description, Meter, cache_folder};
use crate::engine::calibrate::kept_calibration;
use crate::event::{Activity, Calibration, Ceilings, Clock, WallClock};
use crate::model::Model;
use crate::session::{DeviceSource, Metering, Outcome};
use crate::trace::{
    Beside, CountersHeader, DeviceHeader, Header, HeaderFile, RunWriter, Status, TraceError, Window,
};
use crate::unit::{Bytes, Nanos, UnixNanos};

/// A run that is about to be recorded on a device that is not yet loaded.
pub(in crate::command) struct Recording {
    clock: WallClock,
    folder: PathBuf,
    header: RefCell<Header>,
    header_file: HeaderFile,
    beside: Beside,
    metering: RefCell<Option<Metering>>,
    /// A card's own counters, or why they cannot be read.
    counters: RefCell<Option<io::Result<Counters>>>,
}

impl Recording {
    /// A recording into the folder of `writer`; its clock starts now.
    pub(in crate::command) fn begin(folder: &Path, header: Header, writer: &RunWriter) -> Self {
        Self {
            clock: WallClock::start(),
            folder: folder.to_path_buf(),
            header: RefCell::new(header),
            header_file: writer.header_file(),
            beside: writer.beside(),
            metering: RefCell::new(None),
            counters: RefCell::new(None),
        }
    }

    /// The moment at which run time was zero.
    pub(in crate::command) fn start(&self) -> UnixNanos {
        UnixNanos::of(SystemTime::now()).before(self.clock.now())
    }

    /// The clock of the device and of everything that is recorded.
    pub(in crate::command) const fn clock(&self) -> WallClock {
        self.clock
    }

    /// The device, loaded and measured when the session asks for it. What was measured goes into
    /// `run.json` at once, for whoever watches.
    pub(in crate::command) fn source<'a>(
        &'a self,
        model: &'a Model,
        placement: Placement,
    ) -> DeviceSource<'a> {
        DeviceSource {
            load: Box::new(move || {
                match placement.device {
                    DeviceName::Cpu => self.meter_processor(),
                    DeviceName::Cuda(number) => self.meter_card(number),
                }
                let device = Device::open(model, placement, Arc::new(self.clock))?;
                Ok(device.into_backend())
            }),
            calibrate: Some(Box::new(move |backend| {
                let cache = cache_folder();
                let ceilings = backend.ceilings(cache.as_deref())?;
                let machine = machine(placement.threads);
                let calibration = kept_calibration(backend, &machine, cache.as_deref())?;
                let mut header = self.header.borrow_mut();
                header.devices = vec![device_header(backend.description(), ceilings, &calibration)];
                // A disk that cannot take this cannot take the facts either, and the writer says
                // so.
                let _ = self.header_file.replace(&header);
                Ok(calibration)
            })),
        }
    }

    /// Begins to read the processor's energy counters, where there are any.
    fn meter_processor(&self) {
        match Rapl::open(Path::new(POWERCAP)) {
            Ok(Some(meter)) => self.meter(meter),
            Ok(None) => {}
            Err(error) => self.note(format!(
                "This machine counts its energy ({POWERCAP}), but the counters cannot be read \
                 ({error}): energy is booked only where power is declared."
            )),
        }
    }

    /// Begins to read a card's meters and counters, where they can be read.
    fn meter_card(&self, number: u32) {
        let found = look(&ThisMachine, &[Library::Driver]);
        let Some(card) = found.cards.get(number as usize) else { return };
        *self.counters.borrow_mut() = Some(Counters::begin(&card.uuid, self.clock));
        match Nvml::open(&card.uuid) {
            Ok(meter) => self.meter(meter),
            Err(error) => self.note(format!(
                "The meters of {} cannot be read ({error}): energy is booked only where power is \
                 declared.",
                card.name
            )),
        }
    }

    fn meter(&self, meter: impl Meter + 'static) {
        match Metering::begin(meter, 0, self.clock, self.beside.clone()) {
            Ok(metering) => *self.metering.borrow_mut() = Some(metering),
            Err(error) => self.note(format!(
                "There is no thread to read meters with ({error}): energy is booked only where \
                 power is declared."
            )),
        }
    }

    fn note(&self, note: String) {
        self.header.borrow_mut().workload.notes.push(note);
    }

    /// Where the paired runs that tell what recording costs record: a folder of their own, so
    /// that they pay for the disk too. None if there are to be no pairs.
    pub(in crate::command) fn scratch(&self, pairs: u32) -> Result<Option<Scratch>, Failure> {
        if pairs == 0 {
            return Ok(None);
        }
        let folder = self.folder.join("observer");
        let writer = RunWriter::create(&folder, &self.header.borrow(), Arc::default())?;
        Ok(Some(Scratch { writer: Some(writer), folder }))
    }

    /// Closes the folder of a run that could not begin. The error that matters is its own.
    pub(in crate::command) fn fail(self, writer: RunWriter) {
        drop(self.metering);
        let mut header = self.header.into_inner();
        header.status = Status::Failed;
        header.window.end_ns = self.clock.now();
        let _ = writer.close(&header);
    }

    /// Closes the folder with what is known after the run, and what `last` adds to its header.
    pub(in crate::command) fn end(
        self,
        writer: RunWriter,
        outcome: &Outcome,
        last: impl FnOnce(&mut Header),
    ) -> Result<(), TraceError> {
        let meter = self.metering.into_inner().and_then(Metering::end);
        let mut header = self.header.into_inner();
        header.meters = meter.into_iter().collect();
        let played = Window { start_ns: outcome.play_start, end_ns: outcome.window.end_ns };
        let counters = self.counters.into_inner();
        header.counters = counters.map(|counters| counted(counters, played)).into_iter().collect();
        header.status = outcome.status;
        header.window = outcome.window;
        header.kv_bytes_per_token = outcome.kv_bytes_per_token;
        header.observer = outcome.observer;
        let played = outcome.play_start.saturating_sub(Nanos::ZERO);
        let note = format!(
            "The window begins before loading; the workload's time began {} after it.",
            crate::unit::si_nanos(played)
        );
        header.workload.notes.push(note);
        header.workload.notes.extend(outcome.timed_by.note());
        last(&mut header);
        writer.close(&header)
    }
}

/// What a card's counters told of the time in which requests were played.
fn counted(counters: io::Result<Counters>, played: Window) -> CountersHeader {
    let read = counters.and_then(|counters| {
        let peak = Bytes(counters.peak_bytes_per_s());
        Ok((peak, counters.end()?))
    });
    match read {
        Ok((peak, stretches)) => {
            let activity = Activity::within(&stretches, played.start_ns, played.end_ns);
            CountersHeader { peak_bytes_per_s: Some(peak), activity, ..CountersHeader::default() }
        }
        Err(error) => CountersHeader { why: Some(error.to_string()), ..CountersHeader::default() },
    }
}

/// A folder for what is recorded only to be timed; gone with this.
pub(in crate::command) struct Scratch {
    writer: Option<RunWriter>,
    folder: PathBuf,
}

impl Scratch {
    /// What records into it.
    pub(in crate::command) fn recorder(&mut self) -> Option<&mut RunWriter> {
        self.writer.as_mut()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The writer's thread ends with it; what cannot be removed is only a measurement.
        self.writer = None;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The device as `run.json` describes it.
fn device_header(
    device: &Description,
    ceilings: Ceilings,
    calibration: &[Calibration],
) -> DeviceHeader {
    DeviceHeader {
        id: 0,
        kind: device.kind.to_owned(),
        name: device.name.clone(),
        memory_bytes: device.memory,
        ceilings,
        calibration: calibration.to_vec(),
    }
}
