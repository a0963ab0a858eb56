#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use super::*;
use crate::backend::cuda::compiler::{Compiler, flags};
use crate::backend::cuda::kernels::cached;
use leasehold_kernels::rows;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

/// A folder that is not there yet, below one that goes with the value.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let base = std::env::temp_dir().join(format!("leasehold-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        fs::create_dir(&base).unwrap();
        Self(base)
    }

    fn cache(&self) -> PathBuf {
        self.0.join("some/kernels")
    }

    fn file(&self, key: &Key) -> PathBuf {
        self.cache().join(Cache::name(key))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_is_not_as_it_was_written_is_not_loaded() {
    let folder = Place::new("corrupt");
    let cache = Cache::at(&folder.cache()).unwrap();
    let (key, cubin) = ([7; 32], b"machine code".to_vec());
    assert_eq!(cache.load(&key), None);
    cache.store(&key, &cubin).unwrap();
    assert_eq!(cache.load(&key).as_ref(), Some(&cubin));
    let path = folder.file(&key);
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
    fs::write(folder.file(&other), &whole).unwrap();
    assert_eq!(cache.load(&other), None);
    // Good again once it is stored again, and nothing half-written is left.
    cache.store(&key, &cubin).unwrap();
    assert_eq!(cache.load(&key), Some(cubin));
    let names = fs::read_dir(folder.cache()).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_folder_that_others_may_write_is_refused() {
    let folder = Place::new("writable");
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
fn files_that_others_may_write_and_links_are_not_loaded() {
    let folder = Place::new("files");
    let cache = Cache::at(&folder.cache()).unwrap();
    let (key, file) = ([3; 32], folder.file(&[3; 32]));
    cache.store(&key, b"code").unwrap();
    assert!(cache.load(&key).is_some());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o620)).unwrap();
    assert_eq!(cache.load(&key), None);
    // Whole and right, but where somebody else may write.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let elsewhere = folder.0.join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    assert_eq!(cache.load(&key), None);
    // A link is replaced, not written through.
    cache.store(&key, b"code").unwrap();
    assert!(cache.load(&key).is_some() && fs::symlink_metadata(&file).unwrap().is_file());
}

/// A folder that takes the place of the one that was opened is nobody's cache.
#[test]
fn a_folder_that_is_put_in_place_of_the_opened_one_is_not_read() {
    let folder = Place::new("swapped");
    let path = folder.cache();
    let cache = Cache::at(&path).unwrap();
    let key = [4; 32];
    fs::rename(&path, folder.0.join("first")).unwrap();
    Cache::at(&path).unwrap().store(&key, b"another's code").unwrap();
    assert_eq!(cache.load(&key), None);
    cache.store(&key, b"code").unwrap();
    assert_eq!(cache.load(&key).as_deref(), Some(&b"code"[..]));
    assert_eq!(fs::read_dir(folder.0.join("first")).unwrap().count(), 1);
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
    let folder = Place::new("compiled");
    let cache = Cache::at(&folder.cache()).unwrap();
    let cubin = cached(&compiler, Some(&cache), &row, "sm_80").unwrap();
    assert!(cubin.starts_with(b"\x7fELF"));
    let key = key(&row, "sm_80", compiler.version());
    assert_eq!(cache.load(&key).as_ref(), Some(&cubin));
    let path = folder.file(&key);
    fs::write(&path, b"what somebody else wrote").unwrap();
    assert_eq!(cached(&compiler, Some(&cache), &row, "sm_80").unwrap(), cubin);
    assert_eq!(cache.load(&key), Some(cubin));
    let error = compiler.compile(&row, "sm_1").unwrap_err().to_string();
    assert!(error.contains(&row.key()) && error.contains("sm_1"), "{error}");
}

/// Files of keys that nobody has any more go, the oldest first.
#[test]
fn a_folder_does_not_grow_without_end() {
    let folder = Place::new("bounded");
    let cache = Cache::at(&folder.cache()).unwrap();
    let keys: Vec<Key> = (0..FILES_MAX as u32 + 2)
        .map(|i| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&i.to_le_bytes());
            fs::write(folder.file(&key), b"of some time").unwrap();
            key
        })
        .collect();
    // What another process is writing, and what one left that died; and no files, which stay.
    let [part, left, inside] = [".7-0.part", ".7-1.part", "folder"].map(|n| folder.cache().join(n));
    fs::write(&part, b"half").unwrap();
    fs::write(&left, b"half").unwrap();
    fs::create_dir(&inside).unwrap();
    symlink("nowhere", folder.cache().join("link")).unwrap();
    // Not in the order of their names.
    let [first, second, third] = [9, 2000, 77].map(|i| folder.file(&keys[i]));
    for (age, path) in [&inside, &first, &left, &second, &third].into_iter().enumerate() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(age as u64);
        fs::File::open(path).unwrap().set_modified(time).unwrap();
    }
    let gone = || {
        let gone = keys.iter().enumerate().filter(|(_, key)| !folder.file(key).exists());
        gone.map(|(i, _)| i).collect::<Vec<_>>()
    };
    // Three of the keys and the newer of the parts are too many.
    for _ in 0..2 {
        cache.tidy();
        assert_eq!(gone(), [9, 77, 2000]);
        assert_eq!([&part, &left, &inside].map(|path| path.exists()), [true, false, true]);
    }
    assert_eq!(fs::read_dir(folder.cache()).unwrap().count(), FILES_MAX + 2);
}

/// Files of the compiler's names that are no libraries are passed over, and told of where there is nothing else.
#[test]
fn what_does_not_load_hides_no_other_compiler() {
    const ALONE: &str = "LEASEHOLD_TEST_ALONE";
    let test = "backend::cuda::cache::tests::what_does_not_load_hides_no_other_compiler";
    let folder = Place::new("hidden");
    let wrong = [("first", 13), ("first", 12), ("second", 12)].map(|(name, version)| {
        folder.0.join(name).join("lib").join(format!("libnvrtc.so.{version}"))
    });
    for file in &wrong {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, b"not a library").unwrap();
    }
    let mut named = ["first", "second"].map(|name| folder.0.join(name)).to_vec();
    if std::env::var_os(ALONE).is_some() {
        match Compiler::open_in(&named) {
            Ok(compiler) => println!("skip: {} needs no name", compiler.version()),
            Err(why) => {
                let tells = |file: &PathBuf| why.contains(&*file.to_string_lossy());
                assert!(wrong.iter().all(tells), "{why}");
            }
        }
        return;
    }
    // A compiler that another test has loaded needs no folder.
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    let Some(toolkit) = std::env::var_os("LEASEHOLD_CUDA") else {
        println!("skip: NVRTC behind what is none: LEASEHOLD_CUDA names none");
        return;
    };
    named.push(toolkit.into());
    let alone = Compiler::open_in(&named[2..]).unwrap();
    assert_eq!(Compiler::open_in(&named).unwrap().version(), alone.version());
}

/// NVRTC before 12.9 has no cache of its own, and refuses every row for a flag that it does not know.
#[test]
fn a_compiler_is_given_no_flag_that_it_does_not_know() {
    let has = |version| flags(version).any(|flag| flag == "--no-cache");
    let [older, newer] = [[[12, 0], [12, 3], [12, 8]], [[12, 9], [12, 10], [13, 0]]];
    assert_eq!((older.map(has), newer.map(has)), ([false; 3], [true; 3]));
    for version in older {
        assert!(flags(version).any(|flag| flag == "-std=c++20"));
    }
}

/// A compiler that the loader finds by its name alone is told by its files, as one in a folder is.
#[test]
fn a_compiler_found_by_its_name_is_known_by_its_files() {
    const ALONE: &str = "LEASEHOLD_TEST_ALONE";
    let test = "backend::cuda::cache::tests::a_compiler_found_by_its_name_is_known_by_its_files";
    let Some(toolkit) = std::env::var_os("LEASEHOLD_CUDA").map(PathBuf::from) else {
        println!("skip: NVRTC by its name: LEASEHOLD_CUDA names none");
        return;
    };
    let named = Compiler::open_in(std::slice::from_ref(&toolkit)).unwrap();
    if std::env::var_os(ALONE).is_some() {
        assert_eq!(Compiler::open_in(&[]).unwrap().version(), named.version());
        return;
    }
    assert!(
        named.is_known() && named.version().matches("bytes").count() == 2,
        "{}",
        named.version()
    );
    let library = ["lib", "lib64", "nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib", ""]
        .map(|inside| toolkit.join(inside))
        .into_iter()
        .find(|folder| {
            folder.join("libnvrtc.so.13").exists() || folder.join("libnvrtc.so.12").exists()
        });
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(ALONE, "1")
        .env("LD_LIBRARY_PATH", library.unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}
