//! The host model as a program: every row of the table compiled for the CPU by the machine's C++ compiler, and cases run
//! on it. The tests of each kernel family use it.

// Each test program uses a part.
#![allow(dead_code)]

#[path = "../compiler/mod.rs"]
mod compiler;
#[path = "../digest/mod.rs"]
mod digest;
pub(crate) mod witness;

use compiler::units;
pub(crate) use compiler::{Build, Compiler};
use leasehold_kernels::{Row, rows};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use witness::Witness;

/// When copies become visible, as in `host/world.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Late,
    Early,
    Seeded(u64),
    LateCopies,
    LateProducts,
}

impl Order {
    const ALL: [Self; 5] =
        [Self::Late, Self::Early, Self::Seeded(1), Self::LateCopies, Self::LateProducts];

    /// Those that a row runs a case in besides late: every row of a table one, another from row to row, at one of its sizes;
    /// all of them at all sizes where `LEASEHOLD_TEST_FULL=1`.
    pub(crate) fn others(row: usize, size: usize) -> &'static [Self] {
        const OTHERS: &[Order] = Order::ALL.split_at(1).1;
        match row % OTHERS.len() {
            _ if is_full() => OTHERS,
            one if size == row % 3 => &OTHERS[one..=one],
            _ => &[],
        }
    }
}

/// Whether all rows run all cases in all orders, and all of them under sanitizers.
fn is_full() -> bool {
    std::env::var("LEASEHOLD_TEST_FULL").is_ok_and(|value| value == "1")
}

/// What a run left.
pub(crate) struct Outcome {
    /// Findings of the model, a line each; empty when all is well.
    pub(crate) found: String,
    /// Every buffer.
    pub(crate) buffers: Vec<Vec<u8>>,
}

/// Rows that are tested together, and the programs that are built of them once a test program: of all of them, and with
/// sanitizers of those that are due.
struct Kind {
    name: &'static str,
    has: fn(&Row) -> bool,
    /// `None` where there is no C++ compiler, as a skip.
    plain: OnceLock<Option<PathBuf>>,
    sanitized: OnceLock<PathBuf>,
}

impl Kind {
    const fn new(name: &'static str, has: fn(&Row) -> bool) -> Self {
        Self { name, has, plain: OnceLock::new(), sanitized: OnceLock::new() }
    }

    fn rows(&self) -> Vec<Row> {
        rows().into_iter().filter(self.has).collect()
    }
}

static PRODUCTS: Kind =
    Kind::new("products", |row| row.key().starts_with("matmul") && !is_plain(row));
static ATTENTION: Kind = Kind::new("attention", |row| row.key().starts_with("attention"));
static PLAIN: Kind = Kind::new("plain", is_plain);

/// The running program.
pub(crate) struct Model {
    child: Child,
    rows: Vec<Row>,
    kind: Option<&'static Kind>,
    /// Rows that it has run.
    ran: HashSet<Row>,
    witness: Option<Box<Witness>>,
}

/// An address as a case has it: a buffer's number and an offset in bytes.
pub(crate) fn address(buffer: usize, offset: usize) -> u64 {
    (buffer as u64 + 1) << 32 | offset as u64
}

/// Scratch of a launch that none has written, which the model knows.
pub(crate) fn scratch(bytes: u64) -> Vec<u8> {
    assert!(include_str!("../../host/global.h").contains("UNWRITTEN = 0x7fa5c0de;"));
    0x7fa5_c0de_u32.to_le_bytes().into_iter().cycle().take(bytes as usize).collect()
}

impl Model {
    /// The program of every row of products by tensor cores; `None` where there is no C++ compiler, as a skip.
    pub(crate) fn start() -> Option<Self> {
        Self::shared(&PRODUCTS)
    }

    /// The same of the rows of attention.
    pub(crate) fn attention() -> Option<Self> {
        Self::shared(&ATTENTION)
    }

    /// The same of all other rows.
    pub(crate) fn plain() -> Option<Self> {
        Self::shared(&PLAIN)
    }

    fn shared(kind: &'static Kind) -> Option<Self> {
        let build = || compile(Build::Plain, crate_folder(), kind.name, &kind.rows());
        let mut model = Self::spawn(kind.plain.get_or_init(build).as_ref()?, kind.rows());
        model.kind = Some(kind);
        Some(model)
    }

    /// From here on, what is [`witnessed`](Self::witnessed) is run under sanitizers too, of those of these rows that are due.
    /// Says which these are.
    pub(crate) fn watch(&mut self, rows: &[Row]) -> Vec<Row> {
        let kind = self.kind.expect("a program of a kind");
        let mut due = witness::due(&kind.rows());
        let build = || compile(Build::Sanitized, crate_folder(), kind.name, &due);
        let program = kind.sanitized.get_or_init(|| build().expect("the compiler is there"));
        let of_program = due.clone();
        due.retain(|row| rows.contains(row));
        self.witness = Some(Box::new(Witness::new(program, of_program, &due)));
        due
    }

    /// What a run does, its first launches of each watched row under sanitizers too.
    pub(crate) fn witnessed<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> T {
        self.witness.iter_mut().for_each(|witness| witness.is_on = true);
        let result = run(self);
        self.witness.iter_mut().for_each(|witness| witness.is_on = false);
        result
    }

    /// Whether it has run a row, and that under sanitizers.
    pub(crate) fn has_run(&self, row: &Row) -> [bool; 2] {
        let is_seen = self.witness.as_ref().is_some_and(|witness| witness.has_seen(row));
        [self.ran.contains(row), is_seen]
    }

    /// The program of some rows, from sources in any folder.
    pub(crate) fn of(build: Build, folder: &Path, name: &str, rows: Vec<Row>) -> Option<Self> {
        Some(Self::spawn(&compile(build, folder, name, &rows)?, rows))
    }

    fn spawn(program: &Path, rows: Vec<Row>) -> Self {
        let child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the model starts");
        Self { child, rows, kind: None, ran: HashSet::new(), witness: None }
    }

    /// Runs a row on a grid of `blocks`. Addresses stand at `places` in the arguments.
    pub(crate) fn run(
        &mut self,
        row: &Row,
        order: Order,
        blocks: u32,
        args: (&[u8], &[u32]),
        buffers: &[Vec<u8>],
    ) -> Outcome {
        let outcome = self.run_once(row, order, blocks, args, buffers);
        self.ran.insert(*row);
        if let Some(witness) = &mut self.witness {
            witness.see(row, blocks, args, buffers, &outcome);
        }
        outcome
    }

    fn run_once(
        &mut self,
        row: &Row,
        order: Order,
        blocks: u32,
        (args, places): (&[u8], &[u32]),
        buffers: &[Vec<u8>],
    ) -> Outcome {
        let index = self.rows.iter().position(|r| r == row).expect("a row of the program") as u32;
        let (order, seed) = match order {
            Order::Late => (0u32, 0u64),
            Order::Early => (1, 0),
            Order::Seeded(seed) => (2, seed),
            Order::LateCopies => (3, 0),
            Order::LateProducts => (4, 0),
        };
        let mut case = Vec::new();
        let counts = [index, args.len() as u32, places.len() as u32, buffers.len() as u32];
        case.extend_from_slice(bytemuck::cast_slice(&counts));
        let config = [order, blocks, row.threads(), row.shared_bytes()];
        case.extend_from_slice(bytemuck::cast_slice(&config));
        case.extend_from_slice(&seed.to_le_bytes());
        case.extend_from_slice(args);
        case.extend_from_slice(bytemuck::cast_slice(places));
        for buffer in buffers {
            case.extend_from_slice(&(buffer.len() as u64).to_le_bytes());
            case.extend_from_slice(buffer);
        }
        let pipe = "the model goes on";
        self.child.stdin.as_mut().expect(pipe).write_all(&case).expect(pipe);
        let out = self.child.stdout.as_mut().expect(pipe);
        let mut head = [0; 12];
        if out.read_exact(&mut head).is_err() {
            // A sanitizer or a signal ended it.
            let mut found = String::new();
            let _ = self.child.stderr.as_mut().expect(pipe).read_to_string(&mut found);
            return Outcome { found: format!("ended: {found}"), buffers: buffers.to_vec() };
        }
        let [.., a, b, c, d] = [head[0], head[1], head[2], head[3]];
        let found = u32::from_le_bytes([a, b, c, d]);
        let length = u64::from_le_bytes(head[4..].try_into().expect("eight bytes"));
        let mut text = vec![0; length as usize];
        out.read_exact(&mut text).expect(pipe);
        let mut buffers = buffers.to_vec();
        buffers.iter_mut().for_each(|buffer| out.read_exact(buffer).expect(pipe));
        let found = if found == 0 { String::new() } else { String::from_utf8_lossy(&text).into() };
        Outcome { found, buffers }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn is_plain(row: &Row) -> bool {
    matches!(
        row,
        Row::Streaming(_)
            | Row::StreamingReference(_)
            | Row::MatmulF32(_)
            | Row::MatmulReference(_)
            | Row::MatmulGroups(_)
            | Row::MatmulIndices(_)
    )
}

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program around rows, of sources in a folder; what is made of others than the crate's own lies beside them.
fn compile(build: Build, folder: &Path, name: &str, rows: &[Row]) -> Option<PathBuf> {
    let own = folder == crate_folder();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let made = if own { target.join("model") } else { folder.join("made") };
    let main = "#include \"host/runner.h\"\nint main() { return model::run_cases(); }\n";
    let mut units = units(rows);
    units.push(("runner".into(), main.into()));
    Some(Compiler::new(build, folder, made)?.link(&units, name, &[]))
}

/// Every source of a program of these rows, one after the other; `None` where there is no C++ compiler, as a skip.
pub(crate) fn sources(folder: &Path, rows: &[Row]) -> Option<String> {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("model");
    let compiler = Compiler::new(Build::Sanitized, folder, made)?;
    let units = units(rows).into_iter().map(|(_, text)| compiler.whole(&text));
    Some(units.chain([compiler.whole("#include \"host/runner.h\"")]).collect())
}
