//! NVIDIA's driver, opened at run time: what the backend asks of it, each call safe. `mod`, `memory`, `stream` and `kernels`
//! call it; `api` declares what it calls, and nothing else knows the driver.

use super::api::{
    Api, CAPABILITY, Code, Location, MULTIPROCESSORS, NON_BLOCKING, NOT_READY, OUT_OF_MEMORY,
    Property, REFUSED, SHARED_BYTES, TensorMap, VIRTUAL_MEMORY,
};
use super::compiler;
use super::ranges::{Address, Staging};
use crate::error::{Error, Kind};
use std::collections::BTreeMap;
use std::ffi::{CString, c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

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
        // A driver may answer nothing any more, not even that.
        let lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
        let lost: Vec<String> = lost.iter().map(|(i, why)| lost_device(*i, why)).collect();
        return Err(format!("cuDeviceGetCount: {} {}", api.name(code), lost.join("; ")));
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

/// Devices that were lost in this process, and why: their contexts stay so until it ends.
static LOST: Mutex<BTreeMap<i32, String>> = Mutex::new(BTreeMap::new());

fn lost_device(ordinal: i32, why: &str) -> String {
    format!("device {ordinal} was lost in this process: {why}")
}

/// A device's primary context, kept while anything made in it lives.
pub(super) struct Context {
    pub(super) api: &'static Api,
    pub(super) device: c_int,
    ordinal: i32,
    handle: *mut c_void,
    /// What the first call after which nothing works any more said.
    lost: OnceLock<String>,
    pub(super) virtual_memory: bool,
    pub(super) granularity: u64,
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
        let lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = lost.get(&info.ordinal) {
            return Err(no_device(lost_device(info.ordinal, why)));
        }
        drop(lost);
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
        let mut context = Self {
            api,
            device,
            ordinal: info.ordinal,
            handle,
            lost: OnceLock::new(),
            virtual_memory,
            granularity: 1 << 21,
        };
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

    /// What tells this card and its driver from every other: the card, the driver, and where that lies; `None` where one of
    /// them does not say. The driver's file is part of it: releases of one version differ in what no function says.
    pub(super) fn identity(&self) -> Option<[String; 3]> {
        let (mut uuid, mut version) = ([0; 16], 0);
        // SAFETY: both are written.
        let codes = unsafe {
            [
                (self.api.cuDeviceGetUuid_v2)(&mut uuid, self.device),
                (self.api.cuDriverGetVersion)(&mut version),
            ]
        };
        let file = compiler::file_of(self.api.cuDriverGetVersion as usize)?;
        let driver = format!("driver {version}, {}", compiler::identity(&file)?);
        (codes == [0; 2]).then(|| [format!("{uuid:02x?}"), driver, file.display().to_string()])
    }

    /// Makes it the calling thread's, as every call asks.
    pub(super) fn enter(&self) -> Result<(), Error> {
        if let Some(why) = self.lost.get() {
            return Err(Kind::DeviceLost { why: why.clone() }.into());
        }
        // SAFETY: the context is retained until it is dropped.
        self.check("cuCtxSetCurrent", unsafe { (self.api.cuCtxSetCurrent)(self.handle) })
    }

    /// An error of a call that fails for want of memory, or else only when the device can no longer be trusted.
    pub(super) fn check(&self, call: &'static str, code: Code) -> Result<(), Error> {
        match code {
            0 => Ok(()),
            OUT_OF_MEMORY => Err(self.out_of_memory(0)),
            code => {
                let why = self.lost.get_or_init(|| format!("{call}: {}", self.api.name(code)));
                let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
                lost.entry(self.ordinal).or_insert_with(|| why.clone());
                Err(Kind::DeviceLost { why: why.clone() }.into())
            }
        }
    }

    /// The error of a call that may also refuse what it is given.
    fn refused(&self, call: &'static str, code: Code, asked: String, allowed: &str) -> Error {
        if REFUSED.iter().any(|refused| refused.contains(&code)) {
            let asked = format!("{asked}: {call}: {}", self.api.name(code));
            return Kind::Unsupported { asked, allowed: allowed.into() }.into();
        }
        match self.check(call, code) {
            Err(error) => error,
            Ok(()) => Kind::Unsupported { asked, allowed: allowed.into() }.into(),
        }
    }

    fn out_of_memory(&self, asked: u64) -> Error {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are written.
        let code = unsafe { (self.api.cuMemGetInfo_v2)(&mut free, &mut total) };
        let known = |bytes| if code == 0 { bytes as u64 } else { 0 };
        Kind::OutOfMemory { asked, free: known(free), quota: known(total) }.into()
    }

    pub(super) fn property(&self) -> Property {
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

    /// Bytes in whole granules, as memory comes.
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
        match code {
            0 => Ok(made),
            code => {
                let (asked, allowed) = (format!("{map:?}"), "maps that the driver encodes");
                Err(self.refused("cuTensorMapEncodeTiled", code, asked, allowed))
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

/// An in-order stream.
pub(super) struct Stream {
    context: Arc<Context>,
    handle: *mut c_void,
}

// SAFETY: a handle that any thread may use while the context is current there.
unsafe impl Send for Stream {}

impl Stream {
    /// # Errors
    /// `OutOfMemory`, or `DeviceLost`.
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, Error> {
        context.enter()?;
        let mut handle = null_mut();
        // SAFETY: the handle is written.
        let code = unsafe { (context.api.cuStreamCreate)(&mut handle, NON_BLOCKING) };
        context.check("cuStreamCreate", code)?;
        Ok(Self { context: Arc::clone(context), handle })
    }

    /// What the driver calls it, for libraries that enqueue their own work.
    pub(super) fn handle(&self) -> *mut c_void {
        self.handle
    }

    /// Waits for everything enqueued.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn wait(&self) -> Result<(), Error> {
        self.context.enter()?;
        let api = self.context.api;
        // SAFETY: the stream lives.
        self.context.check("cuStreamSynchronize", unsafe { (api.cuStreamSynchronize)(self.handle) })
    }

    /// Whether everything enqueued is done.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn is_done(&self) -> Result<bool, Error> {
        self.context.enter()?;
        // SAFETY: the stream lives.
        match unsafe { (self.context.api.cuStreamQuery)(self.handle) } {
            NOT_READY => Ok(false),
            code => self.context.check("cuStreamQuery", code).map(|()| true),
        }
    }

    /// Zeroes `len` bytes at an address that has as many.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn zero(&self, at: Address, len: u64) -> Result<(), Error> {
        self.context.enter()?;
        let api = self.context.api;
        // SAFETY: an address comes with the length that it was asked for.
        self.context.check("cuMemsetD8Async", unsafe {
            (api.cuMemsetD8Async)(at.get(), 0, len as usize, self.handle)
        })
    }

    /// Copies the first `len` bytes of staging to the device.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn send(&self, staging: &Staging, len: usize, to: Address) -> Result<(), Error> {
        self.context.enter()?;
        let (api, len) = (self.context.api, len.min(staging.len()));
        // SAFETY: staging has `len` bytes and outlives the copy, since its owner waits before it touches or drops it.
        self.context.check("cuMemcpyHtoDAsync", unsafe {
            (api.cuMemcpyHtoDAsync_v2)(to.get(), staging.start().cast(), len, self.handle)
        })
    }

    /// Copies `len` bytes of the device to the start of staging.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn fetch(&self, from: Address, staging: &Staging, len: usize) -> Result<(), Error> {
        self.context.enter()?;
        let (api, len) = (self.context.api, len.min(staging.len()));
        // SAFETY: as in `send`.
        self.context.check("cuMemcpyDtoHAsync", unsafe {
            (api.cuMemcpyDtoHAsync_v2)(staging.start().cast(), from.get(), len, self.handle)
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
        self.context.check("cuMemcpyDtoDAsync", unsafe {
            (api.cuMemcpyDtoDAsync_v2)(to.get(), from.get(), len as usize, self.handle)
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
        self.context.check("cuLaunchKernel", unsafe {
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
    /// `OutOfMemory`, or `DeviceLost`.
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, Error> {
        context.enter()?;
        let mut handle = null_mut();
        // SAFETY: the handle is written.
        let code = unsafe { (context.api.cuEventCreate)(&mut handle, 0) };
        context.check("cuEventCreate", code)?;
        Ok(Self { context: Arc::clone(context), handle })
    }

    /// # Errors
    /// `DeviceLost`.
    pub(super) fn record(&self, stream: &Stream) -> Result<(), Error> {
        self.context.enter()?;
        let api = self.context.api;
        // SAFETY: both live.
        self.context
            .check("cuEventRecord", unsafe { (api.cuEventRecord)(self.handle, stream.handle) })
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
            code => self.context.check("cuEventQuery", code).map(|()| true),
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
        self.context.check("cuEventElapsedTime", code)?;
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
        let refused = |call, code| match code {
            OUT_OF_MEMORY => context.out_of_memory(image.len() as u64),
            code => {
                context.refused(call, code, entry.into(), "machine code that this driver loads")
            }
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
