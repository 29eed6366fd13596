//! The workloads that come with Gemba: the files of `workloads/`, held in the program itself.

use std::path::Path;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// Its file name in `workloads/`.
    pub file: &'static str,
    /// What stands in it.
    pub bytes: &'static [u8],
}

impl Shipped {
    /// Its file name without the ending: what it is called on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.file.rsplit_once('.').map_or(self.file, |(name, _)| name)
    }
}

macro_rules! shipped {
    ($($file:literal),* $(,)?) => {
        &[$(Shipped {
            file: $file,
            bytes: include_bytes!(concat!("../../workloads/", $file)),
        }),*]
    };
}

/// All of them.
pub const SHIPPED: &[Shipped] = shipped![
    "default.toml",
    "steady.toml",
    "bursty.toml",
    "ramp.toml",
    "shared-prefix.toml",
    "long-and-short.toml",
    "azure-code.csv",
    "mooncake-conversation.jsonl",
    "vidur-arxiv.csv",
    "llmservingsim-sharegpt.jsonl",
    "llmservingsim-mixed.jsonl",
];

/// The shipped workload of a name: `default`, `default.toml` or `workloads/default.toml`.
#[must_use]
pub fn find(name: &Path) -> Option<&'static Shipped> {
    let wanted = name.strip_prefix("workloads").unwrap_or(name).to_str()?;
    SHIPPED.iter().find(|shipped| shipped.file == wanted || shipped.name() == wanted)
}

/// The names of all, for a message.
#[must_use]
pub fn names() -> Vec<&'static str> {
    SHIPPED.iter().map(Shipped::name).collect()
}
