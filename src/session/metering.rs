//! Reads a device's meters while a run goes on, on a thread of its own.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::backend::Meter;
use crate::event::{Clock, Fact, Power, Provenance, Recorder};
use crate::trace::MeterHeader;
use crate::unit::Nanos;

use super::validity::Tally;

/// How often meters are read. Counters of processors move each millisecond, those of cards each
/// tenth of a second.
const PERIOD: Duration = Duration::from_millis(100);

/// Reads a device's meters ten times a second until it is ended or dropped, and once more then.
pub struct Metering {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Option<MeterHeader>>>,
}

impl Metering {
    /// Begins to read `meter` of device number `device`. A meter that fails is read no more: what
    /// it has said stays.
    ///
    /// # Errors
    /// What the system says if there can be no thread.
    pub fn begin(
        meter: impl Meter + 'static,
        device: u16,
        clock: impl Clock + Send + 'static,
        recorder: impl Recorder + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("gemba-meter".to_owned())
            .spawn(move || read(meter, device, &clock, recorder, &stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Ends it; what the readings came to, if there was one.
    #[must_use]
    pub fn end(mut self) -> Option<MeterHeader> {
        self.join()
    }

    fn join(&mut self) -> Option<MeterHeader> {
        if let Some(stop) = self.stop.take() {
            // A thread that has ended reads no more.
            let _ = stop.send(());
        }
        self.thread.take()?.join().ok()?
    }
}

impl Drop for Metering {
    fn drop(&mut self) {
        self.join();
    }
}

/// Records readings until it is stopped; what they came to.
fn read(
    mut meter: impl Meter,
    device: u16,
    clock: &impl Clock,
    mut recorder: impl Recorder,
    stopped: &Receiver<()>,
) -> Option<MeterHeader> {
    let mut tally = Tally::default();
    let mut last: Option<Power> = None;
    loop {
        let reading = match meter.read() {
            Ok(reading) => reading,
            Err(error) => {
                tally.fail(error.to_string());
                break;
            }
        };
        let at = clock.now();
        tally.take(at, reading);
        let power_mw = reading.power_mw.or_else(|| {
            let last = last?;
            mean_power(reading.energy_uj - last.energy_uj, at.saturating_sub(last.at))
        });
        let power = Power {
            device,
            at,
            energy_uj: reading.energy_uj,
            power_mw: power_mw.unwrap_or(0),
            clock_mhz: reading.clock_mhz,
            throttle: reading.throttle,
            basis: Provenance::Measured,
        };
        recorder.record(Fact::Power(power));
        last = Some(power);
        match stopped.recv_timeout(PERIOD) {
            Err(RecvTimeoutError::Timeout) => {}
            // Once more, so that the last stretch is counted too.
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    tally.told(device, meter.period())
}

/// Milliwatts.
fn mean_power(energy_uj: u64, time: Nanos) -> Option<u64> {
    let milliwatts = u128::from(energy_uj) * 1_000_000 / u128::from(time.0).max(1);
    (time.0 > 0).then(|| u64::try_from(milliwatts).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::backend::Reading;
    use crate::event::WallClock;

    struct Counter {
        readings: u64,
        fails_at: u64,
    }

    impl Meter for Counter {
        fn read(&mut self) -> std::io::Result<Reading> {
            self.readings += 1;
            if self.readings == self.fails_at {
                return Err(std::io::Error::other("gone"));
            }
            Ok(Reading { clock_mhz: 2_000, ..Reading::energy(self.readings * 5_000) })
        }

        fn period(&self) -> Duration {
            Duration::from_millis(1)
        }
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<Power>>>);

    impl Recorder for Shared {
        fn record(&mut self, fact: Fact) {
            match fact {
                Fact::Power(power) => self.0.lock().unwrap().push(power),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_meter_is_read_at_the_beginning_and_at_the_end() {
        let shared = Shared::default();
        let meter = Counter { readings: 0, fails_at: u64::MAX };
        let told = Metering::begin(meter, 3, WallClock::start(), shared.clone()).unwrap().end();
        let powers = shared.0.lock().unwrap();
        assert!(powers.len() >= 2, "{powers:?}");
        assert!(powers.iter().all(|p| p.device == 3 && p.basis == Provenance::Measured));
        let (first, last) = (powers[0], powers[powers.len() - 1]);
        assert_eq!((first.energy_uj, first.power_mw), (5_000, 0));
        assert!(last.at >= first.at && last.power_mw > 0, "{last:?}");
        let told = told.unwrap();
        assert_eq!((told.start_ns, told.end_ns), (first.at, last.at));
        assert_eq!((told.device, told.energy_uj), (3, last.energy_uj - first.energy_uj));
        // Power that follows from the counter is no second witness.
        assert_eq!(told.integrated_uj, None);
    }

    #[test]
    fn a_meter_that_fails_is_read_no_more() {
        let shared = Shared::default();
        let meter = Counter { readings: 0, fails_at: 2 };
        let metering = Metering::begin(meter, 0, WallClock::start(), shared.clone()).unwrap();
        std::thread::sleep(PERIOD * 3);
        let reasons = metering.end().unwrap().validity.reasons;
        assert_eq!(shared.0.lock().unwrap().len(), 1);
        assert!(reasons.iter().any(|reason| reason.ends_with(": gone")), "{reasons:?}");
    }

    #[test]
    fn power_is_energy_over_time() {
        for (energy, time, expected) in
            [(5_000, 100_000_000, Some(50)), (1, 1, Some(1_000_000)), (7, 0, None)]
        {
            assert_eq!(mean_power(energy, Nanos(time)), expected);
        }
    }
}
