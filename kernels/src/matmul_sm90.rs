//! The rows of `matmul_sm90`, and what their launches are given: the Rust side of `cuda/matmul_sm90.cu`.

use crate::map::BoxMap;
use crate::matmul::MatmulArgs;
use bytemuck::{Pod, Zeroable};

/// What a launch of `matmul_sm90` is given.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct MatmulSm90Args {
    /// A as the driver encodes it.
    pub a: BoxMap,
    /// B as the driver encodes it.
    pub b: BoxMap,
    /// The output as the driver encodes it, where [`MatmulSm90::out`] has a map.
    pub out: BoxMap,
    /// All else.
    pub matmul: MatmulArgs,
    /// Bit i: A is not repeated along axis i of the batch's last three. 0 where indices name A's matrices, which are the last
    /// axis of its map.
    pub spread_a: u32,
    /// The same of B.
    pub spread_b: u32,
    /// 1 where `out` is a map: the copy engine takes the output.
    pub stores_boxes: u32,
    /// Splits of K, at least 2, or 0 for none. With splits, `matmul.k_from` and `k_to` do not count, and `matmul.state` takes
    /// [`MatmulSm90::part_bytes`], which `matmul_merge` reads: both launches have the same tiles.
    pub splits: u32,
    /// Elements of k in each split but the last, a multiple of [`MatmulSm90::CHUNK`].
    pub split_k: u32,
    /// Nothing.
    pub padding: u32,
}

const _: () = assert!(size_of::<MatmulSm90Args>() == 1024);

/// What a launch of `matmul_merge` is given: [`MatmulSm90::merge`] makes it.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct MatmulMergeArgs {
    /// As the launch that split K was given it.
    pub matmul: MatmulArgs,
    /// Splits of K.
    pub splits: u32,
    /// Rows of a tile.
    pub rows: u32,
    /// Columns of a tile.
    pub columns: u32,
    /// Elements from a row of a tile's sums to the next.
    pub row_step: u32,
    /// Elements from a column of a tile's sums to the next.
    pub column_step: u32,
    /// Nothing.
    pub padding: u32,
}

const _: () = assert!(size_of::<MatmulMergeArgs>() == 640);

/// The row of `matmul_merge`, given [`MatmulMergeArgs`]: the end of a product whose K was split. Any grid does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulMerge;

/// How the two warpgroups that multiply share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Both multiply the rows of one tile, and end it together.
    Cooperative,
    /// Each has tiles of its own: one's end is hidden behind the other's products. For short K and long epilogues.
    PingPong,
    /// As the first, B's columns on wgmma's rows and the few rows of A on its columns. A is dense along K.
    Swapped,
}

/// A row of `matmul_sm90`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulSm90 {
    /// How its warpgroups share the work.
    pub form: Form,
    /// Whether operands are bf16, not f16.
    pub bf16: bool,
    /// Whether A is dense along M, not K.
    pub a_outer: bool,
    /// Whether B is dense along N, not K.
    pub b_outer: bool,
    /// Rows of a tile: of all blocks of a cluster.
    pub rows: u32,
    /// Columns of a tile.
    pub columns: u32,
    /// Blocks that compute a tile: they share its rows, and bring B once for all. A grid is a multiple of it.
    pub cluster: u32,
}

/// Bytes of shared memory that the ring of stages may have.
const RING: u32 = 192 << 10;
/// Bytes that a warpgroup's sums leave through.
const STAGED: u32 = 16 << 10;

impl MatmulSm90 {
    /// Rows of a tile of the rows that [`MatmulSm90::all`] lists.
    pub const ROWS: u32 = 128;

    /// Elements of k in a chunk of the order, and of a box along a dense axis.
    pub const CHUNK: u32 = 64;

    /// The rows of one form and tile: of both types, and every way that operands may lie.
    fn of(form: Form, [rows, columns]: [u32; 2], cluster: u32) -> impl Iterator<Item = Self> {
        let ways = (0..8).map(move |i| {
            let (bf16, a_outer, b_outer) = (i & 4 == 4, i & 1 == 1, i & 2 == 2);
            Self { form, bf16, a_outer, b_outer, rows, columns, cluster }
        });
        ways.filter(move |row| form != Form::Swapped || !row.a_outer)
    }

    /// The rows of plain form: cooperative, a block a tile.
    pub fn all() -> Vec<Self> {
        let tiles = [256, 128, 64].map(|columns| [Self::ROWS, columns]);
        tiles.into_iter().flat_map(|tile| Self::of(Form::Cooperative, tile, 1)).collect()
    }

    /// Every row. All have the same order, so that a plan may take whichever it predicts to be quickest.
    ///
    /// Of `t` tiles, `p` at a time, with `c` nanoseconds of products each and `e` of the way out: cooperative and swapped
    /// rows take `⌈t/p⌉ (c + e)`, those of turns `⌈t/p⌉ max(c, e) + e`, and none less than its bytes at the memory's rate.
    /// A cluster reads its columns of B once for two blocks: it needs two tiles' rows, and pays from the second wave on.
    /// Swapped rows are for M of at most 64, the smallest that holds it: they lose no products to rows that are not there.
    pub fn forms() -> Vec<Self> {
        let others = [
            (Form::Cooperative, [256, 256], 2),
            (Form::PingPong, [128, 128], 1),
            (Form::PingPong, [64, 256], 1),
            (Form::PingPong, [256, 128], 2),
            (Form::Swapped, [64, 128], 1),
            (Form::Swapped, [32, 128], 1),
            (Form::Swapped, [16, 128], 1),
            (Form::Swapped, [8, 128], 1),
        ];
        let others = others.into_iter().flat_map(|(form, tile, n)| Self::of(form, tile, n));
        Self::all().into_iter().chain(others).collect()
    }

    pub(crate) fn key(&self) -> String {
        let Self { form, rows, columns, cluster, .. } = self;
        let dtype = if self.bf16 { "bf16" } else { "f16" };
        let way = |outer| if outer { 'o' } else { 'k' };
        let (a, b) = (way(self.a_outer), way(self.b_outer));
        let form = match form {
            Form::Cooperative => "",
            Form::PingPong => "_ping_pong",
            Form::Swapped => "_swapped",
        };
        let of = if *cluster > 1 { format!("_by{cluster}") } else { String::new() };
        format!("matmul_sm90_{dtype}_{a}{b}_{rows}x{columns}{form}{of}")
    }

    /// Rows of wgmma's left side of a block's tile, and columns of its right side.
    fn sides(&self) -> [u32; 2] {
        match self.form {
            Form::Swapped => [self.columns, self.rows],
            _ => [self.rows / self.cluster, self.columns],
        }
    }

    /// As many as the ring has room for.
    fn stages(&self) -> u32 {
        RING / self.stage_bytes()
    }

    fn stage_bytes(&self) -> u32 {
        let [left, right] = self.sides();
        (left + right) * Self::CHUNK * 2
    }

    pub(crate) fn shape(&self) -> String {
        let Self { form, bf16, a_outer, b_outer, cluster, .. } = self;
        let ([left, right], stages) = (self.sides(), self.stages());
        let dtype = if *bf16 { "BF16" } else { "F16" };
        let form = format!("matmul_sm90::Form::{form:?}");
        format!(
            "matmul_sm90::Shape<{form}, {left}, {right}, {stages}, {cluster}, {a_outer}, {b_outer}, {dtype}>"
        )
    }

    pub(crate) fn threads(&self) -> u32 {
        384
    }

    pub(crate) fn shared_bytes(&self) -> u32 {
        let turns = if self.form == Form::PingPong { 16 } else { 0 };
        self.stages() * (self.stage_bytes() + 16) + 2 * STAGED + turns
    }

    /// Bytes that a cut tile carries.
    pub fn state_bytes(&self) -> u64 {
        4 * u64::from(self.rows) * u64::from(self.columns)
    }

    /// Bytes that the splits of some tiles leave.
    pub fn part_bytes(&self, tiles: u64, splits: u32) -> u64 {
        tiles * u64::from(splits) * self.state_bytes()
    }

    /// What `matmul_merge` is given after a launch that split K.
    pub fn merge(&self, matmul: &MatmulArgs, splits: u32) -> MatmulMergeArgs {
        let (rows, columns) = (self.rows, self.columns);
        let [row_step, column_step] =
            if self.form == Form::Swapped { [1, rows] } else { [columns, 1] };
        MatmulMergeArgs {
            matmul: *matmul,
            splits,
            rows,
            columns,
            row_step,
            column_step,
            padding: 0,
        }
    }

    /// The box map of a side: `outer` rows of A or columns of B by `k`, `outer_step` or `k_step` being 1, and the
    /// sizes and strides of the batch's last three axes, all in elements; a repeated axis has size 1.
    pub fn map(
        &self,
        side: Side,
        at: u64,
        [outer, k]: [u64; 2],
        [outer_step, k_step]: [u64; 2],
        batch: [[u64; 2]; 3],
    ) -> BoxMap {
        // Blocks of a cluster bring rows of A each their own, and of B each a part.
        let (is_outer, tile) = match side {
            Side::A => (self.a_outer, self.rows / self.cluster),
            Side::B => (self.b_outer, self.columns / self.cluster),
        };
        let [sizes, step, boxed] = if is_outer {
            [[outer, k], [k_step, 0], [Self::CHUNK.into(), Self::CHUNK.into()]]
        } else {
            [[k, outer], [outer_step, 0], [Self::CHUNK.into(), tile.into()]]
        };
        let [first, second, third] = batch;
        BoxMap {
            at,
            sizes: [sizes[0], sizes[1], third[0], second[0], first[0]],
            // Of a tensor of nothing any stride is legal: what is beyond the engine makes no valid map.
            strides: [step[0], third[1], second[1], first[1]].map(|n| n.saturating_mul(2)),
            boxed: [boxed[0] as u32, boxed[1] as u32, 1, 1, 1],
            element: 2,
            padding: [0; 6],
        }
    }

    /// The box map of the output of a launch, where the copy engine can take it: 16-bit elements, rows dense and aligned, at
    /// most three axes of the batch, no groups of rows, and nothing in the epilogue but alpha.
    pub fn out(&self, args: &MatmulArgs) -> Option<BoxMap> {
        out(args, if self.form == Form::Swapped { self.rows } else { BOX })
    }
}

/// Columns of an output's box, and its rows: those of a warpgroup's sums.
pub(crate) const BOX: u32 = 64;

/// [`MatmulSm90::out`] in boxes of so many rows.
pub(crate) fn out(args: &MatmulArgs, rows: u32) -> Option<BoxMap> {
    let MatmulArgs { out, batch, m, n, .. } = args;
    let others = [args.bias, args.c, args.gate, args.residual, args.preactivation];
    let is_plain = others.iter().all(|x| x.present == 0)
        && [args.activation, args.interleaved] == [0; 2]
        && [0, MatmulArgs::ALONG_K, MatmulArgs::BY_INDEX].contains(&args.group);
    let is_narrow = matches!(out.dtype, 1 | 2);
    if !is_plain || !is_narrow || (out.column != 1 && *n > 1) || batch[0] != 1 || m.min(n) == &0 {
        return None;
    }
    // A stride that nothing follows is any valid one.
    let step = |size: u32, step: i64| if size > 1 { u64::try_from(step).ok() } else { Some(8) };
    let (mut sizes, mut strides) =
        ([u64::from(*n), (*m).into(), 1, 1, 1], [step(*m, out.row)?, 0, 0, 0]);
    for (axis, place) in [(3, 1), (2, 2), (1, 3)] {
        sizes[place + 1] = batch[axis].into();
        strides[place] = step(batch[axis], out.batch[axis])?;
    }
    let map = BoxMap {
        at: out.at,
        sizes,
        strides: strides.map(|n| 2 * n),
        boxed: [BOX, rows, 1, 1, 1],
        element: 2,
        padding: [0; 6],
    };
    // Writes of a stride of 0 would meet: it is no valid one.
    map.is_valid().then_some(map)
}

/// A side of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The left.
    A,
    /// The right.
    B,
}
