//! Products for the host model: operands, the launch, and the judgement. The tests of the matmul kernels make them.

// Each test program uses a part.
#![allow(dead_code)]

pub(crate) mod attention;
pub(crate) mod gradients;

use crate::model::{Model, Order, Outcome, address};
use half::{bf16, f16};
use leasehold_kernels::{Major, MatmulArgs, MatmulSm90Args, Matrices, Row, Side};
use std::mem::offset_of;

/// A product and its operands: A, B, the output and the carried state. Each operand ends with its last element.
pub(crate) struct Case {
    row: Row,
    size: [usize; 3],
    batch: usize,
    sides: [Operand; 2],
    args: MatmulArgs,
    buffers: Vec<Vec<u8>>,
}

/// Strides in elements of a side as `[outer, k]`.
#[derive(Clone, Copy)]
struct Operand {
    entry: usize,
    outer_step: usize,
    k_step: usize,
}

const POISON: u8 = 0xff;
const BF16: u32 = 2;
const F16: u32 = 1;
const OUT: usize = 2;

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

/// What a row is made for: whether bf16, how A and B lie, its tile, and the bytes of a carried tile.
fn form(row: &Row) -> (bool, [Major; 2], [u32; 2], u64) {
    let dense = |outer| if outer { Major::Outer } else { Major::K };
    match row {
        Row::MatmulSm80(row) => (row.bf16, [row.a, row.b], row.tile, row.state_bytes()),
        Row::MatmulSm90(row) => {
            let tile = [leasehold_kernels::MatmulSm90::ROWS, row.columns];
            (row.bf16, [dense(row.a_outer), dense(row.b_outer)], tile, row.state_bytes())
        }
        _ => panic!("no product: {row:?}"),
    }
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

    fn fill(&self, batch: usize, outer: usize, k: usize, mut draw: impl FnMut() -> u16) -> Vec<u8> {
        let mut elements = vec![0x7fffu16; self.at(batch - 1, outer - 1, k - 1) + 1];
        for entry in 0..batch {
            for i in 0..outer {
                for j in 0..k {
                    elements[self.at(entry, i, j)] = draw();
                }
            }
        }
        bytemuck::cast_slice(&elements).to_vec()
    }
}

impl Case {
    pub(crate) fn new(row: Row, batch: usize, size: [usize; 3], seed: u64) -> Self {
        let mut random = Random(seed * 2 + 1);
        let [m, n, k] = size;
        let (is_bf16, [a, b], [tm, tn], state_bytes) = form(&row);
        let mut draw = || {
            let x = random.draw();
            if is_bf16 { bf16::from_f32(x).to_bits() } else { f16::from_f32(x).to_bits() }
        };
        let sides = [Operand::of(a, m, k), Operand::of(b, n, k)];
        // An odd leading dimension.
        let ld = n | 1;
        let buffers = vec![
            sides[0].fill(batch, m, k, &mut draw),
            sides[1].fill(batch, n, k, &mut draw),
            vec![POISON; ((batch * m - 1) * ld + n) * 4],
            vec![POISON; state_bytes as usize],
        ];
        let dtype = if is_bf16 { BF16 } else { F16 };
        let matrices = |buffer, entry: usize, row: usize, column: usize, dtype| Matrices {
            at: address(buffer, 0),
            batch: [0, 0, 0, entry as i64],
            row: row as i64,
            column: column as i64,
            dtype,
            present: 1,
        };
        let [of_a, of_b] = sides;
        let args = MatmulArgs {
            a: matrices(0, of_a.entry, of_a.outer_step, of_a.k_step, dtype),
            b: matrices(1, of_b.entry, of_b.k_step, of_b.outer_step, dtype),
            out: matrices(OUT, m * ld, ld, 1, 0),
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
        Self { row, size, batch, sides, args, buffers }
    }

    /// The whole product; a persistent kernel on two blocks.
    pub(crate) fn run(&self, model: &mut Model, order: Order) -> Outcome {
        self.launch(model, order, &self.args, &self.buffers)
    }

    /// Tile by tile, its K in two links.
    pub(crate) fn run_cut(&self, model: &mut Model, cut: u32) -> Outcome {
        let mut outcome = Outcome { found: String::new(), buffers: self.buffers.clone() };
        for first_tile in 0..self.args.tiles {
            for [k_from, k_to] in [[0, cut], [cut, self.args.k]] {
                let args = MatmulArgs { first_tile, tiles: 1, k_from, k_to, ..self.args };
                let next = self.launch(model, Order::Late, &args, &outcome.buffers);
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
        buffers: &[Vec<u8>],
    ) -> Outcome {
        let matrices: Vec<u32> = (0..8).map(|i| i * size_of::<Matrices>() as u32).collect();
        let places = [&matrices[..], &[offset_of!(MatmulArgs, state) as u32]].concat();
        let Row::MatmulSm90(row) = &self.row else {
            let bytes = bytemuck::bytes_of(args);
            return model.run(&self.row, order, args.tiles as u32, (bytes, &places), buffers);
        };
        let [m, n, k] = self.size.map(|x| x as u64);
        let map = |side, buffer, outer, operand: Operand| {
            let steps = [operand.outer_step, operand.k_step].map(|x| x as u64);
            let batch = [[1, 0], [1, 0], [self.batch as u64, operand.entry as u64]];
            let map = row.map(side, address(buffer, 0), [outer, k], steps, batch);
            assert!(map.is_valid(), "{map:?}");
            map
        };
        let args = MatmulSm90Args {
            a: map(Side::A, 0, m, self.sides[0]),
            b: map(Side::B, 1, n, self.sides[1]),
            matmul: *args,
            spread_a: 7,
            spread_b: 7,
            ..MatmulSm90Args::default()
        };
        let inner = offset_of!(MatmulSm90Args, matmul) as u32;
        let maps = [offset_of!(MatmulSm90Args, a) as u32, offset_of!(MatmulSm90Args, b) as u32];
        let places: Vec<u32> = maps.into_iter().chain(places.iter().map(|at| inner + at)).collect();
        model.run(&self.row, order, 2, (bytemuck::bytes_of(&args), &places), buffers)
    }

    fn element(&self, side: usize, entry: usize, outer: usize, k: usize) -> f64 {
        let at = 2 * self.sides[side].at(entry, outer, k);
        let bits = u16::from_le_bytes([self.buffers[side][at], self.buffers[side][at + 1]]);
        if form(&self.row).0 {
            bf16::from_bits(bits).to_f64()
        } else {
            f16::from_bits(bits).to_f64()
        }
    }

    /// Every output within a few roundings of the sum in f64, and everything between the rows untouched.
    ///
    /// # Errors
    /// The first that is not.
    pub(crate) fn check(&self, outcome: &Outcome) -> Result<(), String> {
        let [m, n, k] = self.size;
        let ld = self.args.out.row as usize;
        let words: &[[u8; 4]] = outcome.buffers[OUT].as_chunks().0;
        for (entry, i) in (0..self.batch).flat_map(|entry| (0..m).map(move |i| (entry, i))) {
            for j in 0..n {
                let (mut sum, mut size) = (0.0, 0.0);
                for p in 0..k {
                    let x = self.element(0, entry, i, p) * self.element(1, entry, j, p);
                    sum += x;
                    size += x.abs();
                }
                let got = f64::from(f32::from_le_bytes(words[(entry * m + i) * ld + j]));
                // A NaN is no small error.
                if (got - sum).abs().partial_cmp(&(1e-6 * size)).is_none_or(|order| order.is_gt()) {
                    return Err(format!("[{entry}, {i}, {j}]: {got}, not {sum}"));
                }
            }
            let end = (entry * m + i) * ld + n;
            let gap = words.get(end..end + ld - n).unwrap_or_default();
            if gap.iter().any(|word| *word != [POISON; 4]) {
                return Err(format!("row {i} of {entry} was written past its end"));
            }
        }
        Ok(())
    }
}
