//! The CUDA driver API of any library that has it, a card's or the model's: no more of it than tests and the probe call.

// Each of them calls a part.
#![allow(dead_code)]
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use leasehold_kernels::BoxMap;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::path::Path;
use std::ptr::{null, null_mut};

/// What a call answered, if not success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) u32, pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.1, self.0)
    }
}

impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        failure.to_string()
    }
}

type Answer<T> = Result<T, Failure>;
/// A stream, an event, a module or a function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handle(*mut c_void);

/// The driver's tensor map.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Encoded(pub(crate) [u8; 128]);

/// A grid in a line, of blocks of so many threads with so much shared memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) blocks: u32,
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
}

/// A driver with its first device's primary context.
pub(crate) struct Cuda {
    library: Library,
}

/// Calls a function of the driver by its name and the types of its arguments.
macro_rules! call {
    ($cuda:expr, $name:literal, $($value:expr => $type:ty),*) => {{
        type Function = unsafe extern "C" fn($($type),*) -> u32;
        // SAFETY: the types are those that cuda.h declares; pointers are to values that outlive the call, and the driver
        // checks handles and addresses itself.
        let answer = unsafe {
            let function = $cuda.library.get::<Function>($name.as_bytes()).expect($name);
            function($($value),*)
        };
        $cuda.answer(answer)
    }};
}

impl Cuda {
    /// The library at a path or of a name, initialised.
    ///
    /// # Errors
    /// There is none, or it has no device.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        // SAFETY: a CUDA driver, whose initialisers do nothing but prepare it.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let cuda = Self { library: library.map_err(|error| error.to_string())? };
        cuda.start().map_err(|failure| failure.to_string())?;
        Ok(cuda)
    }

    fn start(&self) -> Answer<()> {
        call!(self, "cuInit", 0 => u32)?;
        let mut context = null_mut();
        call!(self, "cuDevicePrimaryCtxRetain", &mut context => &mut *mut c_void, 0 => c_int)?;
        call!(self, "cuCtxSetCurrent", context => *mut c_void)
    }

    fn answer(&self, number: u32) -> Answer<()> {
        if number == 0 {
            return Ok(());
        }
        let mut name: *const c_char = null();
        // SAFETY: the name is a constant of the library.
        let name = unsafe {
            let names = self
                .library
                .get::<unsafe extern "C" fn(u32, &mut *const c_char) -> u32>(b"cuGetErrorName");
            names.expect("cuGetErrorName")(number, &mut name);
            if name.is_null() { c"no name" } else { CStr::from_ptr(name) }
        };
        Err(Failure(number, name.to_string_lossy().into_owned()))
    }

    /// Name of the device.
    pub(crate) fn name(&self) -> Answer<String> {
        let mut name = [0; 256];
        let room = name.len() as c_int;
        call!(self, "cuDeviceGetName", name.as_mut_ptr().cast() => *mut c_char, room => c_int, 0 => c_int)?;
        Ok(CStr::from_bytes_until_nul(&name).expect("a name").to_string_lossy().into_owned())
    }

    /// Version of CUDA that the driver has.
    pub(crate) fn version(&self) -> Answer<i32> {
        let mut version = 0;
        call!(self, "cuDriverGetVersion", &mut version => &mut c_int)?;
        Ok(version)
    }

    /// An attribute of the device, by its number.
    pub(crate) fn attribute(&self, number: u32) -> Answer<i32> {
        let mut value = 0;
        call!(self, "cuDeviceGetAttribute", &mut value => &mut c_int, number => u32, 0 => c_int)?;
        Ok(value)
    }

    /// Free and total bytes.
    pub(crate) fn memory(&self) -> Answer<[usize; 2]> {
        let [mut free, mut total] = [0; 2];
        call!(self, "cuMemGetInfo_v2", &mut free => &mut usize, &mut total => &mut usize)?;
        Ok([free, total])
    }

    pub(crate) fn alloc(&self, bytes: usize) -> Answer<u64> {
        let mut at = 0;
        call!(self, "cuMemAlloc_v2", &mut at => &mut u64, bytes => usize)?;
        Ok(at)
    }

    pub(crate) fn free(&self, at: u64) -> Answer<()> {
        call!(self, "cuMemFree_v2", at => u64)
    }

    pub(crate) fn stream(&self) -> Answer<Handle> {
        let mut handle = null_mut();
        call!(self, "cuStreamCreate", &mut handle => &mut *mut c_void, 1 => u32)?;
        Ok(Handle(handle))
    }

    pub(crate) fn synchronize(&self, stream: Handle) -> Answer<()> {
        call!(self, "cuStreamSynchronize", stream.0 => *mut c_void)
    }

    pub(crate) fn stream_query(&self, stream: Handle) -> Answer<()> {
        call!(self, "cuStreamQuery", stream.0 => *mut c_void)
    }

    pub(crate) fn event(&self) -> Answer<Handle> {
        let mut handle = null_mut();
        call!(self, "cuEventCreate", &mut handle => &mut *mut c_void, 0 => u32)?;
        Ok(Handle(handle))
    }

    pub(crate) fn record(&self, event: Handle, stream: Handle) -> Answer<()> {
        call!(self, "cuEventRecord", event.0 => *mut c_void, stream.0 => *mut c_void)
    }

    pub(crate) fn event_query(&self, event: Handle) -> Answer<()> {
        call!(self, "cuEventQuery", event.0 => *mut c_void)
    }

    pub(crate) fn stream_waits(&self, stream: Handle, event: Handle) -> Answer<()> {
        call!(self, "cuStreamWaitEvent", stream.0 => *mut c_void, event.0 => *mut c_void, 0 => u32)
    }

    /// Milliseconds between two events.
    pub(crate) fn elapsed(&self, from: Handle, to: Handle) -> Answer<f32> {
        let mut time = 0.0;
        call!(self, "cuEventElapsedTime", &mut time => &mut f32, from.0 => *mut c_void, to.0 => *mut c_void)?;
        Ok(time)
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8], stream: Handle) -> Answer<()> {
        let length = bytes.len();
        call!(self, "cuMemcpyHtoDAsync_v2", at => u64, bytes.as_ptr().cast() => *const c_void, length => usize, stream.0 => *mut c_void)
    }

    /// Starts a copy of pinned memory with these bytes, which are others before it is waited for.
    pub(crate) fn write_while_changing(
        &self,
        at: u64,
        [first, then]: [&[u8]; 2],
        stream: Handle,
    ) -> Answer<()> {
        let length = first.len().min(then.len());
        let mut pinned: *mut c_void = null_mut();
        call!(self, "cuMemHostAlloc", &mut pinned => &mut *mut c_void, length => usize, 0 => u32)?;
        // SAFETY: as many bytes are pinned, and nothing else writes to them.
        unsafe { first.as_ptr().copy_to_nonoverlapping(pinned.cast(), length) };
        call!(self, "cuMemcpyHtoDAsync_v2", at => u64, pinned => *const c_void, length => usize, stream.0 => *mut c_void)?;
        // SAFETY: the same; the copy may read while this writes, which is what a caller wants to see.
        unsafe { then.as_ptr().copy_to_nonoverlapping(pinned.cast(), length) };
        self.synchronize(stream)?;
        call!(self, "cuMemFreeHost", pinned => *mut c_void)
    }

    pub(crate) fn read(&self, at: u64, length: usize, stream: Handle) -> Answer<Vec<u8>> {
        let mut bytes = vec![0u8; length];
        let to = bytes.as_mut_ptr();
        call!(self, "cuMemcpyDtoHAsync_v2", to.cast() => *mut c_void, at => u64, length => usize, stream.0 => *mut c_void)?;
        self.synchronize(stream)?;
        Ok(bytes)
    }

    pub(crate) fn fill(&self, at: u64, value: u8, count: usize, stream: Handle) -> Answer<()> {
        call!(self, "cuMemsetD8Async", at => u64, value => u8, count => usize, stream.0 => *mut c_void)
    }

    pub(crate) fn module(&self, image: &[u8]) -> Answer<Handle> {
        let mut handle = null_mut();
        call!(self, "cuModuleLoadData", &mut handle => &mut *mut c_void, image.as_ptr().cast() => *const c_void)?;
        Ok(Handle(handle))
    }

    pub(crate) fn function(&self, module: Handle, name: &str) -> Answer<Handle> {
        let mut handle = null_mut();
        let name = CString::new(name).expect("a plain name");
        call!(self, "cuModuleGetFunction", &mut handle => &mut *mut c_void, module.0 => *mut c_void, name.as_ptr() => *const c_char)?;
        Ok(Handle(handle))
    }

    /// Lets a function have so much shared memory.
    pub(crate) fn allow_shared(&self, function: Handle, bytes: u32) -> Answer<()> {
        call!(self, "cuFuncSetAttribute", function.0 => *mut c_void, 8 => u32, bytes as c_int => c_int)
    }

    /// Starts a kernel whose one parameter is these bytes.
    pub(crate) fn launch(
        &self,
        function: Handle,
        grid: Grid,
        args: &[u8],
        stream: Handle,
    ) -> Answer<()> {
        let mut parameters = [args.as_ptr().cast::<c_void>().cast_mut()];
        let Grid { blocks, threads, shared_bytes } = grid;
        call!(self, "cuLaunchKernel",
            function.0 => *mut c_void, blocks => u32, 1 => u32, 1 => u32, threads => u32, 1 => u32, 1 => u32,
            shared_bytes => u32, stream.0 => *mut c_void, parameters.as_mut_ptr() => *mut *mut c_void,
            null_mut() => *mut *mut c_void)
    }

    /// From now on the stream's work is kept, not done, by `mode` of cuda.h.
    pub(crate) fn begin_capture(&self, stream: Handle, mode: u32) -> Answer<()> {
        call!(self, "cuStreamBeginCapture_v2", stream.0 => *mut c_void, mode => u32)
    }

    /// What was kept, ready to be launched again and again.
    pub(crate) fn end_capture(&self, stream: Handle) -> Answer<Handle> {
        let [mut graph, mut made] = [null_mut(); 2];
        call!(self, "cuStreamEndCapture", stream.0 => *mut c_void, &mut graph => &mut *mut c_void)?;
        call!(self, "cuGraphInstantiateWithFlags", &mut made => &mut *mut c_void, graph => *mut c_void, 0 => u64)?;
        call!(self, "cuGraphDestroy", graph => *mut c_void)?;
        Ok(Handle(made))
    }

    pub(crate) fn launch_graph(&self, graph: Handle, stream: Handle) -> Answer<()> {
        call!(self, "cuGraphLaunch", graph.0 => *mut c_void, stream.0 => *mut c_void)
    }

    pub(crate) fn end_graph(&self, graph: Handle) -> Answer<()> {
        call!(self, "cuGraphExecDestroy", graph.0 => *mut c_void)
    }

    /// How often a function was called in this process: the model alone counts.
    pub(crate) fn calls(&self, name: &str) -> Answer<u64> {
        let (name, mut count) = (CString::new(name).expect("a plain name"), 0);
        call!(self, "cuModelCalls", name.as_ptr() => *const c_char, &mut count => &mut u64)?;
        Ok(count)
    }

    /// A map of elements of 8 or 16 bits as the driver encodes it, with the number of its swizzle in cuda.h.
    pub(crate) fn encode(&self, map: &BoxMap, swizzle: u32) -> Answer<Encoded> {
        const UINT8: u32 = 0;
        const FLOAT16: u32 = 6;
        let dtype = if map.element == 1 { UINT8 } else { FLOAT16 };
        let mut encoded = Encoded([0; 128]);
        let ones = [1u32; 5];
        call!(self, "cuTensorMapEncodeTiled",
            &mut encoded => &mut Encoded, dtype => u32, 5 => u32, map.at as *mut c_void => *mut c_void,
            map.sizes.as_ptr() => *const u64, map.strides.as_ptr() => *const u64, map.boxed.as_ptr() => *const u32,
            ones.as_ptr() => *const u32, 0 => u32, swizzle => u32, 0 => u32, 0 => u32)?;
        Ok(encoded)
    }

    /// Addresses without memory, of a multiple of 2 MiB.
    pub(crate) fn reserve(&self, bytes: usize) -> Answer<u64> {
        let mut at = 0;
        call!(self, "cuMemAddressReserve", &mut at => &mut u64, bytes => usize, 0 => usize, 0 => u64, 0 => u64)?;
        Ok(at)
    }

    pub(crate) fn unreserve(&self, at: u64, bytes: usize) -> Answer<()> {
        call!(self, "cuMemAddressFree", at => u64, bytes => usize)
    }

    /// Memory at reserved addresses, which may be touched.
    pub(crate) fn map(&self, at: u64, bytes: usize) -> Answer<()> {
        // Pinned memory of the first device; read and write.
        let (of, access) = ([1u32, 0, 1, 0, 0, 0, 0, 0], [1u32, 0, 3]);
        let mut memory = 0;
        call!(self, "cuMemCreate", &mut memory => &mut u64, bytes => usize, of.as_ptr() => *const u32, 0 => u64)?;
        let mapped =
            call!(self, "cuMemMap", at => u64, bytes => usize, 0 => usize, memory => u64, 0 => u64);
        call!(self, "cuMemRelease", memory => u64)?;
        mapped?;
        call!(self, "cuMemSetAccess", at => u64, bytes => usize, access.as_ptr() => *const u32, 1 => usize)
    }

    pub(crate) fn unmap(&self, at: u64, bytes: usize) -> Answer<()> {
        call!(self, "cuMemUnmap", at => u64, bytes => usize)
    }
}
