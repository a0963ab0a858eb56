#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use super::tests::{contiguous, cuts};
use super::*;
use crate::DType;
use crate::backend::common::case::Random;
use crate::backend::cuda::encode::{Addresses, Args, Launch, launches, made};
use crate::op::{Attention, AttentionBackward, KeyValue, Lens, OrderClass, Scores, check};
use crate::order::spans;
use leasehold_kernels::{AttentionArgs, AttentionBackwardArgs, AttentionEntriesArgs, Entry};

/// Attention of f16: rows and keys of entries that lie in every way.
struct Sizes {
    heads: [u64; 2],
    d: u64,
    rows: Vec<u32>,
    keys: Vec<u32>,
    packed: bool,
    page: Option<u32>,
    /// Whether counts of rows, and of keys, lie in device memory.
    device: [bool; 2],
    dtype: DType,
    order: OrderClass,
}

impl Sizes {
    fn drawn(random: &mut Random) -> Self {
        let batch = random.below(4);
        let most_keys = [1, 300, 4000, 70_000, 2_000_000][random.below(5) as usize];
        let most_rows = [1, 4, 300][random.below(3) as usize];
        let kv_heads = 1 + random.below(3);
        Self {
            heads: [kv_heads * (1 + random.below(3)), kv_heads],
            d: [64, 40, 111, 256][random.below(4) as usize],
            rows: (0..batch).map(|_| random.below(most_rows + 1) as u32).collect(),
            keys: (0..batch).map(|_| random.below(most_keys + 1) as u32).collect(),
            packed: random.below(2) == 0,
            page: (random.below(3) == 0).then_some(16),
            device: [random.below(2) == 0, random.below(2) == 0],
            dtype: [DType::F16, DType::BF16, DType::F32][random.below(3) as usize],
            order: [OrderClass::Fixed, OrderClass::BatchInvariant][random.below(4) as usize / 3],
        }
    }

    fn op(&self) -> CheckedOp {
        let Self { heads: [heads, kv_heads], d, rows, keys, packed, page, device, .. } = self;
        let batch = rows.len() as u64;
        let most = |list: &[u32]| u64::from(list.iter().max().copied().unwrap_or(0));
        let sum = |list: &[u32]| list.iter().map(|&n| u64::from(n)).sum::<u64>();
        let (q_batch, q_rows) = match packed {
            true => (1, sum(rows) + 3),
            false => (batch, most(rows)),
        };
        let room = page.map_or(0, |page| most(keys).div_ceil(page.into()));
        let [k_batch, k_rows] = match page {
            Some(page) => [batch * room + 1, (*page).into()],
            None if *packed => [1, sum(keys)],
            None => [batch, most(keys)],
        };
        let make = |shape: &[u64]| contiguous(self.dtype, shape);
        let mut specs = vec![
            make(&[q_batch, *heads, q_rows, *d]),
            make(&[k_batch, *kv_heads, k_rows, *d]),
            make(&[k_batch, *kv_heads, k_rows, 24]),
        ];
        let lens = |is_device, list: &[u32]| match is_device {
            true => Lens::Device { max: most(list) as u32 },
            false => Lens::Host(list.to_vec()),
        };
        let counts = contiguous(DType::I32, &[batch]);
        specs.extend((*packed && device[0]).then_some(counts));
        specs.extend(device[1].then_some(counts));
        specs.extend(page.map(|_| contiguous(DType::U32, &[batch, room])));
        specs.push(make(&[q_batch, *heads, q_rows, 24]));
        let op = Attention {
            scores: Scores {
                rows: if *packed { lens(device[0], rows) } else { Lens::Full },
                lens: lens(device[1], keys),
                ..Scores::default()
            },
            key_value: page.map_or(KeyValue::Dense, |page| KeyValue::Paged { page }),
            order: self.order,
            ..Attention::default()
        };
        check(op.into(), &specs).unwrap()
    }
}

/// The list that launches of `attention_entries` make of these counts.
fn listed(sizes: &Sizes, args: &AttentionEntriesArgs) -> Vec<Entry> {
    let (mut next, mut list) = (Entry::default(), Vec::new());
    for (i, keys) in sizes.keys.iter().enumerate() {
        let rows = if args.packed_rows == 1 { sizes.rows[i] } else { args.row_room };
        list.push(Entry { rows, keys: *keys, ..next });
        if args.packed_rows == 1 {
            next.first_row += rows;
            next.first_tile += (rows * args.group).div_ceil(args.tile_rows);
        }
        next.first_key += if args.packed_keys == 1 { *keys } else { 0 };
    }
    if args.packed_rows == 1 {
        list.push(Entry { rows: args.row_room - next.first_row, first_key: 0, keys: 0, ..next });
    }
    list
}

/// Runs the launches of a plan as kernels count, and holds each row of each head to being finished once.
struct Run<'a> {
    sizes: &'a Sizes,
    entries: Vec<Entry>,
    /// Ends of the entries that are listed so far.
    listed: u32,
    /// Keys, how many of them each tile has walked, and whether it is finished.
    keys: u32,
    reached: Vec<(u32, bool)>,
    state: u64,
    state_bytes: u64,
}

impl Run<'_> {
    fn launch(&mut self, Launch { row, args, blocks }: Launch) {
        let args: AttentionArgs = match (row, args) {
            (Row::AttentionEntries(_), Args::Plain(args)) => {
                let args: AttentionEntriesArgs = bytemuck::pod_read_unaligned(&args);
                assert_eq!((blocks, args.from), (1, self.listed), "entries in sequence");
                assert!(self.reached.iter().all(|(key, _)| *key == 0), "after the list");
                self.entries = listed(self.sizes, &args);
                let bytes = self.entries.len() * size_of::<Entry>();
                assert!(args.entries == self.state && bytes as u64 <= self.state_bytes);
                self.listed = args.to;
                return;
            }
            (Row::AttentionCombine(_), _) => return,
            (_, Args::Plain(args)) => bytemuck::pod_read_unaligned(&args),
            (_, Args::AttentionSm90(args)) => args.attention,
            _ => panic!("no attention"),
        };
        let splits = match row {
            Row::AttentionPaged(_) => {
                assert!(args.key_from.is_multiple_of(args.split));
                u64::from(args.key_to.div_ceil(args.split) - args.key_from / args.split)
            }
            _ => 1,
        };
        let is_grid = !matches!(row, Row::AttentionSm90(_));
        assert!(blocks > 0 && (!is_grid || u64::from(blocks) == args.tiles * splits));
        let part = leasehold_kernels::AttentionCombine::part_bytes(args.dv);
        let carried = match row {
            Row::AttentionSm80(row) => row.state_bytes(),
            Row::AttentionSm90(row) => row.state_bytes(),
            _ => part,
        };
        let end = self.state + self.state_bytes;
        let is_cut = args.key_from > 0 || args.last == 0;
        let carried = args.state + if is_cut { args.tiles * carried } else { 0 };
        assert!(args.state >= self.state + 20 * u64::from(self.listed) && carried <= end);
        if matches!(row, Row::AttentionPaged(_)) {
            assert!(args.partials >= carried && args.partials + args.tiles * splits * part <= end);
        }
        for tile in args.first_tile..args.first_tile + args.tiles {
            let (walked, last) = &mut self.reached[tile as usize];
            assert!((*walked == 0) == (args.first == 1) && !*last, "links in sequence");
            assert!(args.key_to > args.key_from);
            // From right to left the launch before began where this one ends.
            let (from, to) = match row {
                Row::AttentionSm90(_) => (self.keys - args.key_to, self.keys - args.key_from),
                _ => (args.key_from, args.key_to),
            };
            assert_eq!(from, *walked, "links in sequence");
            (*walked, *last) = (to, args.last == 1);
            assert!(!*last || to == self.keys, "every key");
        }
    }
}

#[test]
fn every_row_of_attention_is_finished_once_whatever_the_cut() {
    let mut random = Random(5);
    let mut seen = std::collections::HashMap::new();
    for round in 0..400 {
        let class = &CLASSES[if round % 2 == 0 { 3 } else { random.below(5) as usize }];
        let sizes = Sizes::drawn(&mut random);
        let op = sizes.op();
        let Op::Attention(attention) = op.op() else { panic!("no attention") };
        let plan = candidates(&op, class).unwrap()[0];
        assert!(plan.unit_ns <= UNIT_CAP_GPU_NS);
        let row = row(plan.kernel).unwrap();
        let heads = Heads::of(&op, &attention.scores, attention.key_value).unwrap();
        let cut = Cut::of(&heads, attention, row, class).unwrap();
        *seen.entry((plan.order.entry, cut.waves.links > 1)).or_insert(0) += 1;
        let operands = vec![256; op.specs().len()];
        let at = Addresses { operands: &operands, state: 1 << 40, made: 256, fault: 256 };
        for cuts in cuts(plan.units() as u64, &mut random) {
            let mut run = Run {
                sizes: &sizes,
                entries: bytemuck::pod_collect_to_vec(&made(&op, row, class)),
                listed: 0,
                keys: heads.keys.max(1) as u32,
                reached: vec![(0, false); cut.waves.tiles as usize],
                state: at.state,
                state_bytes: plan.state_bytes,
            };
            let mut from = 0;
            for &to in &cuts {
                for span in spans(from..to, plan.links) {
                    launches(&op, row, class, span, &at, 4).into_iter().for_each(|l| run.launch(l));
                }
                from = to;
            }
            assert!(run.reached.iter().all(|(_, last)| *last), "{plan} cut at {cuts:?}");
            rows_are_in_one_tile_each(&op, &cut, &run.entries);
        }
    }
    for family in
        ["attention_sm90_from_right", "attention_sm80", "attention_paged", "attention_reference"]
    {
        let count = |is_cut| seen.get(&(family, is_cut)).copied().unwrap_or(0);
        assert!(count(false) > 5 && count(true) > 0, "{seen:?}");
    }
}

/// The tiles of a head, as `cuda/tile/queries.h` counts them, have every packed row of every entry once.
fn rows_are_in_one_tile_each(op: &CheckedOp, cut: &Cut, entries: &[Entry]) {
    let Op::Attention(attention) = op.op() else { panic!("no attention") };
    let heads = Heads::of(op, &attention.scores, attention.key_value).unwrap();
    let tiles = cut.tiles_per_head;
    if !heads.is_packed {
        assert_eq!(tiles, (heads.rows * heads.group).div_ceil(cut.tile_rows));
        return;
    }
    let mut found = vec![0; (heads.rows * heads.group) as usize];
    let tiles = if cut.waves.tiles > 0 { tiles } else { 0 };
    for tile in 0..tiles {
        let entry = entries.iter().rev().find(|e| u64::from(e.first_tile) <= tile).unwrap();
        let first = (tile - u64::from(entry.first_tile)) * cut.tile_rows;
        let rows = u64::from(entry.rows) * heads.group;
        for row in (first..rows).take(cut.tile_rows as usize) {
            found[(u64::from(entry.first_row) * heads.group + row) as usize] += 1;
        }
    }
    assert!(found.iter().all(|n| *n == 1));
}

/// A link's tiles fill the device: a cut chain is no chain of one multiprocessor.
#[test]
fn links_of_long_keys_fill_the_device() {
    let class = class("sm_90a").unwrap();
    let specs = [[16, 4, 128, 128], [16, 4, 1 << 17, 128], [16, 4, 1 << 17, 128]];
    let [q, k, v] = specs.map(|shape| contiguous(DType::BF16, &shape));
    let op = check(Attention::default().into(), &[q, k, v, q]).unwrap();
    let Op::Attention(attention) = op.op() else { panic!("no attention") };
    let plan = candidates(&op, class).unwrap()[0];
    let heads = Heads::of(&op, &attention.scores, attention.key_value).unwrap();
    let cut = Cut::of(&heads, attention, row(plan.kernel).unwrap(), class).unwrap();
    assert!(cut.waves.links > 1 && cut.waves.wave >= cut.waves.tiles, "{cut:?}");
    assert!(plan.links == cut.waves.links && plan.state_bytes > 0, "{plan}");
}

/// The longest tiles of all heads come first, of as many heads as the L2 cache keeps the keys and values of.
#[test]
fn causal_heads_walk_together_as_far_as_the_cache_keeps_their_keys() {
    let class = class("sm_90a").unwrap();
    let heads_of = |keys: u64, causal: bool| {
        let q = contiguous(DType::BF16, &[2, 8, keys, 128]);
        let op = check(
            Attention { scores: Scores { causal, ..Scores::default() }, ..Attention::default() }
                .into(),
            &[q; 4],
        )
        .unwrap();
        let Op::Attention(attention) = op.op() else { panic!("no attention") };
        let row = row(candidates(&op, class).unwrap()[0].kernel).unwrap();
        Cut::of(
            &Heads::of(&op, &attention.scores, attention.key_value).unwrap(),
            attention,
            row,
            class,
        )
        .unwrap()
        .heads_at_once
    };
    let cases = [(512, true), (16_384, true), (131_072, true), (512, false)];
    assert_eq!(cases.map(|(keys, causal)| heads_of(keys, causal)), [16, 4, 1, 1]);
}

/// The order: rows and batch are not in it where it must ignore them, lengths never are.
#[test]
fn orders_of_attention_follow_shapes_types_and_layouts_only() {
    let class = class("sm_90a").unwrap();
    let order_of = |sizes: &Sizes| candidates(&sizes.op(), class).unwrap()[0].order;
    let plain = || Sizes {
        heads: [4, 1],
        d: 64,
        rows: vec![1],
        keys: vec![8192],
        packed: false,
        page: None,
        device: [false; 2],
        dtype: DType::BF16,
        order: OrderClass::Fixed,
    };
    assert_eq!(order_of(&plain()).entry, "attention_paged");
    assert_eq!(order_of(&Sizes { page: Some(16), ..plain() }).entry, "attention_paged");
    assert_eq!(order_of(&Sizes { rows: vec![100], ..plain() }).entry, "attention_sm90_from_right");
    let wide = order_of(&Sizes { rows: vec![100], d: 256, ..plain() });
    assert_eq!((wide.entry, wide.chunk), ("attention_sm90_from_right", 80));
    assert_eq!(order_of(&Sizes { rows: vec![100], d: 63, ..plain() }).entry, "attention_sm80");
    assert_eq!(
        order_of(&Sizes { rows: vec![100], page: Some(1), ..plain() }).entry,
        "attention_sm80"
    );
    assert_eq!(order_of(&Sizes { dtype: DType::F32, ..plain() }).entry, "attention_reference");
    let free = |rows: u32, batch: usize, keys: u32| {
        let order = OrderClass::BatchInvariant;
        order_of(&Sizes { rows: vec![rows; batch], keys: vec![keys; batch], order, ..plain() })
    };
    let order_of_one = free(1, 1, 8192);
    for (rows, batch, keys) in [(1, 300, 8192), (3000, 2, 40_000), (40, 1, 100)] {
        assert_eq!(free(rows, batch, keys), order_of_one);
    }
    // A decode whose host counts its keys.
    let cache = |keys: u32| {
        let mut sizes = plain();
        sizes.keys = vec![8192, keys];
        sizes.rows = vec![1, 1];
        order_of(&sizes)
    };
    assert!([0, 1, 700, 8192].into_iter().all(|keys| cache(keys) == cache(1)));
}

#[test]
fn every_gradient_of_attention_is_finished_once_whatever_the_cut() {
    let mut random = Random(9);
    let (mut cut, mut dealt) = (0, 0);
    for round in 0..60 {
        // Every tenth has the wgmma that deals tiles out.
        let drawn = random.below(5) as usize;
        let class = &CLASSES[if round % 10 == 1 { 3 } else { drawn }];
        let [batch, kv_heads, group] = [0; 3].map(|_| 1 + random.below(3));
        let [rows, keys] = [0; 2].map(|_| [0, 1, 300, 30_000][random.below(4) as usize]);
        let dtype = [DType::F32, DType::BF16][round % 2];
        let make = |heads, rows, d| contiguous(dtype, &[batch, heads, rows, d]);
        let heads = kv_heads * group;
        let (q, out) = (make(heads, rows, 64), make(heads, rows, 40));
        let (k, v) = (make(kv_heads, keys, 64), make(kv_heads, keys, 40));
        let lse = contiguous(DType::F32, &[batch, heads, rows]);
        let backward = AttentionBackward { scores: Scores { causal: true, ..Scores::default() } };
        let op = check(backward.clone().into(), &[q, k, v, out, lse, out, q, k, v]).unwrap();
        let plan = candidates(&op, class).unwrap()[0];
        assert!(plan.unit_ns <= UNIT_CAP_GPU_NS, "{plan}");
        let waves = Gradients::of(&op, &backward, class).unwrap().waves;
        cut += waves.iter().filter(|waves| waves.links > 1).count();
        let at = Addresses { operands: &[256; 9], state: 1 << 40, made: 256, fault: 256 };
        for cuts in cuts(plan.units() as u64, &mut random) {
            let mut reached = waves.map(|waves| vec![(0, false); waves.tiles as usize]);
            let mut from = 0;
            for &to in &cuts {
                for span in spans(from..to, plan.links) {
                    let row = row(plan.kernel).unwrap();
                    for Launch { row, args, blocks } in launches(&op, row, class, span, &at, 4) {
                        let pass = gradient_pass(&op, &backward, class, &row);
                        let (before, rest) = reached.split_at_mut(pass);
                        assert!(
                            before.iter().flatten().all(|(_, last)| *last),
                            "one after another"
                        );
                        let args: AttentionBackwardArgs = match args {
                            Args::Plain(args) => bytemuck::pod_read_unaligned(&args),
                            Args::AttentionBackwardSm90(all) => {
                                dealt += 1;
                                all.backward
                            }
                            _ => panic!("no gradients"),
                        };
                        let is_dealt = matches!(row, Row::AttentionBackwardSm90(_));
                        let wanted = if is_dealt { args.tiles.min(4) } else { args.tiles };
                        assert_eq!(u64::from(blocks), wanted);
                        for tile in args.first_tile..args.first_tile + args.tiles {
                            let (chunk, last) = &mut rest[0][tile as usize];
                            assert!(args.from == *chunk && !*last, "links in sequence");
                            (*chunk, *last) = (args.to, args.last == 1);
                        }
                    }
                }
                from = to;
            }
            for (reached, waves) in reached.iter().zip(&waves) {
                let end = (waves.chunks, true);
                assert!(reached.iter().all(|tile| *tile == end), "{plan} cut at {cuts:?}");
            }
        }
    }
    assert!(cut > 5 && dealt > 5, "{cut} passes had links, {dealt} launches were dealt out");
}

/// Which pass a row runs.
fn gradient_pass(op: &CheckedOp, backward: &AttentionBackward, class: &Class, row: &Row) -> usize {
    let sides = gradient_rows(op, backward, class).unwrap();
    sides.iter().position(|side| side == row).map_or(0, |side| side + 1)
}
