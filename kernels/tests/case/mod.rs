//! Products for the host model: operands, the launch, and the judgement. The tests of the matmul kernels make them.

// Each test program uses a part.
#![allow(dead_code)]

pub(crate) mod attention;
pub(crate) mod gradients;
pub(crate) mod named;
pub(crate) mod scaled;

use crate::model::{Model, Order, Outcome, address, scratch};
use half::{bf16, f16};
use leasehold_kernels::{
    GroupEntry, Major, MatmulArgs, MatmulMerge, MatmulSm90Args, Matrices, Row, Side, Values,
};
use std::mem::offset_of;
use std::ops::Range;

/// A product and its operands: A, B, the output and the carried state. Each operand ends with its last element.
pub(crate) struct Case {
    row: Row,
    size: [usize; 3],
    batch: usize,
    sides: [Operand; 2],
    args: MatmulArgs,
    out: Out,
    /// Blocks of the grid of a persistent kernel, or clusters.
    grid: u32,
    /// Of each entry the matrices of A and of B that indices name, if they name any; its own where there are no indices.
    names: Vec<Option<[usize; 2]>>,
    /// Of each entry the k that it sums.
    summed: Vec<Range<usize>>,
    buffers: Vec<Vec<u8>>,
}

/// What the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Out {
    /// f32, at an odd leading dimension.
    Odd,
    /// Of the operands' type and dense: what the copy engine takes.
    Boxes,
    /// The same, with a bias along N and a residual, both of f32, so that it does not.
    Rows,
    /// Of the operands' type, dense along M.
    Turned,
}

/// Strides in elements of a side as `[outer, k]`.
#[derive(Clone, Copy)]
struct Operand {
    entry: usize,
    outer_step: usize,
    k_step: usize,
}

const POISON: u8 = 0xff;
const F32: u32 = 0;
const F16: u32 = 1;
const BF16: u32 = 2;
const OUT: usize = 2;
const STATE: usize = 3;
const BIAS: usize = 4;
const RESIDUAL: usize = 5;
const LIST: usize = 6;

struct Random(u64);

impl Random {
    /// Roughly normal: a sum of uniform numbers.
    fn draw(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            sum += (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        }
        sum / 2.0
    }
}

/// What a row is made for: its operands' type, how A and B lie, its tile, and the bytes of a carried tile.
fn form(row: &Row) -> (u32, [Major; 2], [u32; 2], u64) {
    let dense = |outer| if outer { Major::Outer } else { Major::K };
    match row {
        Row::MatmulSm80(row) => {
            let dtype = match row.values {
                Values::Tf32 => F32,
                Values::F16 => F16,
                Values::Bf16 => BF16,
            };
            (dtype, [row.a, row.b], row.tile, row.state_bytes())
        }
        Row::MatmulSm90(row) => {
            let tile = [row.rows, row.columns];
            let dtype = if row.bf16 { BF16 } else { F16 };
            (dtype, [dense(row.a_outer), dense(row.b_outer)], tile, row.state_bytes())
        }
        _ => panic!("no product: {row:?}"),
    }
}

/// Where addresses stand in the arguments.
fn places() -> Vec<u32> {
    let matrices: Vec<u32> = (0..8).map(|i| i * size_of::<Matrices>() as u32).collect();
    let others = [offset_of!(MatmulArgs, state), offset_of!(MatmulArgs, groups)];
    [&matrices[..], &others.map(|at| at as u32)].concat()
}

/// Bytes of an element.
fn width(dtype: u32) -> usize {
    if dtype == F32 { 4 } else { 2 }
}

impl Operand {
    /// Rows are longer than they need be; what lies between them is never a number.
    fn of(major: Major, outer: usize, k: usize) -> Self {
        let (outer_step, k_step) = match major {
            Major::K => (k.next_multiple_of(8) + 8, 1),
            Major::Outer => (1, outer.next_multiple_of(8) + 8),
            Major::Gathered => (3 * k + 1, 3),
        };
        let entry = (outer_step * outer + k_step * k).next_multiple_of(8);
        Self { entry, outer_step, k_step }
    }

    fn at(&self, entry: usize, outer: usize, k: usize) -> usize {
        entry * self.entry + outer * self.outer_step + k * self.k_step
    }

    fn fill(
        &self,
        dtype: u32,
        [batch, outer, k]: [usize; 3],
        mut draw: impl FnMut() -> f32,
    ) -> Vec<u8> {
        let width = width(dtype);
        let mut bytes = vec![POISON; (self.at(batch - 1, outer - 1, k - 1) + 1) * width];
        for (entry, i) in (0..batch).flat_map(|entry| (0..outer).map(move |i| (entry, i))) {
            for j in 0..k {
                let (x, to) = (draw(), &mut bytes[self.at(entry, i, j) * width..][..width]);
                match dtype {
                    F32 => to.copy_from_slice(&x.to_le_bytes()),
                    BF16 => to.copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
                    _ => to.copy_from_slice(&f16::from_f32(x).to_le_bytes()),
                }
            }
        }
        bytes
    }
}

impl Case {
    pub(crate) fn new(row: Row, batch: usize, size: [usize; 3], seed: u64) -> Self {
        Self::with(row, Out::Odd, batch, size, seed)
    }

    pub(crate) fn with(row: Row, out: Out, batch: usize, size: [usize; 3], seed: u64) -> Self {
        let mut random = Random(seed * 2 + 1);
        let [m, n, k] = size;
        let (dtype, [a, b], [tm, tn], state_bytes) = form(&row);
        let mut draw = || random.draw();
        let sides = [Operand::of(a, m, k), Operand::of(b, n, k)];
        let (ld, element) = match out {
            Out::Odd => (n | 1, 4),
            Out::Boxes | Out::Rows => (n.next_multiple_of(8) + 8, width(dtype)),
            Out::Turned => (m.next_multiple_of(8) + 8, width(dtype)),
        };
        let (rows, columns) = if out == Out::Turned { (n, m) } else { (m, n) };
        let mut buffers = vec![
            sides[0].fill(dtype, [batch, m, k], &mut draw),
            sides[1].fill(dtype, [batch, n, k], &mut draw),
            vec![POISON; ((batch * rows - 1) * ld + columns) * element],
            scratch(state_bytes),
        ];
        let mut floats =
            |count| -> Vec<u8> { (0..count).flat_map(|_| random.draw().to_le_bytes()).collect() };
        buffers.extend([floats(n), floats(batch * m * n)]);
        let matrices = |buffer, entry: usize, row: usize, column: usize, dtype| Matrices {
            at: address(buffer, 0),
            batch: [0, 0, 0, entry as i64],
            row: row as i64,
            column: column as i64,
            dtype,
            present: 1,
        };
        let [of_a, of_b] = sides;
        let of_out = match out {
            Out::Odd => matrices(OUT, rows * ld, ld, 1, 0),
            Out::Boxes | Out::Rows => matrices(OUT, rows * ld, ld, 1, dtype),
            Out::Turned => matrices(OUT, rows * ld, 1, ld, dtype),
        };
        let present = |x: Matrices| if out == Out::Rows { x } else { Matrices::default() };
        let args = MatmulArgs {
            a: matrices(0, of_a.entry, of_a.outer_step, of_a.k_step, dtype),
            b: matrices(1, of_b.entry, of_b.k_step, of_b.outer_step, dtype),
            out: of_out,
            bias: present(matrices(BIAS, 0, 0, 1, 0)),
            residual: present(matrices(RESIDUAL, m * n, n, 1, 0)),
            state: address(3, 0),
            batch: [1, 1, 1, batch as u32],
            m: m as u32,
            n: n as u32,
            k: k as u32,
            tiles: (batch * m.div_ceil(tm as usize) * n.div_ceil(tn as usize)) as u64,
            tiles_m: (m as u32).div_ceil(tm),
            tiles_n: (n as u32).div_ceil(tn),
            k_to: k as u32,
            alpha: 1.0,
            ..MatmulArgs::default()
        };
        let names = (0..batch).map(|entry| Some([entry; 2])).collect();
        Self {
            row,
            size,
            batch,
            sides,
            args,
            out,
            grid: 2,
            names,
            summed: vec![0..k; batch],
            buffers,
        }
    }

    /// A product of groups along k, one an entry of the output; what k they leave is no number.
    pub(crate) fn along_k(
        row: Row,
        out: Out,
        [m, n, k]: [usize; 3],
        groups: &[usize],
        seed: u64,
    ) -> Self {
        let mut case = Self::with(row, out, groups.len(), [m, n, k], seed);
        let mut list: Vec<GroupEntry> = Vec::new();
        let mut first = 0;
        case.summed.clear();
        for &size in groups {
            list.push(GroupEntry { first: first as u32, size: size as u32, tile: 0 });
            case.summed.push(first..first + size);
            first += size;
        }
        let (dtype, ..) = form(&row);
        for (side, outer) in [(0, m), (1, n)] {
            let operand = case.sides[side];
            let all = (0..outer).flat_map(|i| (first..k).map(move |p| (i, p)));
            for at in all.map(|(i, p)| operand.at(0, i, p) * width(dtype)) {
                case.buffers[side][at..at + width(dtype)].fill(POISON);
            }
        }
        let most = groups.iter().max().map_or(0, |&n| n as u32);
        case.args = MatmulArgs {
            k: most,
            k_to: most,
            group: MatmulArgs::ALONG_K,
            group_count: groups.len() as u32,
            groups: address(LIST, 0),
            ..case.args
        };
        (case.args.a.batch, case.args.b.batch) = ([0; 4], [0; 4]);
        case.buffers.push(bytemuck::cast_slice(&list).to_vec());
        case.names.fill(Some([0; 2]));
        case
    }

    /// The same of the matrices that a list names, which is as `matmul_indices` leaves it with these steps.
    pub(crate) fn by_index(mut self, names: &[Option<[usize; 2]>], list: Vec<u8>) -> Self {
        assert_eq!(names.len(), self.batch);
        self.args.group = MatmulArgs::BY_INDEX;
        self.args.groups = address(LIST, 0);
        (self.args.a.batch, self.args.b.batch) = ([0; 4], [0; 4]);
        self.buffers.push(list);
        Self { names: names.to_vec(), ..self }
    }

    /// How far matrices of A and of B lie apart, as indices name them: bytes, or places of an axis.
    pub(crate) fn steps(&self) -> [u64; 2] {
        let (dtype, ..) = form(&self.row);
        let bytes = self.sides.map(|side| (side.entry * width(dtype)) as u64);
        if matches!(self.row, Row::MatmulSm90(_)) { [1; 2] } else { bytes }
    }

    /// The same on a grid of so many blocks, or clusters.
    pub(crate) fn on(self, grid: u32) -> Self {
        Self { grid, ..self }
    }

    /// The whole product; a persistent kernel on two blocks, or clusters.
    pub(crate) fn run(&self, model: &mut Model, order: Order) -> Outcome {
        self.launch(model, order, &self.args, [0; 2], &self.buffers)
    }

    /// K in splits of so many elements, merged, all tiles by one launch of each kernel, or each by its own.
    pub(crate) fn run_split(
        &self,
        model: &mut Model,
        order: Order,
        split: u32,
        by_tile: bool,
    ) -> Outcome {
        let Row::MatmulSm90(row) = &self.row else { panic!("{:?} does not split", self.row) };
        let splits = self.args.k.div_ceil(split);
        let tiles = if by_tile { 1 } else { self.args.tiles };
        let mut outcome = Outcome { found: String::new(), buffers: self.buffers.clone() };
        for first_tile in (0..self.args.tiles).step_by(tiles as usize) {
            let args = MatmulArgs { first_tile, tiles, ..self.args };
            outcome.buffers[STATE] = scratch(row.part_bytes(tiles, splits));
            let parts = self.launch(model, order, &args, [splits, split], &outcome.buffers);
            let merge = row.merge(&args, splits);
            let bytes = (bytemuck::bytes_of(&merge), &places()[..]);
            let merged =
                model.run(&Row::MatmulMerge(MatmulMerge), order, self.grid, bytes, &parts.buffers);
            let found = outcome.found + &parts.found + &merged.found;
            outcome = Outcome { found, buffers: merged.buffers };
        }
        outcome
    }

    /// Tile by tile, its K in two links.
    pub(crate) fn run_cut(&self, model: &mut Model, cut: u32) -> Outcome {
        let mut outcome = Outcome { found: String::new(), buffers: self.buffers.clone() };
        for first_tile in 0..self.args.tiles {
            for [k_from, k_to] in [[0, cut], [cut, self.args.k]] {
                let args = MatmulArgs { first_tile, tiles: 1, k_from, k_to, ..self.args };
                let next = self.launch(model, Order::Late, &args, [0; 2], &outcome.buffers);
                outcome = Outcome { found: outcome.found + &next.found, buffers: next.buffers };
            }
        }
        outcome
    }

    fn launch(
        &self,
        model: &mut Model,
        order: Order,
        args: &MatmulArgs,
        [splits, split_k]: [u32; 2],
        buffers: &[Vec<u8>],
    ) -> Outcome {
        let places = places();
        let Row::MatmulSm90(row) = &self.row else {
            let bytes = bytemuck::bytes_of(args);
            return model.run(&self.row, order, args.tiles as u32, (bytes, &places), buffers);
        };
        let [m, n, k] = self.size.map(|x| x as u64);
        let map = |side, buffer, outer, operand: Operand| {
            let steps = [operand.outer_step, operand.k_step].map(|x| x as u64);
            let batch = [[1, 8], [1, 8], [self.batch as u64, operand.entry as u64]];
            let map = row.map(side, address(buffer, 0), [outer, k], steps, batch);
            assert!(map.is_valid(), "{map:?}");
            map
        };
        let is_one = [MatmulArgs::ALONG_K, MatmulArgs::BY_INDEX].contains(&args.group);
        let spread = if is_one { 0 } else { 7 };
        let out = row.out(args);
        assert_eq!(out.is_some(), self.out == Out::Boxes);
        let args = MatmulSm90Args {
            a: map(Side::A, 0, m, self.sides[0]),
            b: map(Side::B, 1, n, self.sides[1]),
            out: out.unwrap_or_default(),
            stores_boxes: out.is_some().into(),
            splits,
            split_k,
            matmul: *args,
            spread_a: spread,
            spread_b: spread,
            ..MatmulSm90Args::default()
        };
        let inner = offset_of!(MatmulSm90Args, matmul) as u32;
        let maps = [
            offset_of!(MatmulSm90Args, a) as u32,
            offset_of!(MatmulSm90Args, b) as u32,
            offset_of!(MatmulSm90Args, out) as u32,
        ];
        let places: Vec<u32> = maps.into_iter().chain(places.iter().map(|at| inner + at)).collect();
        let blocks = self.grid * row.cluster;
        model.run(&self.row, order, blocks, (bytemuck::bytes_of(&args), &places), buffers)
    }

    fn element(&self, side: usize, entry: usize, outer: usize, k: usize) -> f64 {
        let (dtype, ..) = form(&self.row);
        let at = width(dtype) * self.sides[side].at(entry, outer, k);
        match (dtype, &self.buffers[side][at..][..width(dtype)]) {
            // As it is multiplied: ten digits behind the point, halves away from zero.
            (_, &[a, b, c, d]) => {
                let bits = u32::from_le_bytes([a, b, c, d]);
                f32::from_bits((bits + 0x1000) & !0x1fff).into()
            }
            (BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f64(),
            (_, &[a, b]) => f16::from_le_bytes([a, b]).to_f64(),
            _ => f64::NAN,
        }
    }

    /// What the epilogue adds to an element.
    fn added(&self, entry: usize, i: usize, j: usize) -> f64 {
        let [m, n, _] = self.size;
        let of = |buffer: usize, at: usize| {
            let words: &[[u8; 4]] = self.buffers[buffer].as_chunks().0;
            f64::from(f32::from_le_bytes(words[at]))
        };
        let is = self.out == Out::Rows;
        if is { of(BIAS, j) + of(RESIDUAL, (entry * m + i) * n + j) } else { 0.0 }
    }

    /// Every output within a few roundings of the sum in f64, and everything between the rows untouched.
    ///
    /// # Errors
    /// The first that is not.
    pub(crate) fn check(&self, outcome: &Outcome) -> Result<(), String> {
        let [m, n, _] = self.size;
        let Matrices { batch: [.., step], row, column, .. } = self.args.out;
        let bytes = &outcome.buffers[OUT];
        let is_bf16 = form(&self.row).0 == BF16;
        // The last is half of the least number of f16, to which sums of one product may round.
        let (width, rounding, smallest) = match self.out {
            Out::Odd => (4, 0.0, 0.0),
            _ if is_bf16 => (2, 1.0 / 256.0, 0.0),
            _ => (2, 1.0 / 2048.0, 2f64.powi(-25)),
        };
        let mut is_written = vec![false; bytes.len() / width];
        for (entry, i) in (0..self.batch).flat_map(|entry| (0..m).map(move |i| (entry, i))) {
            for j in 0..n {
                let mut sum = self.added(entry, i, j);
                let mut size = sum.abs();
                let summed = |of| self.summed[entry].clone().map(move |p| (p, of));
                for (p, [a, b]) in self.names[entry].into_iter().flat_map(summed) {
                    let x = self.element(0, a, i, p) * self.element(1, b, j, p);
                    sum += x;
                    size += x.abs();
                }
                let at = entry * step as usize + i * row as usize + j * column as usize;
                is_written[at] = true;
                let got = match bytes[at * width..][..width] {
                    [a, b] if is_bf16 => bf16::from_le_bytes([a, b]).to_f64(),
                    [a, b] => f16::from_le_bytes([a, b]).to_f64(),
                    [a, b, c, d] => f64::from(f32::from_le_bytes([a, b, c, d])),
                    _ => f64::NAN,
                };
                let allowed = 1e-6 * size + rounding * sum.abs() + smallest;
                // A NaN is no small error.
                if (got - sum).abs().partial_cmp(&allowed).is_none_or(|order| order.is_gt()) {
                    return Err(format!("[{entry}, {i}, {j}]: {got}, not {sum}"));
                }
            }
        }
        let between = bytes
            .chunks(width)
            .zip(is_written)
            .find(|(x, is)| !is && x.iter().any(|b| *b != POISON));
        between.map_or(Ok(()), |_| Err("what lies between rows was written".into()))
    }
}
