//! The table of entry points says what the sources say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::cache::KVS;
use crate::numbers::ACTS;
use crate::shim::shim;
use crate::weights::FORMATS;

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The types of a list of arguments.
fn types(text: &str) -> Vec<String> {
    quoted(text).map(|argument| argument.split(' ').next().unwrap_or_default().to_owned()).collect()
}

/// A name of the table with its placeholders filled in.
fn filled(name: &str) -> Vec<String> {
    let each = |name: &str, place: &str, words: &[&str]| -> Vec<String> {
        if name.contains(place) {
            words.iter().map(|word| name.replace(place, word)).collect()
        } else {
            vec![name.to_owned()]
        }
    };
    let formats = FORMATS.map(|format| format.name());
    let caches = KVS.map(|kv| kv.name());
    let mut names = vec![name.to_owned()];
    let heads = ["_d32", "_d48", "_d64", "_d80", "_d96", "_d128"];
    for (place, words) in [("FMT", &formats[..]), ("KV", &caches[..]), ("_dD", &heads)] {
        names = names.iter().flat_map(|name| each(name, place, words)).collect();
    }
    names
}

#[test]
fn the_table_of_entry_points_is_true() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/README.md");
    let page = fs::read_to_string(page).unwrap();
    let product = page.lines().find(|line| line.starts_with("PRODUCT")).map(types).unwrap();
    let mut table = BTreeMap::new();
    let mut file = "";
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            file = title;
        }
        let cells: Vec<&str> = line.split(" | ").collect();
        let [names, form, arguments, launch] = cells[..] else { continue };
        if !["F", "U", "R"].contains(&form) {
            continue;
        }
        let arguments =
            if arguments.starts_with("PRODUCT") { product.clone() } else { types(arguments) };
        let threads: u32 =
            launch.trim_end_matches(" |").rsplit(", ").next().unwrap().parse().unwrap();
        for name in quoted(names).flat_map(filled) {
            let entry = (file.to_owned(), arguments.clone(), threads);
            assert!(table.insert(name.clone(), entry).is_none(), "{name} stands there twice");
        }
    }
    let [bf16, f16] = ACTS.map(shim);
    let sources: BTreeSet<&String> = bf16
        .kernels()
        .iter()
        .filter(|(_, kernel)| kernel.file != "broken.cu")
        .map(|(name, _)| name)
        .collect();
    assert_eq!(table.keys().collect::<BTreeSet<_>>(), sources, "names of entry points");
    for (name, (file, arguments, threads)) in &table {
        let kernel = &bf16.kernels()[name];
        assert!(file.contains(&format!("`{}`", kernel.file)), "{name} stands in {}", kernel.file);
        assert_eq!(&kernel.parameters, arguments, "{name}: arguments");
        assert_eq!(kernel.threads, *threads, "{name}: threads of a block");
        // Both types of activations have the same interface.
        if let Some(other) = f16.kernels().get(name) {
            assert_eq!((&other.parameters, other.threads), (arguments, *threads), "{name}");
        }
    }
}
