//! The kernels compiled for the host: building, loading, buffers, launches. Or on a card, where
//! one is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, c_char, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::{fs, slice};

use libloading::{Library, Symbol};
use sha2::{Digest, Sha256};

use crate::numbers::Act;

#[path = "card.rs"]
pub mod card;
#[path = "table.rs"]
mod entries;

pub use entries::table;

/// The sizes of heads that attention is compiled for, by type of activations.
pub const HEADS: [&[u32]; 2] = [&[32, 48, 64, 80, 96, 128], &[16]];

type Launch = unsafe extern "C" fn(
    *const c_char,
    *const c_uint,
    *const c_uint,
    c_uint,
    *mut *mut c_void,
    u64,
) -> *const c_char;
type List = unsafe extern "C" fn(
    c_uint,
    *mut *const c_char,
    *mut *const c_char,
    *mut c_uint,
) -> *const c_char;

/// What is known of an entry point.
#[derive(Debug)]
pub struct Kernel {
    /// The file it stands in.
    pub file: String,
    /// The types of its parameters.
    pub parameters: Vec<String>,
    /// Threads of a block.
    pub threads: u32,
}

/// What the library of kernels exports.
#[derive(Clone, Copy)]
struct Exports {
    launch: Launch,
    alloc: unsafe extern "C" fn(usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
}

/// The kernels for one type of activations.
pub struct Shim {
    pub act: Act,
    /// None if they run on a card.
    exports: Option<Exports>,
    kernels: BTreeMap<String, Kernel>,
    /// Those that ran.
    ran: Mutex<BTreeSet<String>>,
}

/// The kernels with these activations. Attention for heads of 16 elements in f16, of all others in
/// bf16.
pub fn shim(act: Act) -> &'static Shim {
    static BF16: OnceLock<Shim> = OnceLock::new();
    static F16: OnceLock<Shim> = OnceLock::new();
    if card::asked().is_some() {
        let once = [&BF16, &F16][act as usize];
        return once.get_or_init(|| Shim::on_card(act));
    }
    match act {
        Act::Bf16 => BF16.get_or_init(|| Shim::load(act, &[])),
        Act::F16 => {
            F16.get_or_init(|| Shim::load(act, &["-DGEMBA_ACT_F16", "-DGEMBA_HEAD_DIM=16"]))
        }
    }
}

/// The library of these sources and flags, compiled if it is not there yet.
pub fn library(flags: &[&str]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for folder in ["kernels", "tests/shim", "tests/shim/broken"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let wanted = path.extension().is_none_or(|ending| ending != "md" && ending != "toml");
            if path.is_file() && wanted {
                sources.push(path);
            }
        }
    }
    sources.sort();
    let mut hash = Sha256::new();
    for path in &sources {
        hash.update(path.file_name().unwrap().as_encoded_bytes());
        hash.update(fs::read(path).unwrap());
    }
    flags.iter().for_each(|flag| hash.update(flag));
    let hash: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{hash}.so"));
    if !library.exists() {
        let built = Command::new(root.join("tests/shim/build")).arg(&library).args(flags).output();
        let built = built.unwrap_or_else(|error| panic!("tests/shim/build: {error}"));
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "tests/shim/build failed:\n{said}");
    }
    library
}

impl Shim {
    fn on_card(act: Act) -> Self {
        Self { act, exports: None, kernels: table(HEADS[act as usize]), ran: Mutex::default() }
    }

    fn load(act: Act, flags: &[&str]) -> Self {
        let path = library(flags);
        // SAFETY: the library is our own and has no constructors but its list of kernels. It stays
        // loaded for ever, so what is taken from it does too.
        unsafe {
            let library = Box::leak(Box::new(Library::new(path).unwrap()));
            let launch: Symbol<'_, Launch> = library.get(b"shim_launch\0").unwrap();
            let alloc: Symbol<'_, unsafe extern "C" fn(usize) -> *mut c_void> =
                library.get(b"shim_alloc\0").unwrap();
            let free: Symbol<'_, unsafe extern "C" fn(*mut c_void)> =
                library.get(b"shim_free\0").unwrap();
            let list: Symbol<'_, List> = library.get(b"shim_kernel\0").unwrap();
            let mut kernels = BTreeMap::new();
            for at in 0.. {
                let (mut file, mut parameters, mut threads) =
                    (std::ptr::null(), std::ptr::null(), 0);
                let name = list(at, &raw mut file, &raw mut parameters, &raw mut threads);
                if name.is_null() {
                    break;
                }
                let text = |text| CStr::from_ptr(text).to_str().unwrap().to_owned();
                let parameters = text(parameters).split_whitespace().map(str::to_owned).collect();
                kernels.insert(text(name), Kernel { file: text(file), parameters, threads });
            }
            let exports = Some(Exports { launch: *launch, alloc: *alloc, free: *free });
            Self { act, exports, kernels, ran: Mutex::default() }
        }
    }

    /// A buffer of these elements.
    pub fn buffer<T: Plain>(&self, elements: &[T]) -> Buffer<'_> {
        let buffer = self.poisoned(size_of_val(elements));
        // SAFETY: both are that long, and `T` has no padding.
        unsafe {
            std::ptr::copy_nonoverlapping(elements.as_ptr().cast(), buffer.data, buffer.bytes);
        }
        buffer
    }

    /// A buffer of `bytes` that are not numbers.
    pub fn poisoned(&self, bytes: usize) -> Buffer<'_> {
        let Some(exports) = self.exports else {
            let data = Box::leak(vec![0xff_u8; bytes].into_boxed_slice()).as_mut_ptr();
            return Buffer { shim: self, data, bytes };
        };
        // SAFETY: gives memory or null.
        let data = unsafe { (exports.alloc)(bytes) };
        assert!(!data.is_null(), "out of memory");
        Buffer { shim: self, data: data.cast(), bytes }
    }

    /// Launches once in the order of `seed`; what the shim has to say against it.
    pub fn try_launch(
        &self,
        name: &str,
        grid: [u32; 3],
        arguments: &Arguments<'_>,
        seed: u64,
    ) -> Result<(), String> {
        let threads = self.kernels.get(name).map_or(1, |kernel| kernel.threads);
        self.try_launch_with(name, grid, threads, arguments, seed)
    }

    /// The same with blocks of `threads`.
    pub fn try_launch_with(
        &self,
        name: &str,
        grid: [u32; 3],
        threads: u32,
        arguments: &Arguments<'_>,
        seed: u64,
    ) -> Result<(), String> {
        // The shim reads as many arguments as the kernel has, and cannot count those it is given.
        if let Some(kernel) = self.kernels.get(name) {
            assert_eq!(arguments.values.len(), kernel.parameters.len(), "{name}: arguments");
        }
        self.ran.lock().unwrap().insert(name.to_owned());
        let Some(exports) = self.exports else {
            return card::launch(self.act, name, grid, threads, arguments);
        };
        let c_name = CString::new(name).unwrap();
        let mut values = arguments.values.clone();
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|value| (&raw mut *value).cast()).collect();
        // SAFETY: the arguments live as long as the launch; what a kernel does outside its buffers
        // is caught.
        let error = unsafe {
            (exports.launch)(
                c_name.as_ptr(),
                grid.as_ptr(),
                [threads, 1, 1].as_ptr(),
                0,
                pointers.as_mut_ptr(),
                seed,
            )
        };
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: a text that lives until this thread's next launch.
        Err(unsafe { CStr::from_ptr(error) }.to_str().unwrap().to_owned())
    }

    /// Launches in three orders from the same memory, and wants the same memory after each.
    pub fn run(&self, name: &str, grid: [u32; 3], arguments: &Arguments<'_>) {
        let before: Vec<Vec<u8>> =
            arguments.buffers.iter().map(|buffer| buffer.bytes().to_vec()).collect();
        let mut first: Option<Vec<Vec<u8>>> = None;
        for seed in [0, 1, 20_261] {
            for (buffer, bytes) in arguments.buffers.iter().zip(&before) {
                buffer.write(bytes);
            }
            if let Err(error) = self.try_launch(name, grid, arguments, seed) {
                panic!("{error}");
            }
            let after: Vec<Vec<u8>> =
                arguments.buffers.iter().map(|buffer| buffer.bytes().to_vec()).collect();
            match &first {
                None => first = Some(after),
                Some(first) => {
                    for (at, (a, b)) in first.iter().zip(&after).enumerate() {
                        assert!(a == b, "{name}: buffer {at} depends on the order of threads");
                    }
                }
            }
        }
    }

    /// Wants that every kernel of `file` whose name `wanted` accepts has run.
    pub fn all_ran(&self, file: &str, wanted: impl Fn(&str) -> bool) {
        let ran = self.ran.lock().unwrap();
        let of_file: Vec<_> = self
            .kernels
            .iter()
            .filter(|(name, kernel)| kernel.file == file && wanted(name))
            .map(|(name, _)| name)
            .collect();
        assert!(!of_file.is_empty(), "{file} has no kernels");
        let left: Vec<_> = of_file.into_iter().filter(|name| !ran.contains(*name)).collect();
        assert!(left.is_empty(), "{file}: not tested: {left:?}");
    }

    /// Every kernel by name.
    pub const fn kernels(&self) -> &BTreeMap<String, Kernel> {
        &self.kernels
    }
}

/// Numbers without padding, of which every pattern of bits is one.
pub trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for i8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for i32 {}
impl Plain for u64 {}
impl Plain for f32 {}
impl Plain for f64 {}

/// Memory between two guarded pages.
pub struct Buffer<'a> {
    shim: &'a Shim,
    data: *mut u8,
    bytes: usize,
}

impl Buffer<'_> {
    pub const fn bytes(&self) -> &[u8] {
        // SAFETY: allocated with that length; nothing writes while it is borrowed.
        unsafe { slice::from_raw_parts(self.data, self.bytes) }
    }

    pub fn write(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.bytes);
        // SAFETY: that long, and no borrow of the bytes outlives a statement.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.data, self.bytes) };
    }

    pub fn read<T: Plain>(&self) -> Vec<T> {
        assert_eq!(self.bytes % size_of::<T>(), 0);
        let length = self.bytes / size_of::<T>();
        let mut elements: Vec<T> = Vec::with_capacity(length);
        // SAFETY: as many bytes as are there, and every pattern is a number.
        unsafe {
            std::ptr::copy_nonoverlapping(self.data, elements.as_mut_ptr().cast(), self.bytes);
            elements.set_len(length);
        }
        elements
    }

    /// As activations.
    pub fn read_act(&self) -> Vec<f64> {
        self.read::<u16>().into_iter().map(|bits| self.shim.act.value(bits)).collect()
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        match self.shim.exports {
            // SAFETY: allocated by the shim on this thread, and freed once.
            Some(exports) => unsafe { (exports.free)(self.data.cast()) },
            // SAFETY: a boxed slice of that length, let go of once.
            None => unsafe {
                drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.data, self.bytes)));
            },
        }
    }
}

/// The arguments of a launch, in order.
#[derive(Default)]
pub struct Arguments<'a> {
    values: Vec<u64>,
    buffers: Vec<&'a Buffer<'a>>,
    /// Which of the values each buffer is.
    places: Vec<usize>,
}

impl<'a> Arguments<'a> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn buffer(mut self, buffer: &'a Buffer<'a>) -> Self {
        self.places.push(self.values.len());
        self.values.push(buffer.data as u64);
        self.buffers.push(buffer);
        self
    }

    pub fn buffers<const N: usize>(self, buffers: [&'a Buffer<'a>; N]) -> Self {
        buffers.into_iter().fold(self, Self::buffer)
    }

    /// A buffer, or null.
    pub fn maybe(self, buffer: Option<&'a Buffer<'a>>) -> Self {
        match buffer {
            Some(buffer) => self.buffer(buffer),
            None => self.long(0),
        }
    }

    pub fn int(mut self, value: usize) -> Self {
        self.values.push(u64::from(i32::try_from(value).unwrap().cast_unsigned()));
        self
    }

    pub fn ints<const N: usize>(self, values: [usize; N]) -> Self {
        values.into_iter().fold(self, Self::int)
    }

    pub fn long(mut self, value: u64) -> Self {
        self.values.push(value);
        self
    }

    pub fn float(mut self, value: f32) -> Self {
        self.values.push(u64::from(value.to_bits()));
        self
    }
}
