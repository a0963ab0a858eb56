//! What the kernels of attention and of its gradients are told of batch entries and scores, and the table of entries.

use super::super::plan::{Batch, counts};
use super::{Words, base, strides};
use crate::op::{CheckedOp, Lens, Mask, Scores};

/// Flags of `batch.wgsl`.
const HAS_MASK: u32 = 1;
const HAS_ALIBI: u32 = 4;
const PACKED: u32 = 32;
const PACKED_KEYS: u32 = 64;
const DEVICE_ROWS: u32 = 256;
const DEVICE_LENS: u32 = 512;
const AS_ROWS: u32 = 1024;
const ALIKE: u32 = 2048;
/// Words of an entry of the table.
const ENTRY: usize = 4;

pub(super) fn flags(scores: &Scores, batch: &Batch) -> u32 {
    let flags = [
        (scores.mask == Mask::Additive, HAS_MASK),
        (scores.alibi, HAS_ALIBI),
        (batch.packed, PACKED),
        (batch.packed_keys, PACKED_KEYS),
        (scores.rows.on_device(), DEVICE_ROWS),
        (scores.lens.on_device(), DEVICE_LENS),
        (batch.packed && scores.lens == Lens::Full, AS_ROWS),
        (alike(scores), ALIKE),
    ];
    flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum()
}

/// Whether one entry of the table stands for all.
fn alike(scores: &Scores) -> bool {
    scores.rows == Lens::Full && scores.lens == Lens::Full
}

/// Keys seen before and after a row's own.
pub(super) fn window(scores: &Scores) -> [u64; 2] {
    let [left, right] = scores.window.unwrap_or([u32::MAX; 2]);
    [left.into(), if scores.causal { 0 } else { right.into() }]
}

/// The largest count of rows and of keys in device memory.
pub(super) fn most(scores: &Scores) -> [u64; 2] {
    [&scores.rows, &scores.lens].map(|lens| match lens {
        Lens::Device { max } => (*max).into(),
        _ => 0,
    })
}

/// Base and stride of operands of one axis.
pub(super) fn put_lines(params: &mut Words, op: &CheckedOp, names: &[&str]) {
    for name in names {
        let line = op.spec(name).map_or([0; 2], |spec| [base(spec), strides(spec)[0]]);
        params.put(&line);
    }
}

/// The table of batch entries; where counts lie in device memory room for it, then the counts that the host knows.
pub(super) fn made(scores: &Scores, batch: &Batch) -> Vec<u32> {
    let entries = if alike(scores) { 1 } else { batch.entries as usize };
    let list = |lens: &Lens, full: u64| match lens {
        Lens::Host(list) => list.clone(),
        // The plan held sizes to 31 bits.
        _ => vec![full as u32; entries],
    };
    let rows = list(&scores.rows, batch.rows);
    let keys = match scores.lens {
        Lens::Full if batch.packed => rows.clone(),
        _ => list(&scores.lens, batch.room),
    };
    if counts(scores) {
        let mut words = vec![0; ENTRY * (entries + usize::from(batch.packed))];
        words.extend(rows);
        words.extend(keys);
        return words;
    }
    let (mut words, mut first_row, mut first_key) = (Vec::new(), 0, 0);
    for (rows, keys) in rows.into_iter().zip(keys) {
        words.extend([first_row, rows, first_key, keys]);
        first_row += if batch.packed { rows } else { 0 };
        first_key += if batch.packed_keys { keys } else { 0 };
    }
    if batch.packed {
        words.extend([first_row, batch.rows as u32 - first_row, first_key, 0]);
    }
    words
}
