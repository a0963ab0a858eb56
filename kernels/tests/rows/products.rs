//! The products without tensor cores on the host model: the reference kernel against sums in f64, over types, layouts and
//! the whole epilogue; the tiled f32 kernel against the reference kernel, bit by bit.

use crate::model::{Model, Order, scratch};
use crate::tensor::{
    BF16, F8E4M3, F8E5M2, F16, F32, I8, LAYS, Lay, Random, Tensor, assert_close, decode, encode,
};
use leasehold_kernels::{MatmulArgs, MatmulF32, MatmulReference, MatmulScaledArgs, Matrices, Row};
use std::mem::offset_of;

/// Buffers: the eight matrices in the order of the arguments, and the carried state.
const OUT: usize = 6;
const STATE: usize = 8;

struct Case {
    args: MatmulArgs,
    tensors: Vec<Tensor>,
    size: [usize; 4],
}

/// A layout of `[batch, m, n]` as the arguments have it.
fn matrices(tensor: &Tensor, buffer: usize, present: bool) -> Matrices {
    Matrices {
        at: tensor.address(buffer),
        batch: [0, 0, 0, tensor.stride(0)],
        row: tensor.stride(1),
        column: tensor.stride(2),
        dtype: tensor.dtype,
        present: present.into(),
    }
}

impl Case {
    fn new(
        size: [usize; 4],
        types: [u32; 3],
        lays: [Lay; 3],
        whole_epilogue: bool,
        seed: u64,
    ) -> Self {
        let mut random = Random(seed);
        let [batch, m, n, k] = size;
        let [of_a, of_b, of_out] = types;
        let mut make = |dtype, rows, columns, lay| {
            let scale = if dtype == I8 { 40.0 } else { 1.0 };
            Tensor::new(dtype, &[batch, rows, columns], lay, |_| random.draw() * scale)
        };
        // Where C is not read it is no number.
        let tensors = vec![
            make(of_a, m, k, lays[0]),
            make(of_b, k, n, lays[1]),
            make(F32, 1, n, Lay::Dense).repeated(1, m),
            if whole_epilogue {
                make(BF16, m, n, Lay::Odd)
            } else {
                Tensor::out(F32, &[batch, m, n], Lay::Dense)
            },
            make(F16, m, n, Lay::Turned),
            make(F32, m, n, Lay::Spread),
            Tensor::out(of_out, &[batch, m, n], lays[2]),
            Tensor::out(BF16, &[batch, m, n], Lay::Dense),
        ];
        let of = |i: usize, present| matrices(&tensors[i], i, present);
        let args = MatmulArgs {
            a: of(0, true),
            b: of(1, true),
            bias: of(2, whole_epilogue),
            c: of(3, whole_epilogue),
            gate: of(4, whole_epilogue),
            residual: of(5, whole_epilogue),
            out: of(6, true),
            preactivation: of(7, whole_epilogue),
            state: crate::model::address(STATE, 0),
            batch: [1, 1, 1, batch as u32],
            m: m as u32,
            n: n as u32,
            k: k as u32,
            k_to: k as u32,
            alpha: if whole_epilogue { 0.5 } else { 1.0 },
            beta: if whole_epilogue { 2.0 } else { 0.0 },
            // SiLU.
            activation: if whole_epilogue { 4 } else { 0 },
            ..MatmulArgs::default()
        };
        Self { args, tensors, size }
    }

    /// What the buffers become; K in two links, tile by tile, where there is a cut.
    fn run(&self, model: &mut Model, row: Row, tile: usize, cut: Option<u32>) -> Vec<Vec<u8>> {
        let [batch, m, n, _] = self.size;
        let tiles = [m, n].map(|x| x.div_ceil(tile) as u32);
        let all = MatmulArgs {
            tiles_m: tiles[0],
            tiles_n: tiles[1],
            tiles: batch as u64 * u64::from(tiles[0] * tiles[1]),
            ..self.args
        };
        let mut buffers: Vec<Vec<u8>> = self.tensors.iter().map(|t| t.bytes.clone()).collect();
        buffers.push(scratch(8 * (tile * tile) as u64));
        let links = |cut: u32| {
            let tile = move |first_tile| {
                [[0, cut], [cut, all.k]].map(|[k_from, k_to]| MatmulArgs {
                    first_tile,
                    tiles: 1,
                    k_from,
                    k_to,
                    ..all
                })
            };
            (0..all.tiles).flat_map(tile).collect()
        };
        let launches: Vec<MatmulArgs> = cut.map_or(vec![all], links);
        let places: Vec<u32> = (0..8)
            .map(|i| i * size_of::<Matrices>() as u32)
            .chain([offset_of!(MatmulArgs, state) as u32])
            .collect();
        for args in launches {
            let scaled = MatmulScaledArgs { matmul: args, ..MatmulScaledArgs::default() };
            let bytes = match row {
                Row::MatmulReference(_) => bytemuck::bytes_of(&scaled),
                _ => bytemuck::bytes_of(&args),
            };
            let bytes = (bytes, &places[..]);
            let outcome = model.witnessed(|model| {
                model.run(&row, Order::Late, args.tiles as u32, bytes, &buffers)
            });
            assert_eq!(outcome.found, "", "{row:?}");
            buffers = outcome.buffers;
        }
        buffers
    }

    /// Each output, and the largest sum of magnitudes of any.
    fn want(&self) -> (Vec<f64>, f64) {
        let [batch, m, n, k] = self.size;
        let values: Vec<Vec<f64>> = self.tensors.iter().map(Tensor::values).collect();
        let (mut want, mut scale) = (Vec::new(), 1.0);
        for (b, i, j) in (0..batch * m * n).map(|at| (at / (m * n), at / n % m, at % n)) {
            let (mut sum, mut size) = (0.0, 0.0);
            for p in 0..k {
                let x = values[0][(b * m + i) * k + p] * values[1][(b * k + p) * n + j];
                sum += x;
                size += x.abs();
            }
            scale = f64::max(scale, size);
            let at = (b * m + i) * n + j;
            want.push(if self.args.activation == 0 {
                sum
            } else {
                let v = 0.5 * sum + 2.0 * values[3][at] + values[2][at];
                v / (1.0 + (-v).exp()) * values[4][at] + values[5][at]
            });
        }
        (want, scale)
    }
}

const REFERENCE: Row = Row::MatmulReference(MatmulReference { finds: false });

pub(crate) fn the_reference_takes_every_type(model: &mut Model) {
    let types = [
        [F32, F32, F32],
        [BF16, BF16, BF16],
        [F16, F16, F32],
        [I8, I8, F32],
        [F8E4M3, F8E5M2, F32],
        [F8E4M3, F8E4M3, F16],
    ];
    for (i, types) in types.into_iter().enumerate() {
        let lays = [LAYS[i % 5], LAYS[(i + 1) % 5], LAYS[(i + 2) % 5]];
        // Of 8 bits K is cut between chunks.
        let (k, at) = if types[0] >= F8E4M3 { (150, 128) } else { (30, 11) };
        let case = Case::new([2, 17, 19, k], types, lays, i % 2 == 1, 7 + i as u64);
        let after = case.run(model, REFERENCE, 16, None);
        let (want, scale) = case.want();
        let got = case.tensors[OUT].read(&after[OUT]);
        assert_close(&got, &want, types[2], scale, &format!("{types:?}"));
        let cut = case.run(model, REFERENCE, 16, Some(at));
        assert!(cut[OUT] == after[OUT], "{types:?}: a cut gives other bits");
    }
}

pub(crate) fn tiles_of_f32_have_the_bits_of_the_reference(model: &mut Model) {
    let sizes = [[1, 130, 65, 33], [2, 64, 20, 16], [1, 3, 129, 50], [1, 1, 1, 1], [1, 5, 6, 0]];
    for (i, size) in sizes.into_iter().enumerate() {
        for tile in [128, 64] {
            let row = Row::MatmulF32(MatmulF32 { tile });
            let lays = [LAYS[(i + 3) % 5], LAYS[i % 5], LAYS[i % 2]];
            // A product of nothing has operands of one element, which nobody reads.
            let made = [size[0], size[1], size[2], size[3].max(1)];
            let mut case = Case::new(made, [F32; 3], lays, i % 2 == 0, 3);
            (case.args.k, case.args.k_to) = (size[3] as u32, size[3] as u32);
            let whole = case.run(model, row, tile as usize, None);
            let plain = case.run(model, REFERENCE, 16, None);
            for buffer in [OUT, OUT + 1] {
                assert!(whole[buffer] == plain[buffer], "{size:?} by {tile}");
            }
            if size[3] > 16 {
                let cut = case.run(model, row, tile as usize, Some(16));
                assert!(cut[OUT] == whole[OUT], "{size:?} by {tile}: a cut gives other bits");
            }
        }
    }
}

#[test]
fn eight_bits_decode_as_they_are_defined() {
    let Some(mut model) = Model::plain() else { return };
    // Every code times one, as a product of 256 rows.
    for dtype in [F8E4M3, F8E5M2] {
        let mut case = Case::new([1, 256, 1, 1], [dtype, dtype, F32], [Lay::Dense; 3], false, 1);
        let mut codes: Vec<u8> = (0..=255).collect();
        // What is no number is no product of one.
        codes.iter_mut().for_each(|code| {
            if !decode(dtype, &[*code]).is_finite() {
                *code = 0;
            }
        });
        let at = case.tensors[0].address(0) as usize & 0xffff_ffff;
        case.tensors[0].bytes[at..at + 256].copy_from_slice(&codes);
        let one = encode(dtype, 1.0)[0];
        let at = case.tensors[1].address(1) as usize & 0xffff_ffff;
        case.tensors[1].bytes[at] = one;
        let after = case.run(&mut model, REFERENCE, 16, None);
        let want: Vec<f64> = codes.iter().map(|code| decode(dtype, &[*code])).collect();
        assert_eq!(case.tensors[OUT].read(&after[OUT]), want);
    }
}
