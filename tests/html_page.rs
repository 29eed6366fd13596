//! The page as text: its golden, and what must hold for any report.
//!
//! `GEMBA_BLESS=1` rewrites the golden; a missing one fails.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test panics where it fails")]

mod html_fixture;

use std::collections::BTreeSet;
use std::path::PathBuf;

use gemba::report::{
    A3, A3Cause, CauseRow, Course, CourseRow, GlossaryEntry, Icicle, IcicleNode, KernelRow,
    LatencyRow, Ledger, LevelWord, MemoryChart, Origin, Part, Report, RequestRow, RequestsRest,
    Roofline, Seal, SealRow, Stretch, Tile, ValueStream, WaterfallStep, Yamazumi, YamazumiBar,
};
use html_fixture::hostile;
use proptest::prelude::*;

fn page(report: &Report) -> String {
    let mut page = Vec::new();
    gemba::html::write_page(report, &mut page).unwrap();
    String::from_utf8(page).unwrap()
}

/// The page without what is the same for every report: style, script, and their hashes.
fn without_assets(page: &str) -> String {
    let mut rest = page;
    let mut out = String::new();
    for (open, close) in [("'sha256-", "'"), ("'sha256-", "'"), ("<style>", "</style>")] {
        let (before, after) = rest.split_once(open).expect(open);
        let (_, after) = after.split_once(close).expect(close);
        out.extend([before, open, "…", close]);
        rest = after;
    }
    let (before, after) = rest.rsplit_once("<script>").unwrap();
    let (_, after) = after.split_once("</script>").unwrap();
    out.extend([before, "<script>…</script>", after]);
    out
}

fn part(label: &str, level: LevelWord, share: f64, text: &str) -> Part {
    let percent = format!("{:.1} %", share * 100.0);
    Part { label: label.to_owned(), level, share, text: text.to_owned(), percent }
}

fn small_origin() -> Origin {
    Origin::new("how it is made", "what was recorded", "which accounts")
}

fn small_ledger() -> Ledger {
    let cause = |code: &str, muda, level, share: f64, cumulative, text: &str| CauseRow {
        code: code.to_owned(),
        muda,
        level,
        share,
        cumulative,
        text: text.to_owned(),
        percent: format!("{:.1} %", share * 100.0),
        basis: "measured".to_owned(),
        reasons: vec![("bandwidth".to_owned(), "100.0 %".to_owned())],
        definition: "What it is.",
        formula: "how it is found",
        countermeasure: "what attacks it",
    };
    Ledger {
        commodity: "device_time".to_owned(),
        name: "Device time".to_owned(),
        total: "8.00 s".to_owned(),
        origin: small_origin(),
        levels: vec![
            part("value", "value", 0.25, "2.00 s"),
            part("necessary", "necessary", 0.125, "1.00 s"),
            part("waste", "waste", 0.625, "5.00 s"),
        ],
        causes: vec![
            cause("kernel_slack", "motion", "waste", 0.625, 0.625, "5.00 s"),
            cause("value.decode", "value", "value", 0.25, 0.875, "2.00 s"),
            cause("weight_streaming", "transportation", "necessary", 0.125, 1.0, "1.00 s"),
        ],
    }
}

fn small_waterfall() -> Vec<WaterfallStep> {
    let step = |label: &str, is_sum, from, to, level, text: &str| WaterfallStep {
        label: label.to_owned(),
        is_sum,
        from,
        to,
        level,
        text: text.to_owned(),
        note: "what it consists of".to_owned(),
        origin: small_origin(),
    };
    vec![
        step("All device time", true, 0.0, 1.0, "necessary", "8.00 s"),
        step("Performance loss", false, 0.375, 1.0, "waste", "5.00 s"),
        step("Effective", true, 0.0, 0.375, "necessary", "3.00 s"),
        step("Value", true, 0.0, 0.25, "value", "2.00 s"),
    ]
}

fn small_node(label: &str, depth: u8, from: f64, to: f64, amount: &str) -> IcicleNode {
    IcicleNode {
        label: label.to_owned(),
        depth,
        from,
        to,
        level: "waste",
        text: amount.to_owned(),
        percent: format!("{:.1} %", (to - from) * 100.0),
    }
}

fn small_kernel() -> KernelRow {
    KernelRow {
        name: "gate_up".to_owned(),
        launches: 22,
        nanos: 5e9,
        text: "5.00 s".to_owned(),
        share: 1.0,
        of_floor: 0.5,
        bytes_per_s: 1e10,
        ops_per_s: 4e10,
        intensity: 4.0,
        bound: "memory",
        texts: ["22", "100.0 %", "50.0 %", "10.0 GB/s", "40.0 Gop/s", "4.00"].map(str::to_owned),
    }
}

fn small_a3() -> A3 {
    let text = str::to_owned;
    A3 {
        theme: text("Waste in constant on stories15m"),
        background: vec![text("9 requests came.")],
        levels: small_ledger().levels,
        current: vec![(text("OIE"), text("50.0 %"), text("availability × yield × performance"))],
        causes: vec![A3Cause {
            code: text("kernel_slack"),
            muda: "motion",
            level: "waste",
            share: 0.625,
            text: text("5.00 s"),
            percent: text("62.5 %"),
            definition: "What it is.",
            mostly: text("in gate_up 100.0 %"),
            countermeasure: "what attacks it",
            at_most: text("1.00 ms"),
        }],
        other_waste: text("1 more causes, 1.00 s in all"),
        effect: vec![text("No less than 1.00 ms.")],
        follow_up: vec![(text("See every posting"), text("gemba ledger runs/example --all"))],
    }
}

fn small() -> Report {
    let text = str::to_owned;
    Report {
        title: text("constant on stories15m"),
        subtitle: text("cpu, 1 thread"),
        seal: Seal {
            balanced: true,
            status: text("complete"),
            ledgers: vec![SealRow {
                name: text("Device time"),
                capacity: text("8.00 s"),
                posted: text("8.00 s"),
                residual: text("0"),
            }],
            unattributed: text("0.0 %"),
            unattributed_within_limit: true,
        },
        tiles: vec![Tile {
            label: text("Waste"),
            value: text("62.5 %"),
            note: text("of device time"),
            origin: small_origin(),
        }],
        ledgers: vec![small_ledger()],
        waterfall: small_waterfall(),
        yamazumi: Yamazumi {
            bars: vec![YamazumiBar {
                label: text("Matrix products"),
                nanos: [1e6, 1e6, 2e6],
                text: text("4.00 ms"),
            }],
            takt: Some(3e6),
            takt_text: text("3.00 ms"),
            top: 4e6,
        },
        icicle: Icicle {
            rows: vec![text("ledger"), text("muda")],
            nodes: vec![
                small_node("Device time", 0, 0.0, 1.0, "8.00 s"),
                small_node("motion", 1, 0.0, 0.625, "5.00 s"),
            ],
        },
        course: Course {
            slices: 4,
            slice: text("2.00 s"),
            shades: vec![text("up to 50 %"), text("more")],
            ticks: vec![(0.0, text("0 s")), (1.0, text("8 s"))],
            rows: vec![CourseRow {
                code: text("kernel_slack"),
                level: "waste",
                text: text("5.00 s"),
                percent: text("62.5 %"),
                peak: text("75.0 % at 2.0 s"),
                stretches: vec![Stretch { from: 0.25, to: 0.75, shade: 2 }],
            }],
            left_out: text("2 smaller ones are left out, 0.1 % in all"),
        },
        latencies: vec![LatencyRow {
            name: "TTFT",
            definition: "arrival to first token",
            figures: ["1 ms", "2 ms", "3 ms", "1.5 ms", "4 ms"].map(str::to_owned),
            count: text("9"),
            origin: Origin::default(),
        }],
        value_streams: vec![ValueStream {
            class: text("all"),
            requests: 9,
            lead: text("2.00 s"),
            work_in_process: text("2.25"),
            parts: vec![
                part("queue", "waste", 0.5, "1.00 s"),
                part("value.decode", "value", 0.5, "1.00 s"),
            ],
            stages_in_process: vec![text("1.12"), text("1.13")],
            value_added: text("50.0 %"),
        }],
        requests: vec![RequestRow {
            request: 3,
            class: text("chat"),
            outcome: text("timeout"),
            tokens: [128, 0, 16],
            lead: text("2.00 s"),
            ttft: text("–"),
            paid: text("900 ms"),
            paid_nanos: 9e8,
            parts: vec![part("queue", "waste", 1.0, "2.00 s")],
        }],
        requests_total: 9,
        requests_rest: Some(RequestsRest {
            count: 8,
            tokens: [900, 10, 80],
            outcomes: text("8 completed"),
            lead: text("1.00 s"),
            paid: text("2.00 s"),
            parts: vec![part("queue", "waste", 1.0, "1.00 s")],
        }),
        kernels: vec![small_kernel()],
        roofline: Roofline { read_bytes_per_s: 2e10, ops_per_s: vec![(text("q8_0"), 3e11)] },
        memory: MemoryChart {
            seconds: vec![0.0, 4.0, 8.0],
            series: vec![
                (text("Weights"), "necessary", vec![1e9; 3]),
                (text("KV live"), "value", vec![0.0, 1e9, 5e8]),
            ],
            capacity: text("4.00 GB"),
        },
        provenance: vec![(text("Gemba"), text("0.1.0"))],
        cautions: vec![text("Energy is modelled.")],
        method: vec![(text("Closing"), text("Every amount is an integer."))],
        glossary: vec![GlossaryEntry {
            code: "oversized_model",
            muda: "overprocessing",
            definition: "A smaller model would have passed the quality floor.",
            formula: "verified by a re-run",
            countermeasure: "routing",
            verified_only: true,
        }],
        reproduce: text("gemba ledger runs/example"),
        a3: small_a3(),
        ..Report::default()
    }
}

#[test]
fn a_small_report_looks_as_it_did() {
    let page = without_assets(&page(&small()));
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/html_small.html");
    if std::env::var_os("GEMBA_BLESS").is_some_and(|bless| bless == "1") {
        std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
        std::fs::write(&golden, &page).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).expect("the golden; GEMBA_BLESS=1 writes it");
    for (at, (line, expected)) in page.lines().zip(expected.lines()).enumerate() {
        assert_eq!(line, expected, "line {}", at + 1);
    }
    assert_eq!(page.lines().count(), expected.lines().count());
}

/// Every string of a JSON document.
fn strings(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => found.push(text.clone()),
        serde_json::Value::Array(values) => values.iter().for_each(|v| strings(v, found)),
        serde_json::Value::Object(fields) => fields.values().for_each(|v| strings(v, found)),
        _ => {}
    }
}

#[test]
fn the_hostile_report_is_hostile_in_every_field() {
    let mut found = Vec::new();
    strings(&serde_json::to_value(hostile::report()).unwrap(), &mut found);
    assert!(found.len() > 90, "{} strings", found.len());
    for text in found {
        assert_eq!(text, hostile::TEXT);
    }
    let value = serde_json::to_value(hostile::report()).unwrap();
    let missing = |(name, value): (&String, &serde_json::Value)| {
        value.as_array().is_some_and(Vec::is_empty).then(|| name.clone())
    };
    let missing: Vec<String> = value.as_object().unwrap().iter().filter_map(missing).collect();
    assert_eq!(missing, Vec::<String>::new(), "lists without an entry");
}

#[test]
fn text_never_becomes_markup() {
    let page = without_assets(&page(&hostile::report()));
    assert_eq!(page.matches("<script").count(), 1);
    assert_eq!(page.matches("</script").count(), 1);
    stays_text(&page, 80);
}

#[test]
fn text_of_a_comparison_never_becomes_markup() {
    let mut page = Vec::new();
    gemba::html::write_comparison(&hostile::comparison(), &mut page).unwrap();
    let page = String::from_utf8(page).unwrap();
    let (before, after) = page.split_once("<style>").unwrap();
    let page = [before, after.split_once("</style>").unwrap().1].concat();
    assert!(!page.contains("<script"));
    assert!(!page.contains("</script"));
    assert_eq!(page.matches("://").count(), page.matches("http://www.w3.org/2000/svg").count());
    stays_text(&page, 20);
}

fn stays_text(page: &str, least: usize) {
    assert!(!page.contains("<img"));
    let hidden = |c: &char| {
        (c.is_control() && *c != '\n') || ('\u{202a}'..='\u{202e}').contains(c) || *c == '\u{2066}'
    };
    assert_eq!(page.chars().find(hidden), None);
    // Whole, as text, in well more than half of the places.
    let shown = "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;\
                 ⟨U+0000⟩⟨U+001B⟩[31m⟨U+202E⟩evil⟨U+2066⟩";
    assert!(page.matches(shown).count() > least, "{}", page.matches(shown).count());
    for tag in page.split('<').skip(1) {
        let quotes = tag.split('>').next().unwrap().matches('"').count();
        assert!(quotes.is_multiple_of(2), "a quote is open in <{tag}");
    }
}

/// The values of an attribute, wherever it stands.
fn attribute<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let open = format!(" {name}=\"");
    page.split(&open).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[test]
fn every_name_inside_the_page_leads_somewhere() {
    let page = page(&html_fixture::realistic());
    let ids = attribute(&page, "id");
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), unique.len(), "an id stands twice");
    let link = |href: &&str| href.strip_prefix('#').is_some_and(|id| unique.contains(id));
    assert!(attribute(&page, "href").iter().all(link));
    for names in attribute(&page, "aria-labelledby") {
        assert!(names.split(' ').all(|id| unique.contains(id)), "{names}");
    }
    for fill in page.split("url(#").skip(1) {
        let id = fill.split(')').next().unwrap();
        assert!(unique.contains(id), "url(#{id})");
    }
}

/// Ten million bytes wherever a run can bring text of its own.
#[test]
fn no_text_can_bury_the_page() {
    let long = "<b>\u{1b}[2J".repeat(1_250_000);
    let mut report = html_fixture::realistic();
    for text in [
        &mut report.title,
        &mut report.subtitle,
        &mut report.cautions[0],
        &mut report.value_streams[0].class,
        &mut report.provenance[2].1,
        &mut report.kernels[0].name,
        &mut report.reproduce,
        &mut report.a3.theme,
    ] {
        text.clone_from(&long);
    }
    for request in report.requests.iter_mut().take(3) {
        (request.class, request.outcome) = (long.clone(), long.clone());
    }
    let page = page(&report);
    assert!(page.len() < 1 << 20, "{} bytes", page.len());
    assert!(page.matches("bytes more⟩").count() > 12);
    assert!(!without_assets(&page).contains("<b>\u{1b}"));
}

#[test]
fn the_page_names_no_address_outside() {
    let page = page(&html_fixture::realistic());
    let namespaces = page.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(page.matches("://").count(), namespaces);
    assert!(attribute(&page, "src").is_empty());
    assert!(attribute(&page, "style").is_empty(), "the policy refuses style attributes");
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn the_page_is_small() {
    let bytes = page(&Report::default()).len();
    assert!(bytes < 64 * 1024, "{bytes} bytes without any data");
}

#[test]
fn doubt_is_said_loudly() {
    let calm = page(&small());
    assert!(calm.contains("Books balance: residual 0"));
    assert!(!calm.contains("role=\"alert\""));
    type Doubt = fn(&mut Report);
    let doubts: [(Doubt, &str); 4] = [
        (|r| r.seal.balanced = false, "The books do not balance"),
        (|r| r.seal.status = "truncated".to_owned(), "The run is truncated"),
        (|r| r.seal.unattributed_within_limit = false, "0.0 % is unattributed"),
        (|r| r.seal.ledgers.clear(), "There are no books"),
    ];
    for (doubt, said) in doubts {
        let mut report = small();
        doubt(&mut report);
        let page = page(&report);
        let alert = page.split("role=\"alert\"").nth(1).expect(said);
        assert!(alert.split("</div>").next().unwrap().contains(said), "{said}");
        assert!(page.contains("<title>[!] "), "{said}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever numbers a report holds, no length on the page is anything but a number.
    #[test]
    fn any_number_can_be_drawn(x in prop::collection::vec(prop::num::f64::ANY, 24)) {
        let mut report = small();
        report.ledgers[0].levels[0].share = x[0];
        report.ledgers[0].causes[1].share = x[1];
        report.ledgers[0].causes[1].cumulative = x[2];
        report.waterfall[1].from = x[3];
        report.waterfall[1].to = x[4];
        report.yamazumi.bars[0].nanos = [x[5], x[6], x[7]];
        report.yamazumi.takt = Some(x[8]);
        report.yamazumi.top = x[9];
        report.value_streams[0].parts[0].share = x[10];
        report.requests[0].paid_nanos = x[11];
        let kernel = &mut report.kernels[0];
        (kernel.nanos, kernel.share, kernel.of_floor) = (x[12], x[13], x[14]);
        (kernel.bytes_per_s, kernel.ops_per_s, kernel.intensity) = (x[15], x[16], x[17]);
        report.roofline.read_bytes_per_s = x[18];
        report.roofline.ops_per_s[0].1 = x[19];
        report.memory.seconds[1] = x[20];
        report.memory.seconds[2] = x[21];
        report.memory.series[0].2[1] = x[22];
        report.memory.series[1].2[2] = x[23];
        let page = without_assets(&page(&report));
        let names = ["x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "d", "width", "height"];
        for name in names {
            for value in attribute(&page, name) {
                let is_number = !value.contains("NaN") && !value.contains("inf");
                prop_assert!(is_number, "{}={}", name, value);
            }
        }
    }
}
