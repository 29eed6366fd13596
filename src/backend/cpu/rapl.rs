//! The processor's energy counters, as Linux shows them (powercap, Intel RAPL; AMD uses the same
//! names): <https://docs.kernel.org/power/powercap/powercap.html>.
//!
//! A package counts its cores and what surrounds them; its memory, where it is counted, is a
//! domain inside it that the package does not include. Other inner domains (`core`, `uncore`) are
//! parts of the package, and `psys` is the whole board: neither is added.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::backend::{Meter, Reading};

/// Where Linux shows them.
pub const POWERCAP: &str = "/sys/class/powercap";

/// The energy counters of all packages and their memory.
#[derive(Debug)]
pub struct Rapl {
    domains: Vec<Domain>,
    /// Microjoules so far.
    counted: u64,
}

#[derive(Debug)]
struct Domain {
    counter: PathBuf,
    /// Where the counter begins again at zero.
    range: u64,
    last: u64,
}

impl Rapl {
    /// The counters below `folder`, [`POWERCAP`] as a rule; `None` where there are none.
    ///
    /// # Errors
    /// What the system says if there are counters that cannot be read: most systems let only
    /// root read them.
    pub fn open(folder: &Path) -> io::Result<Option<Self>> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries?,
        };
        let mut zones = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            zones.extend(
                name.to_str().filter(|name| name.starts_with("intel-rapl:")).map(str::to_owned),
            );
        }
        zones.sort();
        let mut domains = Vec::new();
        for zone in zones {
            let zone = folder.join(zone);
            let name = fs::read_to_string(zone.join("name"))?;
            if name.starts_with("package") || name.trim() == "dram" {
                let counter = zone.join("energy_uj");
                let range = number(&zone.join("max_energy_range_uj"))?;
                domains.push(Domain { last: number(&counter)?, counter, range });
            }
        }
        Ok((!domains.is_empty()).then_some(Self { domains, counted: 0 }))
    }
}

impl Meter for Rapl {
    fn read(&mut self) -> io::Result<Reading> {
        for domain in &mut self.domains {
            let now = number(&domain.counter)?;
            self.counted += match now.checked_sub(domain.last) {
                Some(more) => more,
                // It has begun again: at most once, as long as it is read every minute.
                None => now + domain.range.saturating_sub(domain.last),
            };
            domain.last = now;
        }
        Ok(Reading::energy(self.counted))
    }

    fn period(&self) -> Duration {
        Duration::from_millis(1)
    }
}

fn number(path: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| {
        let what = format!("{}: expected a number, found {:?}", path.display(), text.trim());
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(folder: &Path, zone: &str, name: &str, energy: &str) {
        let zone = folder.join(zone);
        fs::create_dir_all(&zone).unwrap();
        fs::write(zone.join("name"), format!("{name}\n")).unwrap();
        fs::write(zone.join("energy_uj"), format!("{energy}\n")).unwrap();
        fs::write(zone.join("max_energy_range_uj"), "1000\n").unwrap();
    }

    #[test]
    fn packages_and_their_memory_are_added_and_parts_of_them_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for (at, name) in [("0", "package-0"), ("0:0", "core"), ("0:1", "dram"), ("1", "psys")] {
            zone(dir.path(), &format!("intel-rapl:{at}"), name, "900");
        }
        fs::create_dir(dir.path().join("dtpm")).unwrap();
        let mut meter = Rapl::open(dir.path()).unwrap().unwrap();
        assert_eq!(meter.read().unwrap().energy_uj, 0);
        zone(dir.path(), "intel-rapl:0", "package-0", "950");
        zone(dir.path(), "intel-rapl:0:0", "core", "999");
        assert_eq!(meter.read().unwrap().energy_uj, 50);
        // Both begin again at zero behind 1000.
        zone(dir.path(), "intel-rapl:0", "package-0", "10");
        zone(dir.path(), "intel-rapl:0:1", "dram", "7");
        assert_eq!(meter.read().unwrap().energy_uj, 50 + 60 + 107);
    }

    #[test]
    fn a_machine_without_counters_has_no_meter() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Rapl::open(dir.path()).unwrap().is_none());
        assert!(Rapl::open(&dir.path().join("none")).unwrap().is_none());
        zone(dir.path(), "intel-rapl:0:0", "core", "1");
        assert!(Rapl::open(dir.path()).unwrap().is_none());
    }

    #[test]
    fn counters_that_cannot_be_read_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        zone(dir.path(), "intel-rapl:0", "package-0", "many");
        let said = Rapl::open(dir.path()).unwrap_err().to_string();
        assert!(said.ends_with("energy_uj: expected a number, found \"many\""), "{said}");
        fs::remove_file(dir.path().join("intel-rapl:0/energy_uj")).unwrap();
        assert_eq!(Rapl::open(dir.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
