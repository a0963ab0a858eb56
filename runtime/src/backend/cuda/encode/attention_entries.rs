//! The batch entries of attention and its gradients: a list of the host's, or what the launches are given that make one from
//! counts in device memory.

use super::{Addresses, Args, Launch, operand};
use crate::backend::cuda::plan::{self, Heads};
use crate::op::{CheckedOp, Lens, Scores};
use leasehold_kernels::{AttentionEntries, AttentionEntriesArgs, Counts, Entry, Row};
use std::ops::Range;

/// The list, where the host knows all of it; else the counts that it knows.
pub(super) fn made(scores: &Scores, heads: &Heads, tile_rows: u64) -> Vec<u8> {
    if heads.is_counted {
        let known = [&scores.rows, &scores.lens].into_iter().flat_map(Lens::host);
        return known.flat_map(|n| n.to_le_bytes()).collect();
    }
    bytemuck::cast_slice(&list(scores, heads, tile_rows)).to_vec()
}

/// The entries: one for all where they are alike. Where rows are packed, one follows for those that none owns.
fn list(scores: &Scores, heads: &Heads, tile_rows: u64) -> Vec<Entry> {
    let [rows, room] = [heads.rows, heads.room].map(|n| n as u32);
    let alike = vec![Entry { rows, keys: room, ..Entry::default() }];
    let (of_rows, lens) = match (&scores.rows, &scores.lens) {
        (Lens::Full, Lens::Host(lens)) => (vec![rows; lens.len()], lens),
        (Lens::Host(rows), Lens::Full) => (rows.clone(), rows),
        (Lens::Host(rows), Lens::Host(lens)) => (rows.clone(), lens),
        _ => return alike,
    };
    let (mut next, mut list) = (Entry::default(), Vec::with_capacity(lens.len() + 1));
    for (&rows, &keys) in of_rows.iter().zip(lens) {
        list.push(Entry { rows, keys: keys.min(room - next.first_key), ..next });
        if heads.is_packed {
            next.first_row += rows;
            next.first_tile += (u64::from(rows) * heads.group).div_ceil(tile_rows) as u32;
            next.first_key += if heads.is_paged { 0 } else { keys };
        }
    }
    if heads.is_packed {
        list.push(Entry { rows: rows - next.first_row, keys: 0, ..next });
    }
    list
}

/// The launch that lists these entries at an address, for tiles of so many packed rows.
pub(super) fn launch(
    op: &CheckedOp,
    scores: &Scores,
    heads: &Heads,
    (list, tile_rows): (u64, u64),
    entries: Range<u64>,
    at: &Addresses<'_>,
) -> Launch {
    let counts = |name, lens: &Lens, room: u64| {
        let room = room as u32;
        let (at, step, most) = match (lens, operand(op, at, name)) {
            (Lens::Device { max }, Some((spec, at))) => {
                (at, plan::axis(spec, 0)[1] as i64, (*max).min(u32::MAX - 1))
            }
            (Lens::Host(_), _) => (at.made, 1, room),
            _ => (0, 0, room),
        };
        Counts { at, step, most, padding: 0 }
    };
    let is_last = entries.end >= heads.entries;
    let args = AttentionEntriesArgs {
        rows: counts("rows", &scores.rows, heads.rows),
        keys: counts("lens", &scores.lens, heads.room),
        entries: list,
        fault: at.fault,
        from: entries.start as u32,
        to: entries.end.min(heads.entries) as u32,
        packed_rows: u32::from(heads.is_packed),
        packed_keys: u32::from(heads.is_packed && !heads.is_paged),
        keys_as_rows: u32::from(heads.is_packed && scores.lens == Lens::Full),
        row_room: heads.rows as u32,
        key_room: heads.room as u32,
        group: heads.group as u32,
        tile_rows: tile_rows as u32,
        last: u32::from(is_last && heads.is_packed),
    };
    let row = Row::AttentionEntries(AttentionEntries);
    Launch { row, args: Args::plain(&args), blocks: 1 }
}
