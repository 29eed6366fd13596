//! The binary on a machine whose libcuda and libnvrtc are `driver.cpp`: everything that it does on
//! a GPU's machine, from looking for libraries to the last byte of a run folder, is done here but
//! by the card itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::shim;

/// The kernels for f16 activations and heads of 16 elements.
const KERNELS: [&str; 2] = ["-DGEMBA_ACT_F16", "-DGEMBA_HEAD_DIM=16"];

/// Builds one of the libraries that stand where NVIDIA's would.
pub fn build(source: &str, library: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda").join(source);
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
    let built = Command::new(compiler)
        .args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"])
        .args(["-shared", "-fPIC", "-o"])
        .arg(library)
        .arg(source)
        .arg("-ldl")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

/// A machine with a driver and a compiler.
pub struct Machine {
    pub folder: tempfile::TempDir,
    kernels: PathBuf,
    /// Variables of the commands that run on it.
    pub variables: Vec<(&'static str, String)>,
}

impl Machine {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libcuda.so.1");
        build("driver.cpp", &library);
        std::fs::copy(&library, folder.path().join("libnvrtc.so.13")).unwrap();
        Self { folder, kernels: shim::library(&KERNELS), variables: Vec::new() }
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gemba"));
        command
            .args(words)
            .env("LD_LIBRARY_PATH", self.folder.path())
            .env("GEMBA_SHIM", &self.kernels)
            .env("XDG_CACHE_HOME", self.folder.path().join("cache"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        command
    }

    fn gemba(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    pub fn json(&self, words: &[&str]) -> Value {
        let output = self.gemba(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

pub const MODEL: [&str; 6] =
    ["--device", "cuda", "--model", "tests/vectors/llama-gqa", "--precision", "f16"];

#[test]
fn the_binary_finds_the_card_measures_it_and_runs_on_it() {
    let machine = Machine::new();
    let doctor = machine.json(&["doctor", "--json"]);
    assert_eq!(doctor["devices"], serde_json::json!(["cpu", "cuda:0"]));
    assert_eq!(doctor["cards"][0]["name"], "host shim");
    assert_eq!(doctor["cards"][0]["compute_capability"], "9.0");
    assert_eq!(doctor["cards"][0]["energy"]["readable"], false);
    assert_eq!(
        (&doctor["libraries"][1]["version"], &doctor["missing"]),
        (&"13.0".into(), &Value::Null)
    );

    let sizes = ["--prompt", "20", "--gen", "3", "--batch", "2", "--chunk", "32", "--repeats", "1"];
    let bench = machine.json(&[&["bench", "--json"], &MODEL[..], &sizes].concat());
    assert_eq!((&bench["device"], &bench["threads"]), (&"host shim".into(), &Value::Null));
    for rate in ["prefill_tokens_per_s", "decode_tokens_per_s", "read_share"] {
        assert!(bench[rate].as_f64().unwrap() > 0.0, "{rate} of {bench}");
    }
    // An image per file of kernels, kept for the next command.
    let kept = machine.folder.path().join("cache/gemba/kernels");
    assert_eq!(std::fs::read_dir(kept).unwrap().count(), 9);

    let run = machine.folder.path().join("run").display().to_string();
    let how = ["--max-num-batched-tokens", "32", "--max-num-seqs", "2", "--num-requests", "3"];
    let quiet = ["--observer-pairs", "0", "--ui", "none", "--output-dir", &run];
    machine.json(&[&["run", "--json"], &MODEL[..], &how, &quiet].concat());
    let ledger = machine.json(&["ledger", &run, "--json"]);
    assert_eq!((&ledger["balanced"], &ledger["status"]), (&true.into(), &"complete".into()));
    let header: Value =
        serde_json::from_slice(&std::fs::read(Path::new(&run).join("run.json")).unwrap()).unwrap();
    let device = &header["devices"][0];
    assert_eq!((&device["kind"], &device["name"]), (&"cuda".into(), &"host shim".into()));
    assert!(device["ceilings"]["ops_per_s"]["f16"].as_u64().unwrap() > 0, "{device}");
    // There is no meter, and the folder says so.
    let notes = header["workload"]["notes"].to_string();
    assert!(notes.contains("The meters of host shim cannot be read"), "{notes}");
    // Nor are there records of kernels.
    let events = "timed by events between kernels: no libcupti of CUDA 13 was found";
    assert!(notes.contains(events), "{notes}");
}

#[test]
fn what_the_card_cannot_do_is_said() {
    let machine = Machine::new();
    let model = "tests/vectors/llama-gqa";
    let bench = ["bench", "--prompt", "16", "--gen", "2", "--device", "cuda", "--model", model];
    for (words, expected) in [
        (
            &["--precision", "f32"][..],
            "weights on cuda: expected bf16, f16, q8_0, q4_0, e4m3, i8, i4 or nf4, found f32",
        ),
        (
            &["--precision", "f16", "--kv-precision", "f32"],
            "KV cache on cuda: expected f16, bf16, e4m3 or i8, found f32",
        ),
    ] {
        let output = machine.gemba(&[&bench[..], words].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.starts_with("error: failed to ") && said.contains(expected), "{said}");
    }
    let output = machine.gemba(&["bench", "--device", "cuda:1"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("error: failed to open device cuda:1: card 1 of 1\nhint: "), "{said}");
}
