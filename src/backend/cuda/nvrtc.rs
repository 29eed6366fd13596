//! NVIDIA's run-time compiler.

use std::ffi::{CString, c_char, c_int};
use std::ptr;

use cudarc::nvrtc::sys;

use super::driver::DriverError;
use super::image::{Compiler, HEADERS, Program};

/// The compiler, for one architecture.
pub(super) struct Nvrtc {
    version: (u32, u32),
    target: Target,
}

/// What is compiled for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    /// `sm_90a`, or `compute_90` where the compiler does not know the card.
    architecture: String,
    /// Whether the result is the card's own code, not PTX for the driver to translate.
    binary: bool,
}

impl Target {
    /// For a card of this capability by a compiler that knows these ones, such as 89.
    fn of(capability: (u32, u32), known: &[u32]) -> Option<Self> {
        let wanted = capability.0 * 10 + capability.1;
        if known.contains(&wanted) {
            // What is particular to this one card runs on it alone, and so does its image.
            let letter = if wanted == 90 { "a" } else { "" };
            return Some(Self { architecture: format!("sm_{wanted}{letter}"), binary: true });
        }
        let below = known.iter().filter(|known| **known < wanted).max()?;
        Some(Self { architecture: format!("compute_{below}"), binary: false })
    }
}

/// Major and minor version of the compiler on this machine; `None` if there is none.
pub(super) fn version() -> Option<(u32, u32)> {
    // SAFETY: only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        return None;
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is there, and both places are ours.
    let result = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    let known = result == sys::nvrtcResult::NVRTC_SUCCESS;
    known.then(|| (major.unsigned_abs(), minor.unsigned_abs()))
}

impl Nvrtc {
    /// The compiler for cards of this capability.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if there is none, or it compiles for no such card.
    pub(super) fn open(capability: (u32, u32)) -> Result<Self, DriverError> {
        let failed = |call: &str, what: String| DriverError::Failed { call: call.to_owned(), what };
        let version =
            version().ok_or_else(|| failed("nvrtcVersion", "no libnvrtc was found".to_owned()))?;
        let mut count: c_int = 0;
        // SAFETY: the library is there, and the place is ours.
        said("nvrtcGetNumSupportedArchs", unsafe {
            sys::nvrtcGetNumSupportedArchs(&raw mut count)
        })?;
        let mut known: Vec<c_int> = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: as many places as the library says that it fills.
        said("nvrtcGetSupportedArchs", unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) })?;
        let known: Vec<u32> = known.into_iter().map(c_int::unsigned_abs).collect();
        let target = Target::of(capability, &known).ok_or_else(|| {
            let (major, minor) = capability;
            failed("nvrtcGetSupportedArchs", format!("nothing for capability {major}.{minor}"))
        })?;
        Ok(Self { version, target })
    }
}

fn said(call: &str, result: sys::nvrtcResult) -> Result<(), DriverError> {
    match result {
        sys::nvrtcResult::NVRTC_SUCCESS => Ok(()),
        other => Err(DriverError::Failed { call: call.to_owned(), what: format!("{other:?}") }),
    }
}

/// A program under compilation.
struct Handle(sys::nvrtcProgram);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: created by the compiler, and destroyed once.
        unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}

impl Handle {
    /// What one of the compiler's pairs of calls for size and content gives.
    fn content(
        &self,
        call: &str,
        size_of: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
        fill: unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult,
    ) -> Result<Vec<u8>, DriverError> {
        let mut size = 0;
        // SAFETY: the program lives, and the place is ours.
        said(call, unsafe { size_of(self.0, &raw mut size) })?;
        let mut bytes = vec![0_u8; size];
        // SAFETY: as many bytes as the compiler says that it writes.
        said(call, unsafe { fill(self.0, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl Compiler for Nvrtc {
    fn identity(&self) -> String {
        let (major, minor) = self.version;
        format!("nvrtc {major}.{minor} {}", self.target.architecture)
    }

    fn compile(&self, program: &Program) -> Result<Vec<u8>, DriverError> {
        let refused = |what: String| DriverError::Compile { file: program.file.to_owned(), what };
        let text = |text: &str| CString::new(text).map_err(|error| refused(error.to_string()));
        let texts =
            |of: &mut dyn Iterator<Item = &str>| of.map(text).collect::<Result<Vec<_>, _>>();
        let (source, name) = (text(program.source())?, text(program.file)?);
        let headers = texts(&mut HEADERS.iter().map(|(_, text)| *text))?;
        let names = texts(&mut HEADERS.iter().map(|(name, _)| *name))?;
        let pointers = |texts: &[CString]| texts.iter().map(|t| t.as_ptr()).collect::<Vec<_>>();
        let (header_pointers, name_pointers) = (pointers(&headers), pointers(&names));
        let mut handle = Handle(ptr::null_mut());
        // SAFETY: all texts end in zero and outlive the program; each header has its name.
        said("nvrtcCreateProgram", unsafe {
            sys::nvrtcCreateProgram(
                &raw mut handle.0,
                source.as_ptr(),
                name.as_ptr(),
                header_pointers.len() as c_int,
                header_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        })?;
        let architecture = format!("--gpu-architecture={}", self.target.architecture);
        let options = ["--std=c++17".to_owned(), "-default-device".to_owned(), architecture];
        let options: Vec<String> = options.into_iter().chain(program.defines()).collect();
        let options = texts(&mut options.iter().map(String::as_str))?;
        let option_pointers = pointers(&options);
        // SAFETY: as many options as are said, each ending in zero.
        let result = unsafe {
            let count = option_pointers.len() as c_int;
            sys::nvrtcCompileProgram(handle.0, count, option_pointers.as_ptr())
        };
        if result != sys::nvrtcResult::NVRTC_SUCCESS {
            let log = handle.content(
                "nvrtcGetProgramLog",
                sys::nvrtcGetProgramLogSize,
                sys::nvrtcGetProgramLog,
            )?;
            let log = String::from_utf8_lossy(&log);
            let what = format!("{result:?}: {}", log.trim_end_matches('\0').trim());
            return Err(refused(what));
        }
        if self.target.binary {
            handle.content("nvrtcGetCUBIN", sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)
        } else {
            // Ends in zero, as the driver wants a text.
            handle.content("nvrtcGetPTX", sys::nvrtcGetPTXSize, sys::nvrtcGetPTX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_gets_its_own_code_or_what_the_driver_can_translate() {
        let known = [75, 80, 86, 89, 90, 100];
        for (capability, expected) in [
            ((8, 0), Some(("sm_80", true))),
            ((8, 9), Some(("sm_89", true))),
            ((9, 0), Some(("sm_90a", true))),
            ((8, 7), Some(("compute_86", false))),
            ((12, 0), Some(("compute_100", false))),
            ((7, 0), None),
        ] {
            let found = Target::of(capability, &known);
            let found = found.as_ref().map(|t| (t.architecture.as_str(), t.binary));
            assert_eq!(found, expected, "{capability:?}");
        }
    }

    /// Where `GEMBA_NVRTC` is set, as tests/run does once it has fetched the compiler. A card is
    /// not needed: what this backend gives the compiler, headers in memory and all, becomes images
    /// that hold every kernel it asks for.
    #[test]
    fn every_program_compiles_to_an_image_with_its_kernels() {
        use super::super::image::{Activation, images};
        if std::env::var_os("GEMBA_NVRTC").is_none() {
            return;
        }
        let compiler = Nvrtc::open((9, 0)).unwrap();
        assert!(compiler.identity().ends_with(" sm_90a"), "{}", compiler.identity());
        let programs =
            Program::all(Activation::Bf16, 128, crate::cost::Techniques::NONE, [true; 2]);
        let all = images(None, &compiler, &programs).unwrap();
        assert!(all.iter().all(|image| image.starts_with(b"\x7fELF")));
        let names = [
            "embed_q4_0",
            "rms_norm",
            "gemv_q4_0_r8",
            "gemv_q4_0_r16",
            "gemm_q4_0",
            "gemv_w16_swiglu_r8",
            "gemv_w16_swiglu_r16",
            "gemm_w16_swiglu",
            "rope_append_f16",
            "attn_decode_d128_bf16",
            "attn_combine",
            "attn_prefill_d128_f16",
            "sample_scan",
            "sample_choose",
            "roof_read",
            "roof_copy",
            "roof_fma",
            "roof_mma",
            "roof_nothing",
        ];
        for name in names {
            // As a symbol: between two zeros.
            let symbol = [b"\0", name.as_bytes(), b"\0"].concat();
            let holds = |image: &Vec<u8>| image.windows(symbol.len()).any(|part| part == symbol);
            assert!(all.iter().any(holds), "{name}");
        }
        let heads = Program { head_dim: Some(7), ..programs[0] };
        let said = compiler.compile(&heads).unwrap_err().to_string();
        assert!(said.starts_with("compile attn_decode.cu: NVRTC_ERROR_COMPILATION: "), "{said}");
    }

    #[test]
    fn without_the_library_there_is_an_error() {
        if version().is_none() {
            let error = Nvrtc::open((9, 0)).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some("nvrtcVersion: no libnvrtc was found"));
        }
    }
}
