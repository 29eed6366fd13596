//! The binary on a machine that has cuBLASLt too, `cublaslt.cpp`: products of many rows go there,
//! answers are the same, and nothing that the library can do or not do ends a run.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use gemba::model::Encoding;

use crate::binary::{MODEL, Machine, build};
use crate::encodings::written_out;
use crate::shim;
use crate::stepper::small;

/// A machine with the library, which is like `manner`.
struct Equipped {
    machine: Machine,
    manner: &'static str,
}

impl Equipped {
    fn new(manner: &'static str) -> Self {
        let machine = Machine::new();
        build("cublaslt.cpp", &machine.folder.path().join("libcublasLt.so.13"));
        Self { machine, manner }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.machine.command(words);
        let said = self.machine.folder.path().join("said");
        command.env("GEMBA_CUBLASLT", self.manner).env("GEMBA_CUBLASLT_SAID", said);
        command
    }

    /// Products and algorithms of every handle that was closed.
    fn said(&self) -> Vec<[u64; 2]> {
        let said = std::fs::read_to_string(self.machine.folder.path().join("said")).unwrap();
        let numbers = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            [words[0], words[3]].map(|word| word.parse().unwrap())
        };
        said.lines().map(numbers).collect()
    }
}

/// A server that is asked to end when it is let go of.
struct Server(Child);

impl Server {
    /// It and where it listens.
    fn start(mut command: Command) -> (Self, String) {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut before = String::new();
        let address = lines.by_ref().find_map(|line| {
            let line = line.unwrap();
            before += &line;
            line.rsplit_once(" on http://").map(|(_, address)| address.to_owned())
        });
        // What it says from now on is read, so that it never waits.
        std::thread::spawn(move || lines.for_each(drop));
        (Self(child), address.unwrap_or_else(|| panic!("no address in {before}")))
    }

    fn end(mut self) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// What a server answers to a prompt of 90 tokens.
fn answer(address: &str) -> String {
    let prompt: Vec<u32> = (0..90).map(|i| (i * 37 + 11) % 384).collect();
    let body = json!({"model": "m", "prompt": prompt, "max_tokens": 12, "temperature": 0});
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (_, body) = reply.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{reply}"));
    assert_eq!(body["usage"]["prompt_tokens"], 90, "{body}");
    body["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// What a server of this machine answers.
fn served(machine: &Machine, command: impl Fn(&[&str]) -> Command) -> String {
    let folder = machine.folder.path().join("served").display().to_string();
    let how = ["--max-num-batched-tokens", "128", "--max-num-seqs", "2", "--port", "0"];
    let quiet = ["--observer-pairs", "0", "--served-model-name", "m", "--output-dir", &folder];
    let (server, address) =
        Server::start(command(&[&["serve"], &MODEL[..], &how, &quiet].concat()));
    let text = answer(&address);
    server.end();
    text
}

#[test]
fn answers_are_the_same_with_the_library_and_without_it() {
    let plain = Machine::new();
    let expected = served(&plain, |words| plain.command(words));
    assert!(!expected.is_empty());
    for manner in ["", "nothing", "refuses"] {
        let equipped = Equipped::new(manner);
        let found = served(&equipped.machine, |words| equipped.command(words));
        assert_eq!(found, expected, "{manner}");
        let said = equipped.said();
        let [[products, algorithms]] = said[..] else { panic!("{manner}: {said:?}") };
        if manner.is_empty() {
            // Four of each of three layers, for the prompt and for one that warms up; and what
            // measures the roof.
            assert!(products > 24 && algorithms >= 5, "{products} by {algorithms}");
        } else {
            assert_eq!((products, algorithms > 0), (0, manner == "refuses"));
        }
    }
}

#[test]
fn a_run_with_the_library_closes_its_books_and_doctor_knows_it() {
    let equipped = Equipped::new("");
    let doctor = equipped.machine.json(&["doctor", "--json"]);
    let library = &doctor["libraries"][4];
    assert_eq!((&library["name"], &library["version"]), (&"cublaslt".into(), &"13.0".into()));
    let purpose = library["purpose"].as_str().unwrap();
    assert!(purpose.contains("more than 64 rows"), "{purpose}");

    let run = equipped.machine.folder.path().join("run").display().to_string();
    let how = ["--max-num-batched-tokens", "128", "--max-num-seqs", "2", "--num-requests", "3"];
    let quiet = ["--observer-pairs", "0", "--ui", "none", "--output-dir", &run];
    let words = [&["run", "--json"], &MODEL[..], &how, &quiet].concat();
    let output = equipped.command(&words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ledger = equipped.machine.json(&["ledger", &run, "--json"]);
    assert_eq!((&ledger["balanced"], &ledger["status"]), (&true.into(), &"complete".into()));
    assert!(equipped.said().iter().any(|[products, _]| *products > 0));
}

/// A run in e4m3 on a machine whose library is like `manner`: what it says, and its folder.
fn run_in_e4m3(manner: &'static str) -> (Equipped, std::process::Output, String) {
    let mut equipped = Equipped::new(manner);
    // Activations beside e4m3 are bf16.
    let kernels = shim::library(&[]).display().to_string();
    equipped.machine.variables.push(("GEMBA_SHIM", kernels));
    let folder = equipped.machine.folder.path();
    let [run, checkpoint] = ["run", "model"].map(|name| folder.join(name));
    std::fs::create_dir(&checkpoint).unwrap();
    written_out(&small(|shape| shape.layers = 1), Encoding::E4m3, &checkpoint);
    let [run, checkpoint] = [run, checkpoint].map(|path| path.display().to_string());
    let how = ["--max-num-batched-tokens", "128", "--max-num-seqs", "2", "--num-requests", "3"];
    let quiet = ["--observer-pairs", "0", "--ui", "none", "--output-dir", &run];
    let model = ["--model", &checkpoint, "--device", "cuda", "--precision", "fp8"];
    let words = [&["run", "--json"], &model[..], &how, &quiet].concat();
    let output = equipped.command(&words).output().unwrap();
    (equipped, output, run)
}

#[test]
fn a_run_in_e4m3_multiplies_many_rows_in_8_bits_where_the_library_can() {
    for (manner, narrow) in [("", true), ("unscaled", false), ("nothing", false)] {
        let (equipped, output, run) = run_in_e4m3(manner);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{manner}: {said}");
        let ledger = equipped.machine.json(&["ledger", &run, "--json"]);
        assert_eq!(ledger["balanced"], true, "{manner}");
        let head = std::fs::read(format!("{run}/run.json")).unwrap();
        let head: Value = serde_json::from_slice(&head).unwrap();
        let rates = &head["devices"][0]["ceilings"]["ops_per_s"];
        assert_eq!(rates["e4m3"].is_u64(), narrow, "{manner}: {rates}");
        assert_eq!(equipped.said().iter().any(|[products, _]| *products > 0), narrow, "{manner}");
    }
}

#[test]
fn a_library_that_takes_no_product_in_8_bits_after_all_ends_the_run_with_a_reason() {
    let (equipped, output, _) = run_in_e4m3("refuses");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cublasLtMatmul: no algorithm for"), "{said}");
    assert!(equipped.said().iter().all(|[products, _]| *products == 0));
}

#[test]
fn many_decoded_rows_are_captured_with_their_products() {
    let equipped = Equipped::new("");
    let sizes = ["--prompt", "2", "--gen", "4", "--batch", "70", "--repeats", "1"];
    let words = [&["bench", "--json"], &MODEL[..], &sizes].concat();
    let output = equipped.command(&words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Four of each of three layers and the head's: for one step that warms up and four more, for
    // the first once more before it was captured, and for the prompts; all of it untimed and timed.
    // The prompts have 140 rows, of which 70 ask for logits.
    assert_eq!(equipped.said(), [[2 * 7 * 13, 5 + 4]]);
}

#[test]
fn a_library_that_cannot_be_opened_is_said() {
    let equipped = Equipped::new("fails");
    let sizes = ["--prompt", "80", "--gen", "2", "--chunk", "128"];
    let output = equipped.command(&[&["bench"], &MODEL[..], &sizes].concat()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cublasLtCreate: CUBLAS_STATUS_NOT_INITIALIZED"), "{said}");
    // Where no step has more than 64 rows it is not opened.
    let sizes = ["--prompt", "20", "--gen", "2", "--chunk", "64", "--repeats", "1"];
    let output = equipped.command(&[&["bench"], &MODEL[..], &sizes].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
