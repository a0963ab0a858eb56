use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use proptest::prelude::*;

fn key() -> SecretKey {
    SecretKey::generate()
}

#[test]
fn text_is_lossless() {
    let secret = key();
    let again: SecretKey = secret.to_paserk().parse().unwrap();
    assert_eq!(again.public(), secret.public());
    let public = secret.public();
    assert_eq!(public.to_string().parse(), Ok(public));
    assert_eq!(KeyId::try_from(public.id().to_string()), Ok(public.id()));
    let signature = secret.sign("test", &[b"a"]);
    assert_eq!(Signature::try_from(String::from(signature.clone())), Ok(signature));
}

#[test]
fn debug_output_holds_no_secret() {
    assert_eq!(format!("{:?}", key()), "SecretKey(..)");
}

#[test]
fn a_signature_holds_for_its_context_and_parts_alone() {
    let secret = key();
    let signature = secret.sign("lease", &[b"ab", b"c"]);
    let public = secret.public();
    assert!(public.verify("lease", &[b"ab", b"c"], &signature));
    assert!(!public.verify("receipt", &[b"ab", b"c"], &signature));
    assert!(!public.verify("lease", &[b"a", b"bc"], &signature));
    assert!(!public.verify("lease", &[b"ab", b"c", b""], &signature));
    assert!(!key().public().verify("lease", &[b"ab", b"c"], &signature));
}

#[test]
fn keys_that_sign_for_anyone_are_refused() {
    // The identity point, an all-zero seed, and a public half that is another key's.
    let identity = format!("k4.public.AQ{}", "A".repeat(41));
    assert!(matches!(identity.parse::<PublicKey>(), Err(KeyError::Public { .. })));
    assert!(format!("k4.secret.{}", "A".repeat(86)).parse::<SecretKey>().is_err());
    let (a, b) = (key().to_paserk(), key().to_paserk());
    // 42 characters hold 252 bits of the 256-bit seed; the 43rd straddles both halves.
    let mixed = format!("{}{}", &a[..10 + 44], &b[10 + 44..]);
    assert!(matches!(mixed.parse::<SecretKey>(), Err(KeyError::Secret)));
}

#[test]
fn an_error_never_repeats_a_secret() {
    let text = key().to_paserk();
    let error = text.parse::<PublicKey>().unwrap_err().to_string();
    assert!(!error.contains(&text[10..30]), "{error}");
    let error = text[..90].parse::<SecretKey>().unwrap_err().to_string();
    assert!(!error.contains(&text[10..30]), "{error}");
}

#[test]
fn files_are_private_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("issuer");
    let secret = key();
    write_secret(&path, &secret).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(read_secret(&path).unwrap().public(), secret.public());
    assert!(matches!(write_secret(&path, &key()), Err(KeyFileError::Exists { .. })));
    assert_eq!(read_secret(&path).unwrap().public(), secret.public(), "the first key stays");

    for mode in [0o640, 0o604, 0o620, 0o610] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = read_secret(&path).unwrap_err();
        assert!(matches!(error, KeyFileError::Readable { mode: m, .. } if m == mode), "{error}");
    }
}

#[test]
fn what_is_no_key_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    assert!(matches!(read_secret(&path), Err(KeyFileError::Io { .. })));
    assert!(matches!(read_secret(dir.path()), Err(KeyFileError::NoFile { .. })));
    let write = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(&[b'k'; 5000]);
    assert!(matches!(read_secret(&path), Err(KeyFileError::TooLong { .. })));
    write(b"\xff\xfe");
    assert!(matches!(read_secret(&path), Err(KeyFileError::Key { .. })));
    write(key().public().to_string().as_bytes());
    assert!(matches!(read_secret(&path), Err(KeyFileError::Key { source: KeyError::Secret, .. })));
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(read_secret(&link).is_err(), "a link is not followed");
}

proptest! {
    #[test]
    fn a_changed_character_of_a_key_is_another_key_or_none(at in 0usize..96, with in any::<char>()) {
        let secret = key();
        let mut text: Vec<char> = secret.to_paserk().chars().collect();
        prop_assume!(text[at] != with);
        text[at] = with;
        let text: String = text.into_iter().collect();
        prop_assert!(text.parse::<SecretKey>().is_err());
    }

    #[test]
    fn hexadecimal_is_lossless(bytes: [u8; 9]) {
        prop_assert_eq!(decode_hex(&encode_hex(&bytes)), Some(bytes));
    }
}
