//! Reads a device's meters while a run goes on, on a thread of its own.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::backend::Meter;
use crate::event::{Clock, Fact, Power, Provenance, Recorder};
use crate::unit::Nanos;

/// How often meters are read. Counters of processors move each millisecond, those of cards each
/// tenth of a second.
const PERIOD: Duration = Duration::from_millis(100);

/// Reads a device's meters ten times a second until it is dropped, and once more then.
pub struct Metering {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Metering {
    /// Begins to read `meter` of device number `device`. A meter that fails is read no more: what
    /// it has said stays.
    ///
    /// # Errors
    /// What the system says if there can be no thread.
    pub fn begin(
        mut meter: impl Meter + 'static,
        device: u16,
        clock: impl Clock + Send + 'static,
        mut recorder: impl Recorder + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread =
            std::thread::Builder::new().name("gemba-meter".to_owned()).spawn(move || {
                let mut last: Option<Power> = None;
                loop {
                    let Ok(reading) = meter.read() else { return };
                    let at = clock.now();
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
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Metering {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A thread that has ended reads no more.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
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
    use crate::event::{Throttle, WallClock};

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
            Ok(Reading {
                energy_uj: self.readings * 5_000,
                power_mw: None,
                clock_mhz: 2_000,
                throttle: Throttle::None,
            })
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
        drop(Metering::begin(meter, 3, WallClock::start(), shared.clone()).unwrap());
        let powers = shared.0.lock().unwrap();
        assert!(powers.len() >= 2, "{powers:?}");
        assert!(powers.iter().all(|p| p.device == 3 && p.basis == Provenance::Measured));
        let (first, last) = (powers[0], powers[powers.len() - 1]);
        assert_eq!((first.energy_uj, first.power_mw), (5_000, 0));
        assert!(last.at >= first.at && last.power_mw > 0, "{last:?}");
    }

    #[test]
    fn a_meter_that_fails_is_read_no_more() {
        let shared = Shared::default();
        let meter = Counter { readings: 0, fails_at: 2 };
        let metering = Metering::begin(meter, 0, WallClock::start(), shared.clone()).unwrap();
        std::thread::sleep(PERIOD * 3);
        drop(metering);
        assert_eq!(shared.0.lock().unwrap().len(), 1);
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
