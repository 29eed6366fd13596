//! The page in a real browser: headless Chromium opens it from a file.
//!
//! Where there is no Chromium these tests say so on standard error and prove nothing.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod html_fixture;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use gemba::report::{Comparison, Report};

/// One browser at a time: each takes a core and some hundred megabytes.
static BROWSER: Mutex<()> = Mutex::new(());

/// Generous: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(240);

/// What a visit to a page left behind.
struct Visit {
    /// The document after its scripts ran.
    document: String,
    /// What the page wrote to the console, its errors and its policy's refusals included.
    console: Vec<String>,
    /// Addresses that the page, not the browser for itself, asked the network for.
    requests: Vec<String>,
}

#[expect(clippy::explicit_write, reason = "eprintln! is swallowed by the test harness")]
fn chromium() -> Option<String> {
    let named = std::env::var("GEMBA_CHROMIUM").ok();
    let known = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let found = named.into_iter().chain(known.map(str::to_owned)).find(|name| {
        let version = Command::new(name).arg("--version").stderr(Stdio::null()).output();
        version.is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        let said = "skipped: chromium not found; apt-get install chromium";
        writeln!(std::io::stderr(), "{said}").unwrap();
    }
    found
}

fn visit(folder: &Path, page: &str) -> Option<Visit> {
    let chromium = chromium()?;
    let _alone = BROWSER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let at = |name: &str| folder.join(name);
    let mut browser = Command::new(chromium)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update"])
        .args(["--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"])
        // Lets the probe look into the page; the page's own policy stays in force.
        .args(["--allow-file-access-from-files", "--disable-web-security"])
        .args(["--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000"])
        .arg(format!("--user-data-dir={}", at("profile").display()))
        .arg(format!("--log-net-log={}", at("net.json").display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", at(page).display()))
        .stdout(fs::File::create(at("document")).unwrap())
        .stderr(fs::File::create(at("log")).unwrap())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while browser.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            browser.kill().unwrap();
            panic!("the browser did not end");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = |name| String::from_utf8_lossy(&fs::read(at(name)).unwrap()).into_owned();
    let log = text("log");
    let console = log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned);
    Some(Visit {
        document: text("document"),
        console: console.collect(),
        requests: requests(&text("net.json")),
    })
}

/// Reads Chromium's log of the network. What the browser asks for itself has no origin.
fn requests(log: &str) -> Vec<String> {
    let log: serde_json::Value = serde_json::from_str(log).unwrap();
    let events = log["events"].as_array().unwrap();
    assert!(!events.is_empty(), "the browser logged nothing");
    let asked = |event: &serde_json::Value| {
        let parameters = &event["params"];
        let initiator = parameters["initiator"].as_str()?;
        let url = parameters["url"].as_str()?;
        (initiator != "not an origin").then(|| url.to_owned())
    };
    events.iter().filter_map(asked).collect()
}

fn write(folder: &Path, report: &Report) {
    let mut page = Vec::new();
    gemba::html::write_page(report, &mut page).unwrap();
    fs::write(folder.join("page.html"), page).unwrap();
}

#[test]
fn the_page_opens_without_an_error_and_without_a_request() {
    let folder = tempfile::tempdir().unwrap();
    for report in [html_fixture::realistic(), html_fixture::hostile::report(), Report::default()] {
        write(folder.path(), &report);
        let Some(visit) = visit(folder.path(), "page.html") else { return };
        assert_eq!(visit.console, Vec::<String>::new());
        assert_eq!(visit.requests, Vec::<String>::new());
        assert!(visit.document.contains("<html lang=\"en\" class=\"js\">"), "no script ran");
        assert!(!visit.document.contains("<img"), "text became markup");
    }
}

#[test]
fn a_comparison_opens_without_an_error_and_without_a_request() {
    let folder = tempfile::tempdir().unwrap();
    for comparison in [html_fixture::hostile::comparison(), Comparison::default()] {
        let mut page = Vec::new();
        gemba::html::write_comparison(&comparison, &mut page).unwrap();
        fs::write(folder.path().join("page.html"), page).unwrap();
        let Some(visit) = visit(folder.path(), "page.html") else { return };
        assert_eq!(visit.console, Vec::<String>::new());
        assert_eq!(visit.requests, Vec::<String>::new());
        assert!(!visit.document.contains("<img"), "text became markup");
    }
}

#[test]
fn the_page_can_be_worked() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &html_fixture::realistic());
    fs::write(folder.path().join("probe.html"), include_str!("browser/probe.html")).unwrap();
    let Some(visit) = visit(folder.path(), "probe.html") else { return };
    let from = visit.document.find("<pre id=\"said\">").unwrap();
    let said = visit.document[from..].split("</pre>").next().unwrap();
    assert!(said.ends_with("done\n"), "the probe did not end: {said}\n{:?}", visit.console);
    let failed: Vec<&str> = said.lines().filter(|line| line.contains("not ok")).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(said.lines().filter(|line| line.contains("ok ")).count() > 30, "{said}");
}

/// Prints a page, and gives the sizes of the sheets in points.
fn printed(folder: &Path, page: &str) -> Option<Vec<String>> {
    let chromium = chromium()?;
    let _alone = BROWSER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let pdf = folder.join("page.pdf");
    let ended = Command::new(chromium)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .args(["--disable-dev-shm-usage", "--no-pdf-header-footer"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(format!("--print-to-pdf={}", pdf.display()))
        .arg(format!("file://{}", folder.join(page).display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(ended.success(), "{ended}");
    let bytes = fs::read(pdf).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let size = |rest: &str| rest.split(['[', ']']).nth(1).unwrap().trim().to_owned();
    Some(text.split("/MediaBox").skip(1).map(size).collect())
}

/// An A3 sheet is 1191 by 842 points.
fn is_a3_landscape(size: &str) -> bool {
    let sides: Vec<f64> = size.split(' ').map(|side| side.parse().unwrap()).collect();
    sides.len() == 4 && (sides[2] - 1190.6).abs() < 2.0 && (sides[3] - 841.9).abs() < 2.0
}

#[test]
fn the_sheet_is_one_a3_in_landscape() {
    let folder = tempfile::tempdir().unwrap();
    let report = html_fixture::realistic();
    write(folder.path(), &report);
    let Some(sizes) = printed(folder.path(), "page.html") else { return };
    let a3 = sizes.iter().filter(|size| is_a3_landscape(size)).count();
    assert!(a3 == 1 && sizes.len() > 4, "{sizes:?}");
    // What the button of the sheet prints.
    let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
    let alone = page.replace("<html lang=\"en\">", "<html lang=\"en\" class=\"only-sheet\">");
    fs::write(folder.path().join("sheet.html"), alone).unwrap();
    let sizes = printed(folder.path(), "sheet.html").unwrap();
    assert!(sizes.len() == 1 && is_a3_landscape(&sizes[0]), "{sizes:?}");
}

/// Takes a picture of a page and gives its bytes.
fn pictured(folder: &Path, page: &Path, size: (u32, u32), dark: bool) -> Option<Vec<u8>> {
    let chromium = chromium()?;
    let _alone = BROWSER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let picture = folder.join("picture.png");
    let mut browser = Command::new(chromium);
    if dark {
        browser.args(["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]);
    }
    let ended = browser
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .args(["--disable-dev-shm-usage", "--hide-scrollbars", "--virtual-time-budget=5000"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(format!("--window-size={},{}", size.0, size.1))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", page.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(ended.success(), "{ended}");
    Some(fs::read(picture).unwrap())
}

/// The example report at two widths in both themes. `GEMBA_BLESS=1` puts the pictures into `docs/`,
/// to be looked at.
#[test]
fn the_example_can_be_pictured() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let example = root.join("reports/default-continuous.html");
    let mut pictures: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, size) in [("wide", (1280, 1500)), ("narrow", (480, 1500))] {
        for (theme, dark) in [("light", false), ("dark", true)] {
            let Some(bytes) = pictured(folder.path(), &example, size, dark) else { return };
            assert_eq!(bytes[16..20], size.0.to_be_bytes(), "the width in the picture's header");
            assert_eq!(bytes[20..24], size.1.to_be_bytes(), "the height");
            assert!(bytes.len() > 30_000, "{name} {theme}: an empty page?");
            pictures.push((format!("report-{name}-{theme}.png"), bytes));
        }
    }
    for (at, (name, bytes)) in pictures.iter().enumerate() {
        assert!(pictures[..at].iter().all(|(_, other)| other != bytes), "{name} is another one");
    }
    if std::env::var_os("GEMBA_BLESS").is_some_and(|bless| bless == "1") {
        for (name, bytes) in &pictures {
            fs::write(root.join("docs").join(name), bytes).unwrap();
        }
    }
}

#[test]
fn this_test_sees_what_it_looks_for() {
    let folder = tempfile::tempdir().unwrap();
    let page = "<!doctype html><meta charset=utf-8><p>x<img src='http://127.0.0.1:9/x.png'>\
                <script>nosuch()</script>";
    fs::write(folder.path().join("page.html"), page).unwrap();
    let Some(visit) = visit(folder.path(), "page.html") else { return };
    assert!(visit.console.iter().any(|line| line.contains("nosuch is not defined")));
    assert!(visit.requests.contains(&"http://127.0.0.1:9/x.png".to_owned()));
}
