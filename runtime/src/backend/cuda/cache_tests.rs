#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use super::*;
use crate::backend::cuda::compiler::Compiler;
use crate::backend::cuda::kernels::cached;
use leasehold_kernels::rows;
use std::os::unix::fs::{PermissionsExt, symlink};

/// A folder that is not there yet, below one that goes with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let base = std::env::temp_dir().join(format!("leasehold-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        fs::create_dir(&base).unwrap();
        Self(base)
    }

    fn cache(&self) -> PathBuf {
        self.0.join("some/kernels")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_is_not_as_it_was_written_is_not_loaded() {
    let folder = Folder::new("corrupt");
    let cache = Cache::at(&folder.cache()).unwrap();
    let (key, cubin) = ([7; 32], b"machine code".to_vec());
    assert_eq!(cache.load(&key), None);
    cache.store(&key, &cubin).unwrap();
    assert_eq!(cache.load(&key).as_ref(), Some(&cubin));
    let path = cache.path(&key);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut wrong = whole.clone();
        wrong[at] ^= 1;
        fs::write(&path, &wrong).unwrap();
        assert_eq!(cache.load(&key), None, "byte {at} is wrong");
        fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(cache.load(&key), None, "cut at {at}");
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert_eq!(cache.load(&key), None, "something is behind it");
    // Good code of another row.
    let other = [8; 32];
    fs::write(cache.path(&other), &whole).unwrap();
    assert_eq!(cache.load(&other), None);
    // Good again once it is stored again, and nothing half-written is left.
    cache.store(&key, &cubin).unwrap();
    assert_eq!(cache.load(&key), Some(cubin));
    let names = fs::read_dir(folder.cache()).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name.to_str().unwrap().ends_with(".cubin")), "{names:?}");
}

#[test]
fn a_folder_that_others_may_write_is_refused() {
    let folder = Folder::new("writable");
    let path = folder.cache();
    let cache = Cache::at(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    cache.store(&[1; 32], b"code").unwrap();
    for mode in [0o722, 0o770, 0o702] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let why = Cache::at(&path).unwrap_err();
        assert!(why.contains("others may write"), "{why}");
        // One that was opened before is not believed either.
        assert_eq!(cache.load(&[1; 32]), None);
        assert!(cache.store(&[2; 32], b"code").is_err());
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(cache.load(&[1; 32]).is_some());
    let link = folder.0.join("link");
    symlink(&path, &link).unwrap();
    assert!(Cache::at(&link).is_err());
}

#[test]
fn keys_are_of_all_that_makes_the_code() {
    let rows = rows();
    let first = key(&rows[0], "sm_80", "NVRTC 1");
    assert_eq!(first, key(&rows[0], "sm_80", "NVRTC 1"));
    for other in [
        key(&rows[1], "sm_80", "NVRTC 1"),
        key(&rows[0], "sm_86", "NVRTC 1"),
        key(&rows[0], "sm_80", "NVRTC 2"),
    ] {
        assert_ne!(first, other);
    }
}

#[test]
fn a_row_is_compiled_once_and_again_when_the_cache_is_doubtful() {
    let Some(toolkit) = std::env::var_os("LEASEHOLD_CUDA") else {
        println!("skip: a row compiled by NVRTC: LEASEHOLD_CUDA names none");
        return;
    };
    let compiler = Compiler::open_in(&[toolkit.into()]).unwrap();
    assert!(compiler.version().starts_with("NVRTC 1"), "{}", compiler.version());
    let row = rows().into_iter().find(|row| row.archs().contains(&"sm_80")).unwrap();
    let folder = Folder::new("compiled");
    let cache = Cache::at(&folder.cache()).unwrap();
    let cubin = cached(&compiler, Some(&cache), &row, "sm_80").unwrap();
    assert!(cubin.starts_with(b"\x7fELF"));
    let key = key(&row, "sm_80", compiler.version());
    assert_eq!(cache.load(&key).as_ref(), Some(&cubin));
    let path = cache.path(&key);
    fs::write(&path, b"what somebody else wrote").unwrap();
    assert_eq!(cached(&compiler, Some(&cache), &row, "sm_80").unwrap(), cubin);
    assert_eq!(cache.load(&key), Some(cubin));
    let error = compiler.compile(&row, "sm_1").unwrap_err().to_string();
    assert!(error.contains(&row.key()) && error.contains("sm_1"), "{error}");
}

#[test]
fn a_machine_without_the_compiler_says_where_it_looked() {
    let folder = Folder::new("nowhere");
    // A folder that holds a file of that name which is no library.
    fs::create_dir(folder.0.join("lib")).unwrap();
    fs::write(folder.0.join("lib/libnvrtc.so.13"), b"not a library").unwrap();
    let why = Compiler::open_in(std::slice::from_ref(&folder.0)).err().unwrap();
    assert!(why.contains("libnvrtc.so.13"), "{why}");
}
