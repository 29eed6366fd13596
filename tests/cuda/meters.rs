//! The binary where a card has meters and counters of its own: a library of them that is
//! `nvml.cpp`, beside the driver of `binary`.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::binary::{MODEL, Machine, build};

/// What the card draws, in watts.
const WATTS: f64 = 200.0;
/// 1000 MHz, twice a cycle, on 512 bits.
const PEAK: f64 = 128e9;

fn metered() -> Machine {
    let machine = Machine::new();
    build("nvml.cpp", &machine.folder.path().join("libnvidia-ml.so.1"));
    machine
}

/// What the binary prints where `wrong` is wrong with the card.
fn printed(machine: &Machine, words: &[&str], wrong: &str) -> String {
    let Output { status, stdout, stderr } =
        machine.command(words).env("GEMBA_NVML", wrong).output().unwrap();
    assert!(status.success(), "{words:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn json(machine: &Machine, words: &[&str], wrong: &str) -> Value {
    serde_json::from_str(&printed(machine, words, wrong)).unwrap()
}

/// A short run into the folder `name`: what is printed, and its `run.json`.
fn run(machine: &Machine, name: &str, wrong: &str) -> (String, String, Value) {
    let folder = machine.folder.path().join(name).display().to_string();
    let how = ["--max-num-batched-tokens", "32", "--max-num-seqs", "2", "--num-requests", "3"];
    let quiet = ["--observer-pairs", "0", "--ui", "none", "--output-dir", &folder];
    let text = printed(machine, &[&["run"], &MODEL[..], &how, &quiet].concat(), wrong);
    let header = std::fs::read(Path::new(&folder).join("run.json")).unwrap();
    (folder, text, serde_json::from_slice(&header).unwrap())
}

/// `bench` of a few steps, with more words behind it.
fn bench<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let sizes = ["--prompt", "20", "--gen", "3", "--batch", "2", "--chunk", "32", "--repeats", "1"];
    [&["bench"], &MODEL[..], &sizes, more].concat()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn near(found: f64, expected: f64, share: f64) {
    assert!((found - expected).abs() <= share * expected, "{found}, expected {expected}");
}

#[test]
fn meters_and_counters_of_the_card_are_found_by_its_identity() {
    let machine = metered();
    let doctor = json(&machine, &["doctor", "--json"], "");
    let readable = serde_json::json!({ "readable": true, "why": null });
    assert_eq!(doctor["cards"][0]["energy"], readable);
    assert_eq!(doctor["cards"][0]["counters"], readable);
    for (wrong, expected) in [
        ("", "its counters can be read\n"),
        ("no-gpm", "its counters cannot be read: GPM: cards have it from Hopper on, and this one"),
        ("refused", "its counters cannot be read: a sample of GPM: the current user does not have"),
        ("elsewhere", "energy cannot be read: a query to find an object was unsuccessful\n"),
        ("elsewhere", "its counters cannot be read: the card: a query to find an object was"),
        ("uncounted", "energy cannot be read: the requested operation is not available"),
    ] {
        let text = printed(&machine, &["doctor"], wrong);
        assert!(text.contains(expected), "{wrong}: {text}");
    }
}

#[test]
fn bench_holds_its_budgets_against_the_counters() {
    let machine = metered();
    let found = json(&machine, &bench(&["--json"]), "");
    let counters = &found["counters"];
    assert_eq!(
        (number(&counters["peak_bytes_per_s"]), &found["no_counters"]),
        (PEAK, &Value::Null)
    );
    let (seconds, bytes) = (number(&counters["seconds"]), number(&counters["memory_bytes"]));
    assert!(seconds > 0.9 && number(&counters["steps"]) >= 1.0, "{counters}");
    // This card is as busy behind the last step, until its counters are read for the last time.
    let activity = &counters["activity"];
    let counted = (number(&activity["end_ns"]) - number(&activity["start_ns"])) / 1e9;
    assert!(counted >= 0.9 * seconds, "{counters}");
    near(bytes, 0.4 * PEAK * counted, 1e-6);
    let budget = ["weight_bytes", "kv_bytes", "activation_bytes", "excess_bytes"]
        .map(|class| number(&counters["budget"][class]));
    assert!(budget[0] > budget[1] && budget[1] > 0.0 && budget[3] == 0.0, "{counters}");
    near(number(&counters["ratio"]), bytes / budget.iter().sum::<f64>(), 1e-9);
    for (share, expected) in [
        ("memory_ppm", 400_000.0),
        ("multiprocessors_ppm", 800_000.0),
        ("occupancy_ppm", 500_000.0),
        ("matrix_ppm", 125_000.0),
    ] {
        assert_eq!(number(&activity[share]), expected, "{share}");
    }
    near(number(&activity["sent_bytes"]), 2.0 * f64::from(1 << 20) * counted, 1e-3);
    assert_eq!(activity["received_bytes"], Value::Null);

    let text = printed(&machine, &bench(&[]), "");
    assert!(text.contains("decode, counted, GB/s  ") && text.contains("of the budgets)"), "{text}");
    assert!(text.contains("they see what passes its second-level\n"), "{text}");
    for wrong in ["no-gpm", "refused"] {
        let found = json(&machine, &bench(&["--json"]), wrong);
        assert_eq!(found["counters"], Value::Null);
        assert!(found["no_counters"].as_str().unwrap().contains("GPM"), "{found}");
    }
    let text = printed(&machine, &bench(&[]), "refused");
    assert!(text.contains("none  (a sample of GPM: the current user does not have"), "{text}");
}

#[test]
fn energy_is_booked_from_the_counter_and_doubts_are_said() {
    let machine = metered();
    let (folder, text, header) = run(&machine, "sound", "");
    let (meter, counters) = (&header["meters"][0], &header["counters"][0]);
    let seconds = (number(&meter["end_ns"]) - number(&meter["start_ns"])) / 1e9;
    assert!(meter["validity"]["valid"] == true && seconds > 1.0, "{meter}");
    near(number(&meter["integrated_uj"]), WATTS * seconds * 1e6, 1e-6);
    near(number(&meter["energy_uj"]), WATTS * seconds * 1e6, 0.1);
    for (what, reading) in [
        ("clock_mhz", 1800),
        ("memory_clock_mhz", 1000),
        ("temperature_c", 45),
        ("memory_used_bytes", 1 << 28),
    ] {
        assert_eq!(meter[what], serde_json::json!({ "least": reading, "most": reading }), "{what}");
    }
    assert!(!text.contains("to be read with care"), "{text}");
    let activity = &counters["activity"];
    let played = (number(&activity["end_ns"]) - number(&activity["start_ns"])) / 1e9;
    assert!(played > 0.0 && played < seconds, "{counters}");
    near(number(&activity["memory_bytes"]), 0.4 * PEAK * played, 1e-3);
    let ledger = json(&machine, &["ledger", &folder, "--json"], "");
    assert_eq!((&ledger["balanced"], &ledger["status"]), (&true.into(), &"complete".into()));
    let rows = ledger["causes"].as_array().unwrap().iter();
    let energy = rows.filter(|row| row["commodity"] == "energy").map(|row| number(&row["amount"]));
    assert_eq!(energy.sum::<f64>(), number(&meter["energy_uj"]));
    let page = std::fs::read_to_string(Path::new(&folder).join("report.html")).unwrap();
    assert!(page.contains("The energy counter of device 0 rose by "), "no meters");
    assert!(page.contains("of the budgets. The counters see what passes the last"), "no counters");

    let doubted = |name, wrong, expected: &[&str], why| {
        let (_, text, header) = run(&machine, name, wrong);
        let (validity, counters) = (&header["meters"][0]["validity"], &header["counters"][0]);
        assert_eq!(validity["valid"], false);
        let reasons = validity["reasons"].to_string();
        // What is printed is broken into lines.
        let said = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("The meter of device 0 is to be read with care: "), "{text}");
        for reason in expected {
            assert!(reasons.contains(reason) && said.contains(reason), "{reasons}\n{text}");
        }
        assert!(counters["why"].as_str().unwrap().contains(why), "{counters}");
        assert_eq!(counters["activity"], Value::Null);
    };
    let limit = "the power limit kept its clock low for 100 % of the time";
    let apart = "J, and its power comes to ";
    doubted("wrong", "apart throttled refused", &[limit, apart], "does not have permission");
    doubted("frozen", "frozen no-gpm", &["its energy counter stood still for "], "from Hopper on");
}
