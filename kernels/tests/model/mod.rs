//! The host model as a program: every row of the table compiled for the CPU by the machine's C++ compiler, and cases run
//! on it. The tests of each kernel family use it.

// Each test program uses a part.
#![allow(dead_code)]

#[path = "../compiler/mod.rs"]
mod compiler;
#[path = "../digest/mod.rs"]
mod digest;

use compiler::units;
pub(crate) use compiler::{Build, Compiler};
use leasehold_kernels::{Row, rows};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

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

/// Whether all rows run all cases in all orders.
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

/// A quick program and one with sanitizers.
type Programs = [PathBuf; 2];

/// The running program.
pub(crate) struct Model {
    child: Child,
    rows: Vec<Row>,
    witness: Option<Witness>,
}

/// Runs of a row that are witnessed.
const WITNESSED: u32 = 2;

/// The same with address and undefined-behaviour sanitizers: of each form of kernel one row, each that changed since
/// `sanitized.tsv` was written, and all where `LEASEHOLD_TEST_FULL=1`. It runs the first cases of a row again, in every
/// order, and must see the same.
struct Witness {
    program: &'static Path,
    rows: Vec<Row>,
    model: Option<Box<Model>>,
}

impl Witness {
    /// The program's model, while a row has runs left.
    fn of(&mut self, row: &Row) -> Option<&mut Model> {
        static RUNS: OnceLock<Mutex<HashMap<Row, u32>>> = OnceLock::new();
        if !self.rows.contains(row) {
            return None;
        }
        let mut runs =
            RUNS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        let runs = runs.entry(*row).or_default();
        *runs += 1;
        let (program, rows) = (self.program, self.rows.clone());
        (*runs <= WITNESSED)
            .then(|| &mut **self.model.get_or_insert_with(|| Box::new(Model::spawn(program, rows))))
    }
}

/// Every row with the digest of what it is made of, as `sanitized.tsv` keeps those that have run under sanitizers.
pub(crate) fn sanitized() -> String {
    rows().iter().map(line).collect()
}

fn line(row: &Row) -> String {
    format!("{}\t{}\n", row.key(), digest::of(row, []))
}

/// The file of those.
pub(crate) const SANITIZED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sanitized.tsv");

/// What it held when this program began.
pub(crate) fn known() -> &'static str {
    static KNOWN: OnceLock<String> = OnceLock::new();
    KNOWN.get_or_init(|| std::fs::read_to_string(SANITIZED).unwrap_or_default())
}

/// One row of each function that rows instantiate, and of each form of it; and those that changed.
fn witnessed(rows: &[Row]) -> Vec<Row> {
    let mut seen = Vec::new();
    let mut is_new = |row: &&Row| {
        let of_sm90 = match row {
            Row::MatmulSm90(row) => Some((row.form, row.cluster)),
            _ => None,
        };
        let form = (row.template().2, of_sm90);
        let is_new = !seen.contains(&form);
        seen.push(form);
        is_new || !known().contains(&line(row)) || is_full()
    };
    rows.iter().filter(|row| is_new(row)).copied().collect()
}

/// An address as a case has it: a buffer's number and an offset in bytes.
pub(crate) fn address(buffer: usize, offset: usize) -> u64 {
    (buffer as u64 + 1) << 32 | offset as u64
}

impl Model {
    /// The program of every row of products by tensor cores, built once a test program; `None` where there is no C++
    /// compiler, as a skip.
    pub(crate) fn start() -> Option<Self> {
        static PROGRAM: OnceLock<Option<Programs>> = OnceLock::new();
        Self::shared(&PROGRAM, "products", |row| row.key().starts_with("matmul") && !is_plain(row))
    }

    /// The same of the rows of attention.
    pub(crate) fn attention() -> Option<Self> {
        static PROGRAM: OnceLock<Option<Programs>> = OnceLock::new();
        Self::shared(&PROGRAM, "attention", |row| row.key().starts_with("attention"))
    }

    /// The same of all other rows.
    pub(crate) fn plain() -> Option<Self> {
        static PROGRAM: OnceLock<Option<Programs>> = OnceLock::new();
        Self::shared(&PROGRAM, "plain", is_plain)
    }

    fn shared(
        programs: &'static OnceLock<Option<Programs>>,
        name: &str,
        has: impl Fn(&Row) -> bool,
    ) -> Option<Self> {
        let rows: Vec<Row> = rows().into_iter().filter(has).collect();
        let witnessed = witnessed(&rows);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let programs = programs.get_or_init(|| {
            let sanitized = compile(Build::Sanitized, folder, name, &witnessed)?;
            Some([compile(Build::Plain, folder, name, &rows)?, sanitized])
        });
        let [plain, sanitized] = programs.as_ref()?;
        let mut model = Self::spawn(plain, rows);
        model.witness = Some(Witness { program: sanitized, rows: witnessed, model: None });
        Some(model)
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
        Self { child, rows, witness: None }
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
        if let Some(model) = self.witness.as_mut().and_then(|witness| witness.of(row)) {
            for order in Order::ALL {
                let seen = model.run_once(row, order, blocks, args, buffers);
                let what = format!("{} {order:?}, sanitized", row.key());
                assert_eq!(seen.found, outcome.found, "{what}");
                // Whose bad index is the first is open; the words of the fault are as long as nothing else.
                let pairs = seen.buffers.iter().zip(&outcome.buffers);
                let is_equal = |(a, b): (&Vec<u8>, &Vec<u8>)| a == b || a.len() == 12;
                assert!(pairs.into_iter().all(is_equal), "{what}: other bits");
            }
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

/// The program around rows, of sources in a folder; what is made of others than the crate's own lies beside them.
fn compile(build: Build, folder: &Path, name: &str, rows: &[Row]) -> Option<PathBuf> {
    let own = folder == Path::new(env!("CARGO_MANIFEST_DIR"));
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
