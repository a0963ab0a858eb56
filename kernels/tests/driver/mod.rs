//! The model driver as a library: rows of the table behind the CUDA driver API. The runtime's tests include this file by
//! its path, and point a child's `LD_LIBRARY_PATH` to the folder, or open the library by its path before anybody asks for
//! it by name.

#[path = "../compiler/mod.rs"]
pub(crate) mod compiler;

use compiler::{Build, Compiler, LIBRARY, driver, units};
use leasehold_kernels::Row;
use std::path::{Path, PathBuf};

/// The folder with `libcuda.so.1`, the model driver with these rows; `None` where there is no C++ compiler, as a skip.
pub(crate) fn folder(rows: &[Row]) -> Option<PathBuf> {
    // Tests of several packages include this file.
    let above =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|above| above.join("kernels"));
    let kernels = above.into_iter().find(|folder| folder.join("host").is_dir()).expect("kernels");
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("model");
    let mut units = units(rows);
    units.push(driver());
    let library = Compiler::new(Build::Plain, &kernels, made)?.link(&units, "libcuda", LIBRARY);
    let folder = library.with_extension("d");
    std::fs::create_dir_all(&folder).expect("a folder for the library");
    // Another test may have made it.
    let _ = std::os::unix::fs::symlink(&library, folder.join("libcuda.so.1"));
    assert!(folder.join("libcuda.so.1").exists(), "{}", folder.display());
    Some(folder)
}
