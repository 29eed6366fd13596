//! Records of kernels by NVIDIA's profiling library, CUPTI.
//!
//! Its kind of record is the one for concurrent kernels: it leaves the work of a graph as it is and
//! names the node that ran, where the other kind would have all kernels wait for each other. It is
//! asked for before anything is launched, since code that was loaded before is slow to be prepared
//! for it. What it costs is not known before it runs on a card; `gemba bench` and the paired runs
//! of each recorded run measure it, against steps of the same process after the library was told to
//! stop. What it costs then is in both: a machine without the library shows that.
//!
//! Its manual says of a flush that it hands back the buffers in which every record is complete, and
//! that a forced one hands back all, with kernels that have not ended as records without an end,
//! which do not come again. While steps follow each other the buffer in use always holds such a
//! kernel, so that a flush brings nothing of it and a forced one spoils it: records are asked for
//! when nothing runs, and then first by a flush that spoils nothing. Until then full buffers come
//! back by themselves, in whatever order.
//!
//! The library hands buffers back through functions that are told nothing of who asked, on a
//! thread that it may choose: so what it hands back lies in one place for the process, and one
//! driver at a time can have it. Its functions are looked up by name in the library that suits the
//! driver, so that a library of another CUDA is not called and one that lacks a function is no
//! library, and its results are taken as the numbers they are: later versions have more of them.
//! Only the layout of a record comes from bindings, and only what all versions have in common is
//! read of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cudarc::cupti::sys::CUpti_ActivityKernel9 as Kernel;

use crate::unit::Nanos;

use super::driver::{DriverError, Function};
use super::timeline::Record;
use super::tracer::Tracer;

/// Majors of the libraries whose records are known, the newest first.
const MAJORS: [u32; 2] = [13, 12];
/// Kinds of records: kernels that run one by one, and those that may run beside others.
const SERIAL_KERNEL: u32 = 3;
const KERNEL: u32 = 10;
/// Hand back buffers that are not full, too: those of which every kernel has ended, or all.
const COMPLETE: u32 = 0;
const ALL: u32 = 1;
/// Bytes of a buffer: about a thousand records. A full one comes back while kernels run; the last
/// one is read while nothing runs, and so had better be small.
const BUFFER_BYTES: usize = 1 << 18;
/// How often, and how long between, records are looked for that should be there.
const LOOKS: u32 = 4;
const BETWEEN: Duration = Duration::from_micros(50);

type Lend = unsafe extern "C" fn(*mut *mut u8, *mut usize, *mut usize);
type TakeBack = unsafe extern "C" fn(*mut c_void, u32, *mut u8, usize, usize);

/// What is called of the library.
struct Library {
    version: unsafe extern "C" fn(*mut u32) -> u32,
    register: unsafe extern "C" fn(Lend, TakeBack) -> u32,
    enable: unsafe extern "C" fn(u32) -> u32,
    disable: unsafe extern "C" fn(u32) -> u32,
    flush: unsafe extern "C" fn(u32) -> u32,
    next: unsafe extern "C" fn(*mut u8, usize, *mut *mut u32) -> u32,
    dropped: unsafe extern "C" fn(*mut c_void, u32, *mut usize) -> u32,
    timestamp: unsafe extern "C" fn(*mut u64) -> u32,
    text: unsafe extern "C" fn(u32, *mut *const c_char) -> u32,
}

/// The library, once it was looked for, or why there is none.
static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
/// Whether a driver has it.
static TAKEN: AtomicBool = AtomicBool::new(false);
static POOL: Mutex<Pool> = Mutex::new(Pool::new());

/// Buffers that are not lent out, and what was found in those that came back.
struct Pool {
    buffers: Vec<Box<[u64]>>,
    found: Vec<Found>,
    /// The number of each kernel's name.
    names: BTreeMap<Box<[u8]>, usize>,
}

/// A record as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    name: usize,
    start: u64,
    end: u64,
    node: u64,
}

impl Pool {
    const fn new() -> Self {
        Self { buffers: Vec::new(), found: Vec::new(), names: BTreeMap::new() }
    }

    fn name(&mut self, name: &[u8]) -> usize {
        let next = self.names.len();
        match self.names.get(name) {
            Some(known) => *known,
            None => *self.names.entry(name.into()).or_insert(next),
        }
    }

    /// Takes a record if it is a kernel's.
    ///
    /// # Safety
    /// It begins a whole record of its kind.
    unsafe fn take(&mut self, record: *const u32) {
        // SAFETY: every record begins with its kind.
        if !matches!(unsafe { record.read_unaligned() }, KERNEL | SERIAL_KERNEL) {
            return;
        }
        let kernel = record.cast::<Kernel>();
        // SAFETY: a kernel's record has these fields at these places in every version; its name
        // is a text that lives as long as the module.
        unsafe {
            let text = (&raw const (*kernel).name).read_unaligned();
            let name = if text.is_null() { c"" } else { CStr::from_ptr(text) };
            let name = self.name(name.to_bytes());
            self.found.push(Found {
                name,
                start: (&raw const (*kernel).start).read_unaligned(),
                end: (&raw const (*kernel).end).read_unaligned(),
                node: (&raw const (*kernel).graphNodeId).read_unaligned(),
            });
        }
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    // What is in it makes sense after every line that changes it.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lends a buffer to the library.
unsafe extern "C" fn lend(buffer: *mut *mut u8, size: *mut usize, records: *mut usize) {
    let kept = pool().buffers.pop();
    let lent = kept.unwrap_or_else(|| vec![0; BUFFER_BYTES / size_of::<u64>()].into());
    // SAFETY: the places are the library's. The buffer is ours again when it is taken back. Any
    // number of records may be put into it.
    unsafe {
        *buffer = Box::into_raw(lent).cast();
        *size = BUFFER_BYTES;
        *records = 0;
    }
}

/// Takes a buffer back from the library, and what it holds.
unsafe extern "C" fn take_back(
    _context: *mut c_void,
    _stream: u32,
    buffer: *mut u8,
    _size: usize,
    filled: usize,
) {
    let Some(Ok(library)) = LIBRARY.get() else { return };
    if buffer.is_null() {
        return;
    }
    let mut pool = pool();
    let mut record = ptr::null_mut();
    // SAFETY: the buffer holds so many bytes of whole records.
    while unsafe { (library.next)(buffer, filled, &raw mut record) } == 0 && !record.is_null() {
        // SAFETY: as above.
        unsafe { pool.take(record) };
    }
    let words = ptr::slice_from_raw_parts_mut(buffer.cast(), BUFFER_BYTES / size_of::<u64>());
    // SAFETY: it was lent, and is handed back once.
    pool.buffers.push(unsafe { Box::from_raw(words) });
}

impl Library {
    /// The newest library that the driver's CUDA can work with.
    fn open(driver: u32) -> Result<Self, String> {
        let mut why = format!("no libcupti of CUDA {driver} was found");
        for major in MAJORS.into_iter().filter(|major| *major <= driver) {
            // SAFETY: the library only sets up its own tables when it is loaded.
            let Ok(opened) = (unsafe { libloading::Library::new(format!("libcupti.so.{major}")) })
            else {
                continue;
            };
            let library = Self::of(&opened).map_err(|error| error.to_string());
            // It has threads and hooks of its own, and cannot be unloaded.
            std::mem::forget(opened);
            match library.and_then(|library| library.ready(major)) {
                Ok(library) => return Ok(library),
                Err(said) => why = said,
            }
        }
        Err(why)
    }

    /// Itself, if it is of this major and takes our functions.
    fn ready(self, major: u32) -> Result<Self, String> {
        let mut version = 0;
        // SAFETY: the place is ours.
        self.said("cuptiGetVersion", unsafe { (self.version)(&raw mut version) })?;
        if major_of(version) != major {
            return Err(format!("libcupti.so.{major} is of version {version}"));
        }
        // SAFETY: both functions live as long as the process.
        self.said("cuptiActivityRegisterCallbacks", unsafe { (self.register)(lend, take_back) })?;
        Ok(self)
    }

    fn of(opened: &libloading::Library) -> Result<Self, libloading::Error> {
        // SAFETY: the functions have had these arguments since CUDA 11 and are the library's
        // contract.
        unsafe {
            Ok(Self {
                version: *opened.get("cuptiGetVersion")?,
                register: *opened.get("cuptiActivityRegisterCallbacks")?,
                enable: *opened.get("cuptiActivityEnable")?,
                disable: *opened.get("cuptiActivityDisable")?,
                flush: *opened.get("cuptiActivityFlushAll")?,
                next: *opened.get("cuptiActivityGetNextRecord")?,
                dropped: *opened.get("cuptiActivityGetNumDroppedRecords")?,
                timestamp: *opened.get("cuptiGetTimestamp")?,
                text: *opened.get("cuptiGetResultString")?,
            })
        }
    }

    fn said(&self, call: &str, result: u32) -> Result<(), String> {
        if result == 0 {
            return Ok(());
        }
        let mut text = ptr::null();
        // SAFETY: the place is ours; the text is a constant of the library.
        let known = unsafe { (self.text)(result, &raw mut text) };
        if known != 0 || text.is_null() {
            return Err(format!("{call}: result {result}"));
        }
        // SAFETY: as above.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        Err(format!("{call}: {text} ({result})"))
    }
}

/// CUDA's major of a library of this version: they were counted, and are 130001 and the like since.
const fn major_of(version: u32) -> u32 {
    if version < 100 { 12 } else { version / 10_000 }
}

/// Records of the kernels of one driver.
pub(super) struct Cupti {
    library: &'static Library,
    /// Kernels by the names that the driver was asked for.
    functions: RefCell<BTreeMap<Box<[u8]>, Function>>,
    /// The kernel of each name in the pool, as far as there were records of it.
    named: RefCell<Vec<Option<Function>>>,
    launched: RefCell<Vec<Function>>,
    traces: Cell<bool>,
}

impl Cupti {
    /// Begins to record, on a driver of CUDA `driver` that has launched nothing yet.
    ///
    /// # Errors
    /// Why there are no records.
    pub fn open(driver: u32) -> Result<Self, String> {
        let library = LIBRARY.get_or_init(|| Library::open(driver)).as_ref()?;
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Err("another driver of this process has CUPTI".to_owned());
        }
        let opened = Self {
            library,
            functions: RefCell::default(),
            named: RefCell::default(),
            launched: RefCell::default(),
            traces: Cell::new(false),
        };
        opened.trace(true).map_err(|error| error.to_string())?;
        Ok(opened)
    }

    /// A kernel was found by its name.
    pub fn found(&self, name: &str, function: Function) {
        self.functions.borrow_mut().insert(name.as_bytes().into(), function);
    }

    /// A kernel was launched, or its launch written down.
    pub fn note(&self, function: Function) {
        if self.traces.get() {
            self.launched.borrow_mut().push(function);
        }
    }

    fn said(&self, call: &str, result: u32) -> Result<(), DriverError> {
        let failed = |what| DriverError::Failed { call: "CUPTI".to_owned(), what };
        self.library.said(call, result).map_err(failed)
    }

    fn flush(&self, which: u32) -> Result<(), DriverError> {
        // SAFETY: the library is there.
        self.said("cuptiActivityFlushAll", unsafe { (self.library.flush)(which) })
    }

    /// The kernel of each name in the pool.
    fn name(&self, pool: &Pool) {
        let mut named = self.named.borrow_mut();
        if named.len() < pool.names.len() {
            let functions = self.functions.borrow();
            named.resize(pool.names.len(), None);
            for (name, at) in &pool.names {
                named[*at] = functions.get(name).copied();
            }
        }
    }
}

impl Tracer for Cupti {
    fn trace(&self, kernels: bool) -> Result<(), DriverError> {
        if self.traces.replace(kernels) && !kernels {
            // SAFETY: the library is there.
            self.said("cuptiActivityDisable", unsafe { (self.library.disable)(KERNEL) })?;
            self.flush(ALL)?;
        }
        self.launched.borrow_mut().clear();
        pool().found.clear();
        if kernels {
            // SAFETY: the library is there.
            self.said("cuptiActivityEnable", unsafe { (self.library.enable)(KERNEL) })?;
        }
        Ok(())
    }

    fn now(&self) -> Result<Nanos, DriverError> {
        let mut time = 0;
        // SAFETY: the place is ours.
        let result = unsafe { (self.library.timestamp)(&raw mut time) };
        self.said("cuptiGetTimestamp", result).map(|()| Nanos(time))
    }

    fn launched(&self, kernels: &mut Vec<Function>) {
        kernels.append(&mut self.launched.borrow_mut());
    }

    fn records(&self, least: usize, records: &mut Vec<Record>) -> Result<u64, DriverError> {
        self.flush(COMPLETE)?;
        for _ in 0..LOOKS {
            if pool().found.len() >= least {
                break;
            }
            std::thread::sleep(BETWEEN);
            self.flush(COMPLETE)?;
        }
        self.flush(ALL)?;
        let mut dropped = 0;
        // SAFETY: the place is ours; of no context are the records that are of none in particular,
        // which those of kernels are.
        let result = unsafe { (self.library.dropped)(ptr::null_mut(), 0, &raw mut dropped) };
        self.said("cuptiActivityGetNumDroppedRecords", result)?;
        let mut pool = pool();
        self.name(&pool);
        let named = self.named.borrow();
        records.extend(pool.found.drain(..).map(|found| Record {
            kernel: named[found.name],
            start: Nanos(found.start),
            end: Nanos(found.end),
            node: found.node,
        }));
        Ok(dropped as u64)
    }
}

impl Drop for Cupti {
    fn drop(&mut self) {
        // What fails here is lost with the driver.
        let _ = self.trace(false);
        TAKEN.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use cudarc::cupti::sys::{self, CUpti_ActivityKernel10 as Later};

    use super::*;

    #[test]
    fn what_is_read_of_a_record_lies_at_one_place_in_all_versions() {
        let places = [
            (offset_of!(Kernel, kind), offset_of!(Later, kind), 0),
            (offset_of!(Kernel, start), offset_of!(Later, start), 16),
            (offset_of!(Kernel, end), offset_of!(Later, end), 24),
            (offset_of!(Kernel, name), offset_of!(Later, name), 104),
            (offset_of!(Kernel, graphNodeId), offset_of!(Later, graphNodeId), 144),
        ];
        for (found, later, expected) in places {
            assert_eq!((found, later), (expected, expected));
        }
        // Records of later versions are only longer.
        assert!(size_of::<Kernel>() < size_of::<Later>());
    }

    #[test]
    fn kinds_and_flags_are_the_librarys() {
        use sys::CUpti_ActivityKind as Kind;
        assert_eq!(Kind::CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL as u32, KERNEL);
        assert_eq!(Kind::CUPTI_ACTIVITY_KIND_KERNEL as u32, SERIAL_KERNEL);
        let all = sys::CUpti_ActivityFlag::CUPTI_ACTIVITY_FLAG_FLUSH_FORCED as u32;
        assert_eq!(all, ALL);
    }

    #[test]
    fn versions_are_of_a_cuda() {
        for (version, expected) in [(18, 12), (28, 12), (130_001, 13), (140_000, 14)] {
            assert_eq!(major_of(version), expected);
        }
        assert_eq!(major_of(sys::CUPTI_API_VERSION), 13);
    }

    #[test]
    fn names_are_numbered_once() {
        let mut pool = Pool::new();
        assert_eq!([&b"a"[..], b"b", b"a"].map(|name| pool.name(name)), [0, 1, 0]);
    }

    #[test]
    fn a_library_of_a_later_cuda_than_the_drivers_is_not_looked_for() {
        let said = Library::open(11).err();
        assert_eq!(said.as_deref(), Some("no libcupti of CUDA 11 was found"));
    }
}
