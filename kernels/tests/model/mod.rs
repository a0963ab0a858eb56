//! The host model as a program: every row of the table compiled for the CPU by the machine's C++ compiler, and cases run
//! on it. The tests of each kernel family use it.

// Each test program uses a part.
#![allow(dead_code)]

#[path = "../compiler/mod.rs"]
mod compiler;

pub(crate) use compiler::Build;
use compiler::{Compiler, units};
use leasehold_kernels::{Row, rows};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// When copies become visible, as in `host/world.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Late,
    Early,
    Seeded(u64),
    LateCopies,
    LateProducts,
}

/// What a run left.
pub(crate) struct Outcome {
    /// Findings of the model, a line each; empty when all is well.
    pub(crate) found: String,
    /// Every buffer.
    pub(crate) buffers: Vec<Vec<u8>>,
}

/// The running program.
pub(crate) struct Model {
    child: Child,
    rows: Vec<Row>,
}

/// An address as a case has it: a buffer's number and an offset in bytes.
pub(crate) fn address(buffer: usize, offset: usize) -> u64 {
    (buffer as u64 + 1) << 32 | offset as u64
}

impl Model {
    /// The program of every row of products by tensor cores, built once a test program; `None` where there is no C++
    /// compiler, as a skip.
    pub(crate) fn start() -> Option<Self> {
        static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
        Self::shared(&PROGRAM, "products", |row| row.key().starts_with("matmul") && !is_plain(row))
    }

    /// The same of the rows of attention.
    pub(crate) fn attention() -> Option<Self> {
        static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
        Self::shared(&PROGRAM, "attention", |row| row.key().starts_with("attention"))
    }

    /// The same of all other rows.
    pub(crate) fn plain() -> Option<Self> {
        static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
        Self::shared(&PROGRAM, "plain", is_plain)
    }

    fn shared(
        program: &OnceLock<Option<PathBuf>>,
        name: &str,
        has: impl Fn(&Row) -> bool,
    ) -> Option<Self> {
        let rows: Vec<Row> = rows().into_iter().filter(has).collect();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let program = program.get_or_init(|| compile(Build::Plain, folder, name, &rows));
        Some(Self::spawn(program.as_ref()?, rows))
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
        Self { child, rows }
    }

    /// Runs a row on a grid of `blocks`. Addresses stand at `places` in the arguments.
    pub(crate) fn run(
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
        Row::Streaming(_) | Row::MatmulF32(_) | Row::MatmulReference(_) | Row::MatmulGroups(_)
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
