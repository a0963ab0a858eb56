//! Every row of the attention kernels on the host model: awkward shapes and every option against sums in f64, in every
//! order of copies and products, with any cut of the keys, all with nothing found by the model.

use crate::model::{Model, Order, Outcome, address};
use half::{bf16, f16};
use leasehold_kernels::{AttentionArgs, AttentionSm90, AttentionSm90Args, Entry, Heads, Row, rows};
use std::mem::offset_of;

const F32: u32 = 0;
const F16: u32 = 1;
const BF16: u32 = 2;
const POISON: u8 = 0xff;

/// Sizes and options.
#[derive(Clone, Copy, Debug)]
struct Options {
    batch: usize,
    kv_heads: usize,
    group: usize,
    rows: usize,
    keys: usize,
    causal: bool,
    window: Option<[u32; 2]>,
    softcap: f32,
    alibi: bool,
    mask: bool,
    sinks: bool,
}

const PLAIN: Options = Options {
    batch: 1,
    kv_heads: 1,
    group: 1,
    rows: 130,
    keys: 200,
    causal: false,
    window: None,
    softcap: 0.0,
    alibi: false,
    mask: false,
    sinks: false,
};

struct Case {
    row: AttentionSm90,
    options: Options,
    buffers: Vec<Vec<u8>>,
    args: AttentionSm90Args,
}

/// Order of the buffers.
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const OUT: usize = 3;
const LSE: usize = 4;
const ENTRIES: usize = 5;
const STATE: usize = 6;
const ALIBI: usize = 7;
const SINKS: usize = 8;
const MASK: usize = 9;

struct Random(u64);

impl Random {
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

impl Case {
    fn new(row: AttentionSm90, options: Options, seed: u64) -> Self {
        let Options { batch, kv_heads, group, rows, keys, .. } = options;
        let (d, dv, heads) = (row.d as usize, row.dv as usize, kv_heads * group);
        let mut random = Random(seed * 2 + 1);
        let mut halves = |count: usize| -> Vec<u8> {
            let bits = (0..count).map(|_| {
                let x = random.draw();
                if row.bf16 { bf16::from_f32(x).to_bits() } else { f16::from_f32(x).to_bits() }
            });
            bits.flat_map(u16::to_le_bytes).collect()
        };
        let mut buffers = vec![
            halves(batch * heads * rows * d),
            halves(batch * kv_heads * keys * d),
            halves(batch * kv_heads * keys * dv),
            vec![POISON; batch * heads * rows * dv * 4],
            vec![POISON; batch * heads * rows * 4],
        ];
        let entry = Entry { rows: rows as u32, keys: keys as u32, ..Entry::default() };
        buffers.push(bytemuck::bytes_of(&entry).to_vec());
        buffers.push(vec![POISON; row.state_bytes() as usize]);
        let mut floats = |count: usize, scale: f32| -> Vec<u8> {
            (0..count).flat_map(|_| (scale * random.draw().abs()).to_le_bytes()).collect()
        };
        buffers.push(floats(heads, 0.1));
        buffers.push(floats(heads, 2.0));
        let mask =
            |i: usize| if i % 7 == 3 { f32::NEG_INFINITY } else { (i % 5) as f32 * 0.25 - 0.5 };
        let count = if options.mask { batch * heads * rows * keys } else { 0 };
        buffers.push((0..count).flat_map(|i| mask(i).to_le_bytes()).collect());
        let dtype = if row.bf16 { BF16 } else { F16 };
        let view = |buffer, heads: usize, rows: usize, columns: usize, dtype| {
            let [row, head, batch] =
                [columns, rows * columns, heads * rows * columns].map(|n| n as i64);
            Heads { at: address(buffer, 0), batch, head, row, column: 1, dtype, present: 1 }
        };
        let [left, right] = options.window.unwrap_or([u32::MAX; 2]);
        let tiles_per_head = (rows * group).div_ceil(AttentionSm90::ROWS as usize);
        let attention = AttentionArgs {
            q: view(Q, heads, rows, d, dtype),
            k: view(K, kv_heads, keys, d, dtype),
            v: view(V, kv_heads, keys, dv, dtype),
            mask: if options.mask { view(MASK, heads, rows, keys, F32) } else { Heads::default() },
            out: view(OUT, heads, rows, dv, F32),
            lse: view(LSE, heads, rows, 1, F32),
            alibi: if options.alibi { address(ALIBI, 0) } else { 0 },
            sinks: if options.sinks { address(SINKS, 0) } else { 0 },
            alibi_step: 1,
            sinks_step: 1,
            entries: address(ENTRIES, 0),
            state: address(STATE, 0),
            first_tile: 0,
            tiles: (batch * kv_heads * tiles_per_head) as u64,
            kv_heads: kv_heads as u32,
            group: group as u32,
            tiles_per_head: tiles_per_head as u32,
            entry_count: batch as u32,
            alike: 1,
            packed: 0,
            key_from: 0,
            key_to: keys as u32,
            last: 1,
            scale: 1.0 / (d as f32).sqrt(),
            softcap: options.softcap,
            left,
            right: if options.causal { 0 } else { right },
            d: row.d,
            dv: row.dv,
            padding: 0,
        };
        let map = |buffer, columns: usize| {
            let [b, h, n, c] = [batch, kv_heads, keys, columns].map(|n| n as u64);
            let map = AttentionSm90::map(address(buffer, 0), [b, h, n, c], [h * n * c, n * c, c]);
            assert!(map.is_valid(), "{map:?}");
            map
        };
        let args = AttentionSm90Args { k: map(K, d), v: map(V, dv), attention, padding: [0; 24] };
        Self { row, options, buffers, args }
    }

    fn launch(
        &self,
        model: &mut Model,
        order: Order,
        attention: AttentionArgs,
        buffers: &[Vec<u8>],
    ) -> Outcome {
        let inner = offset_of!(AttentionSm90Args, attention) as u32;
        let heads = (0..6).map(|i| inner + i * size_of::<Heads>() as u32);
        let others = [
            offset_of!(AttentionArgs, alibi),
            offset_of!(AttentionArgs, sinks),
            offset_of!(AttentionArgs, entries),
            offset_of!(AttentionArgs, state),
        ];
        let others = others.into_iter().map(|at| inner + at as u32);
        let maps =
            [offset_of!(AttentionSm90Args, k) as u32, offset_of!(AttentionSm90Args, v) as u32];
        let places: Vec<u32> = maps.into_iter().chain(heads).chain(others).collect();
        let args = AttentionSm90Args { attention, ..self.args };
        let row = Row::AttentionSm90(self.row);
        model.run(&row, order, 2, (bytemuck::bytes_of(&args), &places), buffers)
    }

    fn run(&self, model: &mut Model, order: Order) -> Outcome {
        self.launch(model, order, self.args.attention, &self.buffers)
    }

    /// Tile by tile, its keys in links of a chunk.
    fn run_cut(&self, model: &mut Model) -> Outcome {
        let mut outcome = Outcome { found: String::new(), buffers: self.buffers.clone() };
        let keys = self.options.keys as u32;
        for first_tile in 0..self.args.attention.tiles {
            for key_from in (0..keys).step_by(AttentionSm90::CHUNK as usize) {
                let key_to = keys.min(key_from + AttentionSm90::CHUNK);
                let last = u32::from(key_to == keys);
                let attention = AttentionArgs {
                    first_tile,
                    tiles: 1,
                    key_from,
                    key_to,
                    last,
                    ..self.args.attention
                };
                let next = self.launch(model, Order::Late, attention, &outcome.buffers);
                outcome = Outcome { found: outcome.found + &next.found, buffers: next.buffers };
            }
        }
        outcome
    }

    fn half(&self, buffer: usize, index: usize) -> f64 {
        let bits = u16::from_le_bytes([
            self.buffers[buffer][2 * index],
            self.buffers[buffer][2 * index + 1],
        ]);
        if self.row.bf16 { bf16::from_bits(bits).to_f64() } else { f16::from_bits(bits).to_f64() }
    }

    fn float(bytes: &[u8], index: usize) -> f64 {
        let word: &[[u8; 4]] = bytes.as_chunks().0;
        f64::from(f32::from_le_bytes(word[index]))
    }

    /// Score of a key for a row, if it is seen.
    fn score(&self, [b, h, i, j]: [usize; 4]) -> Option<f64> {
        let o = self.options;
        let (d, heads) = (self.row.d as usize, o.kv_heads * o.group);
        let here = (i + o.keys) as i64 - o.rows as i64;
        let far = here - j as i64;
        let [left, right] = o.window.unwrap_or([u32::MAX; 2]);
        let right = if o.causal { 0 } else { i64::from(right) };
        if far > i64::from(left) || -far > right {
            return None;
        }
        let (q, k) =
            (((b * heads + h) * o.rows + i) * d, ((b * o.kv_heads + h / o.group) * o.keys + j) * d);
        let dot: f64 = (0..d).map(|c| self.half(Q, q + c) * self.half(K, k + c)).sum();
        let mut s = f64::from(self.args.attention.scale) * dot;
        if o.softcap > 0.0 {
            s = f64::from(o.softcap) * (s / f64::from(o.softcap)).tanh();
        }
        if o.alibi {
            s -= Self::float(&self.buffers[ALIBI], h) * far.abs() as f64;
        }
        if o.mask {
            s += Self::float(&self.buffers[MASK], ((b * heads + h) * o.rows + i) * o.keys + j);
        }
        Some(s).filter(|s| s.is_finite())
    }

    /// Outputs within what rounding the weights to 16 bits explains, log-sum-exps within f32.
    fn check(&self, outcome: &Outcome) -> Result<(), String> {
        let o = self.options;
        let (dv, heads) = (self.row.dv as usize, o.kv_heads * o.group);
        let unit = if self.row.bf16 { 1.0 / 256.0 } else { 1.0 / 2048.0 };
        for index in 0..o.batch * heads * o.rows {
            let (b, h, i) = (index / o.rows / heads, index / o.rows % heads, index % o.rows);
            let scores: Vec<Option<f64>> = (0..o.keys).map(|j| self.score([b, h, i, j])).collect();
            let sink = o.sinks.then(|| Self::float(&self.buffers[SINKS], h));
            let top =
                scores.iter().flatten().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> =
                scores.iter().map(|s| s.map_or(0.0, |s| (s - top).exp())).collect();
            let sum = weights.iter().sum::<f64>() + sink.map_or(0.0, |s| (s - top).exp());
            let got = Self::float(&outcome.buffers[LSE], index);
            let lse = if sum > 0.0 { top + sum.ln() } else { f64::NEG_INFINITY };
            if got != lse && ((got - lse).abs() > 1e-4 || got.is_nan()) {
                return Err(format!("lse of [{b}, {h}, {i}]: {got}, not {lse}"));
            }
            for c in 0..dv {
                let (mut value, mut size) = (0.0, 0.0);
                for (j, weight) in weights.iter().enumerate() {
                    let v = self.half(V, ((b * o.kv_heads + h / o.group) * o.keys + j) * dv + c);
                    value += weight * v;
                    size += weight * v.abs();
                }
                let scale = if sum > 0.0 { 1.0 / sum } else { 0.0 };
                let got = Self::float(&outcome.buffers[OUT], index * dv + c);
                let error = (got - value * scale).abs();
                if error > size * scale * unit + 1e-5 || got.is_nan() {
                    return Err(format!("[{b}, {h}, {i}, {c}]: {got}, not {}", value * scale));
                }
            }
        }
        Ok(())
    }
}

fn all() -> Vec<AttentionSm90> {
    let of = |row| if let Row::AttentionSm90(row) = row { Some(row) } else { None };
    rows().into_iter().filter_map(of).collect()
}

#[test]
fn every_row_attends_in_every_order() {
    let Some(mut model) = Model::start() else { return };
    let orders = [Order::Early, Order::Seeded(1), Order::LateCopies, Order::LateProducts];
    for (i, row) in all().into_iter().enumerate() {
        let options = Options { causal: i % 2 == 1, group: 1 + i % 3, rows: 90, ..PLAIN };
        let case = Case::new(row, options, i as u64);
        let late = case.run(&mut model, Order::Late);
        assert_eq!(late.found, "", "{row:?}");
        case.check(&late).unwrap_or_else(|wrong| panic!("{row:?} {options:?}: {wrong}"));
        let order = orders[i % orders.len()];
        let other = case.run(&mut model, order);
        assert_eq!(other.found, "", "{row:?} {order:?}");
        assert!(other.buffers == late.buffers, "{row:?}: {order:?} gives other bits");
    }
}

#[test]
fn every_option_is_right() {
    let Some(mut model) = Model::start() else { return };
    let row = AttentionSm90 { bf16: true, d: 64, dv: 64 };
    let cases = [
        Options { batch: 2, kv_heads: 2, group: 2, rows: 70, keys: 129, ..PLAIN },
        Options { rows: 20, keys: 300, window: Some([17, 5]), ..PLAIN },
        Options { rows: 140, keys: 60, causal: true, ..PLAIN },
        Options { rows: 33, keys: 140, softcap: 3.0, alibi: true, group: 3, ..PLAIN },
        Options { rows: 33, keys: 140, mask: true, sinks: true, group: 2, ..PLAIN },
        Options { rows: 1, keys: 257, group: 9, causal: true, sinks: true, ..PLAIN },
    ];
    for (i, options) in cases.into_iter().enumerate() {
        let case = Case::new(row, options, 20 + i as u64);
        let outcome = case.run(&mut model, Order::Late);
        assert_eq!(outcome.found, "", "{options:?}");
        case.check(&outcome).unwrap_or_else(|wrong| panic!("{options:?}: {wrong}"));
    }
}

#[test]
fn any_cut_of_the_keys_gives_equal_bits() {
    let Some(mut model) = Model::start() else { return };
    let row = AttentionSm90 { bf16: false, d: 128, dv: 64 };
    let case = Case::new(row, Options { rows: 40, keys: 300, causal: true, ..PLAIN }, 5);
    let whole = case.run(&mut model, Order::Late);
    assert_eq!(whole.found, "");
    let cut = case.run_cut(&mut model);
    assert_eq!(cut.found, "");
    assert!(cut.buffers[OUT] == whole.buffers[OUT] && cut.buffers[LSE] == whole.buffers[LSE]);
}
