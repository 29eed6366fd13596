//! What this backend needs of a driver, as a trait.

use crate::backend::DeviceError;
use crate::unit::Nanos;

use super::image::{Activation, Program};
use super::tracer::Tracer;

/// A place in the memory of a device; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl Address {
    /// No place: what a kernel takes for an argument that is left out.
    pub const NULL: Self = Self(0);

    /// So many bytes further on.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

/// A kernel that can be launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Function(pub u64);

/// A point in the order of a device's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Event(pub u64);

/// A place in the host's memory that a device copies to and from while the host goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shelf(pub u64);

/// Launches and records that were written down and can be asked for as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Graph(pub u64);

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its number among the devices that the driver shows.
    pub number: u32,
    /// The maker's name for it.
    pub name: String,
    /// The maker's identity of this one card, `GPU-…`; empty if it has none.
    pub uuid: String,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of its second-level cache.
    pub cache: u64,
    /// Compute capability: major and minor.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
}

/// Why a driver did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// Device memory ran out.
    #[error("out of memory")]
    OutOfMemory,
    /// A call failed.
    #[error("{call}: {what}")]
    Failed {
        /// The call.
        call: String,
        /// What the driver says.
        what: String,
    },
    /// A kernel could not be compiled.
    #[error("compile {file}: {what}")]
    Compile {
        /// The file.
        file: String,
        /// What the compiler says.
        what: String,
    },
}

impl From<DriverError> for DeviceError {
    fn from(error: DriverError) -> Self {
        match error {
            DriverError::OutOfMemory => {
                Self::OutOfMemory { what: "a kernel".to_owned(), needed: 0, available: 0 }
            }
            DriverError::Failed { .. } => Self::Lost(error.to_string()),
            DriverError::Compile { .. } => Self::Unsupported(error.to_string()),
        }
    }
}

/// The most arguments of any kernel.
const MOST_ARGUMENTS: usize = 20;

/// The arguments of a launch, in order, each in eight bytes of its own, the lowest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    values: [u64; MOST_ARGUMENTS],
    count: usize,
}

impl Arguments {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All of them.
    #[must_use]
    pub fn values(&self) -> &[u64] {
        &self.values[..self.count]
    }

    /// And 64 bits.
    ///
    /// # Panics
    /// If there are more than any kernel takes.
    #[must_use]
    pub const fn long(mut self, value: u64) -> Self {
        self.values[self.count] = value;
        self.count += 1;
        self
    }

    /// And an address.
    #[must_use]
    pub const fn address(self, address: Address) -> Self {
        self.long(address.0)
    }

    /// And addresses.
    #[must_use]
    pub fn addresses<const N: usize>(self, addresses: [Address; N]) -> Self {
        addresses.into_iter().fold(self, Self::address)
    }

    /// And a 32-bit integer.
    #[must_use]
    pub const fn int(self, value: u32) -> Self {
        self.long(value as u64)
    }

    /// And 32-bit integers.
    #[must_use]
    pub fn ints<const N: usize>(self, values: [u32; N]) -> Self {
        values.into_iter().fold(self, Self::int)
    }

    /// And a float.
    #[must_use]
    pub const fn float(self, value: f32) -> Self {
        self.long(value.to_bits() as u64)
    }
}

/// A product of rows with a matrix: `out = x · weightsᵀ`, each matrix row after row. Both are of
/// the activations' type, or both e4m3 with a factor for each of their rows. Sums are f32, and
/// rounded once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dense {
    /// `[rows, outputs]` of activations, or of f32 if `wide`.
    pub out: Address,
    /// `[rows, inputs]`; a row has a multiple of 16 bytes.
    pub x: Address,
    /// `[outputs, inputs]`.
    pub weights: Address,
    /// Where both are e4m3, the factors `[rows]` and `[outputs]` of their rows, f32.
    pub scales: Option<Scales>,
    /// `[outputs]` of activations, added to each row; null for none.
    pub bias: Address,
    /// [`Dense::WORKSPACE`] bytes at an address divisible by 256, in which anything may be left.
    pub workspace: Address,
    /// Rows.
    pub rows: u32,
    /// Rows of the matrix.
    pub outputs: u32,
    /// Columns of the matrix.
    pub inputs: u32,
    /// The type of activations.
    pub activation: Activation,
    /// Whether the product is added to what `out` holds.
    pub adds: bool,
    /// Whether `out` is f32.
    pub wide: bool,
}

/// The factors of the rows of a product and of its matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scales {
    /// Of `x`.
    pub rows: Address,
    /// Of the weights.
    pub outputs: Address,
}

impl Dense {
    /// Bytes of the workspace: as many as NVIDIA recommends for its latest cards.
    pub const WORKSPACE: u64 = 32 << 20;
}

/// A device of its own, with one order of work.
///
/// Duties of an implementor:
/// 1. Work is done in the order it was asked for. What a call enqueues may run after it returned.
/// 2. Memory, functions, events, shelves and graphs live as long as the driver; [`Driver::free`]
///    and [`Driver::forget`] end memory and graphs sooner, when all work before them is done.
/// 3. A failure of enqueued work is said by a later call, at the latest by [`Driver::wait`].
pub trait Driver {
    /// The device.
    fn card(&self) -> &Card;

    /// Bytes of memory that are free.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device is lost.
    fn free_memory(&self) -> Result<u64, DriverError>;

    /// Memory of `bytes`, at an address divisible by 16. What it holds is not defined.
    ///
    /// # Errors
    /// [`DriverError::OutOfMemory`], or [`DriverError::Failed`] if the device is lost.
    fn allocate(&self, bytes: u64) -> Result<Address, DriverError>;

    /// Gives memory back.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device is lost.
    fn free(&self, address: Address) -> Result<(), DriverError>;

    /// Enqueues a copy of `bytes`, which may change when this returns.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device is lost.
    fn write(&self, to: Address, bytes: &[u8]) -> Result<(), DriverError>;

    /// Waits for all work, then copies to `bytes`.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device is lost, or work before this failed.
    fn read(&self, from: Address, bytes: &mut [u8]) -> Result<(), DriverError>;

    /// A new shelf of `bytes`, all of them zero.
    ///
    /// # Errors
    /// [`DriverError::OutOfMemory`], or [`DriverError::Failed`] if the device is lost.
    fn shelf(&self, bytes: u64) -> Result<Shelf, DriverError>;

    /// Puts `bytes` on a shelf and enqueues a copy of them from there. What was enqueued for this
    /// shelf before is done.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if there is no such shelf, they do not fit, or the device is lost.
    fn send(&self, bytes: &[u8], by: Shelf, to: Address) -> Result<(), DriverError>;

    /// Enqueues a copy that fills the shelf.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device is lost.
    fn fetch(&self, from: Address, to: Shelf) -> Result<(), DriverError>;

    /// What is on the shelf, as many bytes as it has. An event behind the last copy there has
    /// passed.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if there is no such shelf.
    fn fetched(&self, from: Shelf, bytes: &mut [u8]) -> Result<(), DriverError>;

    /// Makes the kernels of these programs known.
    ///
    /// # Errors
    /// [`DriverError::Compile`] if one cannot be compiled, [`DriverError::Failed`] if one cannot
    /// be loaded.
    fn load(&self, programs: &[Program]) -> Result<(), DriverError>;

    /// A kernel by its name.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if no loaded program has it.
    fn function(&self, name: &str) -> Result<Function, DriverError>;

    /// Enqueues a launch of `grid` blocks of `block` threads.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device refuses it or is lost.
    fn launch(
        &self,
        function: Function,
        grid: [u32; 3],
        block: u32,
        arguments: &Arguments,
    ) -> Result<(), DriverError>;

    /// Whether there is a library for dense products. It is opened when this is first asked.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if it is there and cannot be opened.
    fn multiplies(&self) -> Result<bool, DriverError>;

    /// Whether the library of dense products, which is there, has a way for products like this one,
    /// of as many rows or somewhat fewer. Nothing is looked at where its addresses point.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the library fails.
    fn can_multiply(&self, product: &Dense) -> Result<bool, DriverError>;

    /// Enqueues a product by the library of dense products; whether it did. It does not where there
    /// is none, where it has no way for a product like this, and, while launches are written down,
    /// where it has not met one like this before.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device refuses it or is lost.
    fn multiply(&self, product: &Dense) -> Result<bool, DriverError>;

    /// A new event.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device is lost.
    fn event(&self) -> Result<Event, DriverError>;

    /// Enqueues a note of the time at which all work before it is done.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device is lost.
    fn record(&self, event: Event) -> Result<(), DriverError>;

    /// Waits until the device has come to where an event was last recorded.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if work before it failed, or the device is lost.
    fn wait_for(&self, event: Event) -> Result<(), DriverError>;

    /// Time from one recorded event to a later one, once both have passed.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if one has not passed, or the device is lost.
    fn elapsed(&self, from: Event, to: Event) -> Result<Nanos, DriverError>;

    /// From now on launches and records are written down and not done. Nothing else may be asked
    /// until [`Driver::end_capture`].
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device is lost.
    fn begin_capture(&self) -> Result<(), DriverError>;

    /// What was written down. Arguments are as they were; what lies at their addresses may change.
    ///
    /// # Errors
    /// [`DriverError::OutOfMemory`], or [`DriverError::Failed`] if the device is lost.
    fn end_capture(&self) -> Result<Graph, DriverError>;

    /// Enqueues all that a graph holds, in its order.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if there is no such graph or the device is lost.
    fn replay(&self, graph: Graph) -> Result<(), DriverError>;

    /// Ends a graph.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device is lost.
    fn forget(&self, graph: Graph) -> Result<(), DriverError>;

    /// Waits for all work.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if any of it failed, or the device is lost.
    fn wait(&self) -> Result<(), DriverError>;

    /// Records of its kernels.
    ///
    /// # Errors
    /// Why there are none.
    fn tracer(&self) -> Result<&dyn Tracer, &str>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_argument_has_eight_bytes() {
        let arguments = Arguments::new()
            .addresses([Address(7).plus(1 << 33), Address::NULL])
            .ints([5, u32::MAX])
            .float(-1.5)
            .long(u64::MAX);
        let expected = [7 + (1 << 33), 0, 5, 0xffff_ffff, 0xbfc0_0000, u64::MAX];
        assert_eq!(arguments.values(), expected);
    }

    #[test]
    fn a_driver_that_fails_loses_the_device_and_one_that_cannot_compile_does_not() {
        let failed = DriverError::Failed { call: "cuLaunchKernel".into(), what: "no".into() };
        assert!(matches!(DeviceError::from(failed), DeviceError::Lost(_)));
        let refused = DriverError::Compile { file: "gemv.cu".into(), what: "no".into() };
        assert!(matches!(DeviceError::from(refused), DeviceError::Unsupported(_)));
    }
}
