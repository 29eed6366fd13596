//! A report that means harm.

use gemba::report::{
    A3, A3Cause, CauseRow, Cell, ChartOrigins, ComparedCause, ComparedFigure, ComparedRun,
    Comparison, Course, CourseRow, GlossaryEntry, History, HistoryPoint, HistoryRow, Icicle,
    IcicleNode, KernelRow, LatencyRow, Ledger, MemoryChart, Origin, Part, Report, RequestRow,
    RequestsRest, Roofline, Seal, SealRow, Stretch, Tile, ValueStream, Verified, VerifiedRow,
    WaterfallStep, Yamazumi, YamazumiBar,
};

/// What somebody who means harm would call a model.
pub const TEXT: &str = "</script><img src=x onerror=alert(1)>\"'&\0\u{1b}[31m\u{202e}evil\u{2066}";

/// A report with [`TEXT`] in every place that holds text.
pub fn report() -> Report {
    let evil = || TEXT.to_owned();
    let pairs = || vec![(evil(), evil()); 2];
    let part = || Part { label: evil(), level: TEXT, share: 0.4, text: evil(), percent: evil() };
    let cause = CauseRow {
        code: evil(),
        muda: TEXT,
        level: TEXT,
        share: 0.5,
        cumulative: 0.5,
        text: evil(),
        percent: evil(),
        basis: evil(),
        reasons: pairs(),
        definition: TEXT,
        formula: TEXT,
        countermeasure: TEXT,
    };
    Report {
        title: evil(),
        subtitle: evil(),
        seal: Seal {
            balanced: false,
            status: evil(),
            ledgers: vec![SealRow {
                name: evil(),
                capacity: evil(),
                posted: evil(),
                residual: evil(),
            }],
            unattributed: evil(),
            unattributed_within_limit: false,
        },
        tiles: vec![Tile { label: evil(), value: evil(), note: evil(), origin: origin() }],
        ledgers: vec![Ledger {
            commodity: evil(),
            name: evil(),
            total: evil(),
            origin: origin(),
            levels: vec![part(); 3],
            causes: vec![cause; 2],
        }],
        waterfall: vec![WaterfallStep {
            label: evil(),
            is_sum: true,
            from: 0.0,
            to: 1.0,
            level: TEXT,
            text: evil(),
            note: evil(),
            origin: origin(),
        }],
        yamazumi: piles(),
        yamazumi_steps: piles(),
        icicle: Icicle {
            rows: vec![evil(); 2],
            nodes: vec![IcicleNode {
                label: evil(),
                depth: 1,
                from: 0.0,
                to: 1.0,
                level: TEXT,
                text: evil(),
                percent: evil(),
            }],
        },
        course: Course {
            slices: 1,
            slice: evil(),
            shades: vec![evil()],
            ticks: vec![(0.0, evil()), (1.0, evil())],
            rows: vec![CourseRow {
                code: evil(),
                level: TEXT,
                text: evil(),
                percent: evil(),
                peak: evil(),
                stretches: vec![Stretch { from: 0.0, to: 1.0, shade: 9 }],
            }],
            left_out: evil(),
        },
        latencies: vec![LatencyRow {
            name: TEXT,
            definition: TEXT,
            figures: std::array::from_fn(|_| evil()),
            count: evil(),
            origin: origin(),
        }],
        value_streams: vec![ValueStream {
            class: evil(),
            requests: 1,
            lead: evil(),
            work_in_process: evil(),
            parts: vec![part()],
            stages_in_process: vec![evil()],
            value_added: evil(),
        }],
        requests: vec![RequestRow {
            request: 1,
            class: evil(),
            outcome: evil(),
            tokens: [1, 2, 3],
            lead: evil(),
            ttft: evil(),
            paid: evil(),
            paid_nanos: 1.0,
            parts: vec![part()],
        }],
        requests_total: 1,
        requests_rest: Some(RequestsRest {
            count: 1,
            tokens: [1; 3],
            outcomes: evil(),
            lead: evil(),
            paid: evil(),
            parts: vec![part()],
        }),
        kernels: vec![KernelRow {
            name: evil(),
            launches: 1,
            nanos: 1.0,
            text: evil(),
            share: 1.0,
            of_floor: 0.5,
            bytes_per_s: 1e9,
            ops_per_s: 1e9,
            intensity: 1.0,
            bound: TEXT,
            texts: std::array::from_fn(|_| evil()),
        }],
        roofline: Roofline { read_bytes_per_s: 1e10, ops_per_s: vec![(evil(), 1e11)] },
        memory: MemoryChart {
            seconds: vec![0.0, 1.0],
            series: vec![(evil(), TEXT, vec![1.0, 2.0])],
            capacity: evil(),
        },
        provenance: pairs(),
        cautions: vec![evil()],
        method: pairs(),
        glossary: vec![GlossaryEntry {
            code: TEXT,
            muda: TEXT,
            definition: TEXT,
            formula: TEXT,
            countermeasure: TEXT,
            verified_only: true,
        }],
        reproduce: evil(),
        origins: ChartOrigins {
            icicle: origin(),
            course: origin(),
            yamazumi: origin(),
            value_streams: origin(),
            requests: origin(),
            kernels: origin(),
            memory: origin(),
        },
        a3: A3 {
            theme: evil(),
            background: vec![evil()],
            levels: vec![part(); 3],
            current: vec![(evil(), evil(), evil())],
            causes: vec![A3Cause {
                code: evil(),
                muda: TEXT,
                level: TEXT,
                share: 0.5,
                text: evil(),
                percent: evil(),
                definition: TEXT,
                mostly: evil(),
                countermeasure: TEXT,
                at_most: evil(),
            }],
            other_waste: evil(),
            effect: vec![evil()],
            follow_up: pairs(),
        },
    }
}

fn origin() -> Origin {
    Origin::new(TEXT, TEXT, TEXT)
}

fn piles() -> Yamazumi {
    let evil = || TEXT.to_owned();
    Yamazumi {
        bars: vec![YamazumiBar { label: evil(), nanos: [1e6; 3], text: evil() }],
        takt: Some(1e6),
        takt_text: evil(),
        top: 3e6,
    }
}

/// A comparison with [`TEXT`] in every place that holds text.
pub fn comparison() -> Comparison {
    let evil = || TEXT.to_owned();
    let cell = || Cell { text: evil(), change: evil(), share: 0.5 };
    let verified = || VerifiedRow {
        code: evil(),
        level: TEXT,
        attributed: evil(),
        attributed_share: 0.5,
        left_share: f64::INFINITY,
        off: evil(),
        grew: true,
        of_attributed: evil(),
    };
    let run = || {
        let report = report();
        ComparedRun {
            name: evil(),
            title: evil(),
            levels: report.ledgers[0].levels.clone(),
            seal: report.seal,
            reproduce: evil(),
        }
    };
    Comparison {
        runs: vec![run(), run()],
        cautions: vec![evil()],
        verified: vec![Verified {
            before: evil(),
            after: evil(),
            doubts: vec![evil()],
            same_settings: true,
            rows: vec![verified(), verified()],
            sum: verified(),
        }],
        history: Some(History {
            runs: vec![(evil(), evil())],
            by_time: true,
            rows: vec![HistoryRow {
                label: TEXT,
                points: vec![HistoryPoint { height: Some(f64::NAN), text: evil() }],
                change: evil(),
            }],
        }),
        figures: vec![ComparedFigure { label: TEXT, cells: vec![cell(), cell()] }],
        causes: vec![ComparedCause { code: TEXT, level: TEXT, cells: vec![cell(), cell()] }],
        settings: vec![(evil(), vec![evil(), evil()])],
    }
}
