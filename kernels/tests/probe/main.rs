//! The probe of `benches/gpu/probe`: it compiles for the cards it is made for, the model answers it alike in every order,
//! and as every card whose dump is kept there.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../compiler/mod.rs"]
mod compiler;
#[path = "../cuda/mod.rs"]
mod cuda;
#[path = "../../../benches/gpu/probe/dump.rs"]
mod dump;
#[path = "../nvrtc/mod.rs"]
#[allow(dead_code, reason = "rows are another test's")]
mod nvrtc;

use compiler::{Build, Compiler, Entry, Unit};
use cuda::Cuda;
use dump::{Claim, Dump, SECTIONS};
use nvrtc::Nvrtc;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const ORDER: &str = "LEASEHOLD_MODEL_ORDER";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/gpu/probe")
}

/// Both sources as one, the second where the architecture has what it asks.
fn source(hopper: bool) -> String {
    let files = if hopper { &["ampere.cu", "hopper.cu"][..] } else { &["ampere.cu"] };
    files.iter().map(|file| format!("#include \"{file}\"\n")).collect()
}

/// The model driver with the probe's kernels; `None` where there is no C++ compiler.
fn library() -> Option<PathBuf> {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("model");
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiler = Compiler::new(Build::Plain, kernels, made)?;
    let include = |name: &str| dump::SOURCES.iter().find(|source| source.0 == name).expect(name).1;
    // As one text, so that what is kept is told apart by what it was made of.
    let texts: String = ["probe.h", "ampere.cu", "hopper.cu"].map(include).concat();
    let lines =
        texts.lines().filter(|line| !matches!(*line, "#include \"probe.h\"" | "#pragma once"));
    let mut text = String::from("#include \"host/rows.h\"\n");
    lines.for_each(|line| text += &format!("{line}\n"));
    let entries = SECTIONS.iter().map(|section| Entry {
        key: section.name.into(),
        args: "ProbeArgs".into(),
        call: section.name.into(),
        threads: section.threads,
        hopper: section.hopper,
        cluster: section.cluster,
    });
    let entries: Vec<Entry> = entries.collect();
    entries.iter().for_each(|entry| text += &entry.source());
    let units: [Unit; 3] = [("probe".into(), text), compiler::table(&entries), compiler::driver()];
    Some(compiler.link(&units, "libcuda-probe", compiler::LIBRARY))
}

/// The model's answers in the order that the environment asks for, asked once.
fn dump() -> Option<Dump> {
    static DUMP: OnceLock<Option<Dump>> = OnceLock::new();
    let ask = || {
        let cuda = Cuda::open(&library()?).expect("the model driver");
        let (dump, result) = Dump::of(&cuda, b"any image");
        assert_eq!(result, Ok(()));
        Some(dump)
    };
    DUMP.get_or_init(ask).clone()
}

/// The cards' dumps.
fn kept() -> Vec<(PathBuf, Dump)> {
    let files = std::fs::read_dir(folder().join("dumps")).into_iter().flatten();
    let dumps = files.map(|file| {
        let path = file.expect("a file").path();
        let dump = std::fs::read_to_string(&path).map_err(|error| error.to_string());
        let dump = dump.and_then(|text| Dump::read(&text));
        (path.clone(), dump.unwrap_or_else(|why| panic!("{}: {why}", path.display())))
    });
    dumps.collect()
}

#[test]
fn the_model_answers_alike_in_every_order() {
    let Some(late) = dump() else { return };
    assert_eq!(late.sections.len(), SECTIONS.len());
    assert_eq!(Dump::read(&late.write()).as_ref(), Ok(&late));
    if std::env::var_os(ORDER).is_some() {
        // This is the child: what it answers is read from what it says.
        return print!("{}", late.write());
    }
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    let name = "the_model_answers_alike_in_every_order";
    let output = command.args(["--exact", name, "--nocapture"]).env(ORDER, "early").output();
    let said = String::from_utf8(output.expect("a child").stdout).expect("text");
    let from = said.find("probe 1\n").unwrap_or_else(|| panic!("no dump: {said}"));
    let lines = said[from..].lines().take_while(|line| !line.starts_with("test "));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    let early = Dump::read(&text).expect("a dump");
    for section in SECTIONS {
        assert_eq!(late.sections[section.name], early.sections[section.name], "{}", section.name);
    }
}

#[test]
fn the_model_answers_as_every_card_that_was_asked() {
    let Some(model) = dump() else { return };
    for (path, card) in kept() {
        let wrong = model.against(&card);
        assert!(wrong.is_empty(), "{}:\n{}", path.display(), wrong.join("\n"));
    }
}

/// Whether the probe asks for everything that a kernel may call.
#[test]
fn every_function_is_asked_for() {
    let probe: String = dump::SOURCES.iter().map(|(_, text)| *text).collect();
    // What macros make of a type's name: the products of warpgroups, which are asked for by macros too.
    let is_made = |name: &str| {
        name.contains("##") || name.starts_with("wgmma_bf16") || name.starts_with("wgmma_f16")
    };
    let sources =
        leasehold_kernels::SOURCES.iter().filter(|(file, _)| file.starts_with("cuda/ptx/"));
    let mut missing = Vec::new();
    for line in sources.flat_map(|(_, text)| text.lines()) {
        let Some(declared) = line.strip_prefix("DEVICE ") else { continue };
        let (before, _) = declared.split_once('(').expect("a function");
        let name = before.rsplit(' ').next().expect("its name");
        let is_called = probe.contains(&format!("{name}(")) || probe.contains(&format!("{name}<"));
        if !is_called && !is_made(name) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "no section asks for {missing:?}");
}

#[test]
fn a_wrong_answer_is_told() {
    let Some(model) = dump() else { return };
    for section in SECTIONS {
        let mut card = model.clone();
        let words = card.sections.get_mut(section.name).expect("a section");
        let last = words.len() - 1;
        words[last] ^= 0x0010_0000;
        let told = !model.against(&card).is_empty();
        assert_eq!(told, section.claim != Claim::Unclaimed, "{}", section.name);
    }
}

/// For every architecture of the table; the images are left for whoever has such a card.
#[test]
fn it_compiles_without_spills() {
    let Some(nvrtc) = Nvrtc::open() else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "LEASEHOLD_CUDA names no compiler");
        return println!("skip: the probe by NVRTC: LEASEHOLD_CUDA names no folder of it");
    };
    for arch in leasehold_kernels::ARCHS {
        let compiled = nvrtc.compile_text("probe", &source(arch == "sm_90a"), dump::SOURCES, arch);
        let log = compiled.log;
        assert!(compiled.ok, "{arch}: {log}");
        let kernels = SECTIONS.iter().filter(|section| arch == "sm_90a" || !section.hopper).count();
        for nothing in ["bytes stack frame", "bytes spill stores"] {
            let is = log.matches(&format!(" 0 {nothing}")).count();
            assert_eq!(is, kernels, "{arch}: {nothing}: {log}");
        }
        assert!(!log.contains("(C75"), "{arch}: {log}");
        let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("probe-{arch}.cubin"));
        std::fs::write(&image, compiled.cubin).expect("the image");
    }
}
