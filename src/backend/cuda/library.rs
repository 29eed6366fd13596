//! Which of NVIDIA's libraries a machine has, which cards, and what is missing to run on one.

use super::driver::Card;
use super::{cublas, nvidia, nvml, nvrtc};

/// A library of NVIDIA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Library {
    /// The driver.
    Driver,
    /// The run-time compiler.
    Nvrtc,
    /// Energy, power, clocks, and a card's own counters.
    Nvml,
    /// Traces of kernels.
    Cupti,
    /// Dense matrix products.
    CublasLt,
}

impl Library {
    /// All of them, what is needed first.
    pub const ALL: [Self; 5] = [Self::Driver, Self::Nvrtc, Self::Nvml, Self::Cupti, Self::CublasLt];

    /// Its name in reports, and in `gemba doctor --json`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Nvrtc => "nvrtc",
            Self::Nvml => "nvml",
            Self::Cupti => "cupti",
            Self::CublasLt => "cublaslt",
        }
    }

    /// What it is for.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Driver => "needed by --device cuda",
            Self::Nvrtc => "needed by --device cuda: compiles the kernels once per card",
            Self::Nvml => "reads a card's energy, power, clocks, throttling and counters",
            Self::Cupti => "tells when each kernel ran; without it events between kernels do",
            Self::CublasLt => {
                "multiplies more than 64 rows by 16-bit weights, or e4m3; without it, kernels do"
            }
        }
    }

    /// What brings it.
    #[must_use]
    pub const fn package(self) -> &'static str {
        match self {
            Self::Driver => "NVIDIA's driver 570 or newer brings it (libcuda.so.1)",
            Self::Nvrtc => {
                "the CUDA toolkit brings it, or `pip install nvidia-cuda-nvrtc` with its lib \
                 folder in LD_LIBRARY_PATH"
            }
            Self::Nvml => "NVIDIA's driver brings it (libnvidia-ml.so.1)",
            Self::Cupti => {
                "the CUDA toolkit brings it, or `pip install nvidia-cuda-cupti` with its lib \
                 folder in LD_LIBRARY_PATH"
            }
            Self::CublasLt => {
                "the CUDA toolkit brings it, or `pip install nvidia-cublas` with its lib folder in \
                 LD_LIBRARY_PATH; no newer one than the driver is used"
            }
        }
    }
}

/// Whether a library is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is not.
    Absent,
    /// It is, and says this version, if any: major and minor of CUDA, or the library's own.
    Present(Option<(u32, u32)>),
}

/// Where libraries and cards are looked for.
pub trait NvidiaLibraries {
    /// Whether a library can be opened.
    fn presence(&self, library: Library) -> Presence;

    /// The cards that the driver shows. Only asked where there is a driver.
    ///
    /// # Errors
    /// What the driver says.
    fn cards(&self) -> Result<Vec<Card>, String>;
}

/// This machine.
#[derive(Clone, Copy, Debug)]
pub struct ThisMachine;

impl NvidiaLibraries for ThisMachine {
    fn presence(&self, library: Library) -> Presence {
        let of = |version: Option<_>| {
            version.map_or(Presence::Absent, |version| Presence::Present(Some(version)))
        };
        match library {
            Library::Driver => of(nvidia::driver_version()),
            Library::Nvrtc => of(nvrtc::version()),
            Library::Nvml => match nvml::Nvml::is_present() {
                true => Presence::Present(None),
                false => Presence::Absent,
            },
            Library::Cupti => loads("libcupti.so"),
            Library::CublasLt => of(cublas::version()),
        }
    }

    fn cards(&self) -> Result<Vec<Card>, String> {
        nvidia::cards().map_err(|error| error.to_string())
    }
}

/// Whether a library of CUDA 12 or 13 can be opened; its major version is in its name.
fn loads(name: &str) -> Presence {
    for major in [13, 12] {
        // SAFETY: NVIDIA's libraries only set up their own tables when they are loaded.
        if unsafe { libloading::Library::new(format!("{name}.{major}")) }.is_ok() {
            return Presence::Present(Some((major, 0)));
        }
    }
    Presence::Absent
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Each library that was looked for.
    pub libraries: Vec<(Library, Presence)>,
    /// The cards.
    pub cards: Vec<Card>,
    /// Why the driver shows no cards, if it said so.
    pub failure: Option<String>,
}

/// What is missing to run on a card, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Missing {
    /// What is missing.
    pub what: String,
    /// What brings it.
    pub hint: String,
}

/// CUDA of the oldest driver whose calls are used.
const OLDEST_DRIVER: (u32, u32) = (12, 8);
/// The oldest card that the kernels can be compiled for.
const OLDEST_CARD: (u32, u32) = (8, 0);

/// Looks for `libraries`, and for cards where there is a driver.
#[must_use]
pub fn look(at: &dyn NvidiaLibraries, libraries: &[Library]) -> Found {
    let libraries: Vec<_> =
        libraries.iter().map(|library| (*library, at.presence(*library))).collect();
    let mut found = Found { libraries, cards: Vec::new(), failure: None };
    if found.presence(Library::Driver) != &Presence::Absent {
        match at.cards() {
            Ok(cards) => found.cards = cards,
            Err(failure) => found.failure = Some(failure),
        }
    }
    found
}

impl Found {
    /// Whether a library is there.
    #[must_use]
    pub fn presence(&self, library: Library) -> &Presence {
        let found = self.libraries.iter().find(|(looked, _)| *looked == library);
        found.map_or(&Presence::Absent, |(_, presence)| presence)
    }

    /// Whether a run can be opened on card `number`.
    ///
    /// # Errors
    /// The first thing that is missing.
    pub fn ready(&self, number: u32) -> Result<&Card, Missing> {
        let missing = |what: String, hint: &str| Err(Missing { what, hint: hint.to_owned() });
        let driver = match self.presence(Library::Driver) {
            Presence::Absent => {
                let what = "no NVIDIA driver was found".to_owned();
                return missing(what, Library::Driver.package());
            }
            Presence::Present(version) => version.unwrap_or_default(),
        };
        if driver < OLDEST_DRIVER {
            let ((major, minor), (least, least_minor)) = (driver, OLDEST_DRIVER);
            let what = format!(
                "the driver is of CUDA {major}.{minor}, expected {least}.{least_minor} or newer"
            );
            return missing(what, Library::Driver.package());
        }
        if let Some(failure) = &self.failure {
            let what = format!("the driver shows no card: {failure}");
            return missing(what, "`nvidia-smi` says more");
        }
        let Some(card) = self.cards.get(number as usize) else {
            let what = format!("card {number} of {}", self.cards.len());
            return missing(
                what,
                "`gemba doctor` lists the cards; CUDA_VISIBLE_DEVICES hides some",
            );
        };
        if card.capability < OLDEST_CARD {
            let ((major, minor), name) = (card.capability, &card.name);
            let what = format!("{name} has compute capability {major}.{minor}, expected 8.0");
            return missing(what, "--device cpu runs on this machine's cores");
        }
        match self.presence(Library::Nvrtc) {
            Presence::Absent => {
                missing("no libnvrtc was found".to_owned(), Library::Nvrtc.package())
            }
            // A card's code by a newer compiler is not taken by an older driver.
            Presence::Present(Some((major, minor))) if *major > driver.0 => {
                let (of, of_minor) = driver;
                let what = format!(
                    "libnvrtc {major}.{minor} is newer than the driver's CUDA {of}.{of_minor}"
                );
                missing(what, "a libnvrtc of the driver's version, or a newer driver")
            }
            Presence::Present(_) => Ok(card),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        driver: Option<(u32, u32)>,
        nvrtc: Option<(u32, u32)>,
        cards: Result<Vec<Card>, String>,
    }

    impl NvidiaLibraries for Fake {
        fn presence(&self, library: Library) -> Presence {
            let version = match library {
                Library::Driver => self.driver,
                Library::Nvrtc => self.nvrtc,
                _ => None,
            };
            version.map_or(Presence::Absent, |version| Presence::Present(Some(version)))
        }

        fn cards(&self) -> Result<Vec<Card>, String> {
            assert!(self.driver.is_some(), "asked without a driver");
            self.cards.clone()
        }
    }

    fn card(capability: (u32, u32)) -> Card {
        Card {
            number: 0,
            name: "Card".to_owned(),
            uuid: String::new(),
            memory: 1 << 34,
            cache: 1 << 22,
            capability,
            multiprocessors: 10,
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_brings_it() {
        let (new, old) = (Some((13, 0)), Some((12, 4)));
        let one = || Ok(vec![card((9, 0))]);
        let refused = Err("CUDA_ERROR_NO_DEVICE".to_owned());
        for (driver, nvrtc, cards, number, expected) in [
            (None, None, one(), 0, Err("no NVIDIA driver was found")),
            (old, new, one(), 0, Err("the driver is of CUDA 12.4, expected 12.8 or newer")),
            (new, new, refused, 0, Err("the driver shows no card: CUDA_ERROR_NO_DEVICE")),
            (new, new, Ok(Vec::new()), 0, Err("card 0 of 0")),
            (new, new, one(), 1, Err("card 1 of 1")),
            (
                new,
                new,
                Ok(vec![card((7, 5))]),
                0,
                Err("Card has compute capability 7.5, expected 8.0"),
            ),
            (new, None, one(), 0, Err("no libnvrtc was found")),
            (
                Some((12, 9)),
                new,
                one(),
                0,
                Err("libnvrtc 13.0 is newer than the driver's CUDA 12.9"),
            ),
            (new, Some((12, 9)), one(), 0, Ok(())),
            (new, new, one(), 0, Ok(())),
        ] {
            let found = look(&Fake { driver, nvrtc, cards }, &Library::ALL);
            assert_eq!(found.libraries.len(), 5);
            match (found.ready(number), expected) {
                (Ok(card), Ok(())) => assert_eq!(card.name, "Card"),
                (Err(missing), Err(expected)) => {
                    assert_eq!(missing.to_string(), expected);
                    assert!(!missing.hint.is_empty());
                }
                (found, expected) => panic!("{found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn looking_at_this_machine_does_not_panic() {
        let found = look(&ThisMachine, &Library::ALL);
        if found.presence(Library::Driver) == &Presence::Absent {
            assert_eq!((found.cards.len(), &found.failure), (0, &None));
            assert!(found.ready(0).is_err());
        }
    }
}
