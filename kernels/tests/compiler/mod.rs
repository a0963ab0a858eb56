//! The machine's C++ compiler and what it makes of the host model: rows of the table as objects, linked to programs and
//! libraries. What was made before from the same sources is taken as it is. `model`, `driver` and the probe's test call it.

// Each test program uses a part.
#![allow(dead_code)]

use leasehold_kernels::Row;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How the model is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// Quick.
    Plain,
    /// With address and undefined-behaviour sanitizers.
    Sanitized,
}

/// A translation unit: a name for people, and its text.
pub(crate) type Unit = (String, String);

/// The flags of every unit and link.
const FLAGS: [&str; 8] = [
    "-std=c++20",
    "-fPIC",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
];

/// The compiler, for the sources of a folder.
pub(crate) struct Compiler {
    command: String,
    flags: Vec<String>,
    folder: PathBuf,
    /// Where what it makes is kept.
    made: PathBuf,
    /// Of the compiler and the flags.
    digest: blake3::Hasher,
}

impl Compiler {
    /// `None` where there is no C++ compiler, as a skip.
    pub(crate) fn new(build: Build, folder: &Path, made: PathBuf) -> Option<Self> {
        let folder = folder.canonicalize().expect("the folder of kernels");
        let command = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let version = match Command::new(&command).arg("--version").output() {
            Ok(output) => output.stdout,
            Err(error) => {
                let why = format!("no C++ compiler: {command}: {error}");
                assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
                println!("skip: the host model: {why}");
                return None;
            }
        };
        let of_build: &[&str] = match build {
            Build::Plain => &["-O2"],
            Build::Sanitized => {
                &["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
            }
        };
        let mut flags: Vec<String> =
            FLAGS.iter().chain(of_build).map(|flag| (*flag).to_owned()).collect();
        flags.push(format!("-I{}", folder.display()));
        let mut digest = blake3::Hasher::new();
        digest.update(command.as_bytes()).update(&version).update(format!("{flags:?}").as_bytes());
        std::fs::create_dir_all(&made).expect("a folder for what is made");
        Some(Self { command, flags, folder, made, digest })
    }

    /// A program or library of these units, by its name.
    pub(crate) fn link(&self, units: &[Unit], name: &str, flags: &[&str]) -> PathBuf {
        // Others who want the same wait, and find it made.
        let lock = std::fs::File::create(self.made.join("lock")).expect("a file to lock");
        lock.lock().expect("the lock");
        let objects = self.objects(units);
        let named = objects.iter().map(|object| object.to_string_lossy());
        let parts: Vec<_> = named.chain(flags.iter().map(|flag| (*flag).into())).collect();
        let linked = self.place(name, &parts.join("\n"), "linked");
        self.make(&linked, |to| {
            let mut command = Command::new(&self.command);
            command.current_dir(&self.folder);
            command.args(&self.flags).args(&objects).args(flags).arg("-o").arg(to);
            command
        });
        linked
    }

    /// Objects of these units, as many at a time as the machine has cores.
    fn objects(&self, units: &[Unit]) -> Vec<PathBuf> {
        let next = AtomicUsize::new(0);
        let objects: Vec<OnceLock<PathBuf>> = units.iter().map(|_| OnceLock::new()).collect();
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..workers.min(units.len()) {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let Some(unit) = units.get(i) else { break };
                        let _ = objects[i].set(self.object(unit));
                    }
                });
            }
        });
        objects.into_iter().map(|object| object.into_inner().expect("every unit's turn")).collect()
    }

    fn object(&self, (name, text): &Unit) -> PathBuf {
        let object = self.place(name, &self.whole(text), "o");
        self.make(&object, |to| {
            let source = object.with_extension("cpp");
            std::fs::write(&source, text).expect("a source is written");
            let mut command = Command::new(&self.command);
            command.args(&self.flags).arg("-c").arg(&source).arg("-o").arg(to);
            command
        });
        object
    }

    /// A text and every source that it includes.
    pub(crate) fn whole(&self, text: &str) -> String {
        let mut read = BTreeMap::new();
        self.read(text, &mut read);
        format!("{text}{read:?}")
    }

    /// The sources that a text includes, and those that they do.
    fn read(&self, text: &str, read: &mut BTreeMap<String, String>) {
        for line in text.lines() {
            let name = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
            let Some(name) = name.filter(|name| !read.contains_key(*name)) else { continue };
            let source = std::fs::read_to_string(self.folder.join(name)).expect("a source");
            read.insert(name.into(), source.clone());
            self.read(&source, read);
        }
    }

    /// Where what is made of this lies.
    fn place(&self, name: &str, of: &str, kind: &str) -> PathBuf {
        let digest = self.digest.clone().update(of.as_bytes()).finalize().to_hex();
        self.made.join(format!("{name}-{}.{kind}", &digest[..16]))
    }

    /// Runs the compiler unless its result is there. It appears whole or not at all: a run may be ended.
    fn make(&self, result: &Path, command: impl FnOnce(&Path) -> Command) {
        if result.exists() {
            return;
        }
        let unfinished = result.with_extension("part");
        let status = command(&unfinished).status().expect("the compiler starts");
        assert!(status.success(), "{}: {}: {status}", self.command, result.display());
        std::fs::rename(&unfinished, result).expect("what was made");
    }
}

/// An entry point of the model: what a launch calls, with which struct.
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) args: String,
    pub(crate) call: String,
    pub(crate) threads: u32,
    /// Whether only Hopper has it.
    pub(crate) hopper: bool,
    /// Blocks of a cluster.
    pub(crate) cluster: u32,
}

impl Entry {
    fn of(row: &Row) -> Self {
        let (args, shape, run) = row.template();
        let hopper = row.archs() == ["sm_90a"];
        let call = format!("{run}<{shape}>");
        let (threads, cluster) = (row.threads(), row.cluster());
        Self { key: row.key(), args: args.into(), call, threads, hopper, cluster }
    }

    /// Its definition.
    pub(crate) fn source(&self) -> String {
        let Self { key, args, call, threads, hopper, cluster } = self;
        format!(
            "extern const model::Row row_{key};\n\
             const model::Row row_{key} = {{\"{key}\", sizeof({args}), {threads}, {hopper}, {cluster},\n\
             \x20   [](const void* args, const model::Config& config, char* text, u32 room) {{\n\
             \x20       return model::launch(config, [=] {{ {call}(*static_cast<const {args}*>(args)); }}, text, room, {cluster});\n\
             \x20   }}}};\n"
        )
    }
}

/// Units of these rows, one a kernel file, and the table of them all.
pub(crate) fn units(rows: &[Row]) -> Vec<Unit> {
    let mut files: Vec<&str> = rows.iter().map(Row::file).collect();
    files.sort_unstable();
    files.dedup();
    let unit = |file: &str| {
        let mut text = format!("#include \"host/rows.h\"\n#include \"{file}\"\n");
        let rows = rows.iter().filter(|row| row.file() == file);
        rows.for_each(|row| text += &Entry::of(row).source());
        let name = Path::new(file).file_stem().expect("a kernel's file");
        (name.to_string_lossy().into_owned(), text)
    };
    let entries: Vec<Entry> = rows.iter().map(Entry::of).collect();
    files.into_iter().map(unit).chain([table(&entries)]).collect()
}

/// The list that programs and the driver find entries in.
pub(crate) fn table(entries: &[Entry]) -> Unit {
    let of = |write: fn(&str) -> String| entries.iter().map(move |entry| write(&entry.key));
    let declared: String = of(|key| format!("extern const model::Row row_{key};\n")).collect();
    let listed: Vec<String> = of(|key| format!("&row_{key}")).collect();
    let (listed, count) = (listed.join(", "), entries.len());
    let text = format!(
        "#include \"host/rows.h\"\n{declared}\
         const model::Row* const model::ROWS[] = {{{listed}}};\n\
         const uint32_t model::ROW_COUNT = {count};\n"
    );
    ("table".into(), text)
}

/// The model driver's functions.
pub(crate) fn driver() -> Unit {
    ("driver".into(), "#include \"host/driver.cpp\"\n".into())
}

/// How a library of the driver is linked. Only the API is seen from outside. Once it is loaded by its path, whoever asks
/// for the driver by its name gets it, even beside a real one.
pub(crate) const LIBRARY: &[&str] = &[
    "-shared",
    "-Wl,-soname,libcuda.so.1",
    "-Wl,-z,nodelete",
    "-Wl,--no-undefined",
    "-Wl,--version-script=host/driver.map",
];
