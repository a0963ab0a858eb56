//! NVIDIA's cuBLASLt, opened at run time: products of callers that take any order, on devices of this process alone. What
//! it computes no numerics id covers. `mod` calls it for plans of `plan/vendor.rs`.
//!
//! The functions and numbers are those of cublasLt.h, the same in CUDA 12 and 13.

use super::compiler;
use super::driver::{Context, Stream};
use super::plan::{Call, Matrix};
use super::ranges::Address;
use crate::dtype::DType;
use crate::error::{Kind, Result};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};

/// Bytes that a call may write beside its output: what NVIDIA advises for Hopper.
pub(super) const WORKSPACE: u64 = 32 << 20;

/// Names of the library, newest first.
const NAMES: [&str; 2] = ["libcublasLt.so.13", "libcublasLt.so.12"];
/// Where it lies inside a folder that is named for the compiler: of a toolkit, where Python's wheels lie, or beside the
/// compiler's own wheel.
const INSIDE: [&str; 6] =
    ["", "lib", "lib64", "nvidia/cu13/lib", "nvidia/cublas/lib", "../../cublas/lib"];

type Status = c_int;
type Handle = *mut c_void;
const ALLOC_FAILED: Status = 3;

/// `CUDA_R_...` and `CUBLAS_COMPUTE_32F`, also with tf32.
const R_32F: c_int = 0;
const R_16F: c_int = 2;
const R_16BF: c_int = 14;
const COMPUTE_32F: c_int = 68;
const COMPUTE_32F_FAST_TF32: c_int = 77;
/// `CUBLASLT_MATMUL_DESC_TRANSA` and `_TRANSB`.
const TURNED: [c_int; 2] = [3, 4];
/// `CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT` and `_STRIDED_BATCH_OFFSET`.
const BATCH_COUNT: c_int = 5;
const BATCH_STEP: c_int = 6;
/// `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`, and `_MIN_ALIGNMENT_..._BYTES` of A, B, C and D.
const MAX_WORKSPACE: c_int = 1;
const ALIGNMENT: [c_int; 4] = [5, 6, 7, 8];

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Default)]
struct Found {
    algorithm: [u64; 8],
    workspace: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

macro_rules! functions {
    ($($name:ident($($arg:ty),* $(,)?);)*) => {
        /// The library's functions by their exported names.
        #[allow(non_snake_case, reason = "the library's names")]
        struct Api {
            $($name: unsafe extern "C" fn($($arg),*) -> Status,)*
            _library: Library,
        }

        impl Api {
            fn load(path: &Path) -> Option<Self> {
                // SAFETY: a library of NVIDIA's; loading it runs its initialisers and nothing else.
                let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.ok()?;
                Some(Self {
                    // SAFETY: the library exports this function with this type, as cublasLt.h declares it.
                    $($name: *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }.ok()?,)*
                    _library: library,
                })
            }
        }
    };
}

functions! {
    cublasLtCreate(*mut Handle);
    cublasLtDestroy(Handle);
    cublasLtMatmulDescCreate(*mut Handle, c_int, c_int);
    cublasLtMatmulDescDestroy(Handle);
    cublasLtMatmulDescSetAttribute(Handle, c_int, *const c_void, usize);
    cublasLtMatrixLayoutCreate(*mut Handle, c_int, u64, u64, i64);
    cublasLtMatrixLayoutDestroy(Handle);
    cublasLtMatrixLayoutSetAttribute(Handle, c_int, *const c_void, usize);
    cublasLtMatmulPreferenceCreate(*mut Handle);
    cublasLtMatmulPreferenceDestroy(Handle);
    cublasLtMatmulPreferenceSetAttribute(Handle, c_int, *const c_void, usize);
    cublasLtMatmulAlgoGetHeuristic(Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut Found, *mut c_int);
    cublasLtMatmul(Handle, Handle, *const f32, u64, Handle, u64, Handle, *const f32, u64, Handle, u64, Handle, *const u64, u64, usize, *mut c_void);
}

impl Api {
    /// The library, opened once; `None` where there is none.
    fn get() -> Option<&'static Self> {
        static API: OnceLock<Option<Api>> = OnceLock::new();
        API.get_or_init(|| {
            let files = compiler::files(&compiler::named(), &INSIDE, &NAMES).into_iter();
            // The loader's own places come last.
            let mut places = files.chain(NAMES.map(PathBuf::from));
            places.find_map(|path| Self::load(&path))
        })
        .as_ref()
    }
}

/// An error of a call; whether the device is lost, its driver says at the next one.
fn check(call: &str, status: Status) -> Result<()> {
    match status {
        0 => Ok(()),
        ALLOC_FAILED => Err(Kind::OutOfMemory { asked: WORKSPACE, free: 0, quota: 0 }.into()),
        status => {
            let asked = format!("{call}: status {status}");
            Err(Kind::Unsupported { asked, allowed: "what cuBLASLt runs".into() }.into())
        }
    }
}

/// What a call makes and another destroys.
struct Made {
    handle: Handle,
    destroy: unsafe extern "C" fn(Handle) -> Status,
}

// SAFETY: memory of the host that one thread uses at a time.
unsafe impl Send for Made {}

impl Made {
    /// # Errors
    /// As [`check`].
    fn new(
        call: &str,
        destroy: unsafe extern "C" fn(Handle) -> Status,
        create: impl FnOnce(*mut Handle) -> Status,
    ) -> Result<Self> {
        let mut handle = null_mut();
        check(call, create(&mut handle))?;
        Ok(Self { handle, destroy })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // SAFETY: made by the function that this one undoes, and dropped once.
        unsafe { (self.destroy)(self.handle) };
    }
}

/// The library on a device.
pub(super) struct CublasLt {
    api: &'static Api,
    context: Arc<Context>,
    handle: Handle,
}

// SAFETY: any thread may use a handle while the context is current there, several too.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

impl Drop for CublasLt {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made by `open`; the stream that its calls are in has been waited for.
            unsafe { (self.api.cublasLtDestroy)(self.handle) };
        }
    }
}

impl CublasLt {
    /// The library on this device; `None` where there is none, or it refuses the device.
    pub(super) fn open(context: &Arc<Context>) -> Option<Self> {
        let api = Api::get()?;
        context.enter().ok()?;
        let mut handle = null_mut();
        // SAFETY: the handle is written; the device's context is current.
        let status = unsafe { (api.cublasLtCreate)(&mut handle) };
        (status == 0).then(|| Self { api, context: Arc::clone(context), handle })
    }

    /// A call made ready by its heuristic.
    ///
    /// # Errors
    /// `Unsupported` where it has no algorithm.
    pub(super) fn product(&self, call: &Call) -> Result<Product> {
        let api = self.api;
        self.context.enter()?;
        let compute = if call.is_tf32 { COMPUTE_32F_FAST_TF32 } else { COMPUTE_32F };
        let name = "cublasLtMatmulDescCreate";
        // SAFETY: the descriptor is written.
        let desc = Made::new(name, api.cublasLtMatmulDescDestroy, |made| unsafe {
            (api.cublasLtMatmulDescCreate)(made, compute, R_32F)
        })?;
        for (attribute, matrix) in TURNED.into_iter().zip(&call.matrices) {
            let turned = c_int::from(matrix.is_turned);
            set(api.cublasLtMatmulDescSetAttribute, &desc, attribute, &turned)?;
        }
        let [first, second, out] = &call.matrices;
        let layouts = [
            self.layout(first, call.batch)?,
            self.layout(second, call.batch)?,
            self.layout(out, call.batch)?,
        ];
        let algorithm = self.algorithm(call, &desc, &layouts)?;
        Ok(Product { desc, layouts, algorithm, call: *call })
    }

    fn layout(&self, matrix: &Matrix, batch: u64) -> Result<Made> {
        let api = self.api;
        let dtype = match matrix.dtype {
            DType::F16 => R_16F,
            DType::BF16 => R_16BF,
            _ => R_32F,
        };
        let Matrix { rows, columns, leading, step, .. } = *matrix;
        let name = "cublasLtMatrixLayoutCreate";
        // SAFETY: the layout is written.
        let layout = Made::new(name, api.cublasLtMatrixLayoutDestroy, |made| unsafe {
            (api.cublasLtMatrixLayoutCreate)(made, dtype, rows, columns, leading as i64)
        })?;
        set(api.cublasLtMatrixLayoutSetAttribute, &layout, BATCH_COUNT, &(batch as c_int))?;
        set(api.cublasLtMatrixLayoutSetAttribute, &layout, BATCH_STEP, &(step as i64))?;
        Ok(layout)
    }

    /// The algorithm that the library thinks best.
    fn algorithm(&self, call: &Call, desc: &Made, layouts: &[Made; 3]) -> Result<[u64; 8]> {
        let api = self.api;
        let name = "cublasLtMatmulPreferenceCreate";
        // SAFETY: the preference is written.
        let preference = Made::new(name, api.cublasLtMatmulPreferenceDestroy, |made| unsafe {
            (api.cublasLtMatmulPreferenceCreate)(made)
        })?;
        let prefer = api.cublasLtMatmulPreferenceSetAttribute;
        set(prefer, &preference, MAX_WORKSPACE, &WORKSPACE)?;
        let [first, second, out] = call.matrices.map(|matrix| matrix.alignment);
        for (attribute, alignment) in ALIGNMENT.into_iter().zip([first, second, out, out]) {
            set(prefer, &preference, attribute, &alignment)?;
        }
        let [first, second, out] = layouts.each_ref().map(|layout| layout.handle);
        let (mut found, mut count) = (Found::default(), 0);
        // SAFETY: everything lives; one result and their count are written.
        let status = unsafe {
            (api.cublasLtMatmulAlgoGetHeuristic)(
                self.handle,
                desc.handle,
                first,
                second,
                out,
                out,
                preference.handle,
                1,
                &mut found,
                &mut count,
            )
        };
        check("cublasLtMatmulAlgoGetHeuristic", status)?;
        check("the algorithm of cublasLtMatmulAlgoGetHeuristic", found.state)?;
        if count < 1 || found.workspace as u64 > WORKSPACE {
            return Err(Kind::Unsupported {
                asked: format!("{call:?}"),
                allowed: "what cuBLASLt has an algorithm for".into(),
            }
            .into());
        }
        Ok(found.algorithm)
    }

    /// Enqueues a product. `at` are the addresses of the op's operands, whose spans the caller has checked; the workspace has
    /// [`WORKSPACE`] bytes that nothing else in the stream uses at the same time.
    ///
    /// # Errors
    /// As [`check`], or `DeviceLost`.
    pub(super) fn enqueue(
        &self,
        product: &Product,
        at: &[u64],
        workspace: Address,
        stream: &Stream,
    ) -> Result<()> {
        self.context.enter()?;
        let Product { desc, layouts, algorithm, call } = product;
        let [first, second, out] = layouts.each_ref().map(|layout| layout.handle);
        let [of_first, of_second, of_out, of_c] =
            call.operands.map(|place| at.get(place).copied().unwrap_or(0));
        // SAFETY: the factors are read during the call; the matrices lie within the operands' spans, since their layouts are
        // the operands' own; the algorithm is for them, and needs no more than the workspace.
        let status = unsafe {
            (self.api.cublasLtMatmul)(
                self.handle,
                desc.handle,
                &call.alpha,
                of_first,
                first,
                of_second,
                second,
                &call.beta,
                of_c,
                out,
                of_out,
                out,
                algorithm.as_ptr(),
                workspace.get(),
                WORKSPACE as usize,
                stream.handle(),
            )
        };
        check("cublasLtMatmul", status)
    }
}

/// Sets an attribute of a descriptor, which has this type.
fn set<T: Copy>(
    call: unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> Status,
    made: &Made,
    attribute: c_int,
    value: &T,
) -> Result<()> {
    // SAFETY: the descriptor lives, and the value is read during the call, with its length.
    let status =
        unsafe { call(made.handle, attribute, std::ptr::from_ref(value).cast(), size_of::<T>()) };
    check("an attribute of cuBLASLt", status)
}

/// A call that is ready.
pub(super) struct Product {
    desc: Made,
    layouts: [Made; 3],
    algorithm: [u64; 8],
    call: Call,
}
