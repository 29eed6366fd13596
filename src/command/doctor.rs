//! `gemba doctor`: what this machine has to run on, what is missing, and what brings it.

use std::path::Path;

use serde::Serialize;

use super::{Done, Failure, print, print_json};
use crate::backend::cpu::linear::Isa;
use crate::backend::cpu::{POWERCAP, Rapl, processor_name};
use crate::backend::cuda::{Card, Counters, Found, Library, Nvml, Presence, ThisMachine, look};
use crate::event::WallClock;
use crate::unit::{Bytes, si_bytes};

/// `gemba doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Looks at this machine and prints what it found.
///
/// # Errors
/// [`Failure`] if stdout cannot be written. What is missing is no failure.
pub fn run(args: &DoctorArgs) -> Result<Done, Failure> {
    let found = look(&ThisMachine, &Library::ALL);
    let checkup = Checkup::of(&found, Processor::of_this_machine(), |card| {
        let counters = Counters::begin(&card.uuid, WallClock::start()).and_then(Counters::end);
        let said = |error: std::io::Error| error.to_string();
        [Nvml::open(&card.uuid).map(|_| ()).map_err(said), counters.map(|_| ()).map_err(said)]
    });
    match args.json {
        true => print_json(&checkup)?,
        false => print(&checkup.text())?,
    }
    Ok(Done::Pass)
}

/// What was found, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Checkup {
    /// What `--device` can name.
    devices: Vec<String>,
    cpu: Processor,
    libraries: Vec<LibraryLine>,
    /// Why the driver shows no card, if it said so.
    driver_failure: Option<String>,
    cards: Vec<CardLine>,
    /// What keeps `--device cuda` from running, if anything does.
    missing: Option<Advice>,
}

/// The machine's own cores.
#[derive(Debug, Serialize)]
struct Processor {
    name: String,
    cores: usize,
    /// Instruction sets that have kernels, slowest first; the last one is used.
    instruction_sets: Vec<&'static str>,
    energy: Readable,
}

/// Whether something of a device can be read.
#[derive(Debug, Serialize)]
struct Readable {
    readable: bool,
    /// Why not.
    why: Option<String>,
}

#[derive(Debug, Serialize)]
struct LibraryLine {
    name: &'static str,
    found: bool,
    /// Of CUDA for the driver and the compiler, else the library's own.
    version: Option<String>,
    purpose: &'static str,
    /// What brings it, where it is missing.
    package: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct CardLine {
    number: u32,
    name: String,
    compute_capability: String,
    memory_bytes: u64,
    multiprocessors: u32,
    energy: Readable,
    /// Its own, of what goes to and from its memory and how busy it is.
    counters: Readable,
    /// What keeps it from running, if anything does.
    missing: Option<Advice>,
}

/// What is missing, and what to do about it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Advice {
    what: String,
    hint: String,
}

impl Readable {
    fn of(read: Result<(), String>) -> Self {
        Self { readable: read.is_ok(), why: read.err() }
    }

    fn text(&self, what: &str) -> String {
        match &self.why {
            None => format!("{what} can be read"),
            Some(why) => format!("{what} cannot be read: {why}"),
        }
    }
}

impl Processor {
    fn of_this_machine() -> Self {
        let energy = match Rapl::open(Path::new(POWERCAP)) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(format!("{POWERCAP} has no counters")),
            Err(error) => Err(format!("{POWERCAP}: {error}; most systems let only root read it")),
        };
        let sets = Isa::ALL.into_iter().filter(|isa| isa.available());
        Self {
            name: processor_name(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            instruction_sets: sets.map(Isa::code).collect(),
            energy: Readable::of(energy),
        }
    }
}

impl Checkup {
    /// `read` says whether energy and counters of a card can be read.
    fn of(found: &Found, cpu: Processor, read: impl Fn(&Card) -> [Result<(), String>; 2]) -> Self {
        let advice = |number| {
            found
                .ready(number)
                .err()
                .map(|missing| Advice { what: missing.what, hint: missing.hint })
        };
        let cards: Vec<CardLine> = found
            .cards
            .iter()
            .map(|card| {
                let [energy, counters] = read(card).map(Readable::of);
                CardLine {
                    number: card.number,
                    name: card.name.clone(),
                    compute_capability: format!("{}.{}", card.capability.0, card.capability.1),
                    memory_bytes: card.memory,
                    multiprocessors: card.multiprocessors,
                    energy,
                    counters,
                    missing: advice(card.number),
                }
            })
            .collect();
        let ready = cards.iter().filter(|card| card.missing.is_none());
        let devices = ready.map(|card| format!("cuda:{}", card.number));
        let devices: Vec<String> = std::iter::once("cpu".to_owned()).chain(devices).collect();
        let libraries = found.libraries.iter().map(|(library, presence)| LibraryLine {
            name: library.code(),
            found: *presence != Presence::Absent,
            version: match presence {
                Presence::Present(Some((major, minor))) => Some(format!("{major}.{minor}")),
                _ => None,
            },
            purpose: library.purpose(),
            package: (*presence == Presence::Absent).then(|| library.package()),
        });
        Self {
            missing: if devices.len() > 1 { None } else { advice(0) },
            devices,
            cpu,
            libraries: libraries.collect(),
            driver_failure: found.failure.clone(),
            cards,
        }
    }

    fn text(&self) -> String {
        let mut lines = vec![
            format!("cpu        {}, {} cores", self.cpu.name, self.cpu.cores),
            format!("           kernels for {}", self.cpu.instruction_sets.join(", ")),
            format!("           {}", self.cpu.energy.text("energy")),
            String::new(),
        ];
        for library in &self.libraries {
            let state = match (library.found, &library.version) {
                (false, _) => "missing".to_owned(),
                (true, None) => "found".to_owned(),
                (true, Some(version)) => format!("found, {version}"),
            };
            lines.push(format!("{:<10} {state:<12} {}", library.name, library.purpose));
            lines.extend(library.package.map(|package| format!("{:23} {package}", "")));
        }
        lines.push(String::new());
        for card in &self.cards {
            let memory = si_bytes(Bytes(card.memory_bytes));
            lines.push(format!(
                "{:<10} {}, compute capability {}, {} multiprocessors, {memory}",
                format!("cuda:{}", card.number),
                card.name,
                card.compute_capability,
                card.multiprocessors
            ));
            lines.push(format!("{:10} {}", "", card.energy.text("energy")));
            lines.push(format!("{:10} {}", "", card.counters.text("its counters")));
            if let Some(missing) = &card.missing {
                lines.push(format!("{:10} cannot be used: {}", "", missing.what));
                lines.push(format!("{:10} hint: {}", "", missing.hint));
            }
        }
        match &self.missing {
            None => {}
            Some(missing) if self.cards.is_empty() => {
                lines.push(format!("{:<10} none: {}", "cards", missing.what));
                lines.push(format!("{:10} hint: {}", "", missing.hint));
            }
            Some(_) => {}
        }
        lines.push(format!("{:<10} {}", "--device", self.devices.join(", ")));
        lines.push(String::new());
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor() -> Processor {
        Processor {
            name: "Processor".to_owned(),
            cores: 2,
            instruction_sets: vec!["portable", "avx2"],
            energy: Readable::of(Err("no counters".to_owned())),
        }
    }

    fn checkup(libraries: &[(Library, (u32, u32))], cards: usize) -> Checkup {
        let presence = |library| {
            let version = libraries.iter().find(|(found, _)| *found == library);
            version.map_or(Presence::Absent, |(_, version)| Presence::Present(Some(*version)))
        };
        let card = |number| Card {
            number,
            name: "Card".to_owned(),
            uuid: "GPU-0".to_owned(),
            memory: 150_000_000_000,
            cache: 60 << 20,
            capability: (9, 0),
            multiprocessors: 132,
        };
        let found = Found {
            libraries: Library::ALL.map(|library| (library, presence(library))).to_vec(),
            cards: (0..cards as u32).map(card).collect(),
            failure: None,
        };
        Checkup::of(&found, processor(), |_| [Ok(()), Err("refused".to_owned())])
    }

    #[test]
    fn a_machine_without_a_driver_runs_on_its_cores() {
        let checkup = checkup(&[], 0);
        assert_eq!(checkup.devices, ["cpu"]);
        let missing = checkup.missing.as_ref().map(|advice| advice.what.as_str());
        assert_eq!(missing, Some("no NVIDIA driver was found"));
        let text = checkup.text();
        assert!(text.contains("driver     missing      needed by --device cuda\n"), "{text}");
        assert!(text.contains("cards      none: no NVIDIA driver was found\n"), "{text}");
        assert!(text.ends_with("--device   cpu\n"), "{text}");
    }

    #[test]
    fn a_driver_without_a_compiler_is_not_enough() {
        let checkup = checkup(&[(Library::Driver, (13, 0))], 1);
        assert_eq!(checkup.devices, ["cpu"]);
        let text = checkup.text();
        assert!(text.contains("driver     found, 13.0  needed by --device cuda\n"), "{text}");
        assert!(text.contains("cannot be used: no libnvrtc was found\n"), "{text}");
        assert!(text.contains("pip install nvidia-cuda-nvrtc"), "{text}");
    }

    #[test]
    fn with_both_every_card_can_be_named() {
        let checkup = checkup(&[(Library::Driver, (13, 0)), (Library::Nvrtc, (12, 9))], 2);
        assert_eq!(checkup.devices, ["cpu", "cuda:0", "cuda:1"]);
        assert_eq!(checkup.missing, None);
        let text = checkup.text();
        assert!(text.contains("cuda:1     Card, compute capability 9.0, 132 multiprocessors, "));
        assert!(text.contains("energy can be read\n"), "{text}");
        assert!(text.contains("its counters cannot be read: refused\n"), "{text}");
        assert!(!text.contains("cannot be used"), "{text}");
        let json = serde_json::to_value(&checkup).unwrap();
        assert_eq!(json["cards"][1]["memory_bytes"], 150_000_000_000_u64);
        assert_eq!(json["libraries"][1]["version"], "12.9");
        assert_eq!(json["libraries"][2]["found"], false);
    }
}
