//! The geometry of a product: tiles of the output, and links along k.

use super::{Class, OnUnit, dim, links, numel};
use crate::dtype::DType;
use crate::op::{CheckedOp, Gate, Group, Lens, Matmul, OrderClass, Scale};

/// Elements of k in a chunk of a product, of floats and of 8-bit values: links are cut between chunks.
pub(super) const CHUNK: u64 = 64;
pub(super) const CHUNK_BYTES: u64 = 128;
/// Lanes of a workgroup side by side, 4 columns each: 32 by 32 outputs.
const ACROSS: u64 = 8;
/// Columns of an output that share a scale which the op finds: one workgroup has them.
const BLOCK: u64 = 128;
/// Most groups whose sizes lie in device memory, and nanoseconds that a launch counts each: `COUNTED` of `matmul.wgsl`.
pub(super) const COUNTED: u64 = 1024;
const COUNT_NS: u64 = 40;

/// The kernel that runs every product.
const PLAIN: &str = "matmul";
/// Kernels that stage tiles, by falling size of what an invocation does.
pub(in super::super) const TILED: [&str; 3] =
    ["matmul_tiled_128x128", "matmul_tiled_64x64", "matmul_tiled_64x64_wide"];
/// Workgroups that keep a large GPU busy, and the side of an output that is mostly edge to a tile.
const ENOUGH: u128 = 128;
const NARROW: u64 = 32;

/// The geometry of a product.
pub(in super::super) struct Product {
    /// Rows of a matrix of the output, columns of B, and the most elements of k that an output sums.
    pub(in super::super) m: u64,
    pub(in super::super) n: u64,
    pub(in super::super) k: u64,
    /// Sides of a tile, and tiles of a matrix.
    pub(in super::super) tile: [u64; 2],
    pub(in super::super) tiles_m: u64,
    pub(in super::super) tiles_n: u64,
    pub(in super::super) groups: u64,
    /// Lanes of a workgroup side by side.
    pub(in super::super) across: u64,
    /// Elements of k in a chunk, and in a link.
    pub(super) chunk: u64,
    pub(in super::super) link_k: u64,
    entries: u128,
    pub(super) links: u64,
    pub(super) unit_ns: u64,
}

impl Product {
    pub(in super::super) fn of(checked: &CheckedOp, op: &Matmul, class: &Class) -> Self {
        let (m, n) = (dim(checked, "out", 1), dim(checked, "b", 0));
        let bytes = checked.spec("a").is_some_and(|a| a.dtype.size() == 1);
        let chunk = if bytes { CHUNK_BYTES } else { CHUNK };
        let per = if op.gate == Gate::Interleaved { 2 } else { 1 };
        let [mut tm, mut tn] = class.tile;
        let mut across = ACROSS;
        if op.quantize == Scale::Block1x128 {
            // As many outputs, a workgroup as wide as a block.
            across = per * BLOCK / 4;
            while tn < per * BLOCK {
                (tm, tn) = (tm / 2, 2 * tn);
            }
        }
        let (groups, most) = groups(checked, op);
        let k = match op.group {
            Group::K => most.min(dim(checked, "a", 0)),
            _ => dim(checked, "a", 0),
        };
        let tiles = |rows: u64| rows.div_ceil(tm);
        let tiles_m = match (op.group, &op.sizes) {
            (Group::Contiguous, Lens::Host(list)) => {
                let owned: u64 = list.iter().map(|&n| u64::from(n)).sum();
                list.iter().map(|&n| tiles(n.into())).sum::<u64>() + tiles(m - owned)
            }
            // At most one partial tile a group, and one of the rows of none.
            (Group::Contiguous, _) => tiles(m) + groups + 1,
            _ => tiles(m),
        };
        // Invocations at the edge work on whole blocks of 4 by 4.
        let area = m.min(tm).next_multiple_of(4) * n.min(tn).next_multiple_of(4);
        // Each output ends with an epilogue; scales along k are read run by run.
        let end_ns = area * if bytes || op.quantize != Scale::None { 40_000 } else { 20_000 }
            / class.product;
        let count_ns = if op.sizes.on_device() { groups.min(COUNTED) * COUNT_NS } else { 0 };
        let chunk_ns = 2 * area * k.min(chunk) * 1000 / class.product + end_ns;
        let (links, per_link) = links(class, k.div_ceil(chunk), chunk_ns, count_ns, chunk + 8);
        let unit_ns = chunk_ns * per_link + count_ns;
        let columns = n / per;
        let entries = numel(checked, "out").checked_div(u128::from(m) * u128::from(columns));
        Self {
            m,
            n,
            k,
            tile: [tm, tn],
            tiles_m,
            tiles_n: n.div_ceil(tn),
            groups,
            across,
            chunk,
            link_k: per_link * chunk,
            entries: entries.unwrap_or(0),
            links,
            unit_ns,
        }
    }

    pub(super) fn tiles(&self) -> u128 {
        self.entries * u128::from(self.tiles_m) * u128::from(self.tiles_n)
    }

    /// Iterations of all loops of an invocation in one link: its runs with their scales, and the search of its group.
    pub(super) fn link_loops(&self) -> u64 {
        self.link_k + self.link_k / self.chunk * 24 + 64
    }
}

/// Kernels of a product in this class, all of one order, best first: small tiles while large ones would leave a large
/// GPU idle, and no tiles where they would be mostly edge.
pub(super) fn kernels(checked: &CheckedOp, op: &Matmul, class: &Class) -> Vec<&'static str> {
    if !class.tiled || !is_staged(checked, op) {
        return vec![PLAIN];
    }
    let p = Product::of(checked, op, class);
    let large = p.entries * u128::from(p.m.div_ceil(128)) * u128::from(p.n.div_ceil(128));
    let unit = on_unit(checked, op, class);
    let mut kernels = unit.map_or(&TILED[..], |unit| unit.kernels).to_vec();
    if large < ENOUGH {
        // The large tile last, the one of most invocations first.
        kernels.reverse();
    }
    if unit.is_none() {
        let at = if p.m.min(p.n) < NARROW { 0 } else { kernels.len() };
        kernels.insert(at, PLAIN);
    }
    kernels
}

/// Whether kernels that stage tiles run a product: of floats, without groups, its output as it is.
fn is_staged(checked: &CheckedOp, op: &Matmul) -> bool {
    let floats = checked.spec("a").is_some_and(|a| a.dtype.size() > 1);
    floats && op.group == Group::None && op.quantize == Scale::None
}

/// How a product runs on the matrix unit: of f16, and of a tile at least. An order that ignores the rows does not.
pub(super) fn on_unit(checked: &CheckedOp, op: &Matmul, class: &Class) -> Option<OnUnit> {
    let unit = class.unit?;
    let halves = ["a", "b"].map(|name| checked.spec(name).map(|spec| spec.dtype));
    let least = dim(checked, "out", 1).min(dim(checked, "b", 0)).min(dim(checked, "a", 0));
    let runs = is_staged(checked, op)
        && halves == [Some(DType::F16); 2]
        && least >= unit.edge
        && op.order != OrderClass::BatchInvariant;
    runs.then_some(unit.matmul)
}

/// How many groups, and the largest size that one has.
fn groups(checked: &CheckedOp, op: &Matmul) -> (u64, u64) {
    match &op.sizes {
        Lens::Full => (0, 0),
        Lens::Host(list) => {
            (list.len() as u64, list.iter().max().map_or(0, |&size| u64::from(size)))
        }
        Lens::Device { max } => (dim(checked, "sizes", 0), (*max).into()),
    }
}
