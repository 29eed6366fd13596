//! NVIDIA's library of dense products, cuBLASLt.
//!
//! Its matrices stand column after column, ours row after row: what is `[rows, width]` here is
//! `[width, rows]` there. So `out = x · weightsᵀ` is asked for as `outᵀ = weights · xᵀ`, of which
//! only the weights stand across.
//!
//! Products in e4m3 have a factor for each row of both sides, which it takes as vectors on cards
//! that can (Hopper, from CUDA 12.9 on); elsewhere it says that it has no algorithm for them.
//!
//! Which of its algorithms runs is asked once for all products that are much alike ([`Key`]), when
//! the first of them is met, and kept. A call with a kept algorithm allocates nothing on the device
//! and waits for nothing, so that a stream may be captured meanwhile; looking for one may do both.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, c_void};
use std::ptr;

use cudarc::cublaslt::sys;
use cudarc::driver::sys::CUstream;
use sys::cublasLtMatmulDescAttributes_t as Attribute;
use sys::cublasLtMatmulMatrixScale_t as ScaleMode;
use sys::cublasLtMatmulPreferenceAttributes_t as Preferred;
use sys::cublasStatus_t as Status;
use sys::cudaDataType_t as Type;

use super::driver::{Address, Dense, DriverError, Scales};
use super::image::Activation;

/// The majors of the library whose calls are those that are made here.
const MAJORS: std::ops::RangeInclusive<u32> = 12..=13;
/// `CUBLAS_OP_T` of cuBLAS: an operand that stands across.
const TRANSPOSED: i32 = 1;
/// What every address of a [`Dense`] is divisible by.
const ALIGNMENT: u32 = 16;

/// Major and minor version of the library on this machine; `None` if there is none.
pub(super) fn version() -> Option<(u32, u32)> {
    // SAFETY: only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        return None;
    }
    // SAFETY: the library is there.
    let version = unsafe { sys::cublasLtGetVersion() } as u32;
    Some((version / 10_000, version / 100 % 100))
}

/// What products have in common that run by the same algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// At least as many as these have.
    rows: u32,
    outputs: u32,
    inputs: u32,
    activation: Activation,
    scaled: bool,
    biased: bool,
    wide: bool,
}

impl Key {
    fn of(product: &Dense) -> Self {
        Self {
            rows: most_rows(product.rows),
            outputs: product.outputs,
            inputs: product.inputs,
            activation: product.activation,
            scaled: product.scales.is_some(),
            biased: product.bias != Address::NULL,
            wide: product.wide,
        }
    }

    /// The type of activations.
    const fn activations(&self) -> Type {
        match self.activation {
            Activation::Bf16 => Type::CUDA_R_16BF,
            Activation::F16 => Type::CUDA_R_16F,
        }
    }

    /// The types of both sides and of the output.
    const fn types(&self) -> (Type, Type) {
        let act = self.activations();
        let side = if self.scaled { Type::CUDA_R_8F_E4M3 } else { act };
        (side, if self.wide { Type::CUDA_R_32F } else { act })
    }
}

/// The most rows of those that share an algorithm with so many: there are four steps from a power
/// of two to the next, so that it was looked for with less than a quarter more than there are.
const fn most_rows(rows: u32) -> u32 {
    let step = rows.next_power_of_two() / 8;
    rows.next_multiple_of(if step == 0 { 1 } else { step })
}

/// The library, opened on the current context.
pub(super) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    /// None for those that it has no algorithm for.
    known: RefCell<HashMap<Key, Option<Way>>>,
}

impl CublasLt {
    /// The library, if it is there and the driver, of CUDA `driver.0`, is not too old for it. A
    /// context is current.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if it cannot be opened.
    pub fn open(driver: (u32, u32)) -> Result<Option<Self>, DriverError> {
        let usable = |(major, _): &(u32, u32)| MAJORS.contains(major) && *major <= driver.0;
        if !version().as_ref().is_some_and(usable) {
            return Ok(None);
        }
        let mut handle = ptr::null_mut();
        // SAFETY: the library is there, and the place is ours.
        said("cublasLtCreate", unsafe { sys::cublasLtCreate(&raw mut handle) })?;
        Ok(Some(Self { handle, known: RefCell::default() }))
    }

    /// Whether there is an algorithm for products like this one.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the library fails.
    pub fn can_multiply(&self, product: &Dense) -> Result<bool, DriverError> {
        let key = Key::of(product);
        Ok(match self.known.borrow_mut().entry(key) {
            Entry::Occupied(met) => met.get().is_some(),
            Entry::Vacant(new) => new.insert(Way::find(self.handle, key, product)?).is_some(),
        })
    }

    /// Enqueues a product on `stream`; whether it did. While the stream is captured, only what was
    /// met before is multiplied.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the library fails.
    pub fn multiply(
        &self,
        (stream, captured): (CUstream, bool),
        product: &Dense,
    ) -> Result<bool, DriverError> {
        let key = Key::of(product);
        let mut known = self.known.borrow_mut();
        let way = match known.entry(key) {
            Entry::Occupied(met) => met.into_mut(),
            Entry::Vacant(_) if captured => return Ok(false),
            Entry::Vacant(new) => new.insert(Way::find(self.handle, key, product)?),
        };
        let Some(found) = way else { return Ok(false) };
        let enqueued = found.enqueue(self.handle, stream, product)?;
        if !enqueued {
            *way = None;
        }
        Ok(enqueued)
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        self.known.get_mut().clear();
        // SAFETY: created once, and destroyed once.
        unsafe { sys::cublasLtDestroy(self.handle) };
    }
}

/// How products like each other are computed.
struct Way {
    operation: Operation,
    weights: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
    key: Key,
}

impl Way {
    /// What the library thinks best; none if it has nothing.
    fn find(
        handle: sys::cublasLtHandle_t,
        key: Key,
        like: &Dense,
    ) -> Result<Option<Self>, DriverError> {
        let (side, out) = key.types();
        let (outputs, inputs) = (u64::from(key.outputs), u64::from(key.inputs));
        let operation = Operation::of(key.activations(), like.bias)?;
        if like.scales.is_some_and(|scales| operation.begin_scaling(scales).is_err()) {
            // An older one knows no factors of rows.
            return Ok(None);
        }
        let weights = Layout::new(side, inputs, outputs)?;
        let x = Layout::new(side, inputs, key.rows.into())?;
        let out = Layout::new(out, outputs, key.rows.into())?;
        let preference = Preference::new()?;
        let mut found = sys::cublasLtMatmulHeuristicResult_t {
            algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: Status::CUBLAS_STATUS_NOT_SUPPORTED,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let mut count = 0;
        // SAFETY: everything that is described lives, and one result has room.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle,
                operation.0,
                weights.0,
                x.0,
                out.0,
                out.0,
                preference.0,
                1,
                &raw mut found,
                &raw mut count,
            )
        };
        // Whatever it lacks for such a product, the kernels here do not.
        let success = Status::CUBLAS_STATUS_SUCCESS;
        let usable = status == success && count > 0 && found.state == success;
        Ok(usable.then_some(Self { operation, weights, algorithm: found.algo, key }))
    }

    /// Enqueues a product; not, if the algorithm does not take its number of rows.
    fn enqueue(
        &self,
        handle: sys::cublasLtHandle_t,
        stream: CUstream,
        product: &Dense,
    ) -> Result<bool, DriverError> {
        let (side, out) = self.key.types();
        let rows = u64::from(product.rows);
        let x = Layout::new(side, product.inputs.into(), rows)?;
        let out = Layout::new(out, product.outputs.into(), rows)?;
        if self.key.biased {
            self.operation.add(product.bias)?;
        }
        if let Some(scales) = product.scales {
            self.operation.scale(scales)?;
        }
        let (one, kept) = (1.0_f32, if product.adds { 1.0_f32 } else { 0.0 });
        let at = |address: u64| address as *mut c_void;
        // SAFETY: the factors are read before the call returns; the operands and the workspace are
        // the caller's own memory on the device, as large as the layouts say.
        let status = unsafe {
            sys::cublasLtMatmul(
                handle,
                self.operation.0,
                (&raw const one).cast(),
                at(product.weights.0),
                self.weights.0,
                at(product.x.0),
                x.0,
                (&raw const kept).cast(),
                at(product.out.0),
                out.0,
                at(product.out.0),
                out.0,
                &raw const self.algorithm,
                at(product.workspace.0),
                Dense::WORKSPACE as usize,
                stream.cast(),
            )
        };
        match status {
            // What was described was taken before, so it is the number of rows.
            Status::CUBLAS_STATUS_NOT_SUPPORTED
            | Status::CUBLAS_STATUS_INVALID_VALUE
            | Status::CUBLAS_STATUS_ARCH_MISMATCH => Ok(false),
            status => said("cublasLtMatmul", status).map(|()| true),
        }
    }
}

/// What is computed, apart from the sizes.
struct Operation(sys::cublasLtMatmulDesc_t);

impl Operation {
    fn of(act: Type, bias: Address) -> Result<Self, DriverError> {
        let mut operation = ptr::null_mut();
        let sums = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        // SAFETY: the place is ours.
        let status =
            unsafe { sys::cublasLtMatmulDescCreate(&raw mut operation, sums, Type::CUDA_R_32F) };
        said("cublasLtMatmulDescCreate", status)?;
        let operation = Self(operation);
        operation.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        if bias != Address::NULL {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            operation.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            operation.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &act)?;
            operation.add(bias)?;
        }
        Ok(operation)
    }

    /// This bias from now on.
    fn add(&self, bias: Address) -> Result<(), DriverError> {
        self.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.0)
    }

    /// Each row of both sides has a factor, these at first.
    fn begin_scaling(&self, scales: Scales) -> Result<(), DriverError> {
        let of_rows = ScaleMode::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
        self.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &of_rows)?;
        self.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &of_rows)?;
        self.scale(scales)
    }

    /// These factors from now on.
    fn scale(&self, scales: Scales) -> Result<(), DriverError> {
        self.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &scales.outputs.0)?;
        self.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &scales.rows.0)
    }

    fn set<T>(&self, attribute: Attribute, value: &T) -> Result<(), DriverError> {
        let from = ptr::from_ref(value).cast();
        // SAFETY: the value is copied before the call returns, and its length is said.
        said("cublasLtMatmulDescSetAttribute", unsafe {
            sys::cublasLtMatmulDescSetAttribute(self.0, attribute, from, size_of::<T>())
        })
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: created once, and destroyed once.
        unsafe { sys::cublasLtMatmulDescDestroy(self.0) };
    }
}

/// How a matrix lies in memory.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    /// Of `count` runs of `length` elements, one behind another.
    fn new(kind: Type, length: u64, count: u64) -> Result<Self, DriverError> {
        let mut layout = ptr::null_mut();
        // SAFETY: the place is ours.
        said("cublasLtMatrixLayoutCreate", unsafe {
            sys::cublasLtMatrixLayoutCreate(&raw mut layout, kind, length, count, length as i64)
        })?;
        Ok(Self(layout))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created once, and destroyed once.
        unsafe { sys::cublasLtMatrixLayoutDestroy(self.0) };
    }
}

/// What an algorithm may be like.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Self, DriverError> {
        let mut preference = ptr::null_mut();
        // SAFETY: the place is ours.
        said("cublasLtMatmulPreferenceCreate", unsafe {
            sys::cublasLtMatmulPreferenceCreate(&raw mut preference)
        })?;
        let preference = Self(preference);
        preference.set(Preferred::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, Dense::WORKSPACE)?;
        // Parts of a sum meet as f32, not as activations.
        let parts = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        preference.set(Preferred::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, parts)?;
        for operand in [
            Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(operand, ALIGNMENT)?;
        }
        Ok(preference)
    }

    fn set<T>(&self, attribute: Preferred, value: T) -> Result<(), DriverError> {
        let from = (&raw const value).cast();
        // SAFETY: the value is copied before the call returns, and its length is said.
        said("cublasLtMatmulPreferenceSetAttribute", unsafe {
            sys::cublasLtMatmulPreferenceSetAttribute(self.0, attribute, from, size_of::<T>())
        })
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created once, and destroyed once.
        unsafe { sys::cublasLtMatmulPreferenceDestroy(self.0) };
    }
}

fn said(call: &str, status: Status) -> Result<(), DriverError> {
    if status == Status::CUBLAS_STATUS_SUCCESS {
        return Ok(());
    }
    // SAFETY: gives a constant text, whatever the status.
    let name = unsafe { sys::cublasLtGetStatusName(status) };
    let what = match name.is_null() {
        true => format!("{status:?}"),
        // SAFETY: as above.
        false => unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned(),
    };
    Err(DriverError::Failed { call: call.to_owned(), what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(rows: u32) -> Dense {
        Dense {
            out: Address(1 << 20),
            x: Address(2 << 20),
            weights: Address(3 << 20),
            scales: None,
            bias: Address::NULL,
            workspace: Address(4 << 20),
            rows,
            outputs: 4096,
            inputs: 1024,
            activation: Activation::Bf16,
            adds: false,
            wide: false,
        }
    }

    #[test]
    fn products_that_are_much_alike_share_an_algorithm() {
        for (rows, most) in
            [(65, 80), (80, 80), (81, 96), (128, 128), (129, 160), (1000, 1024), (1025, 1280)]
        {
            assert_eq!(most_rows(rows), most, "{rows} rows");
        }
        for rows in 1..10_000 {
            let most = most_rows(rows);
            assert!(most >= rows && 4 * (most - rows) < rows.max(4), "{rows} rows: {most}");
            assert_eq!(most_rows(most), most);
        }
        // Nor do they differ by where their operands lie, or by a factor.
        let (one, other) = (product(65), Dense { x: Address(5 << 20), adds: true, ..product(80) });
        assert_eq!(Key::of(&one), Key::of(&other));
    }

    #[test]
    fn whatever_an_algorithm_depends_on_tells_products_apart() {
        let one = product(65);
        for other in [
            product(81),
            Dense { outputs: 4104, ..one },
            Dense { inputs: 1032, ..one },
            Dense { activation: Activation::F16, ..one },
            Dense { bias: Address(16), ..one },
            Dense { scales: Some(Scales { rows: Address(16), outputs: Address(16) }), ..one },
            Dense { wide: true, ..one },
        ] {
            assert_ne!(Key::of(&one), Key::of(&other), "{other:?}");
        }
    }

    #[test]
    fn without_the_library_nothing_is_opened() {
        if version().is_none() {
            assert!(CublasLt::open((13, 0)).is_ok_and(|library| library.is_none()));
        }
        // A driver that knows no CUDA whose library is called.
        assert!(CublasLt::open((11, 8)).is_ok_and(|library| library.is_none()));
    }
}
