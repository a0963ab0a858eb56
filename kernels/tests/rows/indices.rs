//! The streaming kernels that index, on the host model: indices that are good, repeated, out of range by one and by
//! much, against the same in order and, to the bit, against the simple kernels; nothing beside the output changes,
//! and the first bad index is told.

use crate::model::{Model, address, scratch};
use crate::tensor::{
    BF16, F16, F32, I8, I32, LAYS, Lay, Random, Tensor, U32, assert_close, launch, one_by_one,
    simple,
};
use leasehold_kernels::{
    GatherArgs, Range, RopeArgs, ScatterAddArgs, ScatterArgs, Streaming, StreamingReference, View,
};
use std::mem::offset_of;

/// Indices that select nothing of a table of `n`.
fn hostile(n: usize) -> [i64; 5] {
    [-1, 0x7fff_ffff, 0x8000_0000, n as i64, 0x1234_5678]
}

/// Indices below `n`, some of them repeated, and hostile ones among them.
fn indices(count: usize, n: usize, random: &mut Random, with_hostile: bool) -> Vec<u32> {
    let bad = hostile(n);
    let mut draw = |i: usize| match i % 7 {
        3 if with_hostile => bad[i / 7 % 5] as u32,
        5 if i > 0 => (n / 2) as u32,
        _ => (random.next() % n as u64) as u32,
    };
    (0..count).map(&mut draw).collect()
}

fn index_tensor(dtype: u32, shape: &[usize], lay: Lay, words: &[u32]) -> Tensor {
    let value = |i: usize| {
        if dtype == I32 { f64::from(words[i] as i32) } else { f64::from(words[i]) }
    };
    Tensor::new(dtype, shape, lay, value)
}

/// The fault words: those of a launch before are zeros.
fn fault(bytes: &[u8]) -> [u32; 3] {
    let words: &[[u8; 4]] = bytes.as_chunks().0;
    [words[0], words[1], words[2]].map(u32::from_le_bytes)
}

fn assert_fault(bytes: &[u8], words: &[u32], bound: u32) {
    let [taken, value, told] = fault(bytes);
    let bad: Vec<u32> = words.iter().copied().filter(|&word| word >= bound).collect();
    assert_eq!(taken == 1, !bad.is_empty());
    assert!(taken == 0 || told == bound && bad.contains(&value), "{value} of {bad:?}");
}

/// Strides of a view with those of another axis order: outer strides, and the inner one.
fn with(view: View, outer: &[i64], inner: i64) -> View {
    let mut out = View { inner, outer: [0; 6], ..view };
    out.outer[..outer.len()].copy_from_slice(outer);
    out
}

fn places(views: usize, count: usize, others: &[usize]) -> Vec<usize> {
    (0..count).map(|i| views + size_of::<View>() * i).chain(others.iter().copied()).collect()
}

pub(crate) fn gathers_select_and_refuse(model: &mut Model) {
    let mut random = Random(23);
    // Entries of the table, columns, indices.
    for (i, (n, columns, count)) in
        [(9, 40, 30), (5, 3, 16), (100, 64, 20), (7, 1, 50), (3, 16, 1)].into_iter().enumerate()
    {
        for (dtype, width) in [(I8, 1), (BF16, 2), (U32, 4)] {
            let words = indices(count, n, &mut random, i != 4);
            let index = index_tensor([I32, U32][i % 2], &[count], LAYS[i], &words);
            let value = |random: &mut Random| (random.draw() * 40.0).round().abs();
            let table =
                Tensor::new(dtype, &[n, columns], LAYS[(i + 1) % 5], |_| value(&mut random));
            let out = Tensor::out(dtype, &[count, columns], LAYS[(i + 3) % 5]);
            let row = Streaming::Gather(width);
            let (from, at) = (table.view(0), index.view(1));
            let args = GatherArgs {
                range: out.range(&row),
                views: [with(from, &[0], from.inner), with(at, &[at.inner], 0), out.view(2)],
                step: from.outer[0],
                bound: n as u32,
                padding: 0,
                fault: address(3, 0),
            };
            let others = [offset_of!(GatherArgs, fault)];
            let places = places(offset_of!(GatherArgs, views), 3, &others);
            let mut buffers = [&table, &index, &out].map(|t| t.bytes.clone()).to_vec();
            buffers.push(vec![0; 12]);
            let after = launch(model, row, args.range.blocks(), (&args, &places), &buffers);
            let rows = table.values();
            let want: Vec<f64> = words
                .iter()
                .flat_map(|&word| {
                    (0..columns)
                        .map(move |c| (word as usize, c))
                        .map(|(word, c)| if word < n { rows[word * columns + c] } else { 0.0 })
                })
                .collect();
            assert_eq!(out.read(&after[2]), want, "{n} {columns} {count} of {width}");
            assert_fault(&after[3], &words, n as u32);
            let args = GatherArgs { range: one_by_one(args.range), ..args };
            let (row, threads) = (StreamingReference::Gather, args.range.count);
            let by_one = simple(model, row, threads, (&args, &places), &buffers);
            assert!(by_one[2] == after[2], "{n} {columns} {count} of {width}: the simple kernel");
            assert_fault(&by_one[3], &words, n as u32);
        }
    }
}

#[test]
fn a_gather_may_give_every_element_an_index() {
    let Some(mut model) = Model::plain() else { return };
    let mut random = Random(29);
    let words = indices(37, 11, &mut random, true);
    let index = index_tensor(I32, &[37], Lay::Spread, &words);
    let table = Tensor::new(F32, &[11], Lay::Back, |i| i as f64 + 1.0);
    let out = Tensor::out(F32, &[37], Lay::Odd);
    let row = Streaming::Gather(4);
    let args = GatherArgs {
        range: out.range(&row),
        views: [with(table.view(0), &[], 0), index.view(1), out.view(2)],
        step: table.view(0).inner,
        bound: 11,
        padding: 0,
        fault: address(3, 0),
    };
    let places = places(offset_of!(GatherArgs, views), 3, &[offset_of!(GatherArgs, fault)]);
    let mut buffers = [&table, &index, &out].map(|t| t.bytes.clone()).to_vec();
    buffers.push(vec![0; 12]);
    let after = launch(&mut model, row, 1, (&args, &places), &buffers);
    let of = |&word: &u32| if word < 11 { f64::from(word) + 1.0 } else { 0.0 };
    assert_eq!(out.read(&after[2]), words.iter().map(of).collect::<Vec<_>>());
    assert_fault(&after[3], &words, 11);
    let args = GatherArgs { range: one_by_one(args.range), ..args };
    let (row, threads) = (StreamingReference::Gather, args.range.count);
    let by_one = simple(&mut model, row, threads, (&args, &places), &buffers);
    assert!(by_one[2] == after[2], "the simple kernel differs");
    assert_fault(&by_one[3], &words, 11);
}

/// The launches of a run of entries: claims cleared, made, and kept by the last.
fn scatter(
    model: &mut Model,
    row: Streaming,
    args: &ScatterArgs,
    entries: Range,
    buffers: Vec<Vec<u8>>,
) -> Vec<Vec<u8>> {
    let others = [offset_of!(ScatterArgs, claims), offset_of!(ScatterArgs, fault)];
    let places = places(offset_of!(ScatterArgs, views), 4, &others);
    (0..3).fold(buffers, |buffers, pass| {
        let claims = ScatterArgs { range: entries, per_entry: 1, ..*args };
        let args = ScatterArgs { pass, ..if pass < 2 { claims } else { *args } };
        launch(model, row, args.range.blocks(), (&args, &places), &buffers)
    })
}

/// The simple kernel, whole and in one pass.
fn scatter_simply(model: &mut Model, args: &ScatterArgs, buffers: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let others = [offset_of!(ScatterArgs, claims), offset_of!(ScatterArgs, fault)];
    let places = places(offset_of!(ScatterArgs, views), 4, &others);
    let args = ScatterArgs { range: one_by_one(args.range), first_entry: 0, pass: 2, ..*args };
    let threads = args.per_entry * args.range.inner;
    simple(model, StreamingReference::Scatter, threads, (&args, &places), buffers)
}

pub(crate) fn the_last_of_equal_indices_sets(model: &mut Model) {
    let mut random = Random(31);
    for (i, (n, columns, count)) in [(9, 40, 30), (50, 3, 44), (6, 1, 20)].into_iter().enumerate() {
        for (dtype, width) in [(I8, 1), (F16, 2), (F32, 4)] {
            let words = indices(count, n, &mut random, true);
            let index = index_tensor([U32, I32][i % 2], &[count], LAYS[i + 1], &words);
            let lay = LAYS[(i + 2) % 5];
            let x = Tensor::new(dtype, &[count, columns], lay, |j| (j % 90) as f64);
            let held = Tensor::new(dtype, &[n, columns], LAYS[i], |_| -5.0);
            let row = Streaming::Scatter(width);
            let (at, out) = (index.view(2), held.view(1));
            let range = x.range(&row);
            let args = ScatterArgs {
                range,
                views: [
                    x.view(0),
                    with(out, &[0], out.inner),
                    with(at, &[at.inner], 0),
                    View::default(),
                ],
                step: out.outer[0],
                per_entry: 1,
                claims: address(3, 0),
                fault: address(4, 0),
                bound: n as u32,
                ..ScatterArgs::default()
            };
            let mut buffers = [&x, &held, &index].map(|t| t.bytes.clone()).to_vec();
            buffers.extend([scratch(4 * n as u64), vec![0; 12]]);
            let by_one = scatter_simply(model, &args, &buffers);
            // Two runs of entries, the second after the first.
            let cut = count as u64 / 3;
            let entries = |first, count| Range { inner: 1, first, count, ..range };
            let per = range.count / count as u64;
            for (first, count) in [(0, cut), (cut, count as u64 - cut)] {
                let part = Range { first: first * per, count: count * per, ..range };
                let args = ScatterArgs { range: part, first_entry: first, ..args };
                buffers = scatter(model, row, &args, entries(first, count), buffers);
            }
            let (values, mut want) = (x.values(), held.values());
            for (j, &word) in words.iter().enumerate().filter(|(_, word)| **word < n as u32) {
                let to = word as usize * columns;
                want[to..to + columns].copy_from_slice(&values[j * columns..(j + 1) * columns]);
            }
            assert_eq!(held.read(&buffers[1]), want, "{n} {columns} {count} of {width}");
            assert_fault(&buffers[4], &words, n as u32);
            assert!(by_one[1] == buffers[1], "{n} {columns} {count} of {width}: the simple kernel");
            assert_fault(&by_one[4], &words, n as u32);
        }
    }
}

#[test]
fn an_index_that_changes_between_passes_reaches_nothing_else() {
    let Some(mut model) = Model::plain() else { return };
    let (n, count) = (6, 12);
    let words: Vec<u32> = (0..count as u32).map(|i| i % n as u32).collect();
    let index = index_tensor(U32, &[count], Lay::Dense, &words);
    let x = Tensor::new(F32, &[count, 8], Lay::Dense, |j| j as f64);
    let held = Tensor::new(F32, &[n, 8], Lay::Odd, |_| -5.0);
    let row = Streaming::Scatter(4);
    let (at, out, range) = (index.view(2), held.view(1), x.range(&row));
    let views = [x.view(0), with(out, &[0], out.inner), with(at, &[at.inner], 0), View::default()];
    let args = ScatterArgs {
        range,
        views,
        step: out.outer[0],
        per_entry: 1,
        claims: address(3, 0),
        fault: address(4, 0),
        bound: n as u32,
        ..ScatterArgs::default()
    };
    let others = [offset_of!(ScatterArgs, claims), offset_of!(ScatterArgs, fault)];
    let places = places(offset_of!(ScatterArgs, views), 4, &others);
    let mut buffers = [&x, &held, &index].map(|t| t.bytes.clone()).to_vec();
    buffers.extend([scratch(4 * n as u64), vec![0; 12]]);
    let changed = [5, u32::MAX, 3, 0x7fff_ffff, 1, 0x8000_0000, 0, 6, 2, 2, 2, 4];
    for pass in 0..3 {
        let entries = Range { inner: 1, count: count as u64, ..range };
        let range = if pass < 2 { entries } else { range };
        let args = ScatterArgs { range, pass, ..args };
        buffers = launch(&mut model, row, range.blocks(), (&args, &places), &buffers);
        if pass == 1 {
            buffers[2] = index_tensor(U32, &[count], Lay::Dense, &changed).bytes;
        }
    }
    // Each row is as it was or as an entry has it, and nothing else changed.
    for row in held.read(&buffers[1]).chunks(8) {
        assert!(row.iter().all(|&v| v == -5.0) || row[0] % 8.0 == 0.0 && row[7] == row[0] + 7.0);
    }
    assert_fault(&buffers[4], &changed, n as u32);
}

#[test]
fn appended_rows_land_in_their_pages() {
    let Some(mut model) = Model::plain() else { return };
    let (batch, heads, rows, d) = (5, 2, 3, 20);
    let (entries, page, most) = (8, 4, 3);
    // Across a page, before key 0, too long, negative; pages that are none.
    let lens = [6, 2, 12, 13, -1];
    let pages = [0, 1, 2, 3, 4, 5, 6, -1, 7, 0x7fff_ffff, 8, 2, 1, 5, 3i64];
    let x = Tensor::new(BF16, &[batch, heads, rows, d], Lay::Odd, |j| (j % 250) as f64);
    let held = Tensor::new(BF16, &[entries, heads, page, d], Lay::Dense, |_| -5.0);
    let lens_words = lens.map(|len: i64| len as u32);
    let pages_words = pages.map(|page| page as u32);
    let of_lens = index_tensor(I32, &[batch], Lay::Spread, &lens_words);
    let of_pages = index_tensor(U32, &[batch, most], Lay::Turned, &pages_words);
    let row = Streaming::Scatter(2);
    let (from, to) = (x.view(0), held.view(1));
    let [b, h, r] = [from.outer[0], from.outer[1], from.outer[2]];
    let outer = crate::tensor::axes(&[batch, rows, heads]);
    let mut range = Range { outer, inner: d as u64, ..Range::default() };
    range.count = range.vectors(row.vector());
    let by_lens = of_lens.view(3);
    let args = ScatterArgs {
        range,
        views: [
            with(from, &[b, r, h], from.inner),
            with(to, &[0, 0, to.outer[1]], to.inner),
            of_pages.view(2),
            with(by_lens, &[by_lens.inner], 0),
        ],
        step: to.outer[0],
        key_step: to.outer[2],
        per_entry: heads as u64,
        claims: address(4, 0),
        fault: address(5, 0),
        bound: entries as u32,
        page: page as u32,
        room: (most * page) as u32,
        rows: rows as u32,
        ..ScatterArgs::default()
    };
    let mut buffers = [&x, &held, &of_pages, &of_lens].map(|t| t.bytes.clone()).to_vec();
    buffers.extend([scratch((4 * entries * page) as u64), vec![0; 12]]);
    let outer = crate::tensor::axes(&[batch, rows]);
    let claims = Range { outer, inner: 1, first: 0, count: (batch * rows) as u64 };
    let by_one = scatter_simply(&mut model, &args, &buffers);
    let after = scatter(&mut model, row, &args, claims, buffers);
    let (values, mut want) = (x.values(), held.values());
    for (b, r) in (0..batch).flat_map(|b| (0..rows).map(move |r| (b, r))) {
        let len = (lens_words[b] as usize).min(most * page);
        let Some(key) = (len + r).checked_sub(rows) else { continue };
        let which = pages_words[b * most + key / page] as usize;
        for (h, c) in (0..heads).flat_map(|h| (0..d).map(move |c| (h, c))) {
            if which < entries {
                let to = ((which * heads + h) * page + key % page) * d + c;
                want[to] = values[((b * heads + h) * rows + r) * d + c];
            }
        }
    }
    assert_eq!(held.read(&after[1]), want);
    assert!(by_one[1] == after[1], "the simple kernel differs");
    for [taken, value, bound] in [fault(&after[5]), fault(&by_one[5])] {
        assert!(taken == 1 && value >= bound && [8, 13].contains(&bound), "{value} of {bound}");
    }
}

pub(crate) fn sums_scatter_in_order(model: &mut Model) {
    let mut random = Random(37);
    for (i, (n, columns, count)) in [(9, 37, 40), (70, 4, 33), (2, 1, 50)].into_iter().enumerate() {
        let words = indices(count, n, &mut random, i != 1);
        let index = index_tensor(I32, &[count], LAYS[i], &words);
        let x = Tensor::new([BF16, F32, F16][i], &[count, columns], LAYS[i], |_| random.draw());
        let held = Tensor::new(F32, &[n, columns], LAYS[(i + 1) % 5], |_| random.draw());
        let (from, at, out) = (x.view(0), index.view(2), held.view(1));
        let mut range = Range { inner: columns as u64, ..Range::default() };
        range.count = range.vectors(4);
        let args = ScatterAddArgs {
            range,
            columns: [with(from, &[], from.inner), with(out, &[], out.inner)],
            entries: crate::tensor::axes(&[count]),
            along: [with(from, &[from.outer[0]], 0), with(at, &[at.inner], 0)],
            step: out.outer[0],
            fault: address(3, 0),
            bound: n as u32,
            ..ScatterAddArgs::default()
        };
        let columns_at = offset_of!(ScatterAddArgs, columns);
        let others = [offset_of!(ScatterAddArgs, fault)];
        let mut places = places(columns_at, 2, &others);
        let along_at = offset_of!(ScatterAddArgs, along);
        places.extend([along_at, along_at + size_of::<View>()]);
        let mut buffers = [&x, &held, &index].map(|t| t.bytes.clone()).to_vec();
        buffers.push(vec![0; 12]);
        let whole = one_by_one(range);
        let args_of_one = ScatterAddArgs { range: whole, entry_count: count as u64, ..args };
        let row = StreamingReference::ScatterAdd;
        let by_one = simple(model, row, whole.count, (&args_of_one, &places), &buffers);
        let cut = count as u64 / 2;
        for (first_entry, entry_count) in [(0, cut), (cut, count as u64 - cut)] {
            let args = ScatterAddArgs { first_entry, entry_count, ..args };
            let row = Streaming::ScatterAdd;
            let blocks = Streaming::add_blocks(&range);
            buffers = launch(model, row, blocks, (&args, &places), &buffers);
        }
        let (values, mut want) = (x.values(), held.values());
        for (j, &word) in words.iter().enumerate().filter(|(_, word)| **word < n as u32) {
            for c in 0..columns {
                let sum = &mut want[word as usize * columns + c];
                // The same additions in the same order: the same bits.
                *sum = f64::from(*sum as f32 + values[j * columns + c] as f32);
            }
        }
        assert_eq!(held.read(&buffers[1]), want, "{n} {columns} {count}");
        assert_fault(&buffers[3], &words, n as u32);
        assert!(by_one[1] == buffers[1], "{n} {columns} {count}: the simple kernel differs");
        assert_fault(&by_one[3], &words, n as u32);
    }
}

pub(crate) fn pairs_turn_by_their_position(model: &mut Model) {
    let mut random = Random(41);
    let base: f64 = 10_000.0;
    for (i, (d, dims)) in [(64, 64), (20, 12), (16, 6), (7, 0), (50, 34)].into_iter().enumerate() {
        for interleaved in [false, true] {
            let shape = [2, 3, 2, d];
            let types = [[F32, F32], [BF16, BF16], [F16, F32]][i % 3];
            let x = Tensor::new(types[0], &shape, LAYS[i], |_| random.draw());
            let out = Tensor::out(types[1], &shape, LAYS[(i + 1) % 5]);
            let words = [0, 70_000, 1, u32::MAX];
            let kind = [I32, U32][i % 2];
            let position = index_tensor(kind, &[2, 2], Lay::Dense, &words);
            let frequency = |k: usize| base.powf(-2.0 * k as f64 / dims as f64);
            let turn = |k| (frequency(k) / std::f64::consts::TAU * 2f64.powi(64)) as u64;
            let turns: Vec<u8> =
                (0..dims / 2).flat_map(|k| turn(k).to_le_bytes()).chain([0; 8]).collect();
            let row = Streaming::Rope;
            let at = position.view(1);
            let inner = RopeArgs::columns(d as u64, dims as u32);
            let mut range = Range { inner, ..out.range(&row) };
            range.count = range.vectors(row.vector());
            let args = RopeArgs {
                range,
                views: [x.view(0), with(at, &[at.outer[0], 0, at.inner], 0), out.view(2)],
                turns: address(3, 0),
                dims: dims as u32,
                interleaved: interleaved.into(),
            };
            let others = [offset_of!(RopeArgs, turns)];
            let places = places(offset_of!(RopeArgs, views), 3, &others);
            let mut buffers = [&x, &position, &out].map(|t| t.bytes.clone()).to_vec();
            buffers.push(turns);
            let after = launch(model, row, range.blocks(), (&args, &places), &buffers);
            let mut want = x.values();
            for (r, head) in want.chunks_mut(d).enumerate() {
                let word = words[r / 6 * 2 + r % 2];
                let at = if kind == I32 { f64::from(word as i32) } else { f64::from(word) };
                for k in 0..dims / 2 {
                    let (sin, cos) = (at * frequency(k)).sin_cos();
                    let [p, q] = if interleaved { [2 * k, 2 * k + 1] } else { [k, k + dims / 2] };
                    let (a, b) = (head[p], head[q]);
                    (head[p], head[q]) = (a * cos - b * sin, a * sin + b * cos);
                }
            }
            let what = format!("rope of {dims} of {d}, {interleaved}");
            assert_close(&out.read(&after[2]), &want, types[1], 2.0, &what);
            let args = RopeArgs { range: one_by_one(range), ..args };
            let (row, threads) = (StreamingReference::Rope, args.range.count);
            let by_one = simple(model, row, threads, (&args, &places), &buffers);
            assert!(by_one == after, "{what}: the simple kernel differs");
        }
    }
}
