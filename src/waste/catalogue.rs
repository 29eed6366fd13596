//! The causes: one entry each, from which help, glossary, report text, metric names and gate
//! keys are generated. Codes are stable and never reused.

use serde::{Deserialize, Serialize};

/// One of the seven wastes of the Toyota Production System, or none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Muda {
    /// Transforms the output.
    Value,
    /// The device stands idle.
    Waiting,
    /// The device moves without transforming.
    Motion,
    /// Data is carried about.
    Transportation,
    /// Made, and nobody takes it.
    Overproduction,
    /// Done more than the order asks for.
    Overprocessing,
    /// Held without being used.
    Inventory,
    /// Made wrong.
    Defects,
    /// Open work and what could not be explained.
    Other,
}

impl Muda {
    /// Every one, in the order of reports.
    pub const ALL: [Self; 9] = [
        Self::Value,
        Self::Waiting,
        Self::Motion,
        Self::Transportation,
        Self::Overproduction,
        Self::Overprocessing,
        Self::Inventory,
        Self::Defects,
        Self::Other,
    ];

    /// The word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Waiting => "waiting",
            Self::Motion => "motion",
            Self::Transportation => "transportation",
            Self::Overproduction => "overproduction",
            Self::Overprocessing => "overprocessing",
            Self::Inventory => "inventory",
            Self::Defects => "defects",
            Self::Other => "other",
        }
    }
}

/// Whether an amount served, had to be, or could go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Transforms the output, is wanted, and was right the first time.
    Value,
    /// Unavoidable with today's model, hardware, demand and promise.
    Necessary,
    /// Removable now.
    Waste,
}

impl Level {
    /// Every level.
    pub const ALL: [Self; 3] = [Self::Value, Self::Necessary, Self::Waste];

    /// The word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Necessary => "necessary",
            Self::Waste => "waste",
        }
    }
}

/// What a cause is, how it is found and what attacks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The cause.
    pub cause: Cause,
    /// Its stable code.
    pub code: &'static str,
    /// The waste it belongs to by default.
    pub muda: Muda,
    /// The level of a posting that no rule decides otherwise.
    pub level: Level,
    /// One sentence.
    pub definition: &'static str,
    /// How the amount is found.
    pub formula: &'static str,
    /// What attacks it.
    pub countermeasure: &'static str,
    /// Whether only a re-run can show it. Such a cause is never booked from a trace.
    pub verified_only: bool,
}

macro_rules! catalogue {
    ($($cause:ident $code:literal $muda:ident $level:ident $only:literal
       $definition:literal $formula:literal $countermeasure:literal;)+) => {
        /// A cause of cost. Order is the order of the catalogue.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Cause {
            $(#[doc = $definition] $cause),+
        }

        /// The catalogue.
        pub const CAUSES: &[Entry] = &[$(Entry {
            cause: Cause::$cause,
            code: $code,
            muda: Muda::$muda,
            level: Level::$level,
            definition: $definition,
            formula: $formula,
            countermeasure: $countermeasure,
            verified_only: $only,
        }),+];
    };
}

catalogue! {
    ValuePrefill "value.prefill" Value Value false
        "Compute-floor time of prompt rows that a delivered answer needed, done the first time."
        "operations of useful prefill rows ÷ measured operations per second"
        "none: this is what the device is for";
    ValueDecode "value.decode" Value Value false
        "Compute-floor time of rows whose token was delivered, accepted and made the first time."
        "operations of useful decode rows ÷ measured operations per second"
        "none: this is what the device is for";
    NoDemand "no_demand" Waiting Waste false
        "The device idles because nothing is in the system."
        "idle time in state `empty`, less what the promise needs"
        "consolidate replicas, scale to demand";
    SloHeadroom "slo_headroom" Waiting Necessary false
        "Idle time that this burstiness needs so that the promised latency holds."
        "the largest slow-down at which a replay of the requests still keeps the promise"
        "shape demand, relax the promise";
    Upstream "upstream" Waiting Waste false
        "Every live request waits for something outside: a tool, retrieval, the client."
        "idle time in state `external`"
        "run tools in parallel, overlap them with decoding";
    BatchFill "batch_fill" Waiting Waste false
        "Work could run, but the scheduler holds the batch back."
        "idle time in state `holding`"
        "continuous batching";
    Capacity "capacity" Waiting Waste false
        "Work waits and none of it can be admitted: no KV block or slot is free."
        "idle time in state `blocked`"
        "paged allocation, KV quantization, more memory";
    Host "host" Waiting Waste false
        "Work is runnable and the device waits for the host to schedule, sample or tokenize."
        "idle time in state `host`"
        "overlap scheduling with the step, sample on the device";
    Peer "peer" Waiting Waste false
        "Another device of the same step is late."
        "idle time while a peer works on the step"
        "balance the partition";
    Throttle "throttle" Waiting Waste false
        "Time lost because a power or temperature limit held the device's clock down."
        "kernel time that moving bytes does not explain × (1 − clock ÷ the highest clock read \
         before without a limit), where a limit is read; at most what would be slack"
        "power and thermal limits, placement";
    Queue "queue" Waiting Waste false
        "A request waits for its turn."
        "request time before a request's first step, and between steps that leave it out"
        "larger batch, more capacity, admission control";
    Interference "interference" Waiting Waste false
        "A decoding request waits for other requests' prefill in the same step."
        "request time in a step × share of the step spent on others' prefill rows"
        "chunked prefill, smaller token budget";
    LaunchGap "launch_gap" Motion Waste false
        "Nothing runs between two operations of a step."
        "idle time inside a step; necessary up to the measured launch floor per operation"
        "graphs, fusion, fewer launches";
    KernelSlack "kernel_slack" Motion Waste false
        "A kernel ran slower than its own floor."
        "kernel time less its floor, and less what a limit on the clock took"
        "a better kernel, a larger batch";
    Changeover "changeover" Motion Necessary false
        "Loading, warming up, capturing, compiling."
        "time in states `load` and `warm_up`"
        "keep models resident, cache compiled kernels";
    Observer "observer" Motion Necessary false
        "The profiler's own cost."
        "measured nanoseconds per launch × launches, and time in state `calibrate`"
        "keep the calibration from run to run, record less";
    WeightStreaming "weight_streaming" Transportation Necessary false
        "Moving weights for useful rows, at the reference batch."
        "weight bytes ÷ read bandwidth × useful rows ÷ reference batch, where not hidden by \
         compute"
        "quantize, speculate";
    UnderfilledBatch "underfilled_batch" Transportation Necessary false
        "Moving weights for fewer rows than the reference batch could have shared them with."
        "weight bytes ÷ read bandwidth × (1 − useful rows ÷ reference batch); waste if other \
         work was waiting"
        "larger batch";
    KvStreaming "kv_streaming" Transportation Necessary false
        "Reading and writing the KV cache."
        "KV bytes ÷ read bandwidth"
        "KV quantization, sparse attention, sliding windows";
    ActivationStreaming "activation_streaming" Transportation Necessary false
        "Moving activations that even a fused kernel must read and write."
        "activation bytes ÷ cache bandwidth"
        "fusion across layers";
    ExcessBytes "excess_bytes" Transportation Waste false
        "Round trips that a fused form would not make: scratch, dequantization, copies."
        "excess bytes ÷ cache bandwidth"
        "fusion";
    HostCopy "host_copy" Transportation Waste false
        "Copies between host and device."
        "time of copies in which nothing computes and no KV block moves; bytes of all of them"
        "keep data on the device, overlap copies";
    KvMove "kv_move" Transportation Waste false
        "Moving KV blocks: swap, offload, migration."
        "time of copies of KV blocks in which nothing computes; bytes of all of them"
        "more capacity, recompute instead";
    Collective "collective" Transportation Necessary false
        "Exchanging activations between devices."
        "time of collective operations"
        "a smaller parallel degree, overlap";
    Padding "padding" Overproduction Waste false
        "Rows of no request: they fill a static batch or a graph bucket."
        "kernel time of all rows less kernel time of the useful ones, by rows"
        "continuous batching, finer buckets";
    RejectedDraft "rejected_draft" Overproduction Waste false
        "Draft and verify rows that were not accepted."
        "kernel time of all rows less kernel time of the useful ones, by rows"
        "a shorter draft, a better draft model";
    Overrun "overrun" Overproduction Waste false
        "Rows computed after their request had stopped."
        "kernel time of all rows less kernel time of the useful ones, by rows"
        "check stops every step, do without asynchronous scheduling";
    Orphaned "orphaned" Overproduction Waste false
        "Rows computed for a consumer that had gone."
        "kernel time of all rows less kernel time of the useful ones, by rows"
        "cancel on disconnect";
    UnusedSample "unused_sample" Overproduction Waste false
        "Samples of one request that nobody used."
        "kernel time of all rows less kernel time of the useful ones, by rows"
        "fewer samples, early stopping";
    Duplicate "duplicate" Overproduction Waste false
        "A deterministic request that had been answered before."
        "kernel time of all rows less kernel time of the useful ones, by rows"
        "cache answers";
    PrefixRecompute "prefix_recompute" Overprocessing Waste false
        "Prompt rows that an unlimited prefix cache would have held."
        "kernel time of all rows less kernel time of the useful ones, by rows"
        "prefix cache, more room for it, cache-aware routing";
    Inspection "inspection" Overprocessing Necessary false
        "Validators, grammar masks, judges."
        "time of checking"
        "cheaper checks, off the critical path";
    OversizedModel "oversized_model" Overprocessing Waste true
        "A smaller model would have passed the quality floor."
        "verified by a re-run"
        "routing";
    ExcessPrecision "excess_precision" Overprocessing Waste true
        "A lower precision would have passed the quality floor."
        "verified by a re-run"
        "quantization";
    ContextBloat "context_bloat" Overprocessing Waste true
        "A shorter context would have passed the quality floor."
        "verified by a re-run"
        "re-ranking, compression";
    ExcessReasoning "excess_reasoning" Overprocessing Waste true
        "Less reasoning would have passed the quality floor."
        "verified by a re-run"
        "a reasoning budget";
    DenseAttention "dense_attention" Overprocessing Waste true
        "Sparse attention would have passed the quality floor."
        "verified by a re-run"
        "sparse selection";
    HoldWeights "hold.weights" Value Value false
        "Weights resident while steps read them."
        "weight bytes × time inside steps"
        "none: a productive holding";
    HoldWorkspace "hold.workspace" Value Necessary false
        "Activations and staging buffers."
        "workspace bytes × time"
        "smaller token budget";
    HoldKvLive "hold.kv_live" Value Value false
        "KV entries of running requests."
        "written bytes of held blocks × time"
        "none: a productive holding";
    HoldKvReused "hold.kv_reused" Value Value false
        "Cached KV entries that were hit later."
        "bytes of cached blocks × time until their last hit"
        "none: a productive holding";
    KvReserved "kv_reserved" Inventory Waste false
        "KV memory held for tokens not written yet."
        "unwritten bytes of held blocks beyond the one being filled × time"
        "paged allocation";
    KvFragment "kv_fragment" Inventory Necessary false
        "The unwritten tail of the block being filled."
        "unwritten bytes of partly written blocks × time"
        "smaller blocks";
    KvCold "kv_cold" Inventory Waste false
        "Cached KV entries after their last hit."
        "bytes of cached blocks × time after their last hit"
        "a better eviction order, a smaller pool";
    KvPaused "kv_paused" Inventory Waste false
        "KV entries of requests that wait outside."
        "bytes of paused blocks × time"
        "offload, recompute";
    IdleWeights "idle_weights" Inventory Waste false
        "Weights resident while nothing reads them."
        "weight bytes × time outside steps"
        "consolidate models, scale to demand";
    FreeHeadroom "free_headroom" Inventory Waste false
        "Device memory that nothing uses."
        "capacity less everything held × time; the free part of the KV pool apart"
        "a smaller device, a larger batch";
    Malformed "malformed" Defects Waste false
        "Attempts whose answer failed its parser or schema."
        "kernel time of all rows less kernel time of the useful ones, by rows"
        "constrained decoding";
    Wrong "wrong" Defects Waste false
        "Attempts whose answer failed the order's checker."
        "kernel time of all rows less kernel time of the useful ones, by rows"
        "a better model or prompt";
    FailedRequest "failed_request" Defects Waste false
        "Requests that ended in an error, a timeout or an abort."
        "kernel time of all rows less kernel time of the useful ones, by rows"
        "admission control, honest time limits";
    AbandonedRun "abandoned_run" Defects Waste false
        "Good calls inside a task that was finally rejected."
        "cost of the task's calls"
        "andon, a step budget";
    PreemptRecompute "preempt_recompute" Defects Waste false
        "Rows computed again after a running request lost its memory."
        "kernel time of all rows less kernel time of the useful ones, by rows"
        "more KV memory, fewer running requests";
    FaultRecovery "fault_recovery" Defects Waste false
        "Time in which the device was failed or recovering."
        "time in state `faulted`"
        "spares, faster restart";
    WipOpen "wip.open" Other Necessary false
        "Work of requests whose end the run did not see."
        "what their rows cost so far"
        "record longer";
    UnattributedIdle "unattributed.idle" Other Waste false
        "Idle time that no recorded state explains."
        "idle time before the first state"
        "record states";
    UnattributedBusy "unattributed.busy" Other Waste false
        "Operations outside any step, or of a step without rows."
        "their time"
        "record steps and rows";
}

impl Cause {
    /// Its entry.
    #[must_use]
    pub const fn entry(self) -> &'static Entry {
        &CAUSES[self as usize]
    }

    /// Its stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        self.entry().code
    }

    /// The cause that a code names.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        CAUSES.iter().find(|entry| entry.code == code).map(|entry| entry.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_once_and_finds_its_cause() {
        for (i, entry) in CAUSES.iter().enumerate() {
            assert_eq!(entry.cause as usize, i);
            assert_eq!(Cause::from_code(entry.code), Some(entry.cause));
            assert!(CAUSES[..i].iter().all(|other| other.code != entry.code));
        }
        assert_eq!(Cause::from_code("luck"), None);
    }

    #[test]
    fn definitions_are_sentences() {
        for entry in CAUSES {
            assert!(entry.definition.ends_with('.'), "{}", entry.code);
            assert!(!entry.countermeasure.is_empty(), "{}", entry.code);
        }
    }
}
