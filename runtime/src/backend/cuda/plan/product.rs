//! Products: how the operands lie, which decides the family of rows, and the tiles and links of each row.

use super::{Class, Splits, Work, axis, finish, links, missing, splits};
use crate::dtype::DType;
use crate::error::Result;
use crate::op::{CheckedOp, Gate, Group, Lens, Matmul, OrderClass, Precision, Scale, Spec};
use crate::order::{Family, Order, Plan};
use leasehold_kernels::{
    BoxMap, Bytes, Form, Fp8, GroupEntry, Major, MatmulF32, MatmulReference, MatmulSm80,
    MatmulSm80Bytes, MatmulSm90, MatmulSm90Fp8, Row, Side, Values,
};

/// The orders: one instruction after the other along k, 16 elements at a time, in f32; the epilogue of
/// `cuda/tile/epilogue.h`. Tiles and cuts change no bit.
pub(super) const SM80: Order =
    Order { entry: "matmul_sm80", tile: [1, 1], chunk: 16, family: Family::Matrix16 };
pub(super) const SM90: Order =
    Order { entry: "matmul_sm90", tile: [1, 1], chunk: 16, family: Family::Matrix16 };

/// Of f32 where `Precision::Tf32` allows it: operands rounded to tf32, 8 elements at a time.
pub(super) const TF32: Order =
    Order { entry: "matmul_sm80_tf32", tile: [1, 1], chunk: 8, family: Family::MatrixTf32 };

/// Of i8 whole numbers; of fp8 chunks as below, by instructions of f16, which holds all of its values.
pub(super) const SM80_BYTES: Order = Order {
    entry: "matmul_sm80_bytes",
    tile: [1, 1],
    chunk: MatmulSm80Bytes::CHUNK,
    family: Family::Matrix16,
};
/// The same by instructions of fp8.
pub(super) const SM89_FP8: Order = Order {
    entry: "matmul_sm89_fp8",
    tile: [1, 1],
    chunk: MatmulSm80Bytes::CHUNK,
    family: Family::Matrix8,
};
/// Chunks of 128 along k, each by one instruction after the other from zero, times their scales, and added in f32.
pub(super) const SM90_FP8: Order = Order {
    entry: "matmul_sm90_fp8",
    tile: [1, 1],
    chunk: MatmulSm90Fp8::CHUNK,
    family: Family::Matrix8,
};
/// One multiply-add after the other along k, in f32.
pub(super) const F32: Order =
    Order { entry: "matmul_f32", tile: [1, 1], chunk: 1, family: Family::Fma32 };
/// The same of all other operands; values of 8 bits are summed anew every 128 of k.
pub(super) const REFERENCE: Order = Order {
    entry: "matmul_reference",
    tile: [1, 1],
    chunk: MatmulReference::CHUNK,
    family: Family::Fma32,
};

/// Most groups whose sizes lie in device memory, and nanoseconds that 32 of them take to be counted, before every launch:
/// so tiles stay units of their own, which may run in any slice.
const COUNTED: u64 = 4096;
const COUNT_NS: u64 = 1_000;

/// Entries of a batch whose matrices one list names: a launch that has more is several, each behind its own list.
const LISTED: u64 = 8192;

/// Bytes that copies move at once.
const ALIGNED: u64 = 16;
/// Rows that products are counted as, at least.
const LEAST_ROWS: u32 = 16;
/// Bytes a nanosecond that one multiprocessor of Hopper brings from the L2 cache.
const L2: u64 = 40;
/// Elements a microsecond through the epilogue of one multiprocessor.
const EPILOGUE: u64 = 3_000;

/// How a side of a product lies: sizes and strides, in elements, of its outer axis, of k, and of the batch.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Lie {
    pub(in super::super) outer: [u64; 2],
    pub(in super::super) k: [u64; 2],
    pub(in super::super) batch: [[u64; 2]; 4],
    /// Elements of 16 bytes, and whether every matrix begins at a multiple of them.
    whole: u64,
    is_aligned: bool,
}

impl Lie {
    fn of(spec: &Spec, outer: usize) -> Self {
        let whole = ALIGNED / spec.dtype.size();
        let batch = [5, 4, 3, 2].map(|from_end| axis(spec, from_end));
        let is_aligned = spec.offset_class.is_multiple_of(16)
            && batch.iter().all(|[n, step]| *n <= 1 || step.is_multiple_of(whole));
        Self { outer: axis(spec, outer), k: axis(spec, 1 - outer), batch, whole, is_aligned }
    }

    /// Along which axis rows of whole 16 bytes lie, if along any.
    fn major(&self) -> Major {
        let dense = |[n, step]: [u64; 2]| n <= 1 || step == 1;
        let whole = |[n, step]: [u64; 2]| n <= 1 || step.is_multiple_of(self.whole);
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
    /// Columns of B, and of the output.
    pub(in super::super) n: u64,
    columns: u64,
    /// The most that an output sums.
    pub(in super::super) k: u64,
    /// Of groups the last axis is theirs, also where the output has none.
    pub(in super::super) batch: [u64; 4],
    pub(in super::super) groups: u64,
    pub(in super::super) sides: [Lie; 2],
    dtypes: [DType; 2],
}

/// How many groups there are.
fn groups(op: &CheckedOp, matmul: &Matmul) -> u64 {
    match &matmul.sizes {
        Lens::Full => 0,
        Lens::Host(list) => list.len() as u64,
        Lens::Device { .. } => op.spec("sizes").map_or(0, |spec| axis(spec, 0)[0]),
    }
}

impl Product {
    /// The geometry; `None` for a product that lacks an operand, which no checked one does.
    pub(in super::super) fn of(op: &CheckedOp, matmul: &Matmul) -> Option<Self> {
        let (a, b, out) = (op.spec("a")?, op.spec("b")?, op.spec("out")?);
        let groups = groups(op, matmul);
        let mut batch = [5, 4, 3, 2].map(|from_end| axis(out, from_end)[0]);
        if matmul.group == Group::Contiguous {
            batch[3] = groups.max(1);
        }
        let room = axis(a, 0)[0];
        let k = match (matmul.group, &matmul.sizes) {
            (Group::K, Lens::Host(list)) => list.iter().max().map_or(0, |&n| n.into()),
            (Group::K, Lens::Device { max }) => (*max).into(),
            _ => room,
        };
        Some(Self {
            m: axis(out, 1)[0],
            n: axis(b, 0)[0],
            columns: axis(out, 0)[0],
            k: k.min(room),
            batch,
            groups,
            sides: [Lie::of(a, 1), Lie::of(b, 0)],
            dtypes: [a.dtype, b.dtype],
        })
    }

    /// Matrices of the output.
    pub(in super::super) fn entries(&self, matmul: &Matmul) -> u128 {
        match matmul.group {
            Group::Contiguous => 1,
            _ => self.batch.iter().fold(1, |n: u128, &size| n.saturating_mul(size.into())),
        }
    }

    /// Entries of the longest list of matrices that indices name.
    pub(in super::super) fn listed(&self, matmul: &Matmul) -> u64 {
        self.entries(matmul).min(LISTED.into()) as u64
    }

    /// Tiles of a matrix, down and across: those of contiguous groups begin anew at each, and at the rows of none.
    pub(in super::super) fn tiles(&self, matmul: &Matmul, row: &Row) -> [u64; 2] {
        let Some(([rows, columns], ..)) = form(row) else { return [0; 2] };
        let own = |size: u64| size.div_ceil(rows.into());
        let down = match (matmul.group, &matmul.sizes) {
            (Group::Contiguous, Lens::Host(list)) => {
                let owned: u64 = list.iter().map(|&size| u64::from(size)).sum();
                let tiles: u64 = list.iter().map(|&size| own(size.into())).sum();
                tiles + own(self.m.saturating_sub(owned))
            }
            // At most one that is not full a group, and one of the rows of none.
            (Group::Contiguous, _) => own(self.m) + self.groups + 1,
            _ => own(self.m),
        };
        let across = if matches!(row, Row::MatmulReference(_)) { self.columns } else { self.n };
        [down, across.div_ceil(columns.into())]
    }

    /// The list of groups, where the host knows their sizes; room for it where the device does.
    pub(in super::super) fn list(&self, matmul: &Matmul, row: &Row) -> Vec<GroupEntry> {
        let Some(([rows, _], ..)) = form(row) else { return Vec::new() };
        let is_contiguous = matmul.group == Group::Contiguous;
        let Lens::Host(sizes) = &matmul.sizes else {
            let room =
                if self.groups == 0 && !is_contiguous { 0 } else { self.groups as usize + 1 };
            return vec![GroupEntry::default(); room];
        };
        let mut next = GroupEntry::default();
        let mut list: Vec<GroupEntry> = Vec::with_capacity(sizes.len() + 1);
        for &size in sizes {
            list.push(GroupEntry { size, ..next });
            next.first += if matmul.group == Group::Masked { 0 } else { size };
            next.tile += if is_contiguous { size.div_ceil(rows) } else { 0 };
        }
        if is_contiguous {
            list.push(GroupEntry { size: self.m as u32 - next.first, ..next });
        }
        list
    }

    /// What the copy engine is told of A and B at these addresses; `None` where it cannot bring them.
    pub(in super::super) fn maps(&self, row: &Row, at: [u64; 2]) -> Option<[BoxMap; 2]> {
        let [m, n] = [self.m, self.n];
        if m.min(n).min(self.k) == 0 || self.batch[0] > 1 {
            return None;
        }
        let side = |side: Side, outer: u64, lie: &Lie, at: u64| {
            // A stride that nothing follows is any valid one; one of 0 is no stride of the engine.
            let step = |[n, step]: [u64; 2]| match (n, step) {
                (..=1, _) => Some(lie.whole),
                (_, 0) => None,
                (_, step) => Some(step),
            };
            let batch = [1, 2, 3].map(|i| match lie.batch[i] {
                [_, 0] => [1, lie.whole],
                [n, step] => [n, if n > 1 { step } else { lie.whole }],
            });
            // Of groups along k the axis has all of them.
            let (k, steps) = (lie.k[0], [step(lie.outer)?, step(lie.k)?]);
            let map = match row {
                Row::MatmulSm90(row) => row.map(side, at, [outer, k], steps, batch),
                Row::MatmulSm90Fp8(row) => row.map(side, at, [outer, k], steps[0], batch),
                _ => return None,
            };
            Some(map).filter(BoxMap::is_valid)
        };
        let [a, b] = &self.sides;
        Some([side(Side::A, m, a, at[0])?, side(Side::B, n, b, at[1])?])
    }

    /// The rows that may run it, all of one order.
    fn rows(&self, matmul: &Matmul, class: &Class) -> (Order, Vec<Row>) {
        // An order that ignores rows and batch is that of the rows which take every layout.
        if class.sm90[0] > 0 && matmul.order != OrderClass::BatchInvariant {
            let (order, mut rows) = self.of_hopper(matmul);
            rows.retain(|row| self.maps(row, [0; 2]).is_some());
            if !rows.is_empty() {
                return (order, rows);
            }
        }
        let finds = matmul.quantize == Scale::Block1x128;
        // Tiles of sums find no scales of half as many outputs.
        let is_halved = finds && matmul.gate == Gate::Interleaved;
        if self.is_float() && matmul.quantize != Scale::None || is_halved {
            return (REFERENCE, vec![Row::MatmulReference(MatmulReference { finds })]);
        }
        if !self.is_float() {
            let gathered =
                self.sides.map(|lie| lie.major()) != [Major::K; 2] || matmul.group == Group::K;
            let is_i8 = self.dtypes[0] == DType::I8;
            let rows = MatmulSm80Bytes::all().into_iter().filter(|row| {
                ((row.values == Bytes::I8), row.gathered) == (is_i8, gathered)
                    && (!finds || row.tile == 128)
            });
            let mut rows: Vec<Row> = rows.map(Row::MatmulSm80Bytes).collect();
            rows.retain(|row| row.archs().contains(&class.arch));
            let is_fp8 =
                |row: &Row| matches!(row, Row::MatmulSm80Bytes(row) if row.values == Bytes::Fp8);
            let order = if rows.iter().any(is_fp8) { SM89_FP8 } else { SM80_BYTES };
            return (order, rows);
        }
        let is_f32 = self.dtypes[0] == DType::F32;
        if is_f32 && matmul.precision == Precision::Full {
            return (F32, MatmulF32::all().into_iter().map(Row::MatmulF32).collect());
        }
        let [a, b] = self.sides.map(|lie| lie.major());
        // Where a group's k begins nothing is aligned along it, nor along rows where a group's rows do.
        let is_cut = match matmul.group {
            Group::K => [a, b] != [Major::Outer; 2],
            Group::Contiguous => a == Major::Outer,
            _ => false,
        };
        let ways = if a == Major::Gathered || b == Major::Gathered || is_cut {
            (Major::Gathered, Major::Gathered)
        } else {
            (a, b)
        };
        let values = match self.dtypes[0] {
            DType::F32 => Values::Tf32,
            DType::BF16 => Values::Bf16,
            _ => Values::F16,
        };
        let rows = MatmulSm80::all().into_iter();
        let rows = rows.filter(|row| (row.values, (row.a, row.b)) == (values, ways));
        (if is_f32 { TF32 } else { SM80 }, rows.map(Row::MatmulSm80).collect())
    }

    fn is_float(&self) -> bool {
        matches!(self.dtypes[0], DType::F32 | DType::F16 | DType::BF16)
    }

    /// The rows of wgmma, if the copy engine can bring the operands.
    fn of_hopper(&self, matmul: &Matmul) -> (Order, Vec<Row>) {
        let [a, b] = self.sides.map(|lie| lie.major());
        let [of_a, of_b] = self.dtypes;
        if a == Major::Gathered || b == Major::Gathered {
            return (SM90, Vec::new());
        }
        let fp8 = |dtype, kind| match kind {
            Fp8::E4m3 => dtype == DType::F8E4M3,
            Fp8::E5m2 => dtype == DType::F8E5M2,
        };
        let finds = matmul.quantize == Scale::Block1x128;
        let is_halved = finds && matmul.gate == Gate::Interleaved;
        let is_along_k = matmul.group == Group::K;
        if !is_halved && !is_along_k && [a, b] == [Major::K; 2] && !self.is_float() {
            let by_columns = matmul.scales[1] == Scale::Block1x128;
            let is_plain = matmul.group == Group::None && !matmul.is_indexed();
            let rows = MatmulSm90Fp8::all().into_iter().filter(|row| {
                fp8(of_a, row.a)
                    && fp8(of_b, row.b)
                    && row.by_columns == by_columns
                    && (!finds || row.tile[1] >= 128)
                    // As of clusters below.
                    && (is_plain || row.cluster == 1)
            });
            return (SM90_FP8, rows.map(Row::MatmulSm90Fp8).collect());
        }
        if !matches!(of_a, DType::F16 | DType::BF16) || matmul.quantize != Scale::None {
            return (SM90, Vec::new());
        }
        let (a_outer, b_outer) = (a == Major::Outer, b == Major::Outer);
        let mut rows = MatmulSm90::forms();
        rows.retain(|row| {
            (row.bf16, row.a_outer, row.b_outer) == (of_a == DType::BF16, a_outer, b_outer)
        });
        // Tiles of groups may have nothing to multiply, nor those of an index that names no matrix. Who waits by the parity of
        // stages that a peer fills or empties, as in turns and clusters, must see each phase of them: without products a peer
        // runs ahead. Plain rows do, and swapped ones, which know no groups.
        let is_alone = |row: &MatmulSm90| row.form != Form::PingPong && row.cluster == 1;
        rows.retain(|row| match matmul.group {
            Group::None => !matmul.is_indexed() || is_alone(row),
            _ => row.form == Form::Cooperative && is_alone(row),
        });
        // Of the forms for few rows the smallest that holds them.
        let few = rows.iter().filter(|row| row.form == Form::Swapped).map(|row| row.rows);
        let few = few.filter(|&n| u64::from(n) >= self.m).min();
        rows.retain(|row| row.form != Form::Swapped || Some(row.rows) == few);
        (SM90, rows.into_iter().map(Row::MatmulSm90).collect())
    }
}

/// Tile of a row of products, elements of k that it is cut between, and bytes that a cut tile carries.
pub(in super::super) fn form(row: &Row) -> Option<([u32; 2], u32, u64)> {
    match row {
        Row::MatmulReference(row) => {
            Some((row.tile(), MatmulReference::CHUNK, MatmulReference::STATE_BYTES))
        }
        Row::MatmulF32(row) => Some(([row.tile; 2], MatmulF32::CHUNK, row.state_bytes())),
        Row::MatmulSm80(row) => Some((row.tile, MatmulSm80::CHUNK, row.state_bytes())),
        Row::MatmulSm90(row) => {
            Some(([row.rows, row.columns], MatmulSm90::CHUNK, row.state_bytes()))
        }
        Row::MatmulSm80Bytes(row) => {
            Some(([row.tile; 2], MatmulSm80Bytes::CHUNK, row.state_bytes()))
        }
        Row::MatmulSm90Fp8(row) => Some((row.tile, MatmulSm90Fp8::CHUNK, row.state_bytes())),
        _ => None,
    }
}

/// Elements of k that a link of a row covers.
pub(in super::super) fn link_k(
    product: &Product,
    matmul: &Matmul,
    row: &Row,
    class: &Class,
) -> u64 {
    let Some((_, chunk, _)) = form(row) else { return product.k.max(1) };
    let (per_link, _) = cut(product, matmul, row, class);
    per_link * u64::from(chunk)
}

/// Chunks of a link, and links of a tile.
fn cut(product: &Product, matmul: &Matmul, row: &Row, class: &Class) -> (u64, u64) {
    let Some((_, chunk, _)) = form(row) else { return (1, 1) };
    let end_ns = end_ns(product, matmul, row);
    links(product.k.div_ceil(chunk.into()), chunk_ns(matmul, row, class), end_ns)
}

/// Multiprocessors that a tile takes at a time.
pub(super) fn blocks(row: &Row) -> u64 {
    row.cluster().into()
}

/// Nanoseconds of a chunk of k of a tile, on as many multiprocessors as it takes.
pub(super) fn chunk_ns(matmul: &Matmul, row: &Row, class: &Class) -> u64 {
    let Some(([rows, columns], chunk, _)) = form(row) else { return 1 };
    // Instructions of fewer columns take no less time.
    let rows = if rows < LEAST_ROWS { LEAST_ROWS } else { rows };
    let of_tile = blocks(row);
    let rate = match row {
        Row::MatmulReference(_) => class.plain,
        Row::MatmulF32(_) => class.fma,
        Row::MatmulSm90(row) if row.form == Form::Swapped => class.sm90[2],
        Row::MatmulSm90(row) if row.columns == 256 => of_tile * class.sm90[0],
        Row::MatmulSm90(row) if row.columns == 128 => of_tile * class.sm90[1],
        Row::MatmulSm90(_) => class.sm90[2],
        Row::MatmulSm90Fp8(row) if row.tile[0] == 256 => of_tile * class.sm90_fp8[0],
        Row::MatmulSm90Fp8(row) if row.tile[0] == 128 => class.sm90_fp8[1],
        Row::MatmulSm90Fp8(_) => class.sm90_fp8[2],
        Row::MatmulSm80(row) if row.a == Major::Gathered => class.gathered,
        // Of tf32 an instruction multiplies half as many.
        Row::MatmulSm80(row) => {
            let rate = class.sm80[usize::from(row.tile[0] < 128)];
            if row.values == Values::Tf32 { rate / 2 } else { rate }
        }
        Row::MatmulSm80Bytes(row) if row.gathered => class.gathered,
        Row::MatmulSm80Bytes(row) if row.tile == 128 => class.sm80[0],
        _ => class.sm80[1],
    };
    // The simple product's tiles count outputs.
    let is_twice = matches!(row, Row::MatmulReference(_)) && matmul.gate == Gate::Interleaved;
    let sums = (1 + u64::from(is_twice)) * u64::from(rows) * u64::from(columns);
    let products = (2 * sums * u64::from(chunk)).div_ceil(rate.max(1));
    // What a block brings: its own rows, and its part of the columns; or the other way about.
    let brought = |width| width * u64::from(rows + columns) * u64::from(chunk) / of_tile / L2;
    let brought = match row {
        Row::MatmulSm90(_) => brought(2),
        Row::MatmulSm90Fp8(_) => brought(1),
        _ => 0,
    };
    products.max(brought)
}

/// Nanoseconds of a tile's epilogue, and of counting groups or listing matrices before it.
pub(super) fn end_ns(product: &Product, matmul: &Matmul, row: &Row) -> u64 {
    let Some(([rows, columns], ..)) = form(row) else { return 0 };
    let counted = match matmul.sizes {
        Lens::Device { .. } => product.groups.div_ceil(32),
        // All entries of a list are made together.
        _ => matmul.is_indexed().into(),
    };
    u64::from(rows) * u64::from(columns) * 1000 / (EPILOGUE * blocks(row)) + counted * COUNT_NS
}

/// The plans of a product.
///
/// # Errors
/// As [`super::candidates`].
pub(super) fn plans(op: &CheckedOp, matmul: &Matmul, class: &Class) -> Result<Vec<Plan>> {
    let Some(product) = Product::of(op, matmul) else { return Ok(Vec::new()) };
    if matmul.sizes.on_device() && product.groups > COUNTED {
        let asked = format!("{} groups with sizes in device memory", product.groups);
        return Err(missing(op, asked, COUNTED.to_string()));
    }
    let (order, rows) = product.rows(matmul, class);
    if order == SM90 && splits::is_split(&product, matmul) {
        let plan = |row| Some(Splits::of(op, &product, matmul, row, class)?.plan(row));
        let plans: Vec<Plan> = rows.iter().filter_map(plan).collect();
        let (asked, allowed) = ("splits of K that no row holds", "64 MiB of sums");
        return match plans.is_empty() {
            true => Err(missing(op, asked.into(), allowed.into())),
            false => Ok(plans),
        };
    }
    let plans = rows.iter().map(|row| plan(op, matmul, &product, order, row, class));
    let (plans, refused): (Vec<_>, Vec<_>) = plans.partition(Result::is_ok);
    // What one row cannot hold another may.
    match refused.into_iter().next() {
        Some(error) if plans.is_empty() => error.map(|plan| vec![plan]),
        _ => plans.into_iter().collect(),
    }
}

fn plan(
    op: &CheckedOp,
    matmul: &Matmul,
    product: &Product,
    order: Order,
    row: &Row,
    class: &Class,
) -> Result<Plan> {
    let (_, chunk, state_bytes) = form(row).unwrap_or(([1, 1], 1, 0));
    let ([down, across], entries) = (product.tiles(matmul, row), product.entries(matmul));
    // Kernels count tiles of a matrix, and matrices, in 32 bits.
    let (per_entry, most) = (u128::from(down) * u128::from(across), u128::from(u32::MAX));
    if per_entry > most || entries > most {
        let asked = format!("{entries} products of {per_entry} tiles");
        return Err(missing(op, asked, format!("{most} of each")));
    }
    let (chunk_ns, end_ns) = (chunk_ns(matmul, row, class), end_ns(product, matmul, row));
    let (per_link, links) = cut(product, matmul, row, class);
    let products_ns = per_link.min(product.k.div_ceil(chunk.into())) * chunk_ns;
    // Where warpgroups take turns, one's end is behind the other's products.
    let is_hidden = matches!(row, Row::MatmulSm90(row) if row.form == Form::PingPong) && links == 1;
    let link_ns = if is_hidden { products_ns.max(end_ns) } else { products_ns + end_ns };
    let work =
        Work { tiles: entries * per_entry, blocks: blocks(row), links, link_ns, state_bytes };
    finish(op, class, order, super::name(row), work)
}
