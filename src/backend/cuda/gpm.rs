//! A card's own counters (NVIDIA's GPM): what went to and from its memory, how busy it was.
//!
//! Cards have them from Hopper on. The library tells a mean between two samples. What went to and
//! from memory it tells as a share of what the memory could move at best, so bytes are that share
//! of [`Counters::peak_bytes_per_s`]. They are as right as this peak: the highest clock of the
//! memory, twice a cycle, over the width of its bus. A card that lets its memory run at a lower
//! clock, and takes that for the best there is, has moved fewer bytes than are told here.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use nvml_wrapper::enum_wrappers::device::Clock as Domain;
use nvml_wrapper::enums::gpm::GpmMetricId as Metric;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::gpm::gpm_metrics_get;
use nvml_wrapper::{Device, Nvml};

use crate::event::{Activity, Clock};
use crate::unit::Nanos;

/// How often samples are taken, so that no counter can go round unseen, and what was counted can
/// be cut to a part of the time.
const PERIOD: Duration = Duration::from_millis(250);
/// The least time between two samples that are held together.
const LEAST: Duration = Duration::from_millis(100);
/// The most stretches that are kept apart: older ones are joined.
const MOST: usize = 4096;

/// What is asked, in the order in which [`activity`] takes it.
const METRICS: [Metric; 6] = [
    Metric::DramBwUtil,
    Metric::SmUtil,
    Metric::SmOccupancy,
    Metric::AnyTensorUtil,
    Metric::PcieTxPerSec,
    Metric::PcieRxPerSec,
];

/// The counters of one card while they are read, on a thread of its own.
#[derive(Debug)]
pub struct Counters {
    /// The thread ends with it.
    stop: Sender<()>,
    thread: JoinHandle<io::Result<Vec<Activity>>>,
    peak: u64,
}

impl Counters {
    /// Begins to count on the card with this identity; times are of `clock`.
    ///
    /// # Errors
    /// What the library says if it is not there, the card has no such counters, or they are
    /// refused, as virtual machines may do.
    pub fn begin(uuid: &str, clock: impl Clock + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let (ready, begun) = mpsc::channel();
        let uuid = uuid.to_owned();
        let thread = std::thread::Builder::new()
            .name("gemba-counters".to_owned())
            .spawn(move || count(&uuid, &clock, &ready, &stopped))?;
        match begun.recv() {
            Ok(peak) => Ok(Self { stop, thread, peak }),
            // It has ended before it began.
            Err(_) => Err(joined(thread).err().unwrap_or_else(gone)),
        }
    }

    /// Bytes per second that the card's memory could move at best.
    #[must_use]
    pub const fn peak_bytes_per_s(&self) -> u64 {
        self.peak
    }

    /// What was counted since it began, in adjoining stretches.
    ///
    /// # Errors
    /// What the library says if a sample could not be taken.
    pub fn end(self) -> io::Result<Vec<Activity>> {
        drop(self.stop);
        joined(self.thread)
    }
}

fn joined(thread: JoinHandle<io::Result<Vec<Activity>>>) -> io::Result<Vec<Activity>> {
    thread.join().unwrap_or_else(|_| Err(gone()))
}

fn gone() -> io::Error {
    io::Error::other("the thread that counts is gone")
}

/// Takes samples until it is stopped; says the peak once the first one is taken.
fn count(
    uuid: &str,
    clock: &impl Clock,
    ready: &Sender<u64>,
    stopped: &Receiver<()>,
) -> io::Result<Vec<Activity>> {
    let nvml = Nvml::init().map_err(refused("NVML"))?;
    let device = nvml.device_by_uuid(uuid).map_err(refused("the card"))?;
    if !device.gpm_support().map_err(refused("GPM"))? {
        return Err(io::Error::other("GPM: cards have it from Hopper on, and this one has not"));
    }
    let peak = peak_of(&device)?;
    let sample = || device.gpm_sample().map_err(refused("a sample of GPM"));
    let mut before = (sample()?, clock.now());
    // Where nobody waits for it, nobody has stopped it either.
    let _ = ready.send(peak);
    let mut stretches = Vec::new();
    loop {
        let stops = stopped.recv_timeout(PERIOD) != Err(RecvTimeoutError::Timeout);
        clock.sleep_until(Nanos(before.1.0 + Nanos::from(LEAST).0));
        let now = (sample()?, clock.now());
        let told = gpm_metrics_get(&nvml, &before.0, &now.0, &METRICS);
        let told = told.map_err(refused("the figures of GPM"))?;
        let values = std::array::from_fn(|at| Some(told.get(at)?.as_ref().ok()?.value));
        stretches.push(activity([before.1, now.1], values, peak));
        if stops {
            return Ok(stretches);
        }
        if stretches.len() == MOST {
            let pairs = stretches.chunks(2);
            let all = (Nanos::ZERO, Nanos(u64::MAX));
            stretches = pairs.filter_map(|pair| Activity::within(pair, all.0, all.1)).collect();
        }
        before = now;
    }
}

fn refused(what: &str) -> impl Fn(NvmlError) -> io::Error {
    move |error| io::Error::other(format!("{what}: {error}"))
}

fn peak_of(device: &Device<'_>) -> io::Result<u64> {
    let clock = device.max_clock_info(Domain::Memory).map_err(refused("the memory's clock"))?;
    let width = device.memory_bus_width().map_err(refused("the memory's bus width"))?;
    match peak(clock, width) {
        0 => Err(io::Error::other(format!("a memory of {clock} MHz and {width} bits"))),
        peak => Ok(peak),
    }
}

/// Bytes per second of a memory that moves `bits` twice a cycle.
fn peak(megahertz: u32, bits: u32) -> u64 {
    u64::from(megahertz) * 1_000_000 * 2 * u64::from(bits) / 8
}

/// What the library's figures of [`METRICS`] say of the time between two moments. Utilization is
/// in percent, the link to the host in MiB per second (so NVIDIA's header; its wrapper here says
/// bytes).
fn activity([start_ns, end_ns]: [Nanos; 2], values: [Option<f64>; 6], peak: u64) -> Activity {
    let seconds = end_ns.saturating_sub(start_ns).as_secs_f64();
    let [memory, busy, occupancy, matrix, sent, received] =
        values.map(|value| value.filter(|value| value.is_finite() && *value >= 0.0));
    let ppm = |percent: f64| (percent * 1e4).round() as u64;
    let over = |per_second: f64| (per_second * seconds).round() as u64;
    let mebibytes = |per_second: f64| over(per_second * f64::from(1 << 20));
    Activity {
        start_ns,
        end_ns,
        memory_bytes: memory.map(|percent| over(percent / 100.0 * peak as f64)),
        memory_ppm: memory.map(ppm),
        multiprocessors_ppm: busy.map(ppm),
        occupancy_ppm: occupancy.map(ppm),
        matrix_ppm: matrix.map(ppm),
        sent_bytes: sent.map(mebibytes),
        received_bytes: received.map(mebibytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::WallClock;

    #[test]
    fn a_memory_moves_its_width_twice_a_cycle() {
        // As their makers say: 3.35, 4.9 and 1.01 TB/s.
        for (megahertz, bits, expected) in [
            (2619, 5120, 3_352_320_000_000),
            (3201, 6144, 4_916_736_000_000),
            (10_501, 384, 1_008_096_000_000),
            (0, 5120, 0),
        ] {
            assert_eq!(peak(megahertz, bits), expected);
        }
    }

    #[test]
    fn percent_of_the_peak_over_time_are_bytes() {
        let half_a_second = [Nanos(1_000_000_000), Nanos(1_500_000_000)];
        let values = [Some(40.0), Some(80.0), Some(12.5), None, Some(2.0), Some(f64::NAN)];
        let expected = Activity {
            start_ns: half_a_second[0],
            end_ns: half_a_second[1],
            memory_bytes: Some(200_000),
            memory_ppm: Some(400_000),
            multiprocessors_ppm: Some(800_000),
            occupancy_ppm: Some(125_000),
            matrix_ppm: None,
            sent_bytes: Some(1 << 20),
            received_bytes: None,
        };
        assert_eq!(activity(half_a_second, values, 1_000_000), expected);
    }

    #[test]
    fn without_the_library_there_is_an_error_and_no_panic() {
        if !super::super::Nvml::is_present() {
            let said = Counters::begin("GPU-0", WallClock::start()).unwrap_err().to_string();
            assert!(said.starts_with("NVML: "), "{said}");
        }
    }
}
