#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use super::*;
use crate::DType;
use crate::backend::common::case::{Case, Random};
use crate::backend::common::tables;
use crate::backend::cuda::encode::{Addresses, Args, Launch, launches};
use crate::layout::{Dims, Layout};
use crate::op::{Gate, Group, Lens, Matmul, OrderClass, Precision, Scale, check};
use crate::order::{Span, spans};
use leasehold_kernels::{
    BoxMap, Form, GroupEntry, MatmulArgs, MatmulGroupsArgs, MatmulIndicesArgs, MatmulMergeArgs,
    MatrixPair, Side, rows,
};
use std::collections::HashMap;

pub(super) fn contiguous(dtype: DType, shape: &[u64]) -> Spec {
    Spec::new(dtype, Layout::contiguous(Dims::new(shape).unwrap()), 0)
}

fn product(matmul: Matmul, batch: &[u64], [m, n, k]: [u64; 3]) -> CheckedOp {
    let with = |tail: [u64; 2]| contiguous(DType::BF16, &[batch, &tail].concat());
    let specs = vec![with([m, k]), with([k, n]), with([m, n])];
    check(matmul.into(), &specs).unwrap()
}

fn tables() -> Vec<Case> {
    let attention = [tables::attention(), tables::attention_backward()].concat();
    [tables::matmul(), attention, tables::copy(), tables::softmax()].concat()
}

#[test]
fn candidates_share_an_order_and_keep_the_cap() {
    let mut planned = HashMap::new();
    for class in &CLASSES {
        for case in tables() {
            let op = case.checked();
            let name = op.op().name();
            match candidates(&op, class) {
                Ok(plans) => {
                    *planned.entry((class.arch, name)).or_insert(0) += 1;
                    assert!(!plans.is_empty(), "{}", case.name);
                    for plan in &plans {
                        assert_eq!(plan.order, plans[0].order, "{}: {plan}", case.name);
                        assert!(plan.unit_ns <= UNIT_CAP_GPU_NS, "{}: {plan}", case.name);
                        assert!(plan.total_ns() >= plans[0].total_ns(), "{}", case.name);
                        let row = row(plan.kernel).unwrap();
                        assert!(row.archs().contains(&class.arch), "{plan} on {}", class.arch);
                    }
                }
                Err(error) => {
                    assert_ne!(name, "matmul", "{}: {error}", case.name);
                    assert!(matches!(error.kind(), Kind::Unsupported { .. }), "{error}");
                    assert_eq!(error.op(), Some(name), "{error}");
                }
            }
        }
    }
    for class in &CLASSES {
        assert!(planned[&(class.arch, "matmul")] > 200, "{planned:?}");
        let all = [tables::attention().len(), tables::attention_backward().len()];
        let ours = ["attention", "attention_backward"].map(|name| planned[&(class.arch, name)]);
        assert_eq!(ours, all, "{planned:?}");
    }
}

/// The same with some axes repeated, most often the outer ones.
fn repeated(spec: Spec, random: &mut Random) -> Spec {
    let (shape, strides) = (*spec.layout.shape(), *spec.layout.strides());
    let steps = Dims::from_fn(shape.len(), |axis| {
        let is_outer = axis + 2 < shape.len();
        if random.below(if is_outer { 2 } else { 12 }) == 0 { 0 } else { strides[axis] }
    });
    Spec { layout: Layout::new(shape, steps).unwrap(), ..spec }
}

/// Types of operands and of an output.
const TYPES: [[DType; 2]; 5] = [
    [DType::BF16, DType::BF16],
    [DType::F16, DType::F32],
    [DType::F32, DType::F32],
    [DType::I8, DType::F32],
    [DType::F8E4M3, DType::BF16],
];

/// What the copy engine is told is what it takes: an axis that is repeated has one element and no stride of 0.
fn assert_maps(args: &Args) {
    let of = |maps: &[BoxMap]| {
        let used = maps.iter().filter(|map| map.sizes[0] > 0);
        used.for_each(|map| assert!(map.is_valid(), "{map:?}"));
    };
    match args {
        Args::MatmulSm90(args) => of(&[args.a, args.b, args.out]),
        Args::MatmulSm90Fp8(args) => of(&[args.a, args.b, args.out]),
        Args::AttentionSm90(args) => of(&[args.k, args.v]),
        Args::AttentionBackwardSm90(args) => {
            of(&[args.q, args.k, args.v, args.d_out, args.statistics]);
        }
        Args::Plain(_) => {}
    }
}

/// The rows and the column of the output where a tile begins, and the end of its rows, as `cuda/tile/place.h` counts.
fn part(args: &MatmulArgs, list: &[GroupEntry], tile: u64, rows: u64) -> [u64; 4] {
    let (down, across) = (u64::from(args.tiles_m), u64::from(args.tiles_n));
    let inside = tile % (down * across);
    let first = inside / (8 * across) * 8;
    let walked = (down - first).min(8);
    let within = inside % (8 * across);
    let (place, column) = (first + within % walked, within / walked);
    if args.group != Group::Contiguous as u32 {
        return [tile / (down * across), place * rows, args.m.into(), column];
    }
    let found = list.partition_point(|group| u64::from(group.tile) <= place) - 1;
    let GroupEntry { first, size, tile } = list[found];
    let row = u64::from(first) + (place - u64::from(tile)) * rows;
    [0, row, u64::from(first) + u64::from(size), column]
}

/// The list of groups, as `cuda/matmul_groups.cu` makes it of sizes in device memory.
fn counted(args: &MatmulGroupsArgs, sizes: &[u32]) -> Vec<GroupEntry> {
    let (mut list, mut next) = (Vec::new(), GroupEntry::default());
    for &size in sizes {
        let size = size.min(args.most).min(args.room - next.first);
        list.push(GroupEntry { size, ..next });
        next.first += if args.follow == 1 { size } else { 0 };
        next.tile += size.div_ceil(args.tile_rows);
    }
    list.push(GroupEntry { size: args.room - next.first, ..next });
    list
}

/// Counts how often every output of a product is finished, and holds links to their sequence. Sizes of groups in device
/// memory are these.
fn cover(op: &CheckedOp, class: &Class, plan: &Plan, cuts: &[u64], sizes: &[u32]) -> Vec<u32> {
    let Op::Matmul(matmul) = op.op() else { panic!("no product") };
    let p = Product::of(op, matmul).unwrap();
    let row = row(plan.kernel).unwrap();
    let ([rows, columns], chunk, _) = form(row).unwrap();
    let (rows, mut columns) = (u64::from(rows), u64::from(columns));
    let out = op.spec("out").unwrap().layout;
    let n = axis(op.spec("out").unwrap(), 0)[0];
    // The simple product counts outputs, the others columns of B.
    if !matches!(row, Row::MatmulReference(_)) && matmul.gate == Gate::Interleaved {
        columns /= 2;
    }
    let mut finished = vec![0; out.numel() as usize];
    let mut reached: HashMap<u64, u32> = HashMap::new();
    // Tiles whose splits lie in the state, and where.
    let mut left: HashMap<u64, u64> = HashMap::new();
    let operands = vec![256; op.specs().len()];
    let at = Addresses { operands: &operands, state: 256, made: 256, fault: 256 };
    let mut list = p.list(matmul, row);
    // Entries whose matrices the last list names.
    let mut named = 0..0;
    let room = crate::backend::cuda::encode::made(op, row, class).len() / size_of::<MatrixPair>();
    let mut from = 0;
    for &to in cuts {
        for span in spans(from..to, plan.links) {
            for Launch { row: of, args, blocks } in launches(op, row, class, span, &at, 4) {
                assert_maps(&args);
                let args: MatmulArgs = match (of, args) {
                    (Row::MatmulGroups(_), Args::Plain(args)) => {
                        list = counted(&bytemuck::pod_read_unaligned(&args), sizes);
                        assert!(list.len() <= p.list(matmul, row).len() + 1, "room for the list");
                        continue;
                    }
                    (Row::MatmulIndices(_), Args::Plain(args)) => {
                        let args: MatmulIndicesArgs = bytemuck::pod_read_unaligned(&args);
                        assert!(args.count as usize <= room && blocks == args.count.div_ceil(256));
                        named = args.first..args.first + args.count;
                        continue;
                    }
                    (Row::MatmulMerge(_), Args::Plain(args)) => {
                        let args: MatmulMergeArgs = bytemuck::pod_read_unaligned(&args);
                        for i in 0..args.matmul.tiles {
                            let bytes = i * u64::from(4 * args.splits * args.rows * args.columns);
                            let at = left.remove(&(args.matmul.first_tile + i));
                            assert_eq!(
                                at,
                                Some(args.matmul.state + bytes),
                                "splits before a merge"
                            );
                        }
                        args.matmul
                    }
                    (_, Args::MatmulSm90(args)) if args.splits > 0 => {
                        assert_eq!(args.matmul.k.div_ceil(args.split_k), args.splits);
                        let bytes = plan.state_bytes
                            / u64::from(args.matmul.tiles_m * args.matmul.tiles_n)
                            / p.batch.iter().product::<u64>();
                        for i in 0..args.matmul.tiles {
                            let at = args.matmul.state + i * bytes;
                            assert!(at + bytes <= 256 + plan.state_bytes);
                            assert_eq!(left.insert(args.matmul.first_tile + i, at), None);
                        }
                        continue;
                    }
                    (_, Args::Plain(args)) => {
                        bytemuck::pod_read_unaligned(&args[..size_of::<MatmulArgs>()])
                    }
                    (_, Args::MatmulSm90(args)) => args.matmul,
                    (_, Args::MatmulSm90Fp8(args)) => args.scaled.matmul,
                    _ => panic!("no product"),
                };
                let cluster = row.cluster();
                let merges = matches!(of, Row::MatmulMerge(_));
                assert!(blocks > 0 && (merges || blocks % cluster == 0));
                assert!(merges || u64::from(blocks / cluster) <= args.tiles);
                if matmul.is_indexed() {
                    let of_entry = u64::from(args.tiles_m) * u64::from(args.tiles_n);
                    let last = args.first_tile + args.tiles - 1;
                    let read = [args.first_tile, last].map(|tile| (tile / of_entry) as u32);
                    assert!(
                        read.iter().all(|entry| named.contains(entry)),
                        "{read:?} of {named:?}"
                    );
                    let before = u64::from(named.start) * size_of::<MatrixPair>() as u64;
                    assert_eq!(args.groups.wrapping_add(before), at.made);
                }
                let is_cut = args.k_from > 0 || args.k_to < args.k;
                assert!(!is_cut || args.tiles == 1, "the state is one tile's");
                for tile in args.first_tile..args.first_tile + args.tiles {
                    let reached = reached.entry(tile).or_insert(0);
                    assert_eq!(args.k_from, *reached, "links in sequence");
                    assert!(args.k_to == args.k || args.k_to.is_multiple_of(chunk));
                    *reached = args.k_to;
                    if args.k_to < args.k {
                        continue;
                    }
                    let [entry, first, end, across] = part(&args, &list, tile, rows);
                    for i in (first..end).take(rows as usize) {
                        for j in (across * columns..n).take(columns as usize) {
                            finished[((entry * p.m + i) * n + j) as usize] += 1;
                        }
                    }
                }
            }
        }
        from = to;
    }
    finished
}

/// Ends of ranges: all at once, and some at random.
pub(super) fn cuts(units: u64, random: &mut Random) -> [Vec<u64>; 2] {
    let mut ends: Vec<u64> = (0..5).map(|_| random.below(units + 1)).collect();
    ends.push(units);
    ends.sort();
    [vec![units], ends]
}

/// Operands of every type, some of them repeated along axes of the batch, or along any.
#[test]
fn every_output_of_a_product_is_finished_once_whatever_the_cut() {
    let mut random = Random(3);
    let (mut cut, mut split) = (0, 0);
    let mut orders = HashMap::new();
    for round in 0..240 {
        let batch: Vec<u64> = (0..round % 5).map(|_| 1 + random.below(3)).collect();
        let k = [1, 8, 144, 40_000, 100_000][random.below(5) as usize];
        let [m, n, k] =
            [random.below(300), 8 * random.below(60) + round % 2, k + random.below(4) / 3];
        let matmul = match random.below(4) {
            0 => Matmul { order: OrderClass::BatchInvariant, ..Matmul::default() },
            _ => Matmul::default(),
        };
        let [dtype, out] = TYPES[if round < 60 { 0 } else { round as usize % TYPES.len() }];
        let with = |dtype, tail: [u64; 2]| contiguous(dtype, &[&batch[..], &tail].concat());
        // Of 8 bits the copy engine brings what lies along K.
        let b = match dtype.size() {
            1 => {
                let turned = with(dtype, [n, k]);
                Spec { layout: turned.layout.transpose().unwrap(), ..turned }
            }
            _ => with(dtype, [k, n]),
        };
        let sides = [with(dtype, [m, k]), b];
        let [a, b] = if round < 60 { sides } else { sides.map(|spec| repeated(spec, &mut random)) };
        let is_repeated = [&a, &b].iter().any(|spec| spec.layout.strides().contains(&0));
        let op = check(matmul.into(), &[a, b, with(out, [m, n])]).unwrap();
        let class = &CLASSES[if round % 3 == 0 { 3 } else { random.below(5) as usize }];
        for plan in candidates(&op, class).unwrap() {
            cut += u64::from(plan.links > 1);
            split += u64::from(plan.order == splits::ORDER);
            *orders.entry((plan.order.entry, is_repeated)).or_insert(0) += 1;
            assert!(plan.order != splits::ORDER || plan.state_bytes <= 64 << 20, "{plan}");
            for cuts in cuts(plan.units() as u64, &mut random) {
                let finished = cover(&op, class, &plan, &cuts, &[]);
                assert!(finished.iter().all(|n| *n == 1), "{plan} cut at {cuts:?}");
            }
        }
    }
    println!("cases: {orders:?}");
    assert!(cut > 20 && split > 5, "{cut} plans had links, {split} split K");
    for order in
        [product::SM80, product::SM80_BYTES, product::F32, product::SM90, product::SM90_FP8]
    {
        assert!(orders.get(&(order.entry, true)).is_some_and(|n| *n > 2), "{order:?}: {orders:?}");
    }
}

/// Groups of all kinds, their sizes with the host or not, and outputs of every kind of row.
#[test]
fn every_output_of_groups_is_finished_once_whatever_the_cut() {
    let mut random = Random(7);
    let (mut cut, mut kernels) = (0, std::collections::HashSet::new());
    for round in 0..120 {
        let group = [Group::Contiguous, Group::Masked, Group::K][round % 3];
        let groups = 1 + random.below(5);
        let [m, n] = [1 + random.below(300), 8 * (1 + random.below(40))];
        let k = [24, 40_000][random.below(2) as usize];
        let room = if group == Group::K { k } else { m };
        let most = room / if group == Group::Masked { 1 } else { groups };
        let sizes: Vec<u32> = (0..groups).map(|_| random.below(most + 1) as u32).collect();
        let on_device = random.below(2) == 1;
        let (dtype, out) = [
            (DType::BF16, DType::BF16),
            (DType::F32, DType::F32),
            (DType::I8, DType::F32),
            (DType::F8E4M3, DType::I8),
        ][random.below(4) as usize];
        let matmul = Matmul {
            group,
            sizes: if on_device {
                Lens::Device { max: most as u32 }
            } else {
                Lens::Host(sizes.clone())
            },
            gate: [Gate::None, Gate::Interleaved][random.below(2) as usize],
            quantize: if out == DType::I8 { Scale::Block1x128 } else { Scale::None },
            ..Matmul::default()
        };
        let of = [groups];
        let [of_a, of_b, of_out]: [&[u64]; 3] = match group {
            Group::Contiguous => [&[], &of, &[]],
            Group::Masked => [&of; 3],
            _ => [&[], &[], &of],
        };
        let columns = if matmul.gate == Gate::Interleaved { n / 2 } else { n };
        let with =
            |dtype, batch: &[u64], tail: [u64; 2]| contiguous(dtype, &[batch, &tail].concat());
        let sides = [with(dtype, of_a, [m, k]), with(dtype, of_b, [k, n])];
        // Groups may have one matrix, and entries one row.
        let mut specs = match round % 2 {
            0 => sides.to_vec(),
            _ => sides.map(|spec| repeated(spec, &mut random)).to_vec(),
        };
        specs.extend(on_device.then(|| contiguous(DType::U32, &[groups])));
        specs.push(with(out, of_out, [m, columns]));
        if out == DType::I8 {
            specs.push(with(DType::F32, of_out, [m, columns.div_ceil(128)]));
        }
        let op = check(matmul.into(), &specs).unwrap();
        let class = &CLASSES[if round % 2 == 0 { 3 } else { 0 }];
        for plan in candidates(&op, class).unwrap() {
            cut += u64::from(plan.links > 1);
            kernels.insert(plan.kernel);
            for cuts in cuts(plan.units() as u64, &mut random) {
                let finished = cover(&op, class, &plan, &cuts, &sizes);
                assert!(finished.iter().all(|n| *n == 1), "{group:?} {plan} cut at {cuts:?}");
            }
        }
    }
    assert!(cut > 20 && kernels.len() > 8, "{cut} plans had links: {kernels:?}");
}

/// Indices name the matrices of either side, or of both, of more entries than a list holds too; no list is older than its
/// launch, and only rows run them that may have tiles without products.
#[test]
fn every_output_of_named_matrices_is_finished_once_whatever_the_cut() {
    let mut random = Random(5);
    let (mut cut, mut kernels) = (0, std::collections::HashSet::new());
    for round in 0..60 {
        let batch: Vec<u64> = match round % 4 {
            0 => vec![9000],
            1 => vec![3, 5000],
            _ => (0..random.below(5)).map(|_| 1 + random.below(3)).collect(),
        };
        let is_many = round % 4 < 2;
        let [m, n, k] = match is_many {
            true => [1, 8, 16],
            false => [
                1 + random.below(150),
                16 * (1 + random.below(20)),
                [48, 40_000][random.below(2) as usize],
            ],
        };
        let (dtype, out) = [
            (DType::BF16, DType::BF16),
            (DType::F32, DType::F32),
            (DType::I8, DType::F32),
            (DType::F8E4M3, DType::F32),
        ][random.below(4) as usize];
        let [index_a, index_b] = [[true, false], [false, true], [true, true]][round % 3];
        let matmul = Matmul { index_a, index_b, ..Matmul::default() };
        let matrices = [7];
        let side = |is_indexed, tail: [u64; 2], dtype| {
            let lead: &[u64] = if is_indexed { &matrices } else { &batch };
            contiguous(dtype, &[lead, &tail].concat())
        };
        let mut right = side(index_b, [n, k], dtype);
        right.layout = right.layout.transpose().unwrap();
        let mut specs = vec![side(index_a, [m, k], dtype), right];
        let mut index = contiguous(DType::I32, &batch);
        if round % 5 > 2 {
            specs = specs.into_iter().map(|spec| repeated(spec, &mut random)).collect();
            index = repeated(index, &mut random);
        }
        specs.extend([index_a, index_b].into_iter().filter_map(|is| is.then_some(index)));
        specs.push(side(false, [m, n], out));
        let op = check(matmul.into(), &specs).unwrap();
        let class = &CLASSES[if round % 2 == 0 { 3 } else { random.below(5) as usize }];
        for plan in candidates(&op, class).unwrap() {
            assert_ne!(plan.order, splits::ORDER);
            let row = row(plan.kernel).unwrap();
            assert!(!matches!(row, Row::MatmulSm90(row) if row.form == Form::PingPong), "{plan}");
            assert_eq!(row.cluster(), 1, "{plan}");
            cut += u64::from(plan.links > 1);
            kernels.insert(plan.kernel);
            for cuts in cuts(plan.units() as u64, &mut random) {
                let finished = cover(&op, class, &plan, &cuts, &[]);
                assert!(finished.iter().all(|n| *n == 1), "{plan} cut at {cuts:?}");
            }
        }
    }
    assert!(cut > 10 && kernels.len() > 8, "{cut} plans had links: {kernels:?}");
}

/// An operand of nothing may have any stride: one that is none of the copy engine's makes no map, and no launch of the plan's.
#[test]
fn strides_beyond_the_copy_engine_make_no_map_and_no_launch() {
    let row = rows().into_iter().find_map(|row| match row {
        Row::MatmulSm90(row) if !row.a_outer => Some(row),
        _ => None,
    });
    let row = row.unwrap();
    let map = |step| row.map(Side::A, 0, [2, 64], [step, 1], [[1, 64]; 3]);
    assert!(map(64).is_valid());
    for step in [(1 << 63) + 8, u64::MAX, 1 << 39] {
        assert!(!map(step).is_valid(), "{step}");
    }
    // Operands at an address that no map has.
    let op = product(Matmul::default(), &[], [128, 128, 128]);
    let hopper = class("sm_90a").unwrap();
    let row = super::row(candidates(&op, hopper).unwrap()[0].kernel).unwrap();
    assert!(matches!(row, Row::MatmulSm90(_)));
    let launched = |at: u64| {
        let at = Addresses { operands: &[at; 3], state: 0, made: 0, fault: 0 };
        let span = Span { first: 0, tiles: 1, from: 0, to: 1 };
        launches(&op, row, hopper, span, &at, 4).len()
    };
    assert_eq!([launched(256), launched(264)], [1, 0]);
}

/// A few matrices of a table that takes longer to read than a unit may.
#[test]
fn a_large_table_costs_what_is_named_of_it() {
    for class in &CLASSES {
        for dtype in [DType::BF16, DType::F32] {
            let named = |matrices| {
                let index = contiguous(DType::I32, &[2]);
                let [a, out] = [[8, 64], [8, 128]].map(|[m, n]| contiguous(dtype, &[2, m, n]));
                let specs = [a, contiguous(dtype, &[matrices, 64, 128]), index, out];
                let op = Matmul { index_b: true, ..Matmul::default() };
                candidates(&check(op.into(), &specs).unwrap(), class).unwrap()
            };
            assert_eq!(named(1 << 24), named(2), "{}", class.arch);
        }
    }
}

/// An order that ignores rows and batch, and one that knows only layouts.
#[test]
fn orders_follow_layouts_and_classes_only() {
    let hopper = class("sm_90a").unwrap();
    let order = |op: &CheckedOp| candidates(op, hopper).unwrap()[0].order;
    let free = || Matmul { order: OrderClass::BatchInvariant, ..Matmul::default() };
    for (m, batch) in [(1, vec![]), (129, vec![3]), (4096, vec![2, 3]), (8, vec![2, 2, 2, 2])] {
        assert_eq!(order(&product(free(), &batch, [m, 64, 64])), product::SM80);
    }
    for size in [[1, 8, 8], [4096, 4096, 4096], [8, 129 * 8, 72]] {
        assert_eq!(order(&product(Matmul::default(), &[], size)), product::SM90);
    }
    // Few tiles of many terms; more tiles, fewer terms and too many splits are not.
    for size in [[8, 4096, 4096], [1024, 1024, 16384]] {
        assert_eq!(order(&product(Matmul::default(), &[], size)), splits::ORDER);
        assert_eq!(order(&product(free(), &[], size)), product::SM80);
    }
    for size in [[2048, 2048, 4096], [8, 4096, 4088], [8, 4096, 65544], [1024, 1024, 16392]] {
        assert_eq!(order(&product(Matmul::default(), &[], size)), product::SM90);
    }
    // Rows of 9 elements lie at no multiple of 16 bytes.
    for size in [[2, 9, 8], [2, 8, 9]] {
        assert_eq!(order(&product(Matmul::default(), &[], size)), product::SM80);
    }
    assert_eq!(order(&product(Matmul::default(), &[2, 2, 2, 2], [8; 3])), product::SM80);
}

/// Groups along k begin anywhere along it, which the copy engine does not mind: they are products of wgmma where others are,
/// in the forms that take tiles without products, and the engine knows all of k, not a group's.
#[test]
fn groups_along_k_are_products_of_wgmma() {
    let hopper = class("sm_90a").unwrap();
    let [m, n, k] = [256, 512, 1000];
    let sizes = Lens::Host([7, 0, 900].into());
    let matmul = Matmul { group: Group::K, sizes, ..Matmul::default() };
    let bf16 = |shape: &[u64]| contiguous(DType::BF16, shape);
    // As in the gradient of weights: rows of tokens.
    let tokens = Layout::contiguous(Dims::new(&[k, m]).unwrap()).transpose().unwrap();
    for a in [bf16(&[m, k]), Spec::new(DType::BF16, tokens, 0)] {
        let specs = [a, bf16(&[k, n]), bf16(&[3, m, n])];
        let op = check(matmul.clone().into(), &specs).unwrap();
        let p = Product::of(&op, &matmul).unwrap();
        let plans = candidates(&op, hopper).unwrap();
        assert_eq!((plans[0].order, p.k), (product::SM90, 900));
        for plan in plans {
            let row = row(plan.kernel).unwrap();
            let Row::MatmulSm90(form) = row else { panic!("{plan}") };
            assert_eq!((form.form, form.cluster), (Form::Cooperative, 1));
            let maps = p.maps(row, [256; 2]).unwrap();
            assert!(maps.iter().all(|map| map.sizes.contains(&k)), "{maps:?}");
        }
    }
    // Where rows lie at no multiple of 16 bytes it brings nothing.
    let specs = [bf16(&[m, 1001]), bf16(&[1001, n]), bf16(&[3, m, n])];
    let op = check(matmul.into(), &specs).unwrap();
    assert_eq!(candidates(&op, hopper).unwrap()[0].order, product::SM80);
}

/// f32 is rounded to tf32 where the op allows it, and nowhere else; rows and batch have no part in it.
#[test]
fn only_who_allows_tf32_gets_it() {
    for class in &CLASSES {
        for case in tables::matmul() {
            let Op::Matmul(full) = case.op.clone() else { panic!("no product") };
            let specs: Vec<Spec> = case.operands.iter().map(|operand| operand.spec()).collect();
            let is_f32 = specs[0].dtype == DType::F32;
            for order in [OrderClass::Fixed, OrderClass::BatchInvariant] {
                let of = |precision| {
                    let op = Matmul { precision, order, ..full.clone() };
                    candidates(&check(op.into(), &specs).unwrap(), class).unwrap()[0].order
                };
                let (plain, rounded) = (of(Precision::Full), of(Precision::Tf32));
                assert_ne!(plain, product::TF32, "{}", case.name);
                let takes = is_f32 && full.quantize == Scale::None;
                let want = if takes { product::TF32 } else { plain };
                assert_eq!(rounded, want, "{}", case.name);
            }
        }
    }
}

#[test]
fn large_products_rank_large_tiles_first_and_few_tiles_small_ones() {
    let hopper = class("sm_90a").unwrap();
    let first = |size| candidates(&product(Matmul::default(), &[], size), hopper).unwrap()[0];
    // Blocks of 128 by 256, two of them together.
    assert!(first([8192, 8192, 4096]).kernel.ends_with("256x256_by2"));
    assert!(first([8, 4096, 4096]).kernel.ends_with("8x128_swapped"));
    assert!(first([128, 4096, 2048]).kernel.ends_with("128x64"));
    // Hundreds of TFLOP/s, whichever the row.
    let total = first([4096; 3]).total_ns();
    assert!((200_000..2_000_000).contains(&total), "{total} ns");
}

#[test]
fn what_no_plan_holds_is_an_error_with_both_numbers() {
    let hopper = class("sm_90a").unwrap();
    let layout = |shape: &[u64], strides: &[u64]| {
        Layout::new(Dims::new(shape).unwrap(), Dims::new(strides).unwrap()).unwrap()
    };
    let (m, n) = (1 << 30, 1 << 30);
    let a = Spec::new(DType::BF16, layout(&[m, 8], &[0, 1]), 0);
    let b = Spec::new(DType::BF16, layout(&[8, n], &[0, 0]), 0);
    let out = contiguous(DType::BF16, &[m, n]);
    if let Ok(op) = check(Matmul::default().into(), &[a, b, out]) {
        let error = candidates(&op, hopper).unwrap_err();
        assert!(matches!(error.kind(), Kind::Unsupported { .. } | Kind::Time { .. }), "{error}");
    }
}

/// What a device judges itself by runs every form of kernel that its plans name.
#[test]
fn every_form_of_kernel_is_judged() {
    // The form of a row, without its tile and types.
    let form = |row: &Row| {
        let text = format!("{row:?}");
        let names: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
        let depth = if names[0] == "Streaming" { 2 } else { 1 };
        names[..depth].join(" ")
    };
    let ops = leasehold::judge::ops().unwrap();
    for arch in crate::backend::cuda::ARCHS {
        let class = class(arch).unwrap();
        let mut judged = std::collections::BTreeSet::new();
        for op in &ops {
            for plan in candidates(op, class).unwrap_or_default() {
                let row = row(plan.kernel).unwrap();
                let rows = crate::backend::cuda::encode::rows(op, row, class);
                judged.extend(rows.iter().map(&form));
            }
        }
        let all = crate::backend::cuda::pack::of_arch(arch).map(|row| form(&row));
        let missing: Vec<String> = all.filter(|form| !judged.contains(form)).collect();
        assert!(missing.is_empty(), "{arch}: {missing:?}");
    }
}

/// Whatever is cut: a slice is predicted no less than the waves of tiles that it is, and all slices no less than the whole.
#[test]
fn slices_are_predicted_by_their_waves() {
    let op = product(Matmul::default(), &[], [64, 64, 64]);
    let mut random = Random(11);
    for class in &CLASSES {
        for _ in 0..200 {
            let work = Work {
                tiles: random.below(4 * class.multiprocessors).max(1).into(),
                blocks: 1 + random.below(2),
                links: [1, 1 + random.below(5)][random.below(2) as usize],
                link_ns: 1 + random.below(UNIT_CAP_GPU_NS - LAUNCH_NS),
                state_bytes: 4,
            };
            let (side_by_side, link_ns) = (class.multiprocessors / work.blocks, work.link_ns);
            let plan = finish(&op, class, product::F32, "", work).unwrap();
            // Units of whole tiles run in waves, those of a tile one after another.
            let takes = |span: &Span| {
                let waves = if plan.links > 1 { 1 } else { span.tiles.div_ceil(side_by_side) };
                waves * (span.to - span.from) * link_ns
            };
            let (units, mut sum, mut at) = (plan.units() as u64, 0, 0);
            while at < units {
                let n = (1 + random.below(units)).min(units - at);
                let predicted = plan.launch_ns(n);
                let taken = spans(at..at + n, plan.links).iter().map(takes).sum::<u64>();
                assert!(predicted >= taken, "{n} of {plan}: {predicted} for {taken}");
                (sum, at) = (sum + u128::from(predicted), at + n);
            }
            assert!(sum >= plan.total_ns(), "{plan}: {sum}");
            // What fits a budget fits it, and is the most that does.
            let budget = plan.launch_ns(1) + random.below(1_000_000);
            let fit = plan.units_within(budget);
            assert!(plan.launch_ns(fit) <= budget && plan.launch_ns(fit + 1) > budget, "{plan}");
            // Less than one takes as long as one, and so may as many as do.
            let least = plan.units_within(0);
            assert_eq!(plan.launch_ns(least), plan.launch_ns(1), "{plan}");
        }
    }
}

#[test]
fn a_part_of_a_card_is_slower_as_it_is_smaller() {
    let class = class("sm_90a").unwrap();
    for (multiprocessors, ns) in [(132, 1000), (114, 1000), (57, 2000), (16, 7125), (1, 114_000)] {
        assert_eq!(class.on(multiprocessors, 1000), ns);
    }
}
