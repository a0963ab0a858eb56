//! Products of 8-bit values for the host model: operands, scales, the launch, and the judgement. The tests of their rows
//! make them.

use crate::model::{Model, Order, Outcome, address, scratch};
use crate::tensor::{
    BF16, F8E4M3, F8E5M2, F16, F32, I8, Lay, Random, Tensor, close, decode, encode,
};
use leasehold_kernels::{
    Bytes, Fp8, MatmulArgs, MatmulReference, MatmulScaledArgs, MatmulScaling, MatmulSm90Fp8Args,
    Matrices, Row, Scales, Side,
};
use std::mem::offset_of;

/// Buffers: the eight matrices in the order of the arguments, scales of A, of B and of the output, the carried state.
pub(crate) const OUT: usize = 6;
pub(crate) const SCALES: [usize; 2] = [8, 9];
pub(crate) const OUT_SCALE: usize = 10;
pub(crate) const STATE: usize = 11;
pub(crate) const GROUPS: usize = 12;

/// What a scale covers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum By {
    None,
    Tensor,
    Row,
    Chunk,
    Block,
}

pub(crate) const ALL: [By; 5] = [By::None, By::Tensor, By::Row, By::Chunk, By::Block];

/// How an output of 8 bits is scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum To {
    Float,
    Given,
    Found,
}

/// How rows are grouped, the batch being groups.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Group {
    None,
    Contiguous,
    Masked,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Batch, m, n, k.
    pub(crate) size: [usize; 4],
    /// Of A, B and the output.
    pub(crate) types: [u32; 3],
    pub(crate) scales: [By; 2],
    pub(crate) to: To,
    pub(crate) group: Group,
    /// Whether odd columns of B gate the even ones.
    pub(crate) interleaved: bool,
    pub(crate) whole_epilogue: bool,
    /// Whether the output lies as the copy engine takes it.
    pub(crate) boxed: bool,
    pub(crate) seed: u64,
}

pub(crate) struct Case {
    row: Row,
    options: Options,
    args: MatmulScaledArgs,
    tensors: Vec<Tensor>,
    buffers: Vec<Vec<u8>>,
}

/// What a row takes: types of A and B, whether both lie dense along K, tile, chunk, and the bytes of a carried tile.
pub(crate) struct Form {
    pub(crate) types: [u32; 2],
    pub(crate) is_dense: bool,
    pub(crate) tile: [u32; 2],
    pub(crate) state: u64,
}

pub(crate) fn form(row: &Row) -> Form {
    let number = |fp8| if fp8 == Fp8::E4m3 { F8E4M3 } else { F8E5M2 };
    match row {
        Row::MatmulSm90Fp8(row) => Form {
            types: [number(row.a), number(row.b)],
            is_dense: true,
            tile: row.tile,
            state: row.state_bytes(),
        },
        // Each of the floats may be of either type.
        Row::MatmulSm80Bytes(row) => Form {
            types: if row.values == Bytes::I8 { [I8; 2] } else { [F8E4M3, F8E5M2] },
            is_dense: !row.gathered,
            tile: [row.tile; 2],
            state: row.state_bytes(),
        },
        // And here of i8 too.
        Row::MatmulReference(row) => Form {
            types: [F8E4M3, F8E5M2],
            is_dense: false,
            tile: row.tile(),
            state: MatmulReference::STATE_BYTES,
        },
        _ => panic!("no product of 8-bit values: {row:?}"),
    }
}

/// The layout of `[batch, rows, columns]` as the arguments have it.
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

/// An operand `[batch, outer, k]`: dense along K as the copy engine wants it, and no number behind the end of K.
fn operand(dtype: u32, shape: [usize; 3], is_dense: bool, random: &mut Random) -> Tensor {
    let [batch, outer, k] = shape;
    let scale = if dtype == I8 { 40.0 } else { 1.0 };
    if !is_dense {
        let lay = if k % 2 == 0 { Lay::Spread } else { Lay::Turned };
        return Tensor::new(dtype, &shape, lay, |_| random.draw() * scale);
    }
    let room = k.next_multiple_of(16);
    let mut tensor = Tensor::new(dtype, &[batch, outer, room], Lay::Dense, |i| {
        if i % room < k { random.draw() * scale } else { 0.0 }
    });
    let first = tensor.address(0) as usize & 0xffff_ffff;
    for line in 0..batch * outer {
        tensor.bytes[first + line * room + k..first + (line + 1) * room].fill(0x7f);
    }
    tensor.shape[2] = k;
    tensor
}

/// Scales of a side of `outer` by `k`: the tensor as `[batch, outer.., k..]`, and what a launch is told of it.
fn scales(
    by: By,
    [batch, outer, k]: [usize; 3],
    buffer: usize,
    random: &mut Random,
) -> (Tensor, Scales) {
    let blocks = |n: usize| n.div_ceil(128).max(1);
    let (shape, lay) = match by {
        By::None | By::Tensor => ([1, 1, 1], Lay::Dense),
        By::Row => ([batch, outer, 1], Lay::Odd),
        By::Chunk => ([batch, outer, blocks(k)], Lay::Turned),
        By::Block => ([batch, blocks(outer), blocks(k)], Lay::Spread),
    };
    let tensor = Tensor::new(F32, &shape, lay, |_| 0.5 + random.draw().abs());
    let along = |axis: usize| if shape[axis] > 1 { tensor.stride(axis) } else { 0 };
    let scales = Scales {
        at: tensor.address(buffer),
        batch: [0, 0, 0, along(0)],
        outer: along(1),
        depth: along(2),
        shift: if by == By::Block { 7 } else { 0 },
        covers: match by {
            By::None => 0,
            By::Tensor | By::Row => 1,
            By::Chunk | By::Block => 2,
        },
    };
    (tensor, scales)
}

impl Options {
    /// Entries of all but B.
    fn entries(&self) -> usize {
        if self.group == Group::Contiguous { 1 } else { self.size[0] }
    }

    /// Rows of each group; of those that follow each other some rows are left.
    fn rows_of_groups(&self) -> Vec<usize> {
        let [groups, m, ..] = self.size;
        let room = if self.group == Group::Contiguous { m / groups } else { m };
        (0..groups).map(|g| [room, 0, room / 2 + 1][g % 3]).collect()
    }

    /// The list of groups as `matmul_groups` leaves it, three words a group, and the rows of tiles: for groups that follow
    /// each other one more than they need.
    fn groups(&self, tile: usize) -> (Vec<[u32; 3]>, usize) {
        let m = self.size[1];
        let (mut first, mut tiles, mut list) = (0, 0, Vec::new());
        for rows in self.rows_of_groups() {
            list.push([first as u32, rows as u32, tiles as u32]);
            first += rows;
            tiles += rows.div_ceil(tile);
        }
        if self.group != Group::Contiguous {
            return (list, m.div_ceil(tile));
        }
        list.push([first as u32, (m - first) as u32, tiles as u32]);
        (list, tiles + (m - first).div_ceil(tile) + 1)
    }

    /// The factor of sums.
    fn alpha(&self) -> f32 {
        if self.whole_epilogue || self.boxed { 0.5 } else { 1.0 }
    }

    /// The output: with a gap behind each row, and off alignment or not.
    fn out(&self, shape: [usize; 3]) -> Tensor {
        let [batch, m, n] = shape;
        if !self.boxed {
            return Tensor::out(self.types[2], &shape, Lay::Odd);
        }
        let room = [batch, m, n.next_multiple_of(8) + 8];
        let mut tensor = Tensor::out(self.types[2], &room, Lay::Dense);
        tensor.shape[2] = n;
        tensor
    }

    /// The entry of B for a row of an entry; none where no group owns it.
    fn owner(&self, entry: usize, row: usize) -> Option<usize> {
        let sizes = self.rows_of_groups();
        match self.group {
            Group::None => Some(entry),
            Group::Masked => (row < sizes[entry]).then_some(entry),
            Group::Contiguous => {
                let mut owners =
                    sizes.iter().enumerate().flat_map(|(g, &n)| std::iter::repeat_n(g, n));
                owners.nth(row)
            }
        }
    }
}

impl Case {
    pub(crate) fn new(row: Row, options: Options) -> Self {
        let mut random = Random(options.seed * 2 + 1);
        let Options { size: [groups, m, n, k], types: [of_a, of_b, _], to, .. } = options;
        // Rows of groups that follow each other are one entry.
        let batch = options.entries();
        let narrow = if options.interleaved { n / 2 } else { n };
        let whole = options.whole_epilogue;
        let Form { is_dense, tile, state, .. } = form(&row);
        // Tiles of the reference are of outputs, all others' of columns of B.
        let columns = if matches!(row, Row::MatmulReference(_)) { narrow } else { n };
        let tiles_n = columns.div_ceil(tile[1] as usize);
        let a = operand(of_a, [batch, m, k], is_dense, &mut random);
        let b = operand(of_b, [groups, n, k], is_dense, &mut random);
        let (scale_a, mut of_a) = scales(options.scales[0], [batch, m, k], SCALES[0], &mut random);
        let (scale_b, of_b) = scales(options.scales[1], [groups, n, k], SCALES[1], &mut random);
        let mut make =
            |dtype, rows, n, lay| Tensor::new(dtype, &[batch, rows, n], lay, |_| random.draw());
        // Where C is not read it is no number.
        let c = if whole {
            make(BF16, m, n, Lay::Odd)
        } else {
            Tensor::out(F32, &[batch, m, n], Lay::Dense)
        };
        let found = [batch, m, narrow.div_ceil(128)];
        let out_scale = match to {
            To::Given => Tensor::new(F32, &[1, 1, 1], Lay::Dense, |_| 0.02),
            _ => Tensor::out(F32, &found, Lay::Odd),
        };
        let tensors = vec![
            a,
            b,
            make(F32, 1, n, Lay::Dense).repeated(1, m),
            c,
            make(F16, m, narrow, Lay::Turned),
            make(F32, m, narrow, Lay::Spread),
            options.out([batch, m, narrow]),
            Tensor::out(BF16, &[batch, m, n], Lay::Dense),
            scale_a,
            scale_b,
            out_scale,
        ];
        let of = |i: usize, present| {
            let mut of = matrices(&tensors[i], i, present);
            if options.group == Group::Contiguous && i != 1 {
                of.batch = [0; 4];
            }
            of
        };
        if options.group == Group::Contiguous {
            of_a.batch = [0; 4];
        }
        let (list, tiles_m) = options.groups(tile[0] as usize);
        // Held as [n, k].
        let right =
            Matrices { row: tensors[1].stride(2), column: tensors[1].stride(1), ..of(1, true) };
        let matmul = MatmulArgs {
            a: of(0, true),
            b: right,
            bias: of(2, whole),
            c: of(3, whole),
            gate: of(4, whole && !options.interleaved),
            residual: of(5, whole),
            out: of(6, true),
            preactivation: of(7, whole),
            state: address(STATE, 0),
            batch: [1, 1, 1, groups as u32],
            m: m as u32,
            n: n as u32,
            k: k as u32,
            tiles_m: tiles_m as u32,
            tiles_n: tiles_n as u32,
            tiles: (batch * tiles_m * tiles_n) as u64,
            interleaved: options.interleaved.into(),
            group: options.group as u32,
            group_count: groups as u32,
            groups: address(GROUPS, 0),
            k_to: k as u32,
            alpha: options.alpha(),
            beta: if whole { 2.0 } else { 0.0 },
            // SiLU.
            activation: if whole { 4 } else { 0 },
            ..MatmulArgs::default()
        };
        let mut out = of(OUT_SCALE, true);
        if to == To::Given {
            // One for all entries.
            out.batch = [0; 4];
        }
        let quantize = to as u32;
        let scaling = MatmulScaling { a: of_a, b: of_b, out, quantize, padding: 0 };
        let mut buffers: Vec<Vec<u8>> = tensors.iter().map(|t| t.bytes.clone()).collect();
        buffers.push(scratch(state));
        buffers.push(bytemuck::cast_slice(&list).to_vec());
        Self { row, options, args: MatmulScaledArgs { matmul, scaling }, tensors, buffers }
    }

    /// All of it; a persistent kernel on `blocks`, or clusters.
    pub(crate) fn run(&self, model: &mut Model, order: Order, blocks: u32) -> Outcome {
        self.launch(model, (order, blocks), self.args.matmul, &self.buffers)
    }

    /// Tile by tile, its K in two links.
    pub(crate) fn run_cut(&self, model: &mut Model, order: Order, cut: u32) -> Outcome {
        let mut outcome = Outcome { found: String::new(), buffers: self.buffers.clone() };
        let all = self.args.matmul;
        for first_tile in 0..all.tiles {
            for [k_from, k_to] in [[0, cut], [cut, all.k]] {
                let link = MatmulArgs { first_tile, tiles: 1, k_from, k_to, ..all };
                let next = self.launch(model, (order, 1), link, &outcome.buffers);
                outcome = Outcome { found: outcome.found + &next.found, buffers: next.buffers };
            }
        }
        outcome
    }

    /// Every code of A's type, one a row, times one: the outputs, and what they are by definition.
    pub(crate) fn run_all_codes(mut self, model: &mut Model) -> (Vec<f64>, Vec<f64>) {
        let [of_a, of_b, _] = self.options.types;
        let (step, at) = (self.tensors[0].stride(1) as usize, self.tensors[0].address(0) as usize);
        let codes = 0..=255u8;
        for code in codes.clone() {
            self.buffers[0][(at & 0xffff_ffff) + usize::from(code) * step] = code;
        }
        self.buffers[1][self.tensors[1].address(1) as usize & 0xffff_ffff] = encode(of_b, 1.0)[0];
        let outcome = self.run(model, Order::Late, 1);
        assert_eq!(outcome.found, "");
        let want = codes.map(|code| decode(of_a, &[code])).collect();
        (self.tensors[OUT].read(&outcome.buffers[OUT]), want)
    }

    fn launch(
        &self,
        model: &mut Model,
        (order, blocks): (Order, u32),
        matmul: MatmulArgs,
        buffers: &[Vec<u8>],
    ) -> Outcome {
        let row = &self.row;
        let scaled = MatmulScaledArgs { matmul, ..self.args };
        let scaling = offset_of!(MatmulScaledArgs, scaling);
        let places = (0..8).map(|i| i * size_of::<Matrices>());
        let of_scaling = [
            offset_of!(MatmulScaling, a),
            offset_of!(MatmulScaling, b),
            offset_of!(MatmulScaling, out),
        ];
        let lists = [offset_of!(MatmulArgs, state), offset_of!(MatmulArgs, groups)];
        let places = places.chain(lists).chain(of_scaling.map(|at| scaling + at));
        let places: Vec<u32> = places.map(|at| at as u32).collect();
        if let Row::MatmulSm90Fp8(form) = row {
            let [groups, m, n, k] = self.options.size.map(|x| x as u64);
            let map = |of: Side, outer, batch| {
                let side = usize::from(of == Side::B);
                let [entry, step] = [0, 1].map(|axis| self.tensors[side].stride(axis) as u64);
                let at = self.tensors[side].address(side);
                let batch = [[1, 16], [1, 16], [batch, entry]];
                let map = form.map(of, at, [outer, k], step, batch);
                assert!(map.is_valid(), "{map:?}");
                map
            };
            let out = form.out(&scaled);
            assert_eq!(out.is_some(), self.options.boxed);
            let args = MatmulSm90Fp8Args {
                a: map(Side::A, m, self.options.entries() as u64),
                b: map(Side::B, n, groups),
                out: out.unwrap_or_default(),
                stores_boxes: out.is_some().into(),
                scaled,
                spread_a: if self.options.group == Group::Contiguous { 0 } else { 7 },
                spread_b: 7,
                ..MatmulSm90Fp8Args::default()
            };
            let inner = offset_of!(MatmulSm90Fp8Args, scaled) as u32;
            let maps = [
                offset_of!(MatmulSm90Fp8Args, a),
                offset_of!(MatmulSm90Fp8Args, b),
                offset_of!(MatmulSm90Fp8Args, out),
            ]
            .map(|at| at as u32);
            // A and B are read through the maps alone.
            let rest = places[2..].iter().map(|at| inner + at);
            let places: Vec<u32> = maps.into_iter().chain(rest).collect();
            let blocks = blocks * form.cluster;
            model.run(row, order, blocks, (bytemuck::bytes_of(&args), &places), buffers)
        } else {
            let args = (bytemuck::bytes_of(&scaled), &places[..]);
            model.run(row, order, matmul.tiles as u32, args, buffers)
        }
    }

    /// Where in its tensor the scale of an element of a side is.
    fn scale(&self, side: usize, [entry, outer, p]: [usize; 3]) -> usize {
        let [_, outers, depth] = self.tensors[SCALES[side]].shape[..] else { panic!("three axes") };
        match self.options.scales[side] {
            By::None | By::Tensor => 0,
            By::Row => entry * outers + outer,
            By::Chunk => (entry * outers + outer) * depth + p / 128,
            By::Block => (entry * outers + outer / 128) * depth + p / 128,
        }
    }

    /// What sums become before the cast: zeros where no group owns their row.
    fn finish(&self, sums: &[f64], owned: &[bool], values: &[Vec<f64>]) -> Vec<f64> {
        let Options { whole_epilogue: whole, interleaved, size: [_, _, n, _], .. } = self.options;
        let alpha = f64::from(self.options.alpha());
        let before = |at: usize| match whole {
            true => alpha * sums[at] + 2.0 * values[3][at] + values[2][at],
            false => alpha * sums[at],
        };
        let activated = |v: f64| if whole { v / (1.0 + (-v).exp()) } else { v };
        let width = if interleaved { 2 } else { 1 };
        let of = |at: usize| {
            let first = at * width;
            if !owned[first / n] {
                return 0.0;
            }
            let gate = match (interleaved, whole) {
                (true, _) => before(first + 1),
                (false, true) => values[4][at],
                (false, false) => 1.0,
            };
            activated(before(first)) * gate + if whole { values[5][at] } else { 0.0 }
        };
        (0..sums.len() / width).map(of).collect()
    }

    /// Each output before it is an 8-bit one, and the largest sum of magnitudes of any.
    fn want(&self) -> (Vec<f64>, f64) {
        let (batch, [_, m, n, k]) = (self.options.entries(), self.options.size);
        let values: Vec<Vec<f64>> = self.tensors.iter().map(Tensor::values).collect();
        let (mut sums, mut owned, mut scale) = (Vec::new(), Vec::new(), 1.0);
        for (e, i) in (0..batch * m).map(|at| (at / m, at % m)) {
            let owner = self.options.owner(e, i);
            owned.push(owner.is_some());
            for j in 0..n {
                let (mut sum, mut size) = (0.0, 0.0);
                for first in (0..k).step_by(128).filter(|_| owner.is_some()) {
                    let entries = [e, owner.unwrap_or(0)];
                    let [of_a, of_b] = [0, 1].map(|side| match self.options.scales[side] {
                        By::None => 1.0,
                        _ => {
                            let at = self.scale(side, [entries[side], [i, j][side], first]);
                            values[SCALES[side]][at]
                        }
                    });
                    let [a, b] = [(e * m + i) * k, (entries[1] * n + j) * k];
                    for p in first..k.min(first + 128) {
                        let x = values[0][a + p] * values[1][b + p];
                        sum += x * of_a * of_b;
                        size += (x * of_a * of_b).abs();
                    }
                }
                scale = f64::max(scale, size);
                sums.push(sum);
            }
        }
        if self.options.interleaved {
            // Both sides of a product are sums: each error counts as often as the other side is large.
            scale *= 2.0 * sums.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
        }
        let want = self.finish(&sums, &owned, &values);
        (want, scale)
    }

    /// Every output and every scale as they should be, and nothing beside them written.
    ///
    /// # Errors
    /// The first that is not.
    pub(crate) fn judge(&self, buffers: &[Vec<u8>]) -> Result<(), String> {
        let ([_, m, n, _], [.., dtype]) = (self.options.size, self.options.types);
        let (batch, n) = (self.options.entries(), if self.options.interleaved { n / 2 } else { n });
        let (want, scale) = self.want();
        let got = self.tensors[OUT].read(&buffers[OUT]);
        // Each value that matrix units of 8 bits add may lose what is beneath 14 bits of the largest.
        let fewer = match &self.row {
            Row::MatmulSm90Fp8(_) => true,
            Row::MatmulSm80Bytes(row) => row.values == Bytes::Fp8,
            _ => false,
        };
        let scale = if fewer { scale * (2f64.powi(-13) / 6e-7) } else { scale };
        if self.options.to == To::Float {
            return close(&got, &want, dtype, scale);
        }
        let across = n.div_ceil(128);
        let block = |at: usize| at / n * across + at % n / 128;
        let top = [448.0, 57344.0, 127.0][dtype as usize - 3];
        let by = if self.options.to == To::Given {
            vec![self.tensors[OUT_SCALE].values()[0]; batch * m * across]
        } else {
            let mut most = vec![0f64; batch * m * across];
            want.iter().enumerate().for_each(|(i, v)| most[block(i)] = most[block(i)].max(v.abs()));
            let by = self.tensors[OUT_SCALE].read(&buffers[OUT_SCALE]);
            let wanted: Vec<f64> = most.iter().map(|most| most / top).collect();
            close(&by, &wanted, F32, scale / top)?;
            by
        };
        for (at, (got, want)) in got.iter().zip(&want).enumerate() {
            // Rows of nothing have the scale 0, and its code.
            let by = if by[block(at)] == 0.0 { 1.0 } else { by[block(at)] };
            let y = (want / by).clamp(-top, top);
            // As near as any value of the type, up to the roundings of f32.
            let nearest = decode(dtype, &encode(dtype, y));
            let room = 6e-7 * scale / by + 1e-6 * y.abs();
            let is_near = (got - y).abs() <= (nearest - y).abs() + room;
            if !is_near {
                return Err(format!("element {at}: {got:e}, not {nearest:e} for {y:e}"));
            }
        }
        Ok(())
    }
}
