//! NVIDIA's driver.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use crate::backend::DeviceError;
use crate::unit::Nanos;

use super::cublas::CublasLt;
use super::cupti::Cupti;
use super::driver::{
    Address, Arguments, Card, Dense, Driver, DriverError, Event, Function, Graph, Shelf,
};
use super::image::{Program, images};
use super::library::{Library, Missing, ThisMachine, look};
use super::nvrtc::Nvrtc;
use super::tracer::Tracer;

/// Why a card could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something that it needs is not there.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The driver did not do it.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Opens card `number`; images of kernels are kept in `folder`, if there is one. The card is the
/// calling thread's from then on.
///
/// # Errors
/// [`OpenError`] if something is missing, or the driver fails.
pub fn open(number: u32, folder: Option<&Path>) -> Result<Box<dyn Driver>, OpenError> {
    let found = look(&ThisMachine, &[Library::Driver, Library::Nvrtc]);
    let card = found.ready(number)?.clone();
    let driver = Nvidia::open(card, folder).map_err(DeviceError::from)?;
    Ok(Box::new(driver))
}

/// The version of CUDA that the driver implements; `None` if there is no driver.
pub(super) fn driver_version() -> Option<(u32, u32)> {
    // SAFETY: only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        return None;
    }
    let mut version = 0;
    // SAFETY: the library is there, and the place is ours. The call works before cuInit.
    let result = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    let version = version.unsigned_abs();
    (result == CUresult::CUDA_SUCCESS).then_some((version / 1000, version % 1000 / 10))
}

/// The cards that the driver shows. There must be a driver.
pub(super) fn cards() -> Result<Vec<Card>, DriverError> {
    // SAFETY: there is a driver; all places are ours.
    unsafe {
        said("cuInit", sys::cuInit(0))?;
        let mut count: c_int = 0;
        said("cuDeviceGetCount", sys::cuDeviceGetCount(&raw mut count))?;
        (0..count).map(|number| card(number)).collect()
    }
}

/// What card `number` is.
///
/// # Safety
/// The driver is initialized.
unsafe fn card(number: c_int) -> Result<Card, DriverError> {
    let mut device = 0;
    let (mut memory, mut name) = (0, [0_u8; 256]);
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    // SAFETY: the caller's duty; all places are ours, and the name's length is said.
    unsafe {
        said("cuDeviceGet", sys::cuDeviceGet(&raw mut device, number))?;
        said("cuDeviceTotalMem", sys::cuDeviceTotalMem_v2(&raw mut memory, device))?;
        let name_len = name.len() as c_int - 1;
        let name = name.as_mut_ptr().cast();
        said("cuDeviceGetName", sys::cuDeviceGetName(name, name_len, device))?;
        said("cuDeviceGetUuid", sys::cuDeviceGetUuid_v2(&raw mut uuid, device))?;
    }
    let attribute = |attribute: Attribute| {
        let mut value = 0;
        // SAFETY: as above.
        let result = unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, device) };
        said("cuDeviceGetAttribute", result).map(|()| value.unsigned_abs())
    };
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    Ok(Card {
        number: number.unsigned_abs(),
        name: name.to_string_lossy().into_owned(),
        uuid: uuid_text(uuid.bytes.map(|byte| byte as u8)),
        memory: memory as u64,
        cache: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
    })
}

/// As the maker's tools write it.
fn uuid_text(bytes: [u8; 16]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let parts = [&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..]].map(hex);
    format!("GPU-{}", parts.join("-"))
}

fn said(call: &str, result: CUresult) -> Result<(), DriverError> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(DriverError::OutOfMemory),
        error => {
            let mut text = ptr::null();
            // SAFETY: the place is ours; the text is a constant of the driver.
            let known = unsafe { sys::cuGetErrorString(error, &raw mut text) };
            let what = if known == CUresult::CUDA_SUCCESS && !text.is_null() {
                // SAFETY: as above.
                let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
                format!("{text} ({error:?})")
            } else {
                format!("{error:?}")
            };
            Err(DriverError::Failed { call: call.to_owned(), what })
        }
    }
}

/// A card with a context and a stream of its own.
struct Nvidia {
    card: Card,
    device: sys::CUdevice,
    stream: sys::CUstream,
    /// Where images are kept.
    folder: Option<PathBuf>,
    modules: RefCell<Vec<sys::CUmodule>>,
    allocated: RefCell<BTreeSet<Address>>,
    events: RefCell<Vec<sys::CUevent>>,
    /// Host memory that the card copies to, and its bytes.
    shelves: RefCell<Vec<(*mut c_void, usize)>>,
    /// None where one was forgotten.
    graphs: RefCell<Vec<Option<sys::CUgraphExec>>>,
    capturing: Cell<bool>,
    /// Records of kernels, or why there are none.
    tracer: Result<Cupti, String>,
    /// The library of dense products, once it was asked for; none if there is none.
    dense: OnceCell<Option<CublasLt>>,
}

impl Nvidia {
    fn open(card: Card, folder: Option<&Path>) -> Result<Self, DriverError> {
        let mut device = 0;
        let (mut context, mut stream) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the driver is initialized, as the card was looked at; all places are ours.
        unsafe {
            said("cuDeviceGet", sys::cuDeviceGet(&raw mut device, card.number as c_int))?;
            let retained = sys::cuDevicePrimaryCtxRetain(&raw mut context, device);
            said("cuDevicePrimaryCtxRetain", retained)?;
            let made = said("cuCtxSetCurrent", sys::cuCtxSetCurrent(context)).and_then(|()| {
                let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
                said("cuStreamCreate", sys::cuStreamCreate(&raw mut stream, flags))
            });
            if let Err(error) = made {
                sys::cuDevicePrimaryCtxRelease_v2(device);
                return Err(error);
            }
        }
        Ok(Self {
            card,
            device,
            stream,
            folder: folder.map(Path::to_path_buf),
            modules: RefCell::default(),
            allocated: RefCell::default(),
            events: RefCell::default(),
            shelves: RefCell::default(),
            graphs: RefCell::default(),
            capturing: Cell::new(false),
            // Before any code is loaded.
            tracer: Cupti::open(driver_version().unwrap_or_default().0),
            dense: OnceCell::new(),
        })
    }

    fn event_of(&self, event: Event) -> Result<sys::CUevent, DriverError> {
        self.events.borrow().get(event.0 as usize).copied().ok_or_else(|| DriverError::Failed {
            call: "cuEventRecord".to_owned(),
            what: format!("there is no event {}", event.0),
        })
    }

    fn shelf_of(&self, shelf: Shelf) -> Result<(*mut c_void, usize), DriverError> {
        let known = self.shelves.borrow().get(shelf.0 as usize).copied();
        known.ok_or_else(|| DriverError::Failed {
            call: "cuMemcpyDtoHAsync".to_owned(),
            what: format!("there is no shelf {}", shelf.0),
        })
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // SAFETY: everything was made by this driver and is given back once. What fails here has
        // failed before, or is lost with the device.
        unsafe {
            sys::cuStreamSynchronize(self.stream);
            // Records end before the context does.
            self.tracer = Err(String::new());
            for graph in self.graphs.get_mut().drain(..).flatten() {
                sys::cuGraphExecDestroy(graph);
            }
            // It holds something of the context.
            drop(self.dense.take());
            for event in self.events.get_mut().drain(..) {
                sys::cuEventDestroy_v2(event);
            }
            for (shelf, _) in self.shelves.get_mut().drain(..) {
                sys::cuMemFreeHost(shelf);
            }
            for address in std::mem::take(self.allocated.get_mut()) {
                sys::cuMemFree_v2(address.0);
            }
            for module in self.modules.get_mut().drain(..) {
                sys::cuModuleUnload(module);
            }
            sys::cuStreamDestroy_v2(self.stream);
            sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

impl Driver for Nvidia {
    fn card(&self) -> &Card {
        &self.card
    }

    fn free_memory(&self) -> Result<u64, DriverError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both places are ours.
        let result = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
        said("cuMemGetInfo", result).map(|()| free as u64)
    }

    fn allocate(&self, bytes: u64) -> Result<Address, DriverError> {
        let mut pointer = 0;
        let bytes = usize::try_from(bytes.max(1)).map_err(|_| DriverError::OutOfMemory)?;
        // SAFETY: the place is ours.
        said("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&raw mut pointer, bytes) })?;
        self.allocated.borrow_mut().insert(Address(pointer));
        Ok(Address(pointer))
    }

    fn free(&self, address: Address) -> Result<(), DriverError> {
        if !self.allocated.borrow_mut().remove(&address) {
            return Ok(());
        }
        self.wait()?;
        // SAFETY: allocated by this driver, no work is under way, and freed once.
        said("cuMemFree", unsafe { sys::cuMemFree_v2(address.0) })
    }

    fn write(&self, to: Address, bytes: &[u8]) -> Result<(), DriverError> {
        let from = bytes.as_ptr().cast::<c_void>();
        // SAFETY: the driver has copied from pageable memory when this returns; where to is the
        // caller's own memory on the device.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(to.0, from, bytes.len(), self.stream) };
        said("cuMemcpyHtoDAsync", result)
    }

    fn read(&self, from: Address, bytes: &mut [u8]) -> Result<(), DriverError> {
        let to = bytes.as_mut_ptr().cast::<c_void>();
        // SAFETY: the bytes are borrowed until the wait is over.
        let result = unsafe { sys::cuMemcpyDtoHAsync_v2(to, from.0, bytes.len(), self.stream) };
        said("cuMemcpyDtoHAsync", result)?;
        self.wait()
    }

    fn shelf(&self, bytes: u64) -> Result<Shelf, DriverError> {
        let mut pointer = ptr::null_mut();
        let bytes = usize::try_from(bytes.max(1)).map_err(|_| DriverError::OutOfMemory)?;
        // Copies to other host memory make the host wait.
        // SAFETY: the place is ours.
        said("cuMemAllocHost", unsafe { sys::cuMemAllocHost_v2(&raw mut pointer, bytes) })?;
        // SAFETY: so many bytes were just allocated, and nothing else knows of them.
        unsafe { pointer.cast::<u8>().write_bytes(0, bytes) };
        let mut shelves = self.shelves.borrow_mut();
        shelves.push((pointer, bytes));
        Ok(Shelf(shelves.len() as u64 - 1))
    }

    fn send(&self, bytes: &[u8], by: Shelf, to: Address) -> Result<(), DriverError> {
        let (shelf, most) = self.shelf_of(by)?;
        if bytes.len() > most {
            let what = format!("{} bytes on a shelf of {most}", bytes.len());
            return Err(DriverError::Failed { call: "cuMemcpyHtoDAsync".to_owned(), what });
        }
        // SAFETY: the shelf has room for them, and the card has done with it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), shelf.cast(), bytes.len()) };
        // SAFETY: the shelf lives as long as the driver and is not written to until this is done;
        // where to is the caller's own memory on the device.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(to.0, shelf, bytes.len(), self.stream) };
        said("cuMemcpyHtoDAsync", result)
    }

    fn fetch(&self, from: Address, to: Shelf) -> Result<(), DriverError> {
        let (to, bytes) = self.shelf_of(to)?;
        // SAFETY: the shelf lives as long as the driver, which waits for its work when it ends, and
        // is not looked at until an event behind this has passed.
        let result = unsafe { sys::cuMemcpyDtoHAsync_v2(to, from.0, bytes, self.stream) };
        said("cuMemcpyDtoHAsync", result)
    }

    fn fetched(&self, from: Shelf, bytes: &mut [u8]) -> Result<(), DriverError> {
        let (from, most) = self.shelf_of(from)?;
        let count = bytes.len().min(most);
        // SAFETY: the shelf has so many bytes, and the card has done with it.
        unsafe { ptr::copy_nonoverlapping(from.cast(), bytes.as_mut_ptr(), count) };
        Ok(())
    }

    fn load(&self, programs: &[Program]) -> Result<(), DriverError> {
        let compiler = Nvrtc::open(self.card.capability)?;
        for image in images(self.folder.as_deref(), &compiler, programs)? {
            let mut module = ptr::null_mut();
            // SAFETY: a whole image, or a text that ends in zero, as the compiler gave it.
            let result = unsafe { sys::cuModuleLoadData(&raw mut module, image.as_ptr().cast()) };
            said("cuModuleLoadData", result)?;
            self.modules.borrow_mut().push(module);
        }
        Ok(())
    }

    fn function(&self, name: &str) -> Result<Function, DriverError> {
        let failed =
            |what: String| DriverError::Failed { call: "cuModuleGetFunction".to_owned(), what };
        let c_name = CString::new(name).map_err(|error| failed(error.to_string()))?;
        for &module in self.modules.borrow().iter() {
            let mut function = ptr::null_mut();
            // SAFETY: the module lives as long as the driver.
            let result =
                unsafe { sys::cuModuleGetFunction(&raw mut function, module, c_name.as_ptr()) };
            if result == CUresult::CUDA_SUCCESS {
                let function = Function(function as u64);
                if let Ok(tracer) = &self.tracer {
                    tracer.found(name, function);
                }
                return Ok(function);
            }
        }
        Err(failed(format!("no kernel is named {name}")))
    }

    fn launch(
        &self,
        function: Function,
        [x, y, z]: [u32; 3],
        block: u32,
        arguments: &Arguments,
    ) -> Result<(), DriverError> {
        let values = arguments.values();
        let mut pointers = [ptr::null_mut::<c_void>(); 20];
        for (pointer, value) in pointers.iter_mut().zip(values) {
            *pointer = ptr::from_ref(value).cast_mut().cast();
        }
        if let Ok(tracer) = &self.tracer {
            tracer.note(function);
        }
        // SAFETY: the function is of a module that lives; the driver copies the arguments before
        // it returns and only reads them.
        let result = unsafe {
            let function = function.0 as sys::CUfunction;
            let (arguments, none) = (pointers.as_mut_ptr(), ptr::null_mut());
            sys::cuLaunchKernel(function, x, y, z, block, 1, 1, 0, self.stream, arguments, none)
        };
        said("cuLaunchKernel", result)
    }

    fn multiplies(&self) -> Result<bool, DriverError> {
        if self.dense.get().is_none() {
            let library = CublasLt::open(driver_version().unwrap_or_default())?;
            // Nobody else could have set it since.
            let _set = self.dense.set(library);
        }
        Ok(self.dense.get().is_some_and(Option::is_some))
    }

    fn can_multiply(&self, product: &Dense) -> Result<bool, DriverError> {
        match self.dense.get() {
            Some(Some(library)) => library.can_multiply(product),
            _ => Ok(false),
        }
    }

    fn multiply(&self, product: &Dense) -> Result<bool, DriverError> {
        match self.dense.get() {
            Some(Some(library)) => library.multiply((self.stream, self.capturing.get()), product),
            _ => Ok(false),
        }
    }

    fn event(&self) -> Result<Event, DriverError> {
        let mut event = ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as u32;
        // SAFETY: the place is ours.
        said("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut event, flags) })?;
        let mut events = self.events.borrow_mut();
        events.push(event);
        Ok(Event(events.len() as u64 - 1))
    }

    fn record(&self, event: Event) -> Result<(), DriverError> {
        let event = self.event_of(event)?;
        if self.capturing.get() {
            // Without the flag it would only order the graph's own nodes and tell no time.
            let flags = sys::CUevent_record_flags_enum::CU_EVENT_RECORD_EXTERNAL as u32;
            // SAFETY: event and stream live as long as the driver.
            let result = unsafe { sys::cuEventRecordWithFlags(event, self.stream, flags) };
            return said("cuEventRecordWithFlags", result);
        }
        // SAFETY: as above.
        said("cuEventRecord", unsafe { sys::cuEventRecord(event, self.stream) })
    }

    fn wait_for(&self, event: Event) -> Result<(), DriverError> {
        let event = self.event_of(event)?;
        // SAFETY: the event lives as long as the driver.
        said("cuEventSynchronize", unsafe { sys::cuEventSynchronize(event) })
    }

    fn elapsed(&self, from: Event, to: Event) -> Result<Nanos, DriverError> {
        let (from, to) = (self.event_of(from)?, self.event_of(to)?);
        let mut milliseconds = 0.0;
        // SAFETY: both events live as long as the driver.
        let result = unsafe { sys::cuEventElapsedTime_v2(&raw mut milliseconds, from, to) };
        said("cuEventElapsedTime", result)?;
        Ok(Nanos((f64::from(milliseconds) * 1e6).round().max(0.0) as u64))
    }

    fn begin_capture(&self) -> Result<(), DriverError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the driver.
        let result = unsafe { sys::cuStreamBeginCapture_v2(self.stream, mode) };
        said("cuStreamBeginCapture", result)?;
        self.capturing.set(true);
        Ok(())
    }

    fn end_capture(&self) -> Result<Graph, DriverError> {
        self.capturing.set(false);
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the stream lives as long as the driver, and the place is ours.
        let result = unsafe { sys::cuStreamEndCapture(self.stream, &raw mut graph) };
        said("cuStreamEndCapture", result)?;
        // SAFETY: the graph was just made, and is given back once; what is made of it stands by
        // itself.
        let result = unsafe {
            let result = sys::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0);
            sys::cuGraphDestroy(graph);
            result
        };
        said("cuGraphInstantiate", result)?;
        let mut graphs = self.graphs.borrow_mut();
        graphs.push(Some(executable));
        Ok(Graph(graphs.len() as u64 - 1))
    }

    fn replay(&self, graph: Graph) -> Result<(), DriverError> {
        let known = self.graphs.borrow().get(graph.0 as usize).copied().flatten();
        let executable = known.ok_or_else(|| DriverError::Failed {
            call: "cuGraphLaunch".to_owned(),
            what: format!("there is no graph {}", graph.0),
        })?;
        // SAFETY: the graph was not given back, and the stream lives as long as the driver.
        said("cuGraphLaunch", unsafe { sys::cuGraphLaunch(executable, self.stream) })
    }

    fn forget(&self, graph: Graph) -> Result<(), DriverError> {
        let known = self.graphs.borrow_mut().get_mut(graph.0 as usize).and_then(Option::take);
        let Some(executable) = known else { return Ok(()) };
        self.wait()?;
        // SAFETY: made by this driver, no work is under way, and given back once.
        said("cuGraphExecDestroy", unsafe { sys::cuGraphExecDestroy(executable) })
    }

    fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the stream lives as long as the driver.
        said("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.stream) })
    }

    fn tracer(&self) -> Result<&dyn Tracer, &str> {
        self.tracer.as_ref().map(|tracer| tracer as &dyn Tracer).map_err(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_named_as_the_makers_tools_do() {
        let bytes = std::array::from_fn(|i| i as u8 * 16 + 1);
        assert_eq!(uuid_text(bytes), "GPU-01112131-4151-6171-8191-a1b1c1d1e1f1");
    }

    #[test]
    fn without_a_driver_opening_says_so() {
        if driver_version().is_none() {
            let error = open(0, None).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some("no NVIDIA driver was found"));
        }
    }
}
