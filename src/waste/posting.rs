//! What is booked: the key of an account, and the commodities.

use std::ops::AddAssign;

use super::catalogue::{Cause, Level};
use crate::event::KernelId;

/// A commodity with a ledger of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Commodity {
    /// Device time.
    DeviceTime,
    /// Energy.
    Energy,
    /// Device memory held over time.
    Memory,
    /// Bytes moved: in device memory, and by copies over the host link.
    Bytes,
    /// Token rows launched.
    Rows,
    /// Money.
    Money,
    /// Time of requests in the system.
    RequestTime,
}

impl Commodity {
    /// Every commodity, in the order of reports.
    pub const ALL: [Self; 7] = [
        Self::DeviceTime,
        Self::Energy,
        Self::Memory,
        Self::Bytes,
        Self::Rows,
        Self::Money,
        Self::RequestTime,
    ];

    /// The word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::DeviceTime => "device_time",
            Self::Energy => "energy",
            Self::Memory => "memory",
            Self::Bytes => "bytes",
            Self::Rows => "rows",
            Self::Money => "money",
            Self::RequestTime => "request_time",
        }
    }

    /// The unit of its amounts.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::DeviceTime => "device_ns",
            Self::Energy => "uJ",
            Self::Memory => "byte_ns",
            Self::Bytes => "bytes",
            Self::Rows => "rows",
            Self::Money => "picodollars",
            Self::RequestTime => "request_ns",
        }
    }
}

/// How an amount came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Basis {
    /// Read from a clock, a meter or a counter.
    Measured,
    /// Exact from the engine's own records.
    Counted,
    /// A rule split a measured total.
    Apportioned,
    /// An estimate from a stated model.
    Modelled,
    /// Shown by a re-run.
    Verified,
}

impl Basis {
    /// The word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Counted => "counted",
            Self::Apportioned => "apportioned",
            Self::Modelled => "modelled",
            Self::Verified => "verified",
        }
    }

    /// The weaker of two: what a figure made from both may claim.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.max(other)
    }
}

/// A finer reason inside a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubReason {
    /// Prefix: the cache is off.
    Disabled,
    /// Prefix: evicted before it was needed.
    Evicted,
    /// Prefix: the shared run ends inside a block.
    Unaligned,
    /// Prefix: another replica holds it.
    RoutedAway,
    /// Slack: too little work to fill the device.
    Latency,
    /// Slack: bound by bandwidth.
    Bandwidth,
    /// Slack: bound by arithmetic.
    Compute,
    /// Throttle: the power limit.
    Power,
    /// Throttle: the temperature limit.
    Thermal,
    /// Headroom: the free part of the KV pool.
    KvPool,
    /// Queue: waiting for a first turn.
    Admission,
    /// Queue: left out of a step after it had begun.
    Skipped,
    /// Queue: waiting again after losing its memory.
    Preempted,
    /// Changeover: loading weights.
    Load,
    /// Changeover: first launches.
    WarmUp,
    /// Observer: measuring itself and the machine.
    Calibrate,
    /// Observer: recording.
    Recording,
    /// Copies: from the host's memory to the device's.
    ToDevice,
    /// Copies: from the device's memory to the host's.
    ToHost,
    /// Copies: from one place in the device's memory to another.
    Within,
}

impl SubReason {
    /// The word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Evicted => "evicted",
            Self::Unaligned => "unaligned",
            Self::RoutedAway => "routed_away",
            Self::Latency => "latency",
            Self::Bandwidth => "bandwidth",
            Self::Compute => "compute",
            Self::Power => "power",
            Self::Thermal => "thermal",
            Self::KvPool => "kv_pool",
            Self::Admission => "admission",
            Self::Skipped => "skipped",
            Self::Preempted => "preempted",
            Self::Load => "load",
            Self::WarmUp => "warm_up",
            Self::Calibrate => "calibrate",
            Self::Recording => "recording",
            Self::ToDevice => "to_device",
            Self::ToHost => "to_host",
            Self::Within => "within",
        }
    }
}

/// The account of a posting but for who pays and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    /// Why.
    pub cause: Cause,
    /// Whether it served, had to be, or could go.
    pub level: Level,
    /// A finer reason.
    pub sub_reason: Option<SubReason>,
    /// How the amount came to be.
    pub basis: Basis,
    /// The kernel it was spent in.
    pub kernel: Option<KernelId>,
}

impl Account {
    /// An account at the cause's default level.
    #[must_use]
    pub const fn of(cause: Cause, basis: Basis) -> Self {
        Self { cause, level: cause.entry().level, sub_reason: None, basis, kernel: None }
    }

    /// The same with a finer reason.
    #[must_use]
    pub const fn because(self, sub_reason: SubReason) -> Self {
        Self { sub_reason: Some(sub_reason), ..self }
    }

    /// The same at another level.
    #[must_use]
    pub const fn at(self, level: Level) -> Self {
        Self { level, ..self }
    }

    /// The same in a kernel.
    #[must_use]
    pub const fn kernel(self, kernel: KernelId) -> Self {
        Self { kernel: Some(kernel), ..self }
    }
}

/// Adds `amount` to the account of a number, in a list that is as long as the numbers met so far.
pub(super) fn add_at<T: AddAssign + Clone + Default>(
    amounts: &mut Vec<T>,
    number: usize,
    amount: T,
) {
    if amounts.len() <= number {
        amounts.resize(number + 1, T::default());
    }
    amounts[number] += amount;
}

/// The full key of a posting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The account.
    pub account: Account,
    /// The device, where the amount has one.
    pub device: Option<u16>,
    /// The step, where the amount has one and the books are kept by step.
    pub step: Option<u64>,
    /// The request that pays, if any does.
    pub request: Option<u64>,
}
