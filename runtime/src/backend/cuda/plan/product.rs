//! Products: how the operands lie, which decides the family of rows, and the tiles and links of each row.

use super::{Class, Work, axis, finish, links, missing};
use crate::dtype::DType;
use crate::error::Result;
use crate::op::{CheckedOp, Gate, Group, Matmul, OrderClass, Scale, Spec};
use crate::order::{Family, Order, Plan};
use leasehold_kernels::{BoxMap, Major, MatmulSm80, MatmulSm90, Row, Side};

/// The orders: one instruction after the other along k, 16 elements at a time, in f32; the epilogue of
/// `cuda/tile/epilogue.h`. Tiles and cuts change no bit.
pub(super) const SM80: Order =
    Order { entry: "matmul_sm80", tile: [1, 1], chunk: 16, family: Family::Matrix16 };
pub(super) const SM90: Order =
    Order { entry: "matmul_sm90", tile: [1, 1], chunk: 16, family: Family::Matrix16 };

/// Elements of 16 bytes: what copies of 16-bit operands move at once.
const ALIGNED: u64 = 8;
/// Elements a microsecond through the epilogue of one multiprocessor.
const EPILOGUE: u64 = 1_000;

/// How a side of a product lies: sizes and strides, in elements, of its outer axis, of k, and of the batch.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Lie {
    pub(in super::super) outer: [u64; 2],
    pub(in super::super) k: [u64; 2],
    pub(in super::super) batch: [[u64; 2]; 4],
    is_aligned: bool,
}

impl Lie {
    fn of(spec: &Spec, outer: usize) -> Self {
        let batch = [5, 4, 3, 2].map(|from_end| axis(spec, from_end));
        let is_aligned = spec.offset_class.is_multiple_of(16)
            && batch.iter().all(|[n, step]| *n <= 1 || step.is_multiple_of(ALIGNED));
        Self { outer: axis(spec, outer), k: axis(spec, 1 - outer), batch, is_aligned }
    }

    /// Along which axis rows of whole 16 bytes lie, if along any.
    fn major(&self) -> Major {
        let dense = |[n, step]: [u64; 2]| n <= 1 || step == 1;
        let whole = |[n, step]: [u64; 2]| n <= 1 || step.is_multiple_of(ALIGNED);
        match self.is_aligned {
            true if dense(self.k) && whole(self.outer) => Major::K,
            true if dense(self.outer) && whole(self.k) => Major::Outer,
            _ => Major::Gathered,
        }
    }

    /// Bit i: the side is not repeated along axis i of the batch's last three.
    pub(in super::super) fn spread(&self) -> u32 {
        (0..3).map(|i| u32::from(self.batch[i + 1][1] != 0) << i).sum()
    }
}

/// The geometry of a product.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Product {
    pub(in super::super) m: u64,
    pub(in super::super) n: u64,
    pub(in super::super) k: u64,
    pub(in super::super) batch: [u64; 4],
    pub(in super::super) sides: [Lie; 2],
    is_bf16: bool,
}

impl Product {
    /// The geometry; `None` for a product that lacks an operand, which no checked one does.
    pub(in super::super) fn of(op: &CheckedOp) -> Option<Self> {
        let (a, b, out) = (op.spec("a")?, op.spec("b")?, op.spec("out")?);
        Some(Self {
            m: axis(out, 1)[0],
            n: axis(b, 0)[0],
            k: axis(a, 0)[0],
            batch: [5, 4, 3, 2].map(|from_end| axis(out, from_end)[0]),
            sides: [Lie::of(a, 1), Lie::of(b, 0)],
            is_bf16: a.dtype == DType::BF16,
        })
    }

    fn entries(&self) -> u128 {
        self.batch.iter().fold(1, |n: u128, &size| n.saturating_mul(size.into()))
    }

    /// Tiles of a matrix, down and across.
    pub(in super::super) fn tiles(&self, [rows, columns]: [u32; 2]) -> [u64; 2] {
        [self.m.div_ceil(rows.into()), self.n.div_ceil(columns.into())]
    }

    /// What the copy engine is told of A and B at these addresses; `None` where it cannot bring them.
    pub(in super::super) fn maps(&self, row: &MatmulSm90, at: [u64; 2]) -> Option<[BoxMap; 2]> {
        let [m, n, k] = [self.m, self.n, self.k];
        if m.min(n).min(k) == 0 || self.batch[0] > 1 {
            return None;
        }
        let side = |side: Side, outer: u64, lie: &Lie, at: u64| {
            // A stride that nothing follows is any valid one; one of 0 is no stride of the engine.
            let step = |[n, step]: [u64; 2]| match (n, step) {
                (..=1, _) => Some(ALIGNED),
                (_, 0) => None,
                (_, step) => Some(step),
            };
            let batch = [1, 2, 3].map(|i| match lie.batch[i] {
                [_, 0] => [1, ALIGNED],
                [n, step] => [n, if n > 1 { step } else { ALIGNED }],
            });
            let steps = [step(lie.outer)?, step(lie.k)?];
            Some(row.map(side, at, [outer, k], steps, batch)).filter(BoxMap::is_valid)
        };
        let [a, b] = &self.sides;
        Some([side(Side::A, m, a, at[0])?, side(Side::B, n, b, at[1])?])
    }

    /// The rows that may run it, all of one order.
    fn rows(&self, op: &Matmul, class: &Class) -> (Order, Vec<Row>) {
        let [a, b] = self.sides.map(|lie| lie.major());
        let is_gathered = a == Major::Gathered || b == Major::Gathered;
        // An order that ignores rows and batch is that of the rows which take every layout.
        if class.sm90[0] > 0 && !is_gathered && op.order != OrderClass::BatchInvariant {
            let (a_outer, b_outer) = (a == Major::Outer, b == Major::Outer);
            let rows = MatmulSm90::all().into_iter().filter(|row| {
                (row.bf16, row.a_outer, row.b_outer) == (self.is_bf16, a_outer, b_outer)
                    && self.maps(row, [0; 2]).is_some()
            });
            let rows: Vec<Row> = rows.map(Row::MatmulSm90).collect();
            if !rows.is_empty() {
                return (SM90, rows);
            }
        }
        let ways = if is_gathered { (Major::Gathered, Major::Gathered) } else { (a, b) };
        let rows = MatmulSm80::all().into_iter();
        let rows = rows.filter(|row| (row.bf16, (row.a, row.b)) == (self.is_bf16, ways));
        (SM80, rows.map(Row::MatmulSm80).collect())
    }
}

/// Tile of a row of products, elements of k that it is cut between, and bytes that a cut tile carries.
pub(in super::super) fn form(row: &Row) -> Option<([u32; 2], u32, u64)> {
    match row {
        Row::MatmulSm80(row) => Some((row.tile, MatmulSm80::CHUNK, row.state_bytes())),
        Row::MatmulSm90(row) => {
            Some(([MatmulSm90::ROWS, row.columns], MatmulSm90::CHUNK, row.state_bytes()))
        }
        _ => None,
    }
}

/// Elements of k that a link of a row covers.
pub(in super::super) fn link_k(product: &Product, row: &Row, class: &Class) -> u64 {
    let Some((tile, chunk, _)) = form(row) else { return product.k.max(1) };
    let (per_link, _) = links(product.k.div_ceil(chunk.into()), chunk_ns(row, class), end_ns(tile));
    per_link * u64::from(chunk)
}

/// Nanoseconds of a chunk of k of a tile, on one multiprocessor.
fn chunk_ns(row: &Row, class: &Class) -> u64 {
    let Some(([rows, columns], chunk, _)) = form(row) else { return 1 };
    let rate = match row {
        Row::MatmulSm90(row) if row.columns == 256 => class.sm90[0],
        Row::MatmulSm90(row) if row.columns == 128 => class.sm90[1],
        Row::MatmulSm90(_) => class.sm90[2],
        Row::MatmulSm80(row) if row.a == Major::Gathered => class.gathered,
        Row::MatmulSm80(row) if row.tile[0] == 128 => class.sm80[0],
        _ => class.sm80[1],
    };
    (2 * u64::from(rows) * u64::from(columns) * u64::from(chunk)).div_ceil(rate.max(1))
}

/// Nanoseconds of a tile's epilogue.
fn end_ns([rows, columns]: [u32; 2]) -> u64 {
    u64::from(rows) * u64::from(columns) * 1000 / EPILOGUE
}

/// The plans of a product.
///
/// # Errors
/// As [`super::candidates`].
pub(super) fn plans(op: &CheckedOp, matmul: &Matmul, class: &Class) -> Result<Vec<Plan>> {
    if let Some((asked, allowed)) = unsupported(op, matmul) {
        return Err(missing(op, asked, allowed.into()));
    }
    let Some(product) = Product::of(op) else { return Ok(Vec::new()) };
    let (order, rows) = product.rows(matmul, class);
    rows.iter().map(|row| plan(op, &product, order, row, class)).collect()
}

fn plan(op: &CheckedOp, product: &Product, order: Order, row: &Row, class: &Class) -> Result<Plan> {
    let (tile, chunk, state_bytes) = form(row).unwrap_or(([1, 1], 1, 0));
    let ([down, across], entries) = (product.tiles(tile), product.entries());
    // Kernels count tiles of a matrix, and matrices, in 32 bits.
    let (per_entry, most) = (u128::from(down) * u128::from(across), u128::from(u32::MAX));
    if per_entry > most || entries > most {
        let asked = format!("{entries} products of {per_entry} tiles");
        return Err(missing(op, asked, format!("{most} of each")));
    }
    let (chunk_ns, end_ns) = (chunk_ns(row, class), end_ns(tile));
    let (per_link, links) = links(product.k.div_ceil(chunk.into()), chunk_ns, end_ns);
    let link_ns = per_link.min(product.k.div_ceil(chunk.into())) * chunk_ns + end_ns;
    let work = Work { tiles: entries * per_entry, links, link_ns, state_bytes };
    finish(op, class, order, super::name(row), work)
}

/// What of a product no row runs, and what rows do.
fn unsupported(op: &CheckedOp, matmul: &Matmul) -> Option<(String, &'static str)> {
    let dtype = op.spec("a")?.dtype;
    if !matches!(dtype, DType::F16 | DType::BF16) {
        return Some((format!("a product of {dtype}"), "f16 or bf16"));
    }
    if matmul.group != Group::None {
        return Some((format!("groups {:?}", matmul.group), "none"));
    }
    if matmul.gate == Gate::Interleaved {
        return Some(("an interleaved gate".into(), "a tensor, or none"));
    }
    let scales = [matmul.scales[0], matmul.scales[1], matmul.quantize];
    (scales != [Scale::None; 3]).then(|| (format!("scales {scales:?}"), "none"))
}
