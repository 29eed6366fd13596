//! Reports made by hand. No run ever gave these figures; they have the shape of a real one.

#![expect(clippy::expect_used, reason = "a test may stop at a cause that does not exist")]

mod charts;
pub mod hostile;

use gemba::report::{
    CauseRow, ChartOrigins, GlossaryEntry, KernelRow, LatencyRow, Ledger, LevelWord, MemoryChart,
    Origin, Part, Report, RequestRow, RequestsRest, Roofline, Seal, SealRow, Tile, ValueStream,
    WaterfallStep,
};
use gemba::unit::{Scale, grouped};
use gemba::waste::{CAUSES, Cause};

fn nanos(x: f64) -> String {
    Scale::nanos(x).show(x)
}

fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.0005 {
        "<0.1 %".to_owned()
    } else {
        format!("{:.1} %", share * 100.0)
    }
}

fn part(label: &str, level: LevelWord, share: f64, text: String) -> Part {
    Part { label: label.to_owned(), level, share, text, percent: percent(share) }
}

fn cause(
    code: &str,
    level: LevelWord,
    amount: f64,
    total: f64,
    show: fn(f64) -> String,
) -> CauseRow {
    let entry = Cause::from_code(code).expect("a known cause").entry();
    CauseRow {
        code: entry.code.to_owned(),
        muda: entry.muda.code(),
        level,
        share: amount / total,
        cumulative: 0.0,
        text: show(amount),
        percent: percent(amount / total),
        basis: "measured".to_owned(),
        reasons: Vec::new(),
        definition: entry.definition,
        formula: entry.formula,
        countermeasure: entry.countermeasure,
    }
}

fn ledger(
    commodity: &str,
    name: &str,
    show: fn(f64) -> String,
    amounts: &[(&str, LevelWord, f64)],
) -> Ledger {
    let total: f64 = amounts.iter().map(|a| a.2).sum();
    let mut causes: Vec<CauseRow> =
        amounts.iter().map(|a| cause(a.0, a.1, a.2, total, show)).collect();
    causes.sort_by(|a, b| b.share.total_cmp(&a.share));
    let mut sum = 0.0;
    for cause in &mut causes {
        sum += cause.share;
        cause.cumulative = sum;
        if cause.code == "kernel_slack" {
            cause.reasons = [("bandwidth", "71.2 %"), ("latency", "22.0 %"), ("compute", "6.8 %")]
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .to_vec();
            cause.basis = "measured, apportioned".to_owned();
        }
    }
    let levels = ["value", "necessary", "waste"].map(|level| {
        let held = amounts.iter().filter(|a| a.1 == level).fold(0.0, |sum, a| sum + a.2);
        part(level, level, held / total, show(held))
    });
    Ledger {
        commodity: commodity.to_owned(),
        name: name.to_owned(),
        total: show(total),
        origin: origin(),
        levels: levels.to_vec(),
        causes,
    }
}

const DEVICE_TIME: [(&str, LevelWord, f64); 17] = [
    ("value.prefill", "value", 6.1e9),
    ("value.decode", "value", 1.9e9),
    ("no_demand", "waste", 4.4e9),
    ("slo_headroom", "necessary", 1.2e9),
    ("batch_fill", "waste", 5.2e9),
    ("host", "waste", 0.74e9),
    ("launch_gap", "necessary", 0.21e9),
    ("launch_gap", "waste", 0.33e9),
    ("kernel_slack", "waste", 6.3e9),
    ("changeover", "necessary", 0.9e9),
    ("observer", "necessary", 0.05e9),
    ("weight_streaming", "necessary", 8.7e9),
    ("underfilled_batch", "waste", 7.9e9),
    ("kv_streaming", "necessary", 1.1e9),
    ("padding", "waste", 3.6e9),
    ("prefix_recompute", "waste", 2.2e9),
    ("unattributed.busy", "waste", 0.02e9),
];

fn ledgers() -> Vec<Ledger> {
    let seconds = |x: f64| nanos(x);
    let bytes = |x: f64| Scale::bytes(x).show(x);
    let held = |x: f64| format!("{}·s", Scale::bytes(x).show(x));
    let rows = |x: f64| Scale::count(x).show(x);
    let money = |x: f64| format!("${x:.2}");
    let joules = |x: f64| format!("{x:.0} J");
    vec![
        ledger("device_time", "Device time", seconds, &DEVICE_TIME),
        ledger(
            "energy",
            "Energy",
            joules,
            &[
                ("value.prefill", "value", 310.0),
                ("value.decode", "value", 96.0),
                ("no_demand", "waste", 88.0),
                ("batch_fill", "waste", 104.0),
                ("kernel_slack", "waste", 300.0),
                ("weight_streaming", "necessary", 420.0),
                ("underfilled_batch", "waste", 390.0),
                ("padding", "waste", 166.0),
                ("prefix_recompute", "waste", 109.0),
            ],
        ),
        ledger(
            "memory",
            "Memory",
            held,
            &[
                ("value.decode", "value", 62e9),
                ("no_demand", "waste", 198e9),
                ("changeover", "necessary", 41e9),
            ],
        ),
        ledger(
            "bytes",
            "Bytes moved",
            bytes,
            &[
                ("weight_streaming", "necessary", 402e9),
                ("underfilled_batch", "waste", 371e9),
                ("kv_streaming", "necessary", 52e9),
                ("excess_bytes", "waste", 18e9),
                ("padding", "waste", 96e9),
            ],
        ),
        ledger(
            "rows",
            "Rows",
            rows,
            &[
                ("value.prefill", "value", 48_120.0),
                ("value.decode", "value", 9_640.0),
                ("padding", "waste", 14_980.0),
                ("prefix_recompute", "waste", 17_200.0),
                ("preempt_recompute", "waste", 610.0),
            ],
        ),
        ledger(
            "money",
            "Money",
            money,
            &[
                ("value.prefill", "value", 0.31),
                ("weight_streaming", "necessary", 0.44),
                ("underfilled_batch", "waste", 0.40),
                ("kernel_slack", "waste", 0.32),
                ("batch_fill", "waste", 0.26),
            ],
        ),
        ledger(
            "request_time",
            "Request time",
            seconds,
            &[
                ("value.prefill", "value", 18e9),
                ("value.decode", "value", 44e9),
                ("batch_fill", "waste", 131e9),
                ("host", "necessary", 12e9),
            ],
        ),
    ]
}

fn waterfall() -> Vec<WaterfallStep> {
    let steps = [
        ("All device time", true, 0.0, 50.85, "necessary", "devices × window"),
        ("No demand", false, 46.45, 50.85, "waste", "no_demand 4.40 s"),
        ("Demanded", true, 0.0, 46.45, "necessary", "less the time without demand"),
        (
            "Availability loss",
            false,
            39.15,
            46.45,
            "waste",
            "batch_fill 5.20 s, slo_headroom 1.20 s, changeover 900 ms",
        ),
        (
            "Running",
            true,
            0.0,
            39.15,
            "necessary",
            "less waiting for batches, capacity, loading, faults",
        ),
        ("Yield loss", false, 33.35, 39.15, "waste", "padding 3.60 s, prefix_recompute 2.20 s"),
        ("Good", true, 0.0, 33.35, "necessary", "less rows thrown away, done twice or failed"),
        (
            "Performance loss",
            false,
            17.87,
            33.35,
            "waste",
            "underfilled_batch 7.90 s, kernel_slack 6.30 s, host 740 ms",
        ),
        (
            "Effective",
            true,
            0.0,
            17.87,
            "necessary",
            "less host, gaps, slack, excess and empty seats",
        ),
        (
            "Necessary movement",
            false,
            8.0,
            17.87,
            "necessary",
            "weight_streaming 8.70 s, kv_streaming 1.10 s",
        ),
        ("Value", true, 0.0, 8.0, "value", "arithmetic of delivered tokens"),
    ];
    let step = |(label, is_sum, from, to, level, note): (&str, bool, f64, f64, LevelWord, &str)| {
        WaterfallStep {
            label: label.to_owned(),
            is_sum,
            from: from / 50.85,
            to: to / 50.85,
            level,
            text: nanos((to - from) * 1e9),
            note: note.to_owned(),
            origin: origin(),
        }
    };
    steps.into_iter().map(step).collect()
}

fn stages(lead: f64, shares: &[(&str, LevelWord, f64)]) -> Vec<Part> {
    shares.iter().map(|s| part(s.0, s.1, s.2, nanos(lead * s.2))).collect()
}

const STREAM: [(&str, LevelWord, f64); 8] = [
    ("queue", "waste", 0.34),
    ("host", "waste", 0.03),
    ("value.prefill", "value", 0.08),
    ("interference", "waste", 0.12),
    ("value.decode", "value", 0.05),
    ("weight_streaming", "necessary", 0.21),
    ("underfilled_batch", "necessary", 0.14),
    ("kernel_slack", "waste", 0.03),
];

fn value_streams() -> Vec<ValueStream> {
    let classes = [("chat", 212, 3.4e9, "14.42"), ("summarize", 31, 9.1e9, "5.64")];
    let stream = |(class, requests, lead, wip): (&str, u64, f64, &str)| ValueStream {
        class: class.to_owned(),
        requests,
        lead: nanos(lead),
        work_in_process: wip.to_owned(),
        parts: stages(lead, &STREAM),
        stages_in_process: STREAM.iter().map(|s| format!("{:.2}", s.2 * 14.42)).collect(),
        value_added: "13.0 %".to_owned(),
    };
    classes.into_iter().map(stream).collect()
}

fn requests() -> Vec<RequestRow> {
    let row = |i: u64| {
        let paid = 9.0e8 / (1.0 + i as f64 * 0.11);
        let lead = 9.4e9 / (1.0 + (i * 7 % 13) as f64 * 0.2);
        let queue = 0.10 + (i * 5 % 11) as f64 * 0.03;
        let mut shares = STREAM.to_vec();
        shares[5].2 += shares[0].2 - queue;
        shares[0].2 = queue;
        RequestRow {
            request: i * 37 % 243,
            class: if i.is_multiple_of(4) { "summarize" } else { "chat" }.to_owned(),
            outcome: if i == 9 { "timeout" } else { "completed" }.to_owned(),
            tokens: [180 + i * 53 % 900, i * 31 % 160, 16 + i * 29 % 200],
            lead: nanos(lead),
            ttft: nanos(lead * 0.4),
            paid: nanos(paid),
            paid_nanos: paid,
            parts: stages(lead, &shares),
        }
    };
    (0..40).map(row).collect()
}

fn kernels() -> Vec<KernelRow> {
    // name, seconds, launches, share of floor, intensity, operations per second
    let rows = [
        ("gate_up", 11.9, 49_720, 0.86, 7.1, 148e9),
        ("down", 6.4, 49_720, 0.81, 6.8, 139e9),
        ("qkv", 3.3, 49_720, 0.78, 6.1, 121e9),
        ("output", 2.6, 49_720, 0.77, 6.0, 118e9),
        ("head", 2.4, 2_260, 0.90, 2.2, 47e9),
        ("attention_prefill", 2.1, 7_700, 0.41, 61.0, 88e9),
        ("attention_decode", 1.3, 49_720, 0.52, 1.9, 20e9),
        ("ffn_norm", 0.31, 49_720, 0.22, 0.6, 3.1e9),
        ("attention_norm", 0.29, 49_720, 0.22, 0.6, 3.3e9),
        ("rope_append", 0.22, 49_720, 0.19, 0.9, 4.0e9),
        ("sample", 0.11, 2_260, 0.35, 0.25, 2.1e9),
        ("final_norm", 0.02, 2_260, 0.21, 0.6, 2.7e9),
        ("embed", 0.01, 2_260, 0.12, 0.0, 0.0),
    ];
    let all: f64 = rows.iter().map(|r| r.1).sum();
    let row = |(name, s, launches, of_floor, intensity, ops): (&str, f64, u64, f64, f64, f64)| {
        let bytes = if intensity > 0.0 { ops / intensity } else { 2.2e9 };
        KernelRow {
            name: name.to_owned(),
            launches,
            nanos: s * 1e9,
            text: nanos(s * 1e9),
            share: s / all,
            of_floor,
            bytes_per_s: bytes,
            ops_per_s: ops,
            intensity,
            bound: if name == "attention_prefill" { "compute" } else { "memory" },
            texts: [
                grouped(launches.into()),
                percent(s / all),
                percent(of_floor),
                format!("{}/s", Scale::bytes(bytes).show(bytes)),
                format!("{}op/s", Scale::count(ops).show(ops)),
                format!("{intensity:.2}"),
            ],
        }
    };
    rows.into_iter().map(row).collect()
}

fn memory(moments: usize) -> MemoryChart {
    let seconds: Vec<f64> = (1..=moments).map(|i| i as f64 * 50.85 / moments as f64).collect();
    let pool = 2.4e9;
    let (mut live, mut unwritten, mut cached, mut free) = (vec![], vec![], vec![], vec![]);
    for second in &seconds {
        let load =
            (0.5 + 0.4 * (second / 6.1).sin() + 0.1 * (second * 1.7).sin()).clamp(0.02, 0.98);
        let l = pool * load * 0.55;
        let u = pool * load * 0.25;
        let c = (pool - l - u) * (second / 50.85).min(1.0) * 0.6;
        live.push(l);
        unwritten.push(u);
        cached.push(c);
        free.push(pool - l - u - c);
    }
    MemoryChart {
        series: vec![
            ("Weights".to_owned(), "necessary", vec![1.17e9; moments]),
            ("Workspace".to_owned(), "necessary", vec![0.09e9; moments]),
            ("KV live".to_owned(), "value", live),
            ("KV held, unwritten".to_owned(), "waste", unwritten),
            ("KV cached".to_owned(), "necessary", cached),
            ("KV free".to_owned(), "waste", free),
        ],
        seconds,
        capacity: "8.00 GB".to_owned(),
    }
}

fn tiles() -> Vec<Tile> {
    [
        ("Waste", "60.4 %", "of device time could go with today's model, hardware and demand"),
        ("OIE", "38.5 %", "A 84.3 % × Y 85.2 % × P 53.6 %"),
        ("Value", "15.7 %", "of device time was arithmetic of delivered tokens"),
        ("Loading", "91.3 %", "of device time had anything to do"),
        ("Cost", "$178.40", "per million accepted tokens; 3185 s device time of it wasted"),
        ("Accepted", "9.64 k tokens", "241 of 243 requests, 190 tokens/s"),
        ("TTFT p99", "4.81 s", "p50 640 ms; goodput 71.2 % of requests"),
        ("KV use", "61.9 %", "of KV memory held was live or reused"),
    ]
    .into_iter()
    .map(|(label, value, note)| Tile {
        label: label.to_owned(),
        value: value.to_owned(),
        note: note.to_owned(),
        origin: origin(),
    })
    .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

/// A report as a run of some minutes gives it.
pub fn realistic() -> Report {
    let row = |name: &str, definition, p: [f64; 5], count: u64| LatencyRow {
        name: match name {
            "TTFT" => "TTFT",
            "TPOT" => "TPOT",
            "ITL" => "ITL",
            "E2E" => "E2E",
            _ => "Queue",
        },
        definition,
        figures: p.map(|x| nanos(x * 1e6)),
        count: grouped(count.into()),
        origin: origin(),
    };
    let ledgers = ledgers();
    let seal_row = |ledger: &Ledger| SealRow {
        name: ledger.name.clone(),
        capacity: ledger.total.clone(),
        posted: ledger.total.clone(),
        residual: "0".to_owned(),
    };
    Report {
        title: "azure-code on tinyllama-1.1b, static batches of 8".to_owned(),
        subtitle: "cpu: 2 threads, AVX-512 · q8_0, f16 KV · 243 requests in 50.9 s".to_owned(),
        seal: Seal {
            balanced: true,
            status: "complete".to_owned(),
            ledgers: ledgers.iter().map(seal_row).collect(),
            unattributed: "<0.1 %".to_owned(),
            unattributed_within_limit: true,
        },
        tiles: tiles(),
        ledgers,
        waterfall: waterfall(),
        yamazumi: charts::yamazumi(),
        yamazumi_steps: charts::yamazumi_steps(),
        icicle: charts::icicle(),
        course: charts::course(),
        latencies: vec![
            row("TTFT", "arrival to first token", [640.0, 2900.0, 4810.0, 1120.0, 5030.0], 241),
            row(
                "TPOT",
                "time per output token after the first",
                [38.1, 61.0, 92.4, 41.8, 130.0],
                239,
            ),
            row("ITL", "gaps between tokens", [34.0, 58.8, 410.0, 42.0, 2210.0], 9_399),
            row("E2E", "arrival to end", [3120.0, 7900.0, 11_200.0, 4130.0, 12_900.0], 241),
            row("Queue", "arrival to first step", [410.0, 2600.0, 4300.0, 890.0, 4700.0], 243),
        ],
        value_streams: value_streams(),
        requests: requests(),
        requests_total: 243,
        requests_rest: Some(RequestsRest {
            count: 203,
            tokens: [88_211, 12_030, 21_900],
            outcomes: "202 completed, 1 timeout".to_owned(),
            lead: nanos(2.9e9),
            paid: nanos(18.4e9),
            parts: stages(2.9e9, &STREAM),
        }),
        kernels: kernels(),
        roofline: Roofline {
            read_bytes_per_s: 24.1e9,
            ops_per_s: vec![("q8_0".to_owned(), 310e9), ("f32".to_owned(), 96e9)],
        },
        memory: memory(240),
        provenance: pairs(&[
            ("Gemba", "0.1.0"),
            ("Schema", "gemba.run/1"),
            ("Model", "tinyllama-1.1b, shape with seeded random weights, sha256 5b1f0c…e2"),
            ("Precision", "weights q8_0, KV f16"),
            ("Device", "cpu, 2 threads, AVX-512; reads 24.1 GB/s, 310 Gop/s (q8_0)"),
            ("Workload", "workloads/azure-code.csv, 243 requests, seed 0, sha256 77ac…19"),
            ("Scheduler", "static, batch 8, prefix cache off"),
            ("Promise", "TTFT 2 s, TPOT 100 ms"),
        ]),
        cautions: vec![
            "Prompts were scaled to the model's context of 2048 tokens: factor 0.31.".to_owned(),
            "Energy is modelled: this machine has no meter that we may read.".to_owned(),
            "1 204 launches (0.3 %) were faster than their floor, by 2.1 ms in all: a ceiling \
             was measured too low, or the data was in a nearer cache."
                .to_owned(),
        ],
        method: pairs(&[
            (
                "Closing",
                "Every amount is an integer. What there was to account for comes from an identity \
                 of its own, what is booked from the postings; the seal is their difference. No \
                 account is filled by subtraction but the free memory of a device.",
            ),
            (
                "Thrown-away rows",
                "Useful first: rows that were thrown away cost the kernel's calibrated time at all \
                 rows less its time at the useful ones.",
            ),
            (
                "Mechanism",
                "What is left of a kernel's time is laid against the floor of its useful work on \
                 the measured ceilings: arithmetic first, then exposed weight, KV and activation \
                 traffic, excess bytes, and slack.",
            ),
            ("Recording", "Recording cost 0.3 % of throughput (12 paired runs, 0.1 to 0.5 %)."),
        ]),
        glossary: glossary(),
        reproduce: "gemba ledger runs/azure-code-static".to_owned(),
        a3: charts::a3(),
        origins: ChartOrigins {
            icicle: origin(),
            course: origin(),
            yamazumi: origin(),
            value_streams: origin(),
            requests: origin(),
            kernels: origin(),
            memory: origin(),
        },
    }
}

fn origin() -> Origin {
    Origin::new("device time at level waste ÷ all device time", "launches, steps", "device_time")
}

fn glossary() -> Vec<GlossaryEntry> {
    CAUSES
        .iter()
        .map(|entry| GlossaryEntry {
            code: entry.code,
            muda: entry.muda.code(),
            definition: entry.definition,
            formula: entry.formula,
            countermeasure: entry.countermeasure,
            verified_only: entry.verified_only,
        })
        .collect()
}
