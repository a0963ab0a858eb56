//! The detectors that no mistake of a kernel brings about: small kernels of one mistake each, and the same without it.

use crate::model::{Build, Compiler};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

const MAIN: &str =
    "#include \"tests/mutants/detectors.h\"\nint main() { return detectors::run(); }\n";

/// Words of the findings of a case, by its detector and name: without its mistake, and with it.
type Found = BTreeMap<[String; 2], [BTreeSet<String>; 2]>;

/// What the program says; `None` where there is no C++ compiler.
fn found() -> Option<Found> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("model");
    let compiler = Compiler::new(Build::Sanitized, folder, made)?;
    let program = compiler.link(&[("detectors".into(), MAIN.into())], "detectors", &[]);
    let output = Command::new(program).output().expect("the program starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let mut found = Found::new();
    for line in String::from_utf8(output.stdout).expect("text").lines() {
        let [detector, name, state, finding] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line:?}")
        };
        let case = found.entry([detector.into(), name.into()]).or_default();
        let word = finding.split(':').next().filter(|word| !word.is_empty());
        case[usize::from(state == "wrong")].extend(word.map(str::to_owned));
    }
    Some(found)
}

#[test]
fn every_small_mistake_is_named() {
    let Some(found) = found() else { return };
    for ([detector, name], [right, wrong]) in found {
        assert!(right.is_empty(), "{detector} {name}: {right:?} without a mistake");
        assert!(wrong.contains(&detector), "{detector} {name}: {wrong:?}");
    }
}

/// The detectors that the sources of the model name.
fn named(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            named(&path, names);
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source");
        let after = text.split("error(\"").skip(1);
        names.extend(after.filter_map(|text| Some(text.split_once('"')?.0.to_owned())));
    }
}

#[test]
fn every_detector_has_a_mistake() {
    let Some(found) = found() else { return };
    let mut names = BTreeSet::new();
    named(&Path::new(env!("CARGO_MANIFEST_DIR")).join("host"), &mut names);
    assert!(names.len() > 20, "{names:?}");
    found.keys().for_each(|[detector, _]| {
        names.remove(detector);
    });
    crate::all().for_each(|mutant| {
        names.remove(mutant.detector);
    });
    assert!(names.is_empty(), "no mistake for {names:?}");
}
