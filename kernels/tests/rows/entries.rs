//! The list of batch entries from counts that a tenant wrote, against the same made one entry after another.

use crate::model::{Model, Order, address, scratch};
use leasehold_kernels::{AttentionEntries, AttentionEntriesArgs, Counts, Entry, Row};
use std::mem::offset_of;

const GUARD: [u8; 20] = [0xa5; 20];

/// What `attention` on the CPU makes of the same counts; and the first count over its bound.
fn reference(args: &AttentionEntriesArgs, rows: &[u32], keys: &[u32]) -> Vec<Entry> {
    let (mut next, mut all) = (Entry::default(), Vec::new());
    for (&rows, &keys) in rows.iter().zip(keys) {
        let rows = rows.min(args.rows.most);
        let keys = if args.keys_as_rows == 1 { rows } else { keys.min(args.keys.most) };
        next.rows = rows.min(args.row_room - next.first_row);
        next.keys = keys.min(args.key_room - next.first_key);
        all.push(next);
        if args.packed_rows == 1 {
            next.first_row += next.rows;
            next.first_tile += (next.rows * args.group).div_ceil(args.tile_rows);
        }
        if args.packed_keys == 1 {
            next.first_key += next.keys;
        }
    }
    if args.last == 1 {
        all.push(Entry { rows: args.row_room - next.first_row, keys: 0, ..next });
    }
    all
}

/// Runs in launches of at most `step` entries, and returns the list and the fault.
fn run(
    model: &mut Model,
    args: AttentionEntriesArgs,
    rows: &[u32],
    keys: &[u32],
    step: usize,
) -> (Vec<Entry>, [u32; 3]) {
    let count = rows.len();
    let entries = count + args.last as usize;
    let list = [scratch((entries * size_of::<Entry>()) as u64), GUARD.to_vec()].concat();
    let bytes = |words: &[u32]| bytemuck::cast_slice(words).to_vec();
    let mut buffers = vec![bytes(rows), bytes(keys), list, vec![0; 12]];
    let places = [
        offset_of!(AttentionEntriesArgs, rows),
        offset_of!(AttentionEntriesArgs, keys),
        offset_of!(AttentionEntriesArgs, entries),
        offset_of!(AttentionEntriesArgs, fault),
    ];
    for from in (0..count).step_by(step) {
        let to = count.min(from + step);
        let last = if to == count { args.last } else { 0 };
        let args = AttentionEntriesArgs { from: from as u32, to: to as u32, last, ..args };
        let args = (bytemuck::bytes_of(&args), &places.map(|at| at as u32)[..]);
        let row = Row::AttentionEntries(AttentionEntries);
        let outcome = model.witnessed(|model| model.run(&row, Order::Late, 1, args, &buffers));
        assert_eq!(outcome.found, "");
        buffers = outcome.buffers;
    }
    let (list, guard) = buffers[2].split_at(entries * size_of::<Entry>());
    assert_eq!(guard, GUARD, "past the list");
    let fault: &[[u8; 4]] = buffers[3].as_chunks().0;
    (bytemuck::pod_collect_to_vec(list), [0, 1, 2].map(|i| u32::from_le_bytes(fault[i])))
}

fn counts(buffer: usize, most: u32) -> Counts {
    Counts { at: address(buffer, 0), step: 1, most, padding: 0 }
}

pub(crate) fn counts_of_any_kind_become_entries_that_fit(model: &mut Model) {
    let plain = AttentionEntriesArgs {
        rows: counts(0, 40),
        keys: counts(1, 90),
        entries: address(2, 0),
        fault: address(3, 0),
        packed_rows: 1,
        packed_keys: 1,
        row_room: 1000,
        key_room: 3000,
        group: 3,
        tile_rows: 16,
        last: 1,
        ..AttentionEntriesArgs::default()
    };
    let cases = [
        plain,
        AttentionEntriesArgs { keys_as_rows: 1, row_room: 90, ..plain },
        AttentionEntriesArgs { packed_keys: 0, key_room: 50, ..plain },
        AttentionEntriesArgs { packed_rows: 0, packed_keys: 0, row_room: 40, last: 0, ..plain },
    ];
    let rows: Vec<u32> = (0..70).map(|i| i * 7 % 41).collect();
    let keys: Vec<u32> = (0..70).map(|i| i * 13 % 91).collect();
    for args in cases {
        let expected = reference(&args, &rows, &keys);
        for step in [96, 32] {
            let (list, fault) = run(model, args, &rows, &keys, step);
            assert!(bytes(&list) == bytes(&expected), "{args:?} by {step}");
            assert_eq!(fault, [0; 3]);
        }
    }
    for (i, bad) in [u32::MAX, i32::MAX as u32, 1 << 31, 41].into_iter().enumerate() {
        let mut rows = rows.clone();
        rows[17 * i] = bad;
        let (list, fault) = run(model, plain, &rows, &keys, 64);
        assert!(bytes(&list) == bytes(&reference(&plain, &rows, &keys)), "{bad:#x}");
        assert_eq!(fault, [1, bad, 41]);
    }
}

fn bytes(list: &[Entry]) -> &[u8] {
    bytemuck::cast_slice(list)
}
