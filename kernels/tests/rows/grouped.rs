//! Groups of rows on the host model: the list of them from sizes that a tenant wrote, and products of more groups than a
//! warp has lanes by that list. The runtime's parity tests run the other groupings.

use crate::model::{Model, Order, address, scratch};
use crate::tensor::{BF16, F32, Lay, Random, Tensor, assert_close};
use leasehold_kernels::{
    GroupEntry, MatmulArgs, MatmulF32, MatmulGroups, MatmulGroupsArgs, MatmulReference,
    MatmulScaledArgs, Matrices, Row, rows,
};
use std::mem::offset_of;

const GUARD: [u8; 12] = [0xa5; 12];

/// The same made one group after another; and the first size over its bound.
fn reference(args: &MatmulGroupsArgs, sizes: &[u32]) -> (Vec<GroupEntry>, [u32; 3]) {
    let (mut next, mut list, mut fault) = (GroupEntry::default(), Vec::new(), [0; 3]);
    for &asked in sizes {
        let bound = args.most.min(args.room - next.first);
        if asked > bound && fault[0] == 0 {
            fault = [1, asked, bound + 1];
        }
        let size = asked.min(bound);
        list.push(GroupEntry { size, ..next });
        next.first += if args.follow == 1 { size } else { 0 };
        next.tile += size.div_ceil(args.tile_rows);
    }
    if args.rest == 1 {
        list.push(GroupEntry { size: args.room - next.first, ..next });
    }
    (list, fault)
}

fn run(model: &mut Model, args: &MatmulGroupsArgs, sizes: &[u32]) -> (Vec<GroupEntry>, [u32; 3]) {
    let args = MatmulGroupsArgs {
        sizes: address(0, 0),
        step: 1,
        groups: address(1, 0),
        fault: address(2, 0),
        count: sizes.len() as u32,
        ..*args
    };
    let entries = sizes.len() + args.rest as usize;
    let list = [scratch((entries * size_of::<GroupEntry>()) as u64), GUARD.to_vec()].concat();
    let buffers = [bytemuck::cast_slice(sizes).to_vec(), list, vec![0; 12]];
    let places = [
        offset_of!(MatmulGroupsArgs, sizes) as u32,
        offset_of!(MatmulGroupsArgs, groups) as u32,
        offset_of!(MatmulGroupsArgs, fault) as u32,
    ];
    let launch = (bytemuck::bytes_of(&args), &places[..]);
    let row = Row::MatmulGroups(MatmulGroups);
    let outcome = model.witnessed(|model| model.run(&row, Order::Late, 1, launch, &buffers));
    assert_eq!(outcome.found, "");
    let (list, guard) = outcome.buffers[1].split_at(entries * size_of::<GroupEntry>());
    assert_eq!(guard, GUARD, "past the list");
    let fault = bytemuck::pod_collect_to_vec(&outcome.buffers[2]);
    (bytemuck::pod_collect_to_vec(list), [fault[0], fault[1], fault[2]])
}

pub(crate) fn sizes_of_any_kind_become_groups_that_fit(model: &mut Model) {
    let mut random = Random(5);
    let mut told = 0;
    for (i, count) in [1, 31, 32, 33, 70, 0].into_iter().enumerate() {
        for follow in [0, 1] {
            for lies in [0, 1, 4] {
                let mut below = |n: u64| (random.next() >> 20) % n;
                let sizes: Vec<u32> = (0..count)
                    .map(|_| {
                        let bad = [u32::MAX, 1 << 31, i32::MAX as u32, 51];
                        let is_bad = below(10) < lies;
                        if is_bad { bad[below(4) as usize] } else { below(51) as u32 }
                    })
                    .collect();
                let args = MatmulGroupsArgs {
                    most: 50,
                    // Now and then the last ones find no room.
                    room: if follow == 1 { 30 * count as u32 + 50 } else { 50 - i as u32 },
                    follow,
                    tile_rows: [16, 128][i % 2],
                    rest: follow,
                    ..MatmulGroupsArgs::default()
                };
                let (list, fault) = run(model, &args, &sizes);
                assert_eq!((list, fault), reference(&args, &sizes), "{sizes:?}");
                told += fault[0];
            }
        }
    }
    assert!(told > 10, "{told} faults");
}

/// Few rows each, some of none, and rows that no group owns.
#[test]
fn products_of_many_groups_find_theirs() {
    let (Some(mut plain), Some(mut fast)) = (Model::plain(), Model::start()) else { return };
    let sm80 = rows().into_iter().find(|row| row.key() == "matmul_sm80_bf16_gg_64x64");
    let sm80 = sm80.expect("a row of the table");
    let products = [
        (Row::MatmulF32(MatmulF32 { tile: 64 }), 64),
        (Row::MatmulReference(MatmulReference { finds: false }), 16),
        (sm80, 64),
    ];
    let mut random = Random(9);
    let (groups, n, k) = (40, 6, 5);
    let sizes: Vec<u32> = (0..groups).map(|i| [3, 0, 1, 20][i % 4]).collect();
    let owned: u32 = sizes.iter().sum();
    let m = owned as usize + 19;
    for (row, tile) in products {
        let dtype = if row == sm80 { BF16 } else { F32 };
        let a = Tensor::new(dtype, &[m, k], Lay::Odd, |_| random.draw());
        let b = Tensor::new(dtype, &[groups, k, n], Lay::Spread, |_| random.draw());
        let out = Tensor::out(F32, &[m, n], Lay::Odd);
        let follow =
            MatmulGroupsArgs { most: 20, room: m as u32, follow: 1, rest: 1, ..Default::default() };
        let args = MatmulGroupsArgs { tile_rows: tile, ..follow };
        let (list, fault) = run(&mut plain, &args, &sizes);
        assert_eq!(fault[0], 0);
        let matrices = |x: &Tensor, buffer, entry: i64| Matrices {
            at: x.address(buffer),
            batch: [0, 0, 0, entry],
            row: x.stride(x.shape.len() - 2),
            column: x.stride(x.shape.len() - 1),
            dtype: x.dtype,
            present: 1,
        };
        let tiles_m = (m as u32).div_ceil(tile) + groups as u32 + 1;
        let args = MatmulArgs {
            a: matrices(&a, 0, 0),
            b: matrices(&b, 1, b.stride(0)),
            out: matrices(&out, 2, 0),
            tiles: tiles_m.into(),
            batch: [1, 1, 1, groups as u32],
            m: m as u32,
            n: n as u32,
            k: k as u32,
            tiles_m,
            tiles_n: 1,
            k_to: k as u32,
            alpha: 1.0,
            group: 1,
            group_count: groups as u32,
            groups: address(3, 0),
            ..MatmulArgs::default()
        };
        let scaled = MatmulScaledArgs { matmul: args, ..MatmulScaledArgs::default() };
        let is_plain = row != sm80;
        let bytes = match row {
            Row::MatmulReference(_) => bytemuck::bytes_of(&scaled),
            _ => bytemuck::bytes_of(&args),
        };
        let step = size_of::<Matrices>();
        let places = [0, step, offset_of!(MatmulArgs, out), offset_of!(MatmulArgs, groups)];
        let places = places.map(|at| at as u32);
        let list = bytemuck::cast_slice(&list).to_vec();
        let buffers = [a.bytes.clone(), b.bytes.clone(), out.bytes.clone(), list];
        let model = if is_plain { &mut plain } else { &mut fast };
        let outcome = model.run(&row, Order::Late, tiles_m, (bytes, &places), &buffers);
        assert_eq!(outcome.found, "", "{row:?}");
        let (of_a, of_b) = (a.values(), b.values());
        let owners = sizes.iter().enumerate();
        let owners: Vec<usize> =
            owners.flat_map(|(g, &size)| std::iter::repeat_n(g, size as usize)).collect();
        let want: Vec<f64> = (0..m * n)
            .map(|at| {
                let (i, j) = (at / n, at % n);
                let Some(&g) = owners.get(i) else { return 0.0 };
                (0..k).map(|p| of_a[i * k + p] * of_b[(g * k + p) * n + j]).sum()
            })
            .collect();
        assert_close(&out.read(&outcome.buffers[2]), &want, F32, 5.0, &row.key());
    }
}
