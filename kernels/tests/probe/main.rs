//! The probe of `benches/gpu/probe`: it compiles for the cards it is made for, the model answers it alike in every order,
//! and as every card whose dump is kept there.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../../benches/gpu/probe/ask.rs"]
mod ask;
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
use std::time::Duration;

const ORDER: &str = "LEASEHOLD_MODEL_ORDER";
/// Makes a test a child of `ask` that answers from this section on.
const FROM: &str = "LEASEHOLD_PROBE_FROM";

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
        Some(Dump::of(&cuda, b"any image").expect("every section"))
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
    let from = said.find("probe 2\n").unwrap_or_else(|| panic!("no dump: {said}"));
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
        for (name, why) in &card.missing {
            println!("skip: {}: {name}: not dumped: {why}", path.display());
        }
        let wrong = model.against(&card);
        assert!(wrong.is_empty(), "{}:\n{}", path.display(), wrong.join("\n"));
    }
}

/// A section whose kernel never ends, and one that ends its process: each costs itself, and is named.
#[test]
fn a_section_that_is_not_answered_is_lost_alone() {
    let (hangs, dies) = ("phases", "box_32");
    if let Ok(from) = std::env::var(FROM) {
        // This is a child, behind what the test's program says.
        println!();
        let before = |name: &str| match name {
            _ if name == hangs => std::thread::sleep(Duration::from_secs(600)),
            _ if name == dies => std::process::exit(9),
            _ => {}
        };
        let cuda = Cuda::open(&library().expect("as the parent")).expect("the model driver");
        let from = from.parse().expect("a number");
        let answered = ask::answer((&cuda, b"any image"), from, &before, &mut std::io::stdout());
        return answered.expect("a driver");
    }
    let Some(model) = dump() else { return };
    let program = std::env::current_exe().expect("this program");
    let child = |from: usize| {
        let mut command = Command::new(&program);
        let name = "a_section_that_is_not_answered_is_lost_alone";
        command.args(["--exact", name, "--nocapture"]).env(FROM, from.to_string());
        command
    };
    let (start, section) = (Duration::from_secs(300), Duration::from_secs(10));
    let (limits, mut text) = (ask::Limits { start, section }, Vec::new());
    let missing = ask::ask(&child, limits, &mut text).expect("a dump");
    let text = String::from_utf8(text).expect("text");
    let card = Dump::read(&text).expect("a dump");
    assert_eq!(
        missing,
        [format!("{hangs}: no answer in 10 s"), format!("{dies}: the process ended")]
    );
    let named: Vec<_> = card.missing.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    assert_eq!(named, [&*missing[1], &missing[0]]);
    assert_eq!((&card.asked, &card.device), (&model.asked, &model.device));
    for name in model.asked.iter().filter(|name| ![hangs, dies].contains(&&***name)) {
        assert_eq!(card.sections[name], model.sections[name], "{name}");
    }
    assert_eq!(model.against(&card), Vec::<String>::new());
    assert_eq!(Dump::read(&card.write()).as_ref(), Ok(&card));
    // A dump that ends anywhere, in the middle of a word too, is what was whole.
    for at in [text.len() / 3, text.len() / 2, text.len() - 1] {
        let cut = Dump::read(&text[..at]).expect("the beginning of a dump");
        assert_eq!(cut.sections.len() + cut.missing.len(), model.asked.len(), "{at}");
        assert!(cut.sections.iter().all(|(name, words)| model.sections[name] == *words), "{at}");
        assert!(cut.missing.values().any(|why| why == "cut off"), "{at}");
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
