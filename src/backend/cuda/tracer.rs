//! What this backend needs to know of when kernels ran, as a trait.

use super::driver::{DriverError, Function};
use super::timeline::Record;
use crate::unit::Nanos;

/// Records of the kernels that a driver runs.
///
/// Duties of an implementor:
/// 1. It records from the driver's making on, until it is told otherwise.
/// 2. While it records, there is one [`Record`] for each kernel that ran, and it notes each launch,
///    one that is captured when it is captured.
/// 3. A record's times are the device's own: nothing stands between kernels to be timed.
pub trait Tracer {
    /// Whether kernels that are launched from now on are recorded. All work is done; what was
    /// recorded or noted before is forgotten.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if it is refused.
    fn trace(&self, kernels: bool) -> Result<(), DriverError>;

    /// The time now, by the clock of records.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if it is refused.
    fn now(&self) -> Result<Nanos, DriverError>;

    /// Moves there what was launched since the last call, in order.
    fn launched(&self, kernels: &mut Vec<Function>);

    /// Moves there the records of what ran since the last call, in any order, and gives how many
    /// were dropped on their way. All work is done. There are at least so many: where fewer are
    /// found, it may look again for a moment.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if it is refused.
    fn records(&self, least: usize, records: &mut Vec<Record>) -> Result<u64, DriverError>;
}
