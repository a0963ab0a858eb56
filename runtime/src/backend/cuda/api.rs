//! NVIDIA's driver as it is: the functions of `libcuda.so.1` that the backend calls, declared here and found at run time.
//! They are not taken from a crate: a code that a newer driver returns must be a number, not an undefined value of an
//! enum, and a library that lacks a function is an answer, not a panic. `driver` and `ranges` put a safe call around each.

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ops::Deref;
use std::ptr::null;
use std::sync::OnceLock;

/// The library's name.
const LIBRARY: &str = "libcuda.so.1";

/// What a call returned, 0 being success.
pub(super) type Code = c_uint;

pub(super) const OUT_OF_MEMORY: Code = 2;
pub(super) const NOT_READY: Code = 600;

/// What a call answers to an argument, to machine code that it does not take, and to names and functions that it does not
/// have. The device is as before.
pub(super) const REFUSED: [std::ops::RangeInclusive<Code>; 6] =
    [1..=1, 200..=200, 209..=209, 218..=226, 500..=500, 801..=801];

/// What a capture that is no longer valid answers, and a call that none may have: `CUDA_ERROR_STREAM_CAPTURE_...`.
pub(super) const CAPTURES: std::ops::RangeInclusive<Code> = 900..=908;

/// `CU_DEVICE_ATTRIBUTE_...`: multiprocessors, compute capability, virtual memory management.
pub(super) const MULTIPROCESSORS: c_int = 16;
pub(super) const CAPABILITY: [c_int; 2] = [75, 76];
pub(super) const VIRTUAL_MEMORY: c_int = 102;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
pub(super) const SHARED_BYTES: c_int = 8;
/// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`: what other threads do meanwhile is their own.
pub(super) const CAPTURE: c_uint = 1;
/// `CU_STREAM_NON_BLOCKING`.
pub(super) const NON_BLOCKING: c_uint = 1;

/// `CUmemAllocationProp`: pinned memory of one device.
#[repr(C)]
pub(super) struct Property {
    pub(super) kind: c_uint,
    pub(super) handles: c_uint,
    pub(super) location: Location,
    pub(super) win32: *mut c_void,
    pub(super) flags: [u8; 8],
}

/// `CUmemLocation`: a device.
#[repr(C)]
pub(super) struct Location {
    pub(super) kind: c_uint,
    pub(super) id: c_int,
}

/// `CUmemAccessDesc`.
#[repr(C)]
pub(super) struct Access {
    pub(super) location: Location,
    pub(super) flags: c_uint,
}

/// `CUtensorMap`: what a kernel's copy engine reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct TensorMap(pub(super) [u8; 128]);

macro_rules! functions {
    ($($(#[$doc:meta])* struct $group:ident { $($name:ident($($arg:ty),* $(,)?);)* })*) => {
        $($(#[$doc])*
        #[allow(non_snake_case, reason = "the driver's names")]
        pub(super) struct $group {
            $(pub(super) $name: unsafe extern "C" fn($($arg),*) -> Code,)*
        }

        impl $group {
            fn find(library: &Library) -> Result<Self, String> {
                Ok(Self {
                    $($name: {
                        let name = concat!(stringify!($name), "\0");
                        // SAFETY: the driver exports this function with this type, as cuda.h declares it.
                        match unsafe { library.get(name.as_bytes()) } {
                            Ok(function) => *function,
                            Err(_) => return Err(format!(
                                "{LIBRARY} has no {}: older than CUDA 12", stringify!($name)
                            )),
                        }
                    },)*
                })
            }
        })*
    };
}

functions! {
/// The driver's functions by their exported names.
struct Functions {
    cuInit(c_uint);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut c_int, c_int);
    cuDeviceGetName(*mut c_char, c_int, c_int);
    cuDeviceGetUuid_v2(*mut [u8; 16], c_int);
    cuDriverGetVersion(*mut c_int);
    cuDeviceGetAttribute(*mut c_int, c_int, c_int);
    cuDeviceTotalMem_v2(*mut usize, c_int);
    cuDevicePrimaryCtxRetain(*mut *mut c_void, c_int);
    cuDevicePrimaryCtxRelease_v2(c_int);
    cuCtxSetCurrent(*mut c_void);
    cuMemAlloc_v2(*mut u64, usize);
    cuMemFree_v2(u64);
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
    cuMemFreeHost(*mut c_void);
    cuMemGetAllocationGranularity(*mut usize, *const Property, c_uint);
    cuMemAddressReserve(*mut u64, usize, usize, u64, u64);
    cuMemAddressFree(u64, usize);
    cuMemCreate(*mut u64, usize, *const Property, u64);
    cuMemRelease(u64);
    cuMemMap(u64, usize, usize, u64, u64);
    cuMemUnmap(u64, usize);
    cuMemSetAccess(u64, usize, *const Access, usize);
    cuMemcpyHtoDAsync_v2(u64, *const c_void, usize, *mut c_void);
    cuMemcpyDtoHAsync_v2(*mut c_void, u64, usize, *mut c_void);
    cuMemcpyDtoDAsync_v2(u64, u64, usize, *mut c_void);
    cuMemsetD8Async(u64, u8, usize, *mut c_void);
    cuStreamCreate(*mut *mut c_void, c_uint);
    cuStreamDestroy_v2(*mut c_void);
    cuStreamSynchronize(*mut c_void);
    cuStreamQuery(*mut c_void);
    cuEventCreate(*mut *mut c_void, c_uint);
    cuEventDestroy_v2(*mut c_void);
    cuEventRecord(*mut c_void, *mut c_void);
    cuEventQuery(*mut c_void);
    cuEventElapsedTime(*mut f32, *mut c_void, *mut c_void);
    cuModuleLoadData(*mut *mut c_void, *const c_void);
    cuModuleUnload(*mut c_void);
    cuModuleGetFunction(*mut *mut c_void, *mut c_void, *const c_char);
    cuFuncSetAttribute(*mut c_void, c_int, c_int);
    cuLaunchKernel(*mut c_void, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut c_void, *mut *mut c_void, *mut *mut c_void);
    cuTensorMapEncodeTiled(*mut TensorMap, c_uint, u32, u64, *const u64, *const u64, *const u32, *const u32, c_uint, c_uint, c_uint, c_uint);
    cuGetErrorName(Code, *mut *const c_char);
}

/// Those that keep a stream's work, to launch it as one.
struct Graphs {
    cuStreamBeginCapture_v2(*mut c_void, c_uint);
    cuStreamEndCapture(*mut c_void, *mut *mut c_void);
    cuGraphInstantiateWithFlags(*mut *mut c_void, *mut c_void, u64);
    cuGraphLaunch(*mut c_void, *mut c_void);
    cuGraphExecDestroy(*mut c_void);
    cuGraphDestroy(*mut c_void);
}
}

/// The driver.
pub(super) struct Api {
    functions: Functions,
    /// `None` where one is missing: then work is launched piece by piece.
    pub(super) graphs: Option<Graphs>,
    _library: Library,
}

impl Deref for Api {
    type Target = Functions;

    fn deref(&self) -> &Functions {
        &self.functions
    }
}

impl Api {
    /// The driver, opened and initialised once; the reason where there is none.
    pub(super) fn get() -> Result<&'static Self, String> {
        static API: OnceLock<Result<Api, String>> = OnceLock::new();
        let open = || {
            // SAFETY: the driver's library; loading it runs its initialisers and nothing else.
            let library = unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_LOCAL) };
            let library = library.map_err(|error| format!("no driver: {error}"))?;
            let (functions, graphs) = (Functions::find(&library)?, Graphs::find(&library).ok());
            let api = Self { functions, graphs, _library: library };
            // SAFETY: no precondition.
            let code = unsafe { (api.cuInit)(0) };
            if code == 0 { Ok(api) } else { Err(format!("cuInit: {}", api.name(code))) }
        };
        API.get_or_init(open).as_ref().map_err(Clone::clone)
    }

    /// What the driver calls a code.
    pub(super) fn name(&self, code: Code) -> String {
        let mut text = null();
        // SAFETY: the driver writes the address of a constant string, or null for a code that it does not know.
        unsafe {
            (self.cuGetErrorName)(code, &mut text);
            if text.is_null() {
                return format!("error {code}");
            }
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}
