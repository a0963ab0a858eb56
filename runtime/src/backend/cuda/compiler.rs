//! NVIDIA's run-time compiler, opened at run time: a row's source to machine code of one architecture. No driver and no
//! GPU is needed. `kernels` calls it for what neither a pack nor the cache has, and `pack` to build.

use crate::error::{Error, Kind};
use leasehold_kernels::{FLAGS, Row, SOURCES};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

/// The variable that names folders of NVIDIA's compiler, as `PATH` does: of a toolkit, or where Python's wheels lie.
pub const LEASEHOLD_NVRTC: &str = "LEASEHOLD_NVRTC";

/// Flags beside those of every row, each with the version from which on the compiler knows it: one before refuses every row
/// for it.
pub(super) const NEWER_FLAGS: &[(&str, Numbers)] = &[("--no-cache", [12, 9])];

/// Major and minor number of a version.
pub(super) type Numbers = [c_int; 2];

/// Names of the library, newest first.
const NAMES: [&str; 2] = ["libnvrtc.so.13", "libnvrtc.so.12"];
/// Where it lies inside a folder that is named, and folders that need no name.
const INSIDE: [&str; 5] = ["", "lib", "lib64", "nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"];
const USUAL: [&str; 2] = ["/usr/local/cuda/lib64", "/opt/cuda/lib64"];

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

/// The compiler, loaded.
pub(super) struct Compiler {
    create: Create,
    compile: Compile,
    log: (Size, Get),
    cubin: (Size, Get),
    destroy: Destroy,
    numbers: Numbers,
    version: String,
    is_known: bool,
    /// The functions above are of these.
    _libraries: [Option<Library>; 2],
}

impl Compiler {
    /// The newest one of the folders that [`LEASEHOLD_NVRTC`] names, else of the usual places.
    ///
    /// # Errors
    /// Where it was looked for.
    pub(super) fn open() -> Result<Self, String> {
        Self::open_in(&named())
    }

    /// The same with the folders given.
    ///
    /// # Errors
    /// Where it was looked for, and why what was found there is none.
    pub(super) fn open_in(named: &[PathBuf]) -> Result<Self, String> {
        let found = files(named, &INSIDE, &NAMES);
        // Then the loader's own places.
        let paths = found.iter().map(PathBuf::as_path).chain(NAMES.map(Path::new));
        let mut reasons = Vec::new();
        for path in paths {
            match Self::load(path) {
                Ok(compiler) => return Ok(compiler),
                Err(why) => reasons.push(why),
            }
        }
        Err(format!(
            "no {} in {LEASEHOLD_NVRTC} ({named:?}), {}, or where libraries are looked for: {}",
            NAMES[0],
            USUAL.join(", "),
            reasons.join("; ")
        ))
    }

    fn load(path: &Path) -> Result<Self, String> {
        let open = |path: &Path| {
            // SAFETY: a library of NVIDIA's; loading it runs its initialisers and nothing else.
            unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        let library = open(path)?;
        let of = |name: &str| format!("{}: no {name}", path.display());
        macro_rules! function {
            ($name:literal as $type:ty) => {
                // SAFETY: a function of NVRTC with its type, as nvrtc.h declares it.
                *unsafe { library.get::<$type>($name.as_bytes()) }.map_err(|_| of($name))?
            };
        }
        let version = function!("nvrtcVersion" as Version);
        // By its name alone it may be any file of the loader's places.
        let is_named = path.components().count() == 1;
        let file = if is_named { file_of(version as usize) } else { Some(path.into()) };
        // The compiler finds it by its name only once it is there: the wheel has no run path.
        let builtins = file.as_deref().and_then(builtins_beside);
        let files: Option<Vec<String>> =
            file.iter().chain(&builtins).map(|file| identity(file)).collect();
        let files = files.filter(|files| !files.is_empty());
        let builtins = builtins.map(|path| open(&path)).transpose()?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both are written.
        if unsafe { version(&mut major, &mut minor) } != 0 {
            return Err(format!("{}: says no version", path.display()));
        }
        Ok(Self {
            create: function!("nvrtcCreateProgram" as Create),
            compile: function!("nvrtcCompileProgram" as Compile),
            log: (
                function!("nvrtcGetProgramLogSize" as Size),
                function!("nvrtcGetProgramLog" as Get),
            ),
            cubin: (function!("nvrtcGetCUBINSize" as Size), function!("nvrtcGetCUBIN" as Get)),
            destroy: function!("nvrtcDestroyProgram" as Destroy),
            numbers: [major, minor],
            is_known: files.is_some(),
            version: format!("NVRTC {major}.{minor} of {}", files.unwrap_or_default().join(", ")),
            _libraries: [builtins, Some(library)],
        })
    }

    /// The compiler's version, as keys have it.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Whether the version says which files it is: one that is not known has no cache.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    /// The machine code of a row for an architecture. Several threads may compile at once.
    ///
    /// # Errors
    /// `Unsupported` with what the compiler said.
    pub(super) fn compile(&self, row: &Row, arch: &str) -> Result<Vec<u8>, Error> {
        let text = |s: &str| CString::new(s).unwrap_or_default();
        let (source, name) = (text(&row.source()), text(&row.key()));
        let headers: Vec<[CString; 2]> =
            SOURCES.iter().map(|(name, source)| [text(name), text(source)]).collect();
        let column = |i: usize| headers.iter().map(|h| h[i].as_ptr()).collect::<Vec<_>>();
        let (names, sources) = (column(0), column(1));
        let arch_flag = format!("--gpu-architecture={arch}");
        let flags = flags(self.numbers).map(text).chain([text(&arch_flag)]);
        let flags: Vec<CString> = flags.collect();
        let flags: Vec<*const c_char> = flags.iter().map(|flag| flag.as_ptr()).collect();
        let failed = |said: &str| -> Error {
            let asked = format!("{} for {arch}", row.key());
            Kind::Unsupported { asked, allowed: format!("what {} compiles: {said}", self.version) }
                .into()
        };
        let mut program: Program = null_mut();
        // SAFETY: every pointer is to a string or a list that lives until the program is destroyed, and counts are theirs.
        unsafe {
            let count = headers.len() as c_int;
            let (names, sources) = (names.as_ptr(), sources.as_ptr());
            let code =
                (self.create)(&mut program, source.as_ptr(), name.as_ptr(), count, sources, names);
            if code != 0 {
                return Err(failed(&format!("nvrtcCreateProgram: error {code}")));
            }
            let code = (self.compile)(program, flags.len() as c_int, flags.as_ptr());
            let cubin = if code == 0 { bytes(program, self.cubin) } else { None };
            let log = bytes(program, self.log).unwrap_or_default();
            (self.destroy)(&mut program);
            let log = String::from_utf8_lossy(&log);
            let log = log.trim_end_matches('\0').trim();
            cubin
                .filter(|cubin| !cubin.is_empty())
                .ok_or_else(|| failed(&format!("error {code}: {log}")))
        }
    }
}

/// The flags of every row for a compiler of this version, beside the architecture.
pub(super) fn flags(version: Numbers) -> impl Iterator<Item = &'static str> {
    let newer = NEWER_FLAGS.iter().filter(move |(_, since)| version >= *since);
    FLAGS.iter().copied().chain(newer.map(|(flag, _)| *flag))
}

/// The folders that [`LEASEHOLD_NVRTC`] names.
pub(super) fn named() -> Vec<PathBuf> {
    let named = std::env::var_os(LEASEHOLD_NVRTC).unwrap_or_default();
    // An empty name would be the current folder, where anybody's library may lie.
    std::env::split_paths(&named).filter(|path| !path.as_os_str().is_empty()).collect()
}

/// The files of these names in folders that are named, inside them at these places, and in the usual ones.
pub(super) fn files(named: &[PathBuf], inside: &[&str], names: &[&str]) -> Vec<PathBuf> {
    let inside = named.iter().flat_map(|folder| inside.iter().map(|part| folder.join(part)));
    let folders = inside.chain(USUAL.map(PathBuf::from));
    let paths = folders.flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    paths.filter(|path| path.is_file()).collect()
}

/// A list of bytes of a program.
///
/// # Safety
/// The program lives, and both functions are about the same of its lists.
unsafe fn bytes(program: Program, (size, get): (Size, Get)) -> Option<Vec<u8>> {
    let mut length = 0;
    // SAFETY: the caller's promise; the buffer is as long as NVRTC says.
    unsafe {
        if size(program, &mut length) != 0 {
            return None;
        }
        let mut bytes = vec![0u8; length];
        (get(program, bytes.as_mut_ptr().cast()) == 0).then_some(bytes)
    }
}

/// The library of built-in functions in the folder of the compiler.
fn builtins_beside(path: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(path.parent()?).ok()?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("libnvrtc-builtins.so"))
        })
        .collect();
    found.sort();
    found.pop()
}

/// What tells a file from another of its name: releases of one version differ in their last number, which no function says.
pub(super) fn identity(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(path).ok()?;
    Some(format!("{} bytes of {}.{:09}", file.len(), file.mtime(), file.mtime_nsec()))
}

/// The file of a library that the loader found by its name, by the address of a function of it.
pub(super) fn file_of(function: usize) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    // Each line begins with where it is mapped and ends with the path of what.
    let holds = |line: &&str| {
        let ends = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let [from, to] = ends.map_or([0; 2], |(from, to)| {
            [from, to].map(|end| usize::from_str_radix(end, 16).unwrap_or(0))
        });
        (from..to).contains(&function)
    };
    let line = maps.lines().find(holds)?;
    line.find('/').map(|at| line[at..].into())
}
