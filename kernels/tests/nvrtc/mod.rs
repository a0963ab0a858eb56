//! NVIDIA's run-time compiler and disassembler, from the folder of their Python wheels that `LEASEHOLD_CUDA` names.
//! `compiled` calls it.

use leasehold_kernels::{FLAGS, Row, SOURCES};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::null_mut;

type Program = *mut u8;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

/// Beside those of every row: nothing is kept, and the assembler tells what it used.
pub(crate) const SAID: [&str; 2] = ["--no-cache", "--ptxas-options=-v"];

/// The compiler, loaded.
pub(crate) struct Nvrtc {
    folder: PathBuf,
    library: Library,
    _builtins: Library,
}

/// What became of a row.
pub(crate) struct Compiled {
    /// Whether it compiled.
    pub(crate) ok: bool,
    /// What the compiler and the assembler said.
    pub(crate) log: String,
    /// The machine code.
    pub(crate) cubin: Vec<u8>,
}

impl Nvrtc {
    /// The compiler of the folder; `None` where the variable is not set.
    pub(crate) fn open() -> Option<Self> {
        let folder = PathBuf::from(std::env::var_os("LEASEHOLD_CUDA")?);
        let open = |name: &str| {
            let path = folder.join("lib").join(name);
            // SAFETY: a library of NVIDIA's; loading it runs its initialisers and nothing else.
            unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        // Found by its name only once it is there: the wheel has no run path.
        let builtins = open("libnvrtc-builtins.so.13.0");
        Some(Self { library: open("libnvrtc.so.13"), _builtins: builtins, folder })
    }

    fn function<F: Copy>(&self, name: &str) -> F {
        // SAFETY: callers name a function of NVRTC and its type, as nvrtc.h declares them.
        unsafe { *self.library.get::<F>(name.as_bytes()).expect("a function of NVRTC") }
    }

    /// Major and minor.
    pub(crate) fn version(&self) -> String {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both are written.
        unsafe { self.function::<Version>("nvrtcVersion")(&mut major, &mut minor) };
        format!("{major}.{minor}")
    }

    /// Compiles a row for an architecture.
    pub(crate) fn compile(&self, row: &Row, arch: &str) -> Compiled {
        self.compile_text(&row.key(), &row.source(), &[], arch)
    }

    /// Compiles a text that may include these headers, and those of the kernels.
    pub(crate) fn compile_text(
        &self,
        name: &str,
        source: &str,
        headers: &[(&str, &str)],
        arch: &str,
    ) -> Compiled {
        let text = |s: &str| CString::new(s).expect("no zero in a source");
        let (source, name) = (text(source), text(name));
        let headers: Vec<[CString; 2]> = SOURCES
            .iter()
            .chain(headers)
            .map(|(name, source)| [text(name), text(source)])
            .collect();
        let column = |i: usize| headers.iter().map(|h| h[i].as_ptr()).collect::<Vec<_>>();
        let (names, sources) = (column(0), column(1));
        let arch = format!("--gpu-architecture={arch}");
        let flags: Vec<CString> = FLAGS.into_iter().chain(SAID).chain([&*arch]).map(text).collect();
        let flags: Vec<*const c_char> = flags.iter().map(|flag| flag.as_ptr()).collect();
        let mut program: Program = null_mut();
        // SAFETY: every pointer is to a string or a list that lives until the program is destroyed, and counts are theirs.
        unsafe {
            let count = headers.len() as c_int;
            let create = self.function::<Create>("nvrtcCreateProgram");
            let made = create(
                &mut program,
                source.as_ptr(),
                name.as_ptr(),
                count,
                sources.as_ptr(),
                names.as_ptr(),
            );
            assert_eq!(made, 0, "nvrtcCreateProgram");
            let compile = self.function::<Compile>("nvrtcCompileProgram");
            let ok = compile(program, flags.len() as c_int, flags.as_ptr()) == 0;
            let log = self.bytes(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
            let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
            let cubin = if ok {
                self.bytes(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")
            } else {
                Vec::new()
            };
            self.function::<Destroy>("nvrtcDestroyProgram")(&mut program);
            Compiled { ok, log, cubin }
        }
    }

    /// # Safety
    /// The program lives.
    unsafe fn bytes(&self, program: Program, size: &str, get: &str) -> Vec<u8> {
        let mut length = 0;
        // SAFETY: the caller's promise; the buffer is as long as NVRTC says.
        unsafe {
            assert_eq!(self.function::<Size>(size)(program, &mut length), 0, "{size}");
            let mut bytes = vec![0u8; length];
            assert_eq!(self.function::<Get>(get)(program, bytes.as_mut_ptr().cast()), 0, "{get}");
            bytes
        }
    }

    /// The instructions of a cubin, as text.
    pub(crate) fn disassemble(&self, cubin: &[u8], name: &str) -> String {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.cubin"));
        std::fs::write(&file, cubin).expect("the cubin is written");
        let tool = self.folder.join("bin/cuobjdump");
        let out = Command::new(&tool).arg("-sass").arg(&file).output();
        let out = out.unwrap_or_else(|error| panic!("{}: {error}", tool.display()));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}
