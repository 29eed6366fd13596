//! What tells when operations ran.

/// What tells when operations ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimedBy {
    /// The host's clock, read before and after each.
    HostClock,
    /// Events on the device, before and after each; why there are no records of kernels.
    Events(String),
    /// The device's own records of kernels.
    Records {
        /// Steps in which a library may launch kernels of its own are timed by events.
        library: bool,
    },
}

impl TimedBy {
    /// Its name in `--json` and in keys.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::HostClock => "host_clock",
            Self::Events(_) => "events",
            Self::Records { .. } => "records",
        }
    }

    /// What a reader of the times should know, as a sentence; none for the host's clock.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        match self {
            Self::HostClock => None,
            Self::Events(why) => {
                Some(format!("Operations were timed by events between kernels: {why}."))
            }
            Self::Records { library } => {
                let all = "Operations were timed by CUPTI's records of kernels, for which a device \
                           whose steps follow each other runs empty four times a second.";
                let but = " Steps of more than 64 rows, in which cuBLASLt may multiply, were timed \
                           by events.";
                Some(if *library { format!("{all}{but}") } else { all.to_owned() })
            }
        }
    }
}
