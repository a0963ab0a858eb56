//! NVIDIA's driver, opened at run time: the functions of `libcuda.so.1` that the backend calls, each behind a safe one.
//! The functions are declared here, not taken from a crate: a code that a newer driver returns must be a number, not an
//! undefined value of an enum, and a library that lacks a function is an answer, not a panic. `memory`, `stream` and
//! `kernels` call it; nothing else knows the driver.

use crate::error::{Error, Kind};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};
use std::sync::{Arc, OnceLock};

/// The library's name.
const LIBRARY: &str = "libcuda.so.1";

/// What a call returned, 0 being success.
type Code = c_uint;

const OUT_OF_MEMORY: Code = 2;
const NOT_READY: Code = 600;

/// `CU_DEVICE_ATTRIBUTE_...`: multiprocessors, compute capability, virtual memory management.
const MULTIPROCESSORS: c_int = 16;
const CAPABILITY: [c_int; 2] = [75, 76];
const VIRTUAL_MEMORY: c_int = 102;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
const SHARED_BYTES: c_int = 8;
/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: c_uint = 1;

/// `CUmemAllocationProp`: pinned memory of one device.
#[repr(C)]
struct Property {
    kind: c_uint,
    handles: c_uint,
    location: Location,
    win32: *mut c_void,
    flags: [u8; 8],
}

/// `CUmemLocation`: a device.
#[repr(C)]
struct Location {
    kind: c_uint,
    id: c_int,
}

/// `CUmemAccessDesc`.
#[repr(C)]
struct Access {
    location: Location,
    flags: c_uint,
}

/// `CUtensorMap`: what a kernel's copy engine reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct TensorMap(pub(super) [u8; 128]);

macro_rules! functions {
    ($($name:ident($($arg:ty),* $(,)?);)*) => {
        /// The driver's functions by their exported names.
        #[allow(non_snake_case, reason = "the driver's names")]
        struct Api {
            $($name: unsafe extern "C" fn($($arg),*) -> Code,)*
            _library: Library,
        }

        impl Api {
            fn open(library: Library) -> Result<Self, String> {
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
                    _library: library,
                })
            }
        }
    };
}

functions! {
    cuInit(c_uint);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut c_int, c_int);
    cuDeviceGetName(*mut c_char, c_int, c_int);
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

impl Api {
    /// The driver, opened and initialised once; the reason where there is none.
    fn get() -> Result<&'static Self, String> {
        static API: OnceLock<Result<Api, String>> = OnceLock::new();
        let open = || {
            // SAFETY: the driver's library; loading it runs its initialisers and nothing else.
            let library = unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_LOCAL) };
            let api = Self::open(library.map_err(|error| format!("no driver: {error}"))?)?;
            // SAFETY: no precondition.
            let code = unsafe { (api.cuInit)(0) };
            if code == 0 { Ok(api) } else { Err(format!("cuInit: {}", api.name(code))) }
        };
        API.get_or_init(open).as_ref().map_err(Clone::clone)
    }

    /// What the driver calls a code.
    fn name(&self, code: Code) -> String {
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

    /// An error of a call that fails only when the device can no longer be trusted.
    fn check(&self, call: &'static str, code: Code) -> Result<(), Error> {
        match code {
            0 => Ok(()),
            code => Err(Kind::DeviceLost { why: format!("{call}: {}", self.name(code)) }.into()),
        }
    }
}

/// What the driver says of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) ordinal: i32,
    pub(super) name: String,
    pub(super) memory: u64,
    /// Compute capability.
    pub(super) capability: [i32; 2],
    pub(super) multiprocessors: u32,
    /// Whether address ranges can be reserved apart from memory.
    virtual_memory: bool,
}

/// The devices that the driver sees.
///
/// # Errors
/// Why there is no driver, or what it failed with.
pub(super) fn devices() -> Result<Vec<Info>, String> {
    let api = Api::get()?;
    let mut count = 0;
    // SAFETY: the count is written.
    let code = unsafe { (api.cuDeviceGetCount)(&mut count) };
    if code != 0 {
        return Err(format!("cuDeviceGetCount: {}", api.name(code)));
    }
    (0..count).map(|ordinal| info(api, ordinal)).collect()
}

fn info(api: &Api, ordinal: i32) -> Result<Info, String> {
    let check = |call: &str, code| match code {
        0 => Ok(()),
        code => Err(format!("{call} of device {ordinal}: {}", api.name(code))),
    };
    let (mut device, mut name, mut memory) = (0, [0u8; 256], 0);
    // SAFETY: all is written; the name ends within its buffer.
    unsafe {
        check("cuDeviceGet", (api.cuDeviceGet)(&mut device, ordinal))?;
        let room = name.len() as c_int;
        check("cuDeviceGetName", (api.cuDeviceGetName)(name.as_mut_ptr().cast(), room, device))?;
        check("cuDeviceTotalMem", (api.cuDeviceTotalMem_v2)(&mut memory, device))?;
    }
    let attribute = |which| {
        let mut value = 0;
        // SAFETY: the value is written.
        let code = unsafe { (api.cuDeviceGetAttribute)(&mut value, which, device) };
        check("cuDeviceGetAttribute", code).map(|()| value)
    };
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    Ok(Info {
        ordinal,
        name: String::from_utf8_lossy(&name[..end]).into_owned(),
        memory: memory as u64,
        capability: [attribute(CAPABILITY[0])?, attribute(CAPABILITY[1])?],
        multiprocessors: attribute(MULTIPROCESSORS)?.max(1) as u32,
        virtual_memory: attribute(VIRTUAL_MEMORY)? != 0,
    })
}

/// A device's primary context, kept while anything made in it lives.
pub(super) struct Context {
    api: &'static Api,
    device: c_int,
    handle: *mut c_void,
    virtual_memory: bool,
    granularity: u64,
}

// SAFETY: a context may be current on any thread, and on several at once; every call makes it current first.
unsafe impl Send for Context {}
// SAFETY: as above; the driver locks its own state.
unsafe impl Sync for Context {}

impl Context {
    /// Retains the primary context of a device.
    ///
    /// # Errors
    /// `NoDevice` with the driver's word.
    pub(super) fn new(info: &Info) -> Result<Arc<Self>, Error> {
        let no_device = |why| Error::from(Kind::NoDevice { why });
        let api = Api::get().map_err(no_device)?;
        let (mut device, mut handle) = (0, null_mut());
        // SAFETY: both are written.
        let code = unsafe {
            match (api.cuDeviceGet)(&mut device, info.ordinal) {
                0 => (api.cuDevicePrimaryCtxRetain)(&mut handle, device),
                code => code,
            }
        };
        if code != 0 {
            return Err(no_device(format!("{}: {}", info.name, api.name(code))));
        }
        let virtual_memory = info.virtual_memory;
        let mut context = Self { api, device, handle, virtual_memory, granularity: 1 << 21 };
        context.enter()?;
        if virtual_memory {
            let (property, mut granularity) = (context.property(), 0);
            // SAFETY: the property is whole, the granularity is written.
            let code =
                unsafe { (api.cuMemGetAllocationGranularity)(&mut granularity, &property, 0) };
            // A driver that cannot say has no virtual memory for us.
            context.virtual_memory = code == 0 && granularity > 0;
            context.granularity = granularity.max(1) as u64;
        }
        Ok(Arc::new(context))
    }

    fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context is retained until it is dropped.
        self.api.check("cuCtxSetCurrent", unsafe { (self.api.cuCtxSetCurrent)(self.handle) })
    }

    fn property(&self) -> Property {
        let location = Location { kind: 1, id: self.device };
        Property { kind: 1, handles: 0, location, win32: null_mut(), flags: [0; 8] }
    }

    /// Bytes that the device has free.
    pub(super) fn free_bytes(&self) -> u64 {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are written.
        let code =
            self.enter().map(|()| unsafe { (self.api.cuMemGetInfo_v2)(&mut free, &mut total) });
        if code == Ok(0) { free as u64 } else { 0 }
    }

    /// The bytes that [`Memory::new`] takes for `bytes`.
    pub(super) fn rounded(&self, bytes: u64) -> u64 {
        bytes.max(1).next_multiple_of(self.granularity)
    }

    /// A tensor map of rank 5 with rows of 128 bytes, swizzled by 128, zeros outside.
    ///
    /// # Errors
    /// `Unsupported` when the driver refuses it, which the planner should have seen.
    pub(super) fn tensor_map(&self, map: &leasehold_kernels::BoxMap) -> Result<TensorMap, Error> {
        self.enter()?;
        // CU_TENSOR_MAP_DATA_TYPE_UINT8 and _UINT16: zeros outside are those of any type.
        let dtype = if map.element == 1 { 0 } else { 1 };
        let (mut made, steps, api) = (TensorMap([0; 128]), [1u32; 5], self.api);
        // No interleaving, swizzle by 128 bytes, promotion to 256 bytes in the L2 cache, zeros outside.
        let [interleave, swizzle, promotion, fill] = [0, 3, 3, 0];
        // SAFETY: lists of five sizes, boxes and steps and of four strides, as rank 5 asks; the map is written.
        let code = unsafe {
            (api.cuTensorMapEncodeTiled)(
                &mut made,
                dtype,
                5,
                map.at,
                map.sizes.as_ptr(),
                map.strides.as_ptr(),
                map.boxed.as_ptr(),
                steps.as_ptr(),
                interleave,
                swizzle,
                promotion,
                fill,
            )
        };
        // It reaches no device: what it refuses says nothing of one.
        match code {
            0 => Ok(made),
            code => {
                let asked = format!("{map:?}: {}", api.name(code));
                Err(Kind::Unsupported { asked, allowed: "maps that the driver encodes".into() }
                    .into())
            }
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once in `new`; whatever was made in it holds the `Arc` and is gone.
        unsafe { (self.api.cuDevicePrimaryCtxRelease_v2)(self.device) };
    }
}

/// An address inside a [`Memory`], with room for what was asked after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(u64);

impl Address {
    /// The number that kernels are given.
    pub(super) fn get(self) -> u64 {
        self.0
    }
}

/// Device memory. Where the driver can, it lies alone in a reserved range with a gap on both sides.
pub(super) struct Memory {
    context: Arc<Context>,
    at: u64,
    bytes: u64,
    /// The reserved range and the memory mapped into it.
    mapped: Option<(u64, u64, u64)>,
}

impl Memory {
    /// At least `bytes` bytes, contents undefined.
    ///
    /// # Errors
    /// `None` when the device has no room, else `DeviceLost`.
    pub(super) fn new(context: &Arc<Context>, bytes: u64) -> Result<Option<Self>, Error> {
        context.enter()?;
        let bytes = context.rounded(bytes);
        let context = Arc::clone(context);
        if context.virtual_memory { Self::map(context, bytes) } else { Self::plain(context, bytes) }
    }

    fn plain(context: Arc<Context>, bytes: u64) -> Result<Option<Self>, Error> {
        let mut at = 0;
        // SAFETY: the address is written.
        let code = unsafe { (context.api.cuMemAlloc_v2)(&mut at, bytes as usize) };
        if code == OUT_OF_MEMORY {
            return Ok(None);
        }
        context.api.check("cuMemAlloc", code)?;
        Ok(Some(Self { context, at, bytes, mapped: None }))
    }

    fn map(context: Arc<Context>, bytes: u64) -> Result<Option<Self>, Error> {
        let (api, gap, size) = (context.api, context.granularity, bytes as usize);
        let (property, mut handle, mut range) = (context.property(), 0, 0);
        // SAFETY: the property is whole, the handle is written.
        let code = unsafe { (api.cuMemCreate)(&mut handle, size, &property, 0) };
        if code == OUT_OF_MEMORY {
            return Ok(None);
        }
        api.check("cuMemCreate", code)?;
        let reserved = (bytes + 2 * gap) as usize;
        // SAFETY: the range is written; below it is ours alone.
        let code = unsafe { (api.cuMemAddressReserve)(&mut range, reserved, gap as usize, 0, 0) };
        if code != 0 {
            // SAFETY: made above and mapped nowhere.
            unsafe { (api.cuMemRelease)(handle) };
            return match code {
                OUT_OF_MEMORY => Ok(None),
                code => api.check("cuMemAddressReserve", code).map(|()| None),
            };
        }
        let at = range + gap;
        let mapped = Some((range, reserved as u64, handle));
        // From here on the drop undoes what was done; unmapping what is not mapped is an error that it ignores.
        let memory = Self { context: Arc::clone(&context), at, bytes, mapped };
        let access = Access { location: Location { kind: 1, id: context.device }, flags: 3 };
        // SAFETY: the middle of the reserved range, as long as the memory.
        unsafe {
            match (api.cuMemMap)(at, size, 0, handle, 0) {
                OUT_OF_MEMORY => return Ok(None),
                code => api.check("cuMemMap", code)?,
            }
            api.check("cuMemSetAccess", (api.cuMemSetAccess)(at, size, &access, 1))?;
        }
        Ok(Some(memory))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The address of `len` bytes from `offset` on, if they lie inside.
    pub(super) fn address(&self, offset: u64, len: u64) -> Option<Address> {
        let end = offset.checked_add(len)?;
        (end <= self.bytes).then(|| Address(self.at + offset))
    }
}

/// The caller has waited for everything that uses it.
impl Drop for Memory {
    fn drop(&mut self) {
        let api = self.context.api;
        if self.context.enter().is_err() {
            return;
        }
        // SAFETY: made by `new`, and nothing on the device uses it any more. A lost device's errors change nothing.
        unsafe {
            match self.mapped {
                None => {
                    (api.cuMemFree_v2)(self.at);
                }
                Some((range, reserved, handle)) => {
                    (api.cuMemUnmap)(self.at, self.bytes as usize);
                    (api.cuMemRelease)(handle);
                    (api.cuMemAddressFree)(range, reserved as usize);
                }
            }
        }
    }
}

/// Page-locked memory of the host, cached, that copies pass through.
pub(super) struct Staging {
    context: Arc<Context>,
    at: *mut u8,
    bytes: usize,
}

// SAFETY: owned memory, used by whoever owns the value.
unsafe impl Send for Staging {}

impl Staging {
    /// # Errors
    /// `OutOfMemory` of the host, or `DeviceLost`.
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, Error> {
        context.enter()?;
        let mut at = null_mut();
        // SAFETY: the address is written.
        let code = unsafe { (context.api.cuMemHostAlloc)(&mut at, bytes, 0) };
        if code == OUT_OF_MEMORY {
            return Err(Kind::OutOfMemory { asked: bytes as u64, free: 0, quota: 0 }.into());
        }
        context.api.check("cuMemHostAlloc", code)?;
        // SAFETY: as many bytes were allocated; they become defined here.
        unsafe { at.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { context: Arc::clone(context), at: at.cast(), bytes })
    }

    /// Its bytes. The stream has been waited for since a copy from or to them was enqueued.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated with this length and initialised; callers keep the word above.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made by `new`; the stream that copies it has been waited for or is gone.
            unsafe { (self.context.api.cuMemFreeHost)(self.at.cast()) };
        }
    }
}

/// An in-order stream.
pub(super) struct Stream {
    context: Arc<Context>,
    handle: *mut c_void,
}

// SAFETY: a handle that any thread may use while the context is current there.
unsafe impl Send for Stream {}

impl Stream {
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, Error> {
        context.enter()?;
        let mut handle = null_mut();
        // SAFETY: the handle is written.
        let code = unsafe { (context.api.cuStreamCreate)(&mut handle, NON_BLOCKING) };
        context.api.check("cuStreamCreate", code)?;
        Ok(Self { context: Arc::clone(context), handle })
    }

    /// Waits for everything enqueued.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn wait(&self) -> Result<(), Error> {
        self.context.enter()?;
        let api = self.context.api;
        // SAFETY: the stream lives.
        api.check("cuStreamSynchronize", unsafe { (api.cuStreamSynchronize)(self.handle) })
    }

    /// Zeroes `len` bytes at an address that has as many.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn zero(&self, at: Address, len: u64) -> Result<(), Error> {
        self.context.enter()?;
        let api = self.context.api;
        // SAFETY: an address comes with the length that it was asked for.
        api.check("cuMemsetD8Async", unsafe {
            (api.cuMemsetD8Async)(at.0, 0, len as usize, self.handle)
        })
    }

    /// Copies the first `len` bytes of staging to the device.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn send(&self, staging: &Staging, len: usize, to: Address) -> Result<(), Error> {
        self.context.enter()?;
        let (api, len) = (self.context.api, len.min(staging.bytes));
        // SAFETY: staging has `len` bytes and outlives the copy, since its owner waits before it touches or drops it.
        api.check("cuMemcpyHtoDAsync", unsafe {
            (api.cuMemcpyHtoDAsync_v2)(to.0, staging.at.cast(), len, self.handle)
        })
    }

    /// Copies `len` bytes of the device to the start of staging.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn fetch(&self, from: Address, staging: &Staging, len: usize) -> Result<(), Error> {
        self.context.enter()?;
        let (api, len) = (self.context.api, len.min(staging.bytes));
        // SAFETY: as in `send`.
        api.check("cuMemcpyDtoHAsync", unsafe {
            (api.cuMemcpyDtoHAsync_v2)(staging.at.cast(), from.0, len, self.handle)
        })
    }

    /// Copies `len` bytes on the device.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn copy(&self, from: Address, to: Address, len: u64) -> Result<(), Error> {
        self.context.enter()?;
        let api = self.context.api;
        // SAFETY: addresses come with the length that they were asked for.
        api.check("cuMemcpyDtoDAsync", unsafe {
            (api.cuMemcpyDtoDAsync_v2)(to.0, from.0, len as usize, self.handle)
        })
    }

    /// Enqueues `blocks` blocks of a kernel. `args` is the struct that the row's entry point takes, whose addresses come
    /// from [`Address`]es: the caller has a checked op and its places.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn launch(
        &self,
        function: &Function,
        blocks: u32,
        args: &[u8],
    ) -> Result<(), Error> {
        self.context.enter()?;
        let api = self.context.api;
        let mut parameter = args.as_ptr().cast_mut().cast::<c_void>();
        // SAFETY: one parameter, which the driver copies during the call; the function lives as long as its module.
        api.check("cuLaunchKernel", unsafe {
            (api.cuLaunchKernel)(
                function.handle,
                blocks,
                1,
                1,
                function.threads,
                1,
                1,
                function.shared_bytes,
                self.handle,
                &mut parameter,
                null_mut(),
            )
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made by `new`. Waiting first, so that nothing that the stream uses is dropped before its work is done.
            unsafe {
                (self.context.api.cuStreamSynchronize)(self.handle);
                (self.context.api.cuStreamDestroy_v2)(self.handle);
            }
        }
    }
}

/// A point in a stream, with its time.
pub(super) struct Event {
    context: Arc<Context>,
    handle: *mut c_void,
}

// SAFETY: as a stream.
unsafe impl Send for Event {}

impl Event {
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, Error> {
        context.enter()?;
        let mut handle = null_mut();
        // SAFETY: the handle is written.
        let code = unsafe { (context.api.cuEventCreate)(&mut handle, 0) };
        context.api.check("cuEventCreate", code)?;
        Ok(Self { context: Arc::clone(context), handle })
    }

    /// # Errors
    /// `DeviceLost`.
    pub(super) fn record(&self, stream: &Stream) -> Result<(), Error> {
        self.context.enter()?;
        let api = self.context.api;
        // SAFETY: both live.
        api.check("cuEventRecord", unsafe { (api.cuEventRecord)(self.handle, stream.handle) })
    }

    /// Whether what was enqueued before it is done.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn is_done(&self) -> Result<bool, Error> {
        self.context.enter()?;
        let api = self.context.api;
        // SAFETY: the event lives.
        match unsafe { (api.cuEventQuery)(self.handle) } {
            NOT_READY => Ok(false),
            code => api.check("cuEventQuery", code).map(|()| true),
        }
    }

    /// Nanoseconds from an event to this one, both done; the driver's resolution is half a microsecond.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn since(&self, start: &Self) -> Result<u64, Error> {
        self.context.enter()?;
        let (api, mut milliseconds) = (self.context.api, 0.0);
        // SAFETY: both live, the time is written.
        let code =
            unsafe { (api.cuEventElapsedTime)(&mut milliseconds, start.handle, self.handle) };
        api.check("cuEventElapsedTime", code)?;
        Ok((f64::from(milliseconds.max(0.0)) * 1e6) as u64)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made by `new`; the driver keeps it until it is done.
            unsafe { (self.context.api.cuEventDestroy_v2)(self.handle) };
        }
    }
}

/// Machine code on the device.
struct Module {
    context: Arc<Context>,
    handle: *mut c_void,
}

// SAFETY: as a stream.
unsafe impl Send for Module {}
// SAFETY: only its address is read.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made by `Function::new`; the stream that runs it is gone or has been waited for.
            unsafe { (self.context.api.cuModuleUnload)(self.handle) };
        }
    }
}

/// A kernel of a module, ready to launch.
#[derive(Clone)]
pub(super) struct Function {
    _module: Arc<Module>,
    handle: *mut c_void,
    threads: u32,
    shared_bytes: u32,
}

// SAFETY: as a stream.
unsafe impl Send for Function {}

impl Function {
    /// Loads machine code and takes its entry point. `image` is a cubin, which says its own length.
    ///
    /// # Errors
    /// `Unsupported` when the driver does not take the code, `OutOfMemory`, or `DeviceLost`.
    pub(super) fn new(
        context: &Arc<Context>,
        image: &[u8],
        entry: &str,
        [threads, shared_bytes]: [u32; 2],
    ) -> Result<Self, Error> {
        context.enter()?;
        let api = context.api;
        let refused = |call: &str, code| -> Error {
            if code == OUT_OF_MEMORY {
                let free = context.free_bytes();
                return Kind::OutOfMemory { asked: image.len() as u64, free, quota: free }.into();
            }
            let asked = format!("{entry}: {call}: {}", api.name(code));
            Kind::Unsupported { asked, allowed: "machine code that this driver loads".into() }
                .into()
        };
        let mut handle = null_mut();
        // SAFETY: the image was made by our compiler or comes from a pack whose hash was checked.
        let code = unsafe { (api.cuModuleLoadData)(&mut handle, image.as_ptr().cast()) };
        if code != 0 {
            return Err(refused("cuModuleLoadData", code));
        }
        let module = Arc::new(Module { context: Arc::clone(context), handle });
        let Ok(name) = CString::new(entry) else { return Err(refused("its name", 0)) };
        let mut function = null_mut();
        // SAFETY: the module lives, the name ends with a zero, the function is written.
        let code = unsafe { (api.cuModuleGetFunction)(&mut function, handle, name.as_ptr()) };
        if code != 0 {
            return Err(refused("cuModuleGetFunction", code));
        }
        // SAFETY: the function lives as long as its module.
        let code = unsafe {
            (api.cuFuncSetAttribute)(function, SHARED_BYTES, shared_bytes.min(1 << 20) as c_int)
        };
        if code != 0 {
            return Err(refused("cuFuncSetAttribute", code));
        }
        Ok(Self { _module: module, handle: function, threads, shared_bytes })
    }
}
