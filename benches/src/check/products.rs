//! Products: of matrices, in batches, in groups, of 8-bit values with scales; windows of 8 by 8 of their outputs. `problem`
//! builds them, `shapes` and `lists` name their sizes.

use super::data::{Fill, Given, dense, laid};
use super::problem::{Built, FLOPS, TERA, Window, blocks_of, name, spots, window};
use leasehold::op::{Group, Lens, Matmul, Scale, Spec};
use leasehold::{DType, Result};
use serde::{Serialize, Serializer};
use std::ops::Range;

/// Rows and columns of a window; a whole number of them is a block of scales.
const WINDOW: u64 = 8;
/// Windows at places drawn by the seed, beside three that are always there.
const DRAWN: usize = 5;

/// Products of `m x k` by `k x n`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Product {
    /// How many.
    pub(super) batch: u64,
    /// M, N and K.
    pub(super) size: [u64; 3],
    /// Of both operands.
    #[serde(serialize_with = "name")]
    pub(super) dtype: DType,
    /// Of the output.
    #[serde(serialize_with = "name")]
    pub(super) out: DType,
    /// Whether A lies as `[k, m]`, and B as `[n, k]`, as weights do.
    pub(super) turned: [bool; 2],
    /// Whether A and the output lie as `[m, batch, ..]`, as the heads of a token do.
    pub(super) between: bool,
    /// Whether the products are added to a C of the output's type, as gradients of weights are.
    pub(super) added: bool,
}

/// Products of one operand's groups.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Groups {
    /// Which axis has them.
    #[serde(serialize_with = "form")]
    pub(super) group: Group,
    /// Rows, or terms of K, of each.
    pub(super) counts: Vec<u32>,
    /// M, N and K, as far as the groups have one: of contiguous rows M is that of all, of masked rows the room of each, of
    /// groups along K it is K of all.
    pub(super) size: [u64; 3],
    /// Of both operands; of f8e4m3 with scales of 1x128 and 128x128.
    #[serde(serialize_with = "name")]
    pub(super) dtype: DType,
    /// Of the output.
    #[serde(serialize_with = "name")]
    pub(super) out: DType,
}

fn form<S: Serializer>(group: &Group, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(word(*group))
}

fn word(group: Group) -> &'static str {
    match group {
        Group::Masked => "masked",
        Group::K => "k",
        _ => "contiguous",
    }
}

/// Where the operands of a window lie in those of the problem, each with all axes, in the op's order; and its outputs.
struct Block {
    cuts: Vec<Vec<Range<u64>>>,
    size: [u64; 2],
    at: Vec<u64>,
}

/// Elements of a row-major output whose rows are `stride` apart.
fn places_of(rows: &Range<u64>, columns: &Range<u64>, first: u64, stride: u64) -> Vec<u64> {
    rows.clone().flat_map(|i| columns.clone().map(move |j| first + i * stride + j)).collect()
}

/// A block as a plain product of its own.
fn plain_window(op: Matmul, built: &Built, block: Block) -> Result<Window> {
    let parts = built.given.iter().zip(&block.cuts).map(|(given, cuts)| {
        // The axes of batches and groups are of one entry here.
        let shape = cuts[cuts.len() - 2..].iter().map(|cut| cut.end - cut.start).collect();
        (given.spec.dtype, shape, given.cut(cuts))
    });
    let parts: Vec<_> = parts.collect();
    window(op.into(), &parts, &[dense(built.out().dtype, &block.size)], block.at)
}

fn len(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// Eight columns from the one that begins `column`'s eight.
fn eight(column: u64, n: u64) -> Range<u64> {
    let from = column / WINDOW * WINDOW;
    from..(from + WINDOW).min(n)
}

impl Product {
    pub(super) fn label(&self) -> String {
        let Self { batch, size: [m, n, k], dtype, out, turned, between, added } = self;
        let batch = if *batch == 1 { String::new() } else { format!("{batch} x ") };
        let form = turned.map(|turned| if turned { 'T' } else { 'N' });
        let mut label = format!("{batch}{m}x{n}x{k} {dtype} {}{}", form[0], form[1]);
        if out != dtype {
            label += &format!(" to {out}");
        }
        label += if *between { ", heads of tokens" } else { "" };
        label += if *added { ", added" } else { "" };
        label
    }

    /// `[batch, rows, columns]`, rows of one entry next to those of the others where they lie between.
    fn heads(&self, dtype: DType, rows: u64, columns: u64, turned: bool) -> Spec {
        if self.between {
            let spec = dense(dtype, &[rows, self.batch, columns]);
            let layout = spec.layout.permute(&[1, 0, 2]);
            return Spec { layout: layout.unwrap_or(spec.layout), ..spec };
        }
        match self.batch {
            1 => laid(dtype, &[rows, columns], turned),
            batch => laid(dtype, &[batch, rows, columns], turned),
        }
    }

    pub(super) fn build(&self, seed: u64) -> Result<Built> {
        let Self { batch, size: [m, n, k], dtype, out, turned, between, added } = *self;
        let op = Matmul { beta: if added { 1.0 } else { 0.0 }, ..Matmul::default() };
        let b: &[u64] = if batch == 1 && !between { &[k, n] } else { &[batch, k, n] };
        let to = self.heads(out, m, n, false);
        let mut given = vec![
            Given::normal("a", self.heads(dtype, m, k, turned[0]), seed),
            Given::normal("b", laid(dtype, b, turned[1]), seed),
        ];
        given.extend(added.then(|| Given::normal("c", to, seed)));
        let work = (2.0 * (batch * m) as f64 * (n * k) as f64 / TERA, FLOPS);
        let mut built = Built::new(op.clone(), given, &[to], work)?;
        for [entry, rows, columns] in spots([(batch, 1), (m, WINDOW), (n, WINDOW)], DRAWN, seed) {
            let lead = (built.given[1].spec.layout.rank() == 3).then_some(entry.clone());
            let cut = |rows: &Range<u64>, columns: &Range<u64>| {
                lead.iter().chain([rows, columns]).cloned().collect::<Vec<_>>()
            };
            let all = 0..k;
            let mut cuts = vec![cut(&rows, &all), cut(&all, &columns)];
            cuts.extend(added.then(|| cut(&rows, &columns)));
            let (first, stride) = match between {
                true => (entry.start * n, batch * n),
                false => (entry.start * m * n, n),
            };
            let at = places_of(&rows, &columns, first, stride);
            let block = Block { cuts, size: [len(&rows), len(&columns)], at };
            built.windows.push(plain_window(op.clone(), &built, block)?);
        }
        Ok(built)
    }
}

impl Groups {
    pub(super) fn label(&self) -> String {
        let Self { group, counts, size: [m, n, k], dtype, out } = self;
        let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        let form = word(*group);
        let what = match group {
            Group::K => format!("{m}x{n}, {total} of K"),
            _ => format!("{total} rows x {n} x {k}"),
        };
        format!("{} {form} groups, {what} {dtype} to {out}", counts.len())
    }

    fn is_scaled(&self) -> bool {
        self.dtype.size() == 1
    }

    pub(super) fn build(&self, seed: u64) -> Result<Built> {
        let Self { group, ref counts, size: [m, n, k], dtype, out } = *self;
        let count = counts.len() as u64;
        let sizes = match group {
            Group::Masked => Lens::Device { max: m as u32 },
            _ => Lens::Host(counts.clone()),
        };
        let scales = match self.is_scaled() {
            true => [Scale::Block1x128, Scale::Block128x128],
            false => [Scale::None; 2],
        };
        let op = Matmul { group, sizes, scales, ..Matmul::default() };
        let lead = |axis: &[u64]| [axis, &[m]].concat();
        let (rows, of_b, outs): (_, &[u64], _) = match group {
            Group::Masked => (lead(&[count]), &[count], lead(&[count])),
            Group::K => (lead(&[]), &[], lead(&[count])),
            _ => (lead(&[]), &[count], lead(&[])),
        };
        let (deep, wide) = (blocks_of(k), blocks_of(n));
        let b = |rows, columns| [of_b, &[rows, columns]].concat();
        let mut given = vec![
            // Groups along K are of rows of both in memory: gradients of weights, where K are tokens.
            Given::normal("a", laid(dtype, &[&rows[..], &[k]].concat(), group == Group::K), seed),
            Given::normal("b", laid(dtype, &b(k, n), group != Group::K), seed),
        ];
        if self.is_scaled() {
            let of_a = dense(DType::F32, &[&rows[..], &[deep]].concat());
            let of_b = laid(DType::F32, &b(deep, wide), true);
            given.push(Given::of(Fill::Positive, "scale_a", of_a, seed));
            given.push(Given::of(Fill::Positive, "scale_b", of_b, seed));
        }
        if group == Group::Masked {
            given.push(Given::words("sizes", &[count], counts));
        }
        let out = dense(out, &[&outs[..], &[n]].concat());
        let total: f64 = counts.iter().map(|&count| f64::from(count)).sum();
        let pair = if group == Group::K { (m * n) as f64 } else { (n * k) as f64 };
        let mut built = Built::new(op, given, &[out], (2.0 * total * pair / TERA, FLOPS))?;
        let plain = Matmul { scales, ..Matmul::default() };
        for block in self.blocks(seed) {
            built.windows.push(plain_window(plain.clone(), &built, block)?);
        }
        Ok(built)
    }

    /// Windows in every group or in some, at its first and last rows in turn.
    fn blocks(&self, seed: u64) -> Vec<Block> {
        let Self { group, ref counts, size: [m, n, k], .. } = *self;
        let mut blocks = Vec::new();
        // Rows or terms before each group.
        let mut first = 0;
        let windows = spots([(m, WINDOW), (n, 1)], counts.len().clamp(1, 16), seed);
        for (i, &count) in counts.iter().enumerate() {
            let (entry, begin, count) = (i as u64, first, u64::from(count));
            first += count;
            let [rows, columns] = &windows[i % windows.len()];
            let columns = eight(columns.start, n);
            // An empty group along K gives zeros.
            if blocks.len() >= 16 || (group != Group::K && count == 0) {
                continue;
            }
            let taken = match (group, i % 2) {
                (Group::K, _) => rows.clone(),
                (_, 0) => 0..count.min(WINDOW),
                _ => count.saturating_sub(WINDOW)..count,
            };
            let (one, terms) = (entry..entry + 1, begin..begin + count);
            let (a, b, from) = match group {
                Group::Masked => (
                    vec![one.clone(), taken.clone(), 0..k],
                    vec![one.clone(), 0..k, columns.clone()],
                    entry * m,
                ),
                Group::K => {
                    (vec![taken.clone(), terms.clone()], vec![terms, columns.clone()], entry * m)
                }
                _ => (
                    vec![begin + taken.start..begin + taken.end, 0..k],
                    vec![one.clone(), 0..k, columns.clone()],
                    begin,
                ),
            };
            let mut cuts = vec![a, b];
            if self.is_scaled() {
                let block = columns.start / 128..columns.start / 128 + 1;
                let mut of_a = cuts[0].clone();
                of_a.pop();
                of_a.push(0..blocks_of(k));
                cuts.extend([of_a, vec![one, 0..blocks_of(k), block]]);
            }
            let at = places_of(&taken, &columns, from * n, n);
            blocks.push(Block { cuts, size: [len(&taken), len(&columns)], at });
        }
        blocks
    }
}

/// A product of f8e4m3 with a scale for each row and 128 of K of A, and for 128 x 128 of B.
pub(super) fn scaled([m, n, k]: [u64; 3], seed: u64) -> Result<Built> {
    let (f8, f32, deep) = (DType::F8E4M3, DType::F32, blocks_of(k));
    let op = Matmul { scales: [Scale::Block1x128, Scale::Block128x128], ..Matmul::default() };
    let given = vec![
        Given::normal("a", dense(f8, &[m, k]), seed),
        Given::normal("b", laid(f8, &[k, n], true), seed),
        Given::of(Fill::Positive, "scale_a", dense(f32, &[m, deep]), seed),
        Given::of(Fill::Positive, "scale_b", laid(f32, &[deep, blocks_of(n)], true), seed),
    ];
    let work = (2.0 * m as f64 * (n * k) as f64 / TERA, FLOPS);
    let mut built = Built::new(op.clone(), given, &[dense(DType::BF16, &[m, n])], work)?;
    for [rows, columns] in spots([(m, WINDOW), (n, 1)], DRAWN, seed) {
        let columns = eight(columns.start, n);
        let block = columns.start / 128..columns.start / 128 + 1;
        let cuts = vec![
            vec![rows.clone(), 0..k],
            vec![0..k, columns.clone()],
            vec![rows.clone(), 0..deep],
            vec![0..deep, block],
        ];
        let at = places_of(&rows, &columns, 0, n);
        let block = Block { cuts, size: [len(&rows), len(&columns)], at };
        built.windows.push(plain_window(op.clone(), &built, block)?);
    }
    Ok(built)
}
