//! Charts and the sheet of a report made by hand.

use gemba::report::{
    A3, A3Cause, Course, CourseRow, Icicle, IcicleNode, Stretch, Yamazumi, YamazumiBar,
};
use gemba::waste::{CAUSES, Cause};

use super::{ledgers, nanos, pairs, percent};

pub(super) fn icicle() -> Icicle {
    let node = |depth, label: &str, from: f64, to: f64, level| IcicleNode {
        label: label.to_owned(),
        depth,
        from,
        to,
        level,
        text: nanos((to - from) * 50.9e9),
        percent: percent(to - from),
    };
    let rows = ["ledger", "muda", "cause", "kernel", "request"].map(str::to_owned);
    Icicle {
        rows: rows.into(),
        nodes: vec![
            node(0, "Device time", 0.0, 1.0, "waste"),
            node(1, "waiting", 0.0, 0.38, "waste"),
            node(2, "no_demand", 0.0, 0.3, "waste"),
            node(2, "batch_fill", 0.3, 0.38, "waste"),
            node(1, "overproduction", 0.38, 0.62, "waste"),
            node(2, "padding", 0.38, 0.62, "waste"),
            node(3, "gate_up", 0.38, 0.52, "waste"),
            node(4, "request 17", 0.38, 0.39, "waste"),
            node(4, "242 more", 0.39, 0.52, "waste"),
            node(3, "down", 0.52, 0.62, "waste"),
            node(1, "transportation", 0.62, 0.9, "necessary"),
            node(2, "weight_streaming", 0.62, 0.88, "necessary"),
            node(1, "value", 0.9, 1.0, "value"),
        ],
    }
}

pub(super) fn course() -> Course {
    let row = |code: &str, level, share: f64, stretches: &[(f64, f64, u8)]| CourseRow {
        code: code.to_owned(),
        level,
        text: nanos(share * 50.9e9),
        percent: percent(share),
        peak: "61.2 % at 12.7 s".to_owned(),
        stretches: stretches.iter().map(|&(from, to, shade)| Stretch { from, to, shade }).collect(),
    };
    let ticks = [(0.0, "0 s"), (0.25, "13 s"), (0.5, "25 s"), (0.75, "38 s"), (1.0, "51 s")];
    let shades = ["up to 1 %", "up to 5 %", "up to 20 %", "up to 50 %", "more than 50 %"];
    Course {
        slices: 60,
        slice: "848 ms".to_owned(),
        shades: shades.map(str::to_owned).into(),
        ticks: ticks.map(|(at, text)| (at, text.to_owned())).into(),
        rows: vec![
            row("no_demand", "waste", 0.3, &[(0.1, 0.2, 5), (0.2, 0.3, 3), (0.8, 1.0, 5)]),
            row("weight_streaming", "necessary", 0.26, &[(0.0, 0.1, 4), (0.2, 0.8, 4)]),
            row("padding", "waste", 0.24, &[(0.0, 0.1, 3), (0.25, 0.6, 4), (0.6, 0.8, 2)]),
            row("value.decode", "value", 0.1, &[(0.0, 0.1, 2), (0.2, 0.8, 3)]),
        ],
        left_out: "5 smaller ones are left out, 0.2 % in all".to_owned(),
    }
}

pub(super) fn yamazumi() -> Yamazumi {
    let bar = |label: &str, ms: [f64; 3]| YamazumiBar {
        label: label.to_owned(),
        nanos: ms.map(|x| x * 1e6),
        text: nanos(ms.iter().sum::<f64>() * 1e6),
    };
    Yamazumi {
        bars: vec![
            bar("Matrix products", [0.78, 0.90, 1.62]),
            bar("Attention", [0.05, 0.12, 0.31]),
            bar("Other kernels", [0.0, 0.02, 0.09]),
            bar("Gaps, host, recording", [0.0, 0.12, 0.11]),
            bar("Waiting", [0.0, 0.12, 1.00]),
        ],
        takt: Some(2.6e6),
        takt_text: "2.60 ms".to_owned(),
        top: 3.3e6,
    }
}

pub(super) fn yamazumi_steps() -> Yamazumi {
    let bar = |label: &str, ms: [f64; 3]| YamazumiBar {
        label: label.to_owned(),
        nanos: ms.map(|x| x * 1e6),
        text: nanos(ms.iter().sum::<f64>() * 1e6),
    };
    Yamazumi {
        bars: vec![
            bar("Prefill steps", [0.3, 0.2, 0.52]),
            bar("Mixed steps", [0.1, 0.2, 0.2]),
            bar("Decode steps", [0.43, 0.76, 1.41]),
            bar("In no step", [0.0, 0.12, 1.0]),
            bar("All", [0.83, 1.28, 3.13]),
        ],
        takt: Some(2.6e6),
        takt_text: "2.60 ms".to_owned(),
        top: 5.24e6,
    }
}

pub(super) fn a3() -> A3 {
    let text = str::to_owned;
    let cause = |cause: Cause, share: f64, mostly: &str| {
        let entry = CAUSES.iter().find(|entry| entry.code == cause.code()).expect("a cause");
        A3Cause {
            code: entry.code.to_owned(),
            muda: entry.muda.code(),
            level: "waste",
            share,
            text: nanos(share * 50.9e9),
            percent: percent(share),
            definition: entry.definition,
            mostly: mostly.to_owned(),
            countermeasure: entry.countermeasure,
            at_most: nanos(share * 5.24e6),
        }
    };
    A3 {
        theme: text("Waste in azure-code on tinyllama-1.1b, static batches of 8"),
        background: vec![
            text("243 requests came in 50.9 s; 241 were delivered and accepted."),
            text("The promise: TTFT 2 s, TPOT 100 ms; kept for 71.2 % of requests."),
        ],
        levels: ledgers()[0].levels.clone(),
        current: vec![
            (text("OIE"), text("38.5 %"), text("availability × yield × performance")),
            (text("Takt ratio"), text("2.02"), text("cycle time over takt")),
        ],
        causes: vec![
            cause(Cause::BatchFill, 0.155, ""),
            cause(Cause::KernelSlack, 0.124, "bandwidth 71.0 %, in gate_up 44.0 %"),
            cause(Cause::Padding, 0.071, "in gate_up 52.0 %"),
        ],
        other_waste: text("7 more causes, 4.10 s in all"),
        effect: vec![text("An accepted token took 5.24 ms; no less than 3.41 ms without them.")],
        follow_up: pairs(&[("Lay the run with the change beside it", "gemba report A B")]),
    }
}
