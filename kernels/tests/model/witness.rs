//! Runs under address and undefined-behaviour sanitizers, and the list of the rows that have had them since they changed:
//! `sanitized.tsv`. The tests of `rows` say which launches those are.

use super::{Model, Order, Outcome, digest, is_full};
use leasehold_kernels::{Form, Major, Row, Values, rows};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

/// How many launches of a row are witnessed: as many as a test that goes over every row has sizes.
const LAUNCHES: u32 = 3;

/// The program with sanitizers, for some rows that are due. It runs launches of theirs again, in every order, and must see
/// the same.
pub(super) struct Witness {
    model: Model,
    /// Launches that each row has left.
    left: HashMap<Row, u32>,
    /// Whether the launches that come now are meant.
    pub(super) is_on: bool,
}

impl Witness {
    pub(super) fn new(program: &Path, of_program: Vec<Row>, rows: &[Row]) -> Self {
        let left = rows.iter().map(|row| (*row, LAUNCHES)).collect();
        Self { model: Model::spawn(program, of_program), left, is_on: false }
    }

    /// Whether some launch of a row was seen.
    pub(super) fn has_seen(&self, row: &Row) -> bool {
        self.left.get(row).is_some_and(|left| *left < LAUNCHES)
    }

    pub(super) fn see(
        &mut self,
        row: &Row,
        blocks: u32,
        args: (&[u8], &[u32]),
        buffers: &[Vec<u8>],
        outcome: &Outcome,
    ) {
        let Some(left) = self.left.get_mut(row).filter(|left| self.is_on && **left > 0) else {
            return;
        };
        for order in orders(row) {
            let seen = self.model.run_once(row, *order, blocks, args, buffers);
            let what = format!("{} {order:?}, sanitized", row.key());
            assert_eq!(seen.found, outcome.found, "{what}");
            // Whose bad index is the first is open; the words of the fault are as long as nothing else.
            let pairs = seen.buffers.iter().zip(&outcome.buffers);
            let is_equal = |(a, b): (&Vec<u8>, &Vec<u8>)| a == b || a.len() == 12;
            assert!(pairs.into_iter().all(is_equal), "{what}: other bits");
        }
        *left -= 1;
    }
}

/// All orders that differ: what has no boxes and no products of warpgroups has neither late while the other is early.
fn orders(row: &Row) -> &'static [Order] {
    const ALL: [Order; 5] = Order::ALL;
    if row.archs() == ["sm_90a"] || is_full() { &ALL } else { &ALL[..3] }
}

/// The rows that are witnessed: one of each form, those that changed since `sanitized.tsv` was written, and all where
/// `LEASEHOLD_TEST_FULL=1`.
pub(super) fn due(rows: &[Row]) -> Vec<Row> {
    let mut forms = Vec::new();
    let mut is_due = |row: &&Row| {
        let form = form(row);
        let is_new = !forms.contains(&form);
        forms.push(form);
        is_new || !known().contains(&line(row)) || is_full()
    };
    rows.iter().filter(|row| is_due(row)).copied().collect()
}

/// What sets the code of a row apart: its function, and what that decides when it is compiled. Of f16 and bf16, of the floats
/// of 8 bits, and of tiles and head dims that only repeat more often, one stands for the others.
fn form(row: &Row) -> String {
    let (_, shape, run) = row.template();
    let class = match row {
        // Either side by each of its ways: which ways are combined decides nothing.
        Row::MatmulSm80(row) => {
            let way = if row.a == row.b { row.a } else { Major::K };
            format!("{way:?} {}", row.values == Values::Tf32)
        }
        Row::MatmulSm90(row) => {
            let is_outer = row.b_outer && (row.a_outer || row.form == Form::Swapped);
            format!("{:?} {} {is_outer}", row.form, row.cluster)
        }
        Row::MatmulSm80Bytes(row) => format!("{:?} {}", row.values, row.gathered),
        Row::MatmulSm90Fp8(row) => format!("{:?} {}", row.tile, row.by_columns),
        // Of a wide head fewer rows or keys go at once, by fewer warps.
        Row::AttentionSm80(row) => format!("{} {}", row.rows(), row.chunk()),
        Row::AttentionPaged(of) => format!("{}", row.shared_bytes() / of.d),
        // Warpgroups that multiply take turns over heads to 128.
        Row::AttentionSm90(row) => {
            format!("{} {} {}", row.d <= 128, row.d == row.dv, row.chunk())
        }
        Row::AttentionBackwardSm80(of) => {
            format!("{} {} {}", of.tile(), of.chunk(), row.threads())
        }
        Row::AttentionBackwardSm90(row) => format!("{:?} {}", row.side, row.d),
        _ => shape,
    };
    format!("{run} {class}")
}

fn line(row: &Row) -> String {
    format!("{}\t{}\n", row.key(), digest::of(row, []))
}

/// Every row that has run under sanitizers, with the digest of what it was made of then.
const SANITIZED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sanitized.tsv");

/// What the list held when this program began.
fn known() -> &'static str {
    static KNOWN: OnceLock<String> = OnceLock::new();
    KNOWN.get_or_init(read)
}

fn read() -> String {
    std::fs::read_to_string(SANITIZED).unwrap_or_default()
}

/// Keys of what in the list is not as in the table: rows that changed since they ran, and rows that are none.
pub(crate) fn stale() -> BTreeSet<String> {
    let listed: BTreeSet<String> = known().split_inclusive('\n').map(str::to_owned).collect();
    let all: BTreeSet<String> = rows().iter().map(line).collect();
    let stale = all.symmetric_difference(&listed);
    stale.filter_map(|line| Some(line.split_once('\t')?.0.to_owned())).collect()
}

/// Writes rows that have run into the list. The others stay as they are in it, and what is no row goes.
pub(crate) fn keep(ran: &[Row]) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = known();
    let before = read();
    let of = |row: &Row| {
        let key = row.key() + "\t";
        let old = before.split_inclusive('\n').find(|old| old.starts_with(&key));
        if ran.contains(row) { Some(line(row)) } else { old.map(str::to_owned) }
    };
    let lines: String = rows().iter().filter_map(of).collect();
    std::fs::write(SANITIZED, lines).expect("the list is written");
}
