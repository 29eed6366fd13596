//! The device that a command runs on: its name on the command line, and the one place where it is
//! opened.

use std::sync::Arc;

use super::Failure;
use super::technique::switches;
use crate::backend::cpu::{self, Cpu};
use crate::backend::cuda::{self, Cuda, OpenError};
use crate::backend::{Backend, DeviceError, Limits, cache_folder};
use crate::cost::Techniques;
use crate::event::Clock;
use crate::model::{Encoding, Model, Precision};

/// A device by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeviceName {
    /// The machine's own cores.
    Cpu,
    /// The card of this number.
    Cuda(u32),
}

impl DeviceName {
    /// The device that `word` names, if it can be opened as far as can be told without doing so.
    ///
    /// # Errors
    /// [`Failure`] if it names none, or something that it needs is missing.
    pub(super) fn find(word: &str) -> Result<Self, Failure> {
        let number = match word.split_once(':') {
            None if word == "cpu" => return Ok(Self::Cpu),
            None if word == "cuda" => Some(0),
            Some(("cuda", number)) => number.parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            let message = format!("open device {word}: expected cpu or cuda[:N]");
            return Err(Failure::new(message, Some("`gemba doctor` lists what is here")));
        };
        let needed = [cuda::Library::Driver, cuda::Library::Nvrtc];
        match cuda::look(&cuda::ThisMachine, &needed).ready(number) {
            Ok(_) => Ok(Self::Cuda(number)),
            Err(missing) => {
                let message = format!("open device {word}: {missing}");
                Err(Failure::new(message, Some(missing.hint)))
            }
        }
    }
}

/// How a model is put on a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    /// Which device.
    pub device: DeviceName,
    /// How weights are stored.
    pub precision: Encoding,
    /// How keys and values are stored.
    pub kv_precision: Encoding,
    /// How large steps and the KV pool are.
    pub limits: Limits,
    /// Threads of the processor; 0 for as many as it has cores.
    pub threads: usize,
    /// Which techniques are used; all of them on the processor.
    pub techniques: Techniques,
}

impl Placement {
    /// Adds its switches to those of the scheduler, an object of `run.json`.
    pub(super) fn describe(&self, engine: &mut serde_json::Value) {
        if let Some(fields) = engine.as_object_mut() {
            fields.insert("threads".to_owned(), self.threads.into());
            let techniques = serde_json::to_value(switches(self.techniques)).unwrap_or_default();
            fields.insert("techniques".to_owned(), techniques);
        }
    }
}

/// A device with a model on it.
pub(super) enum Device {
    /// The machine's own cores.
    Cpu(Box<Cpu>),
    /// A card.
    Cuda(Box<Cuda>),
}

impl Device {
    /// Puts `model` on the device that `placement` names.
    ///
    /// # Errors
    /// [`DeviceError`] if it cannot hold it, has no kernels for it, or fails.
    pub(super) fn open(
        model: &Model,
        placement: Placement,
        clock: Arc<dyn Clock + Send>,
    ) -> Result<Self, DeviceError> {
        let Placement { device, precision, kv_precision, limits, threads, techniques } = placement;
        match device {
            DeviceName::Cpu => {
                let stored = |what, known: &str, encoding: Encoding| {
                    encoding.stored().ok_or_else(|| {
                        let found = encoding.code();
                        let said = format!("{what} on cpu: expected {known}, found {found}");
                        DeviceError::Unsupported(said)
                    })
                };
                let weights = Precision::ALL.map(Precision::code).join(", ");
                let precision = stored("weights", &format!("one of {weights}"), precision)?;
                let kv_precision = stored("KV cache", "f16 or f32", kv_precision)?;
                let options = cpu::Options { precision, kv_precision, limits, threads };
                Ok(Self::Cpu(Box::new(Cpu::load(model, options, clock)?)))
            }
            DeviceName::Cuda(number) => {
                let driver =
                    cuda::open(number, cache_folder().as_deref()).map_err(|error| match error {
                        OpenError::Missing(missing) => DeviceError::Unsupported(missing.what),
                        OpenError::Device(error) => error,
                    })?;
                let options = cuda::Options { precision, kv_precision, limits, techniques };
                Ok(Self::Cuda(Box::new(Cuda::load(driver, model, options, clock)?)))
            }
        }
    }

    /// As what runs steps.
    pub(super) fn backend(&self) -> &dyn Backend {
        match self {
            Self::Cpu(cpu) => &**cpu,
            Self::Cuda(cuda) => &**cuda,
        }
    }

    /// The same.
    pub(super) fn backend_mut(&mut self) -> &mut dyn Backend {
        match self {
            Self::Cpu(cpu) => &mut **cpu,
            Self::Cuda(cuda) => &mut **cuda,
        }
    }

    /// The same, for good.
    pub(super) fn into_backend(self) -> Box<dyn Backend> {
        match self {
            Self::Cpu(cpu) => cpu,
            Self::Cuda(cuda) => cuda,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_device_is_refused() {
        assert_eq!(DeviceName::find("cpu").unwrap(), DeviceName::Cpu);
        for word in ["gpu", "", "cpu:1", "cuda:", "cuda:x", "cuda:-1", "rocm:0"] {
            let failure = DeviceName::find(word).unwrap_err();
            assert_eq!(failure.message, format!("open device {word}: expected cpu or cuda[:N]"));
            assert!(failure.hint.is_some());
        }
    }

    #[test]
    fn a_card_that_is_not_there_is_refused_with_a_hint() {
        // No machine has so many.
        let failure = DeviceName::find("cuda:4000000").unwrap_err();
        assert!(failure.message.starts_with("open device cuda:4000000: "), "{}", failure.message);
        assert!(failure.hint.is_some());
    }
}
