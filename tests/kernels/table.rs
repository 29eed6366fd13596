//! The table of entry points in kernels/README.md.

use std::collections::BTreeMap;

use super::Kernel;

const PAGE: &str = include_str!("../../kernels/README.md");
const FORMATS: [&str; 7] = ["w16", "e4m3", "i8", "q8_0", "q4_0", "i4", "nf4"];
const CACHES: [&str; 4] = ["f16", "bf16", "i8", "e4m3"];

/// Every entry point that stands there, with attention for heads of these sizes.
pub fn table(heads: &[u32]) -> BTreeMap<String, Kernel> {
    let product = PAGE.lines().find(|line| line.starts_with("PRODUCT")).map(types).unwrap();
    let mut table = BTreeMap::new();
    let mut files: Vec<&str> = Vec::new();
    for line in PAGE.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            files = quoted(title).collect();
        }
        let cells: Vec<&str> = line.split(" | ").collect();
        let [names, form, arguments, launch] = cells[..] else { continue };
        if !["F", "U", "R"].contains(&form) {
            continue;
        }
        let parameters =
            if arguments.starts_with("PRODUCT") { product.clone() } else { types(arguments) };
        let threads: u32 =
            launch.trim_end_matches(" |").rsplit(", ").next().unwrap().parse().unwrap();
        for name in quoted(names).flat_map(|name| filled(name, heads)) {
            // Where two files share a section, names begin with the file's.
            let of = |file: &&&str| name.starts_with(file.trim_end_matches(".cu"));
            let file = if files.len() == 1 { files.first() } else { files.iter().find(of) };
            let file = (*file.unwrap()).to_owned();
            let kernel = Kernel { file, parameters: parameters.clone(), threads };
            assert!(table.insert(name.clone(), kernel).is_none(), "{name} stands there twice");
        }
    }
    table
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The types of a list of arguments.
fn types(text: &str) -> Vec<String> {
    quoted(text).map(|argument| argument.split(' ').next().unwrap_or_default().to_owned()).collect()
}

/// A name of the table with its placeholders filled in.
fn filled(name: &str, heads: &[u32]) -> Vec<String> {
    let heads: Vec<String> = heads.iter().map(|size| format!("_d{size}")).collect();
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let each = |name: &str, place: &str, words: &[&str]| -> Vec<String> {
        if name.contains(place) {
            words.iter().map(|word| name.replace(place, word)).collect()
        } else {
            vec![name.to_owned()]
        }
    };
    let mut names = vec![name.to_owned()];
    for (place, words) in [("FMT", &FORMATS[..]), ("KV", &CACHES), ("_dD", &heads)] {
        names = names.iter().flat_map(|name| each(name, place, words)).collect();
    }
    names
}
