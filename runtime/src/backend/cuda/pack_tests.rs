#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use super::*;
use crate::backend::cuda::kernels::packed;

const COMPILER: &str = "none";

/// A pack of an architecture whose machine code is each row's name.
fn pack(archs: &[&str]) -> Pack {
    Pack::made(COMPILER, archs, |row, arch| Ok(format!("{arch} {}", row.key()).into_bytes()))
        .unwrap()
}

/// The bytes with the hash of what they hold now.
fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    body.truncate(body.len() - HASH);
    let hash = blake3::hash(&body);
    body.extend_from_slice(hash.as_bytes());
    body
}

#[test]
fn a_pack_survives_its_file() {
    let pack = pack(&["sm_86", "sm_90a"]);
    assert_eq!(Pack::from_bytes(&pack.to_bytes()).unwrap(), pack);
    let cubins = packed(&pack, "sm_90a").unwrap();
    assert_eq!(cubins.len(), of_arch("sm_90a").count());
    assert!(cubins.iter().all(|(key, code)| *code == format!("sm_90a {key}").into_bytes()));
    let error = Pack::made(COMPILER, &["sm_70"], |_, _| Ok(vec![])).unwrap_err();
    assert!(error.to_string().contains("sm_70"), "{error}");
}

#[test]
fn a_file_that_others_may_write_or_change_is_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = std::env::temp_dir().join(format!("leasehold-packs-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&folder, 0o755);
    let (pack, file) = (pack(&["sm_86"]), folder.join("kernels"));
    let size = pack.write(&file).unwrap();
    assert_eq!(size, std::fs::metadata(&file).unwrap().len());
    assert_eq!(Pack::read(&file).unwrap(), pack);
    let refused = || match Pack::read(&file).unwrap_err().kind() {
        Kind::System { .. } => {}
        other => panic!("{other:?}"),
    };
    for wrong in [0o664, 0o646] {
        mode(&file, wrong);
        refused();
    }
    mode(&file, 0o644);
    for wrong in [0o775, 0o757, 0o1777] {
        mode(&folder, wrong);
        refused();
    }
    mode(&folder, 0o755);
    let other = folder.join("other");
    std::fs::rename(&file, &other).unwrap();
    symlink(&other, &file).unwrap();
    refused();
    // A file that is written takes the link's place; what it led to stays, and nothing else is left.
    pack.write(&file).unwrap();
    assert_eq!(Pack::read(&file).unwrap(), pack);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_pack_that_is_not_of_these_kernels_is_refused() {
    let whole = pack(&["sm_86"]);
    let error = packed(&whole, "sm_80").unwrap_err().to_string();
    assert!(error.contains("for sm_80"), "{error}");
    // Made of the same rows by something else: no key fits.
    let other = Pack { compiler: "other".into(), ..whole.clone() };
    assert!(packed(&other, "sm_86").is_err());
    let mut lacking = whole;
    let row = of_arch("sm_86").last().unwrap();
    lacking.cubins.remove(&("sm_86".into(), key(&row, "sm_86", COMPILER)));
    let error = packed(&lacking, "sm_86").unwrap_err().to_string();
    assert!(error.contains(&row.key()), "{error}");
}

#[test]
fn a_damaged_file_is_refused() {
    let bytes = pack(&["sm_120"]).to_bytes();
    for at in 0..bytes.len() {
        assert!(Pack::from_bytes(&bytes[..at]).is_err(), "cut at {at}");
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x10;
        assert!(Pack::from_bytes(&wrong).is_err(), "byte {at} is wrong");
    }
}

/// Whoever makes a file can make its hash: what it says is not believed either.
#[test]
fn a_hostile_file_is_refused_or_read_within_its_bounds() {
    let bytes = pack(&["sm_120"]).to_bytes();
    let at = MAGIC.len();
    for length in [u32::MAX, 1 << 31, bytes.len() as u32] {
        let mut wrong = bytes.clone();
        wrong[at..at + 4].copy_from_slice(&length.to_le_bytes());
        assert!(Pack::from_bytes(&sealed(wrong)).is_err(), "a part of {length} bytes");
    }
    for cut in MAGIC.len()..MAGIC.len() + 200 {
        let short = sealed([&bytes[..cut], &[0; HASH]].concat());
        // Whole entries are a pack of fewer rows, which no device opens.
        let rest = Pack::from_bytes(&short);
        assert!(rest.is_err() || packed(&rest.unwrap(), "sm_120").is_err(), "cut at {cut}");
    }
    let (mut read, mut state) = (0, 1u64);
    for _ in 0..2000 {
        let mut wrong = bytes.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let place = (state >> 33) as usize % (wrong.len() - HASH);
            wrong[place] = (state >> 20) as u8;
        }
        read += usize::from(Pack::from_bytes(&sealed(wrong)).is_ok());
    }
    assert!(read > 100, "{read} of 2000 were read: the others say nothing about parsing");
}

#[test]
fn each_keeps_the_order_and_names_the_first_failure() {
    let items: Vec<u32> = (0..100).collect();
    assert_eq!(
        each(&items, |n| Ok(2 * n)).unwrap(),
        items.iter().map(|n| 2 * n).collect::<Vec<_>>()
    );
    let fail = |n: &u32| match n {
        7 | 50 => Err(Kind::NoDevice { why: n.to_string() }.into()),
        n => Ok(*n),
    };
    assert_eq!(each(&items, fail).unwrap_err().to_string(), "no device: 7");
    assert!(each(&[] as &[u32], |n| Ok(*n)).unwrap().is_empty());
}
