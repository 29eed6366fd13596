//! Kernel sources, and the images that a card runs, compiled once and kept.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::cost::Techniques;

use super::driver::DriverError;

/// The number format of activations, which an image is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// bfloat16.
    Bf16,
    /// 16-bit float.
    F16,
}

/// A file of kernels as it is to be compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name in `kernels/`.
    pub file: &'static str,
    /// The format of activations.
    pub activation: Activation,
    /// Only the kernels for heads of so many elements, where the file has several.
    pub head_dim: Option<u32>,
}

/// The sources and their names.
macro_rules! sources {
    ($($file:literal),* $(,)?) => {
        &[$(($file, include_str!(concat!("../../../kernels/", $file)))),*]
    };
}

const SOURCES: &[(&str, &str)] = sources![
    "attn_decode.cu",
    "attn_prefill.cu",
    "embed.cu",
    "gemm.cu",
    "gemv.cu",
    "norm.cu",
    "roof.cu",
    "rope_kv.cu",
    "sample.cu",
];

/// What stands in for fused kernels where a technique is switched off.
const UNFUSED: &[(&str, &str)] = sources!["activation.cu", "attn_naive.cu", "sample_naive.cu"];

/// Of these, what stands behind a product that leaves gates and ups.
const BEHIND_PRODUCT: &str = "activation.cu";

/// Products of rows in 8 bits.
const NARROW: &[(&str, &str)] = sources!["gemm_i8.cu"];

/// What nothing launches yet. It is proven with the others.
const SPARE: &[(&str, &str)] = sources!["kv_cache.cu"];

/// What the sources include.
pub(super) const HEADERS: &[(&str, &str)] =
    sources!["attention.cuh", "common.cuh", "kv.cuh", "product.cuh", "sample.cuh", "weight.cuh"];

impl Program {
    /// Everything that this backend launches with these techniques, for heads of `head_dim`
    /// elements: where gates and ups leave a product of many rows, and where it takes those in i8.
    pub(super) fn all(
        activation: Activation,
        head_dim: u32,
        techniques: Techniques,
        [splits_swiglu, in_i8]: [bool; 2],
    ) -> Vec<Self> {
        let of_heads = |file: &str| ["attn_decode.cu", "attn_prefill.cu"].contains(&file);
        let behind = |file: &str| splits_swiglu && file == BEHIND_PRODUCT;
        let launched = |file: &str| !techniques.fused() || behind(file);
        SOURCES
            .iter()
            .chain(UNFUSED.iter().filter(|(file, _)| launched(file)))
            .chain(NARROW.iter().filter(|_| in_i8))
            .map(|&(file, _)| Self {
                file,
                activation,
                head_dim: of_heads(file).then_some(head_dim),
            })
            .collect()
    }

    /// Every file of kernels, launched or not, for heads of `head_dim` elements or of all sizes:
    /// what a proof of each kernel on a card loads.
    #[must_use]
    pub fn every(activation: Activation, head_dim: Option<u32>) -> Vec<Self> {
        let files = SOURCES.iter().chain(UNFUSED).chain(NARROW).chain(SPARE);
        files.map(|&(file, _)| Self { file, activation, head_dim }).collect()
    }

    /// Its text; empty if there is no such file.
    pub(super) fn source(&self) -> &'static str {
        let mut all = SOURCES.iter().chain(UNFUSED).chain(NARROW).chain(SPARE);
        all.find(|(file, _)| *file == self.file).map_or("", |(_, text)| text)
    }

    /// What is defined for the compiler.
    pub(super) fn defines(&self) -> Vec<String> {
        let f16 = (self.activation == Activation::F16).then(|| "-DGEMBA_ACT_F16".to_owned());
        let heads = self.head_dim.map(|head_dim| format!("-DGEMBA_HEAD_DIM={head_dim}"));
        f16.into_iter().chain(heads).collect()
    }
}

/// Makes images of programs.
pub(super) trait Compiler: Sync {
    /// What its images depend on beside the program: its version and the card's architecture.
    fn identity(&self) -> String;

    /// Compiles.
    fn compile(&self, program: &Program) -> Result<Vec<u8>, DriverError>;
}

/// The images of `programs`, in order: from `folder` where they are kept there, else compiled
/// side by side and kept. A folder that cannot be written costs only the next compilation.
pub(super) fn images(
    folder: Option<&Path>,
    compiler: &dyn Compiler,
    programs: &[Program],
) -> Result<Vec<Vec<u8>>, DriverError> {
    let identity = compiler.identity();
    std::thread::scope(|scope| {
        let threads: Vec<_> = programs
            .iter()
            .map(|program| scope.spawn(|| image(folder, compiler, &identity, program)))
            .collect();
        threads
            .into_iter()
            .zip(programs)
            .map(|(thread, program)| {
                thread.join().unwrap_or_else(|_| {
                    let what = "the compiler could not be called".to_owned();
                    Err(DriverError::Compile { file: program.file.to_owned(), what })
                })
            })
            .collect()
    })
}

fn image(
    folder: Option<&Path>,
    compiler: &dyn Compiler,
    identity: &str,
    program: &Program,
) -> Result<Vec<u8>, DriverError> {
    let Some(folder) = folder else { return compiler.compile(program) };
    let mut key = Sha256::new();
    let headers = HEADERS.iter().map(|(_, text)| *text);
    let defines = program.defines().join(" ");
    let parts = [identity, program.file, &defines, program.source()];
    for part in parts.into_iter().chain(headers) {
        key.update((part.len() as u64).to_le_bytes());
        key.update(part);
    }
    let stem = program.file.trim_end_matches(".cu");
    let file = folder.join("kernels").join(format!("{stem}-{}", hex(&key.finalize()[..8])));
    if let Some(image) = read(&file) {
        return Ok(image);
    }
    let image = compiler.compile(program)?;
    let _unwritten = write(&file, &image);
    Ok(image)
}

/// The image in a file, behind its own digest; none if the file was cut or changed.
fn read(file: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(file).ok()?;
    let (digest, image) = bytes.split_at_checked(DIGEST)?;
    (Sha256::digest(image)[..] == *digest).then(|| image.to_vec())
}

/// Bytes of a digest.
const DIGEST: usize = 32;

/// Beside the file, then renamed, so that a reader finds all of it or nothing.
fn write(file: &Path, image: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let beside = file.with_extension(std::process::id().to_string());
    std::fs::write(&beside, [&Sha256::digest(image)[..], image].concat())?;
    std::fs::rename(&beside, file)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn all(activation: Activation, head_dim: u32) -> Vec<Program> {
        Program::all(activation, head_dim, Techniques::ALL, [false; 2])
    }

    struct Counting {
        identity: &'static str,
        compiled: AtomicUsize,
    }

    impl Counting {
        fn new(identity: &'static str) -> Self {
            Self { identity, compiled: AtomicUsize::new(0) }
        }
    }

    impl Compiler for Counting {
        fn identity(&self) -> String {
            self.identity.to_owned()
        }

        fn compile(&self, program: &Program) -> Result<Vec<u8>, DriverError> {
            self.compiled.fetch_add(1, Ordering::SeqCst);
            if program.file == "sample.cu" && self.identity == "broken" {
                let what = "line 3".to_owned();
                return Err(DriverError::Compile { file: program.file.to_owned(), what });
            }
            Ok(format!("{} for {}", program.file, self.identity).into_bytes())
        }
    }

    fn compiled(folder: Option<&Path>, identity: &'static str, programs: &[Program]) -> usize {
        let compiler = Counting::new(identity);
        let images = images(folder, &compiler, programs).unwrap();
        for (image, program) in images.iter().zip(programs) {
            assert_eq!(image, format!("{} for {identity}", program.file).as_bytes());
        }
        compiler.compiled.into_inner()
    }

    #[test]
    fn an_image_is_compiled_once_for_a_card_and_a_source() {
        let folder = tempfile::tempdir().unwrap();
        let programs = all(Activation::Bf16, 64);
        let each = programs.len();
        assert_eq!(compiled(Some(folder.path()), "sm_90", &programs), each);
        assert_eq!(compiled(Some(folder.path()), "sm_90", &programs), 0);
        assert_eq!(compiled(Some(folder.path()), "sm_80", &programs), each);
        // Other heads change attention alone, other activations change everything.
        assert_eq!(compiled(Some(folder.path()), "sm_90", &all(Activation::Bf16, 128)), 2);
        assert_eq!(compiled(Some(folder.path()), "sm_90", &all(Activation::F16, 64)), each);
        assert_eq!(compiled(None, "sm_90", &programs), each);
        // What follows a library's products comes beside them, products in i8, and what stands in
        // for fused kernels.
        let dense = Program::all(Activation::Bf16, 64, Techniques::ALL, [true, false]);
        assert_eq!(compiled(Some(folder.path()), "sm_90", &dense), 1);
        let narrow = Program::all(Activation::Bf16, 64, Techniques::ALL, [true, true]);
        assert_eq!(compiled(Some(folder.path()), "sm_90", &narrow), 1);
        let naive = Program::all(Activation::Bf16, 64, Techniques::NONE, [true, false]);
        assert_eq!(compiled(Some(folder.path()), "sm_90", &naive), 2);
    }

    #[test]
    fn a_broken_image_is_compiled_again() {
        let folder = tempfile::tempdir().unwrap();
        let programs = &all(Activation::Bf16, 64)[..1];
        compiled(Some(folder.path()), "sm_90", programs);
        let kernels = folder.path().join("kernels");
        let file = std::fs::read_dir(kernels).unwrap().next().unwrap().unwrap().path();
        let whole = std::fs::read(&file).unwrap();
        let mut flipped = whole.clone();
        flipped[40] ^= 1;
        for broken in [&whole[..whole.len() - 1], &whole[..7], &flipped, b""] {
            std::fs::write(&file, broken).unwrap();
            assert_eq!(compiled(Some(folder.path()), "sm_90", programs), 1);
            assert_eq!(std::fs::read(&file).unwrap(), whole);
        }
    }

    #[test]
    fn what_cannot_be_compiled_is_said_with_its_file() {
        let programs = all(Activation::Bf16, 64);
        let error = images(None, &Counting::new("broken"), &programs).unwrap_err();
        assert_eq!(error.to_string(), "compile sample.cu: line 3");
    }

    #[test]
    fn every_include_of_a_source_is_there() {
        let sources = SOURCES.iter().chain(UNFUSED).chain(NARROW).chain(SPARE);
        for (file, text) in sources.chain(HEADERS) {
            for line in text.lines() {
                let Some(name) = line.strip_prefix("#include \"") else { continue };
                let name = name.trim_end_matches('"');
                // The shim's header is for hosts alone.
                let there = name == "shim.h" || HEADERS.iter().any(|(header, _)| *header == name);
                assert!(there, "{file} includes {name}");
            }
        }
    }
}
