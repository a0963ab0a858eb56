//! Attention for the host model: operands in every form, the launch, and the judgement. The tests of the attention kernels
//! make them.

// Each test program uses a part.
#![allow(dead_code)]

use super::Random;
use crate::model::{Model, Order, Outcome, address, scratch};
use half::{bf16, f16};
use leasehold_kernels::{
    AttentionArgs, AttentionCombine, AttentionPaged, AttentionReference, AttentionSm90,
    AttentionSm90Args, Entry, Heads, Pages, Row,
};
use std::mem::offset_of;

const F32: u32 = 0;
const F16: u32 = 1;
const BF16: u32 = 2;
const POISON: u8 = 0xff;
/// Bytes of what is no number: the elements of operands that nothing may read.
const NO_NUMBER: u8 = 0xff;
/// Elements between the rows of an output, which stay as they are: in even batches so many that pairs of elements are not
/// aligned.
fn gap(options: &Options) -> usize {
    if options.batch.is_multiple_of(2) { 3 } else { 4 }
}

/// Sizes and options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) batch: usize,
    pub(crate) kv_heads: usize,
    pub(crate) group: usize,
    pub(crate) rows: usize,
    pub(crate) keys: usize,
    /// Head dims, where they are not the row's.
    pub(crate) dims: Option<[usize; 2]>,
    /// Rows and keys of each entry; empty: all have `rows` and `keys`.
    pub(crate) lens: &'static [[usize; 2]],
    /// Whether rows, and keys without pages, lie one entry after another; `rows` and `keys` are then their room.
    pub(crate) packed: bool,
    /// Keys of a page, or 0.
    pub(crate) page: usize,
    /// Whether no row is aligned to 16 bytes.
    pub(crate) odd: bool,
    pub(crate) causal: bool,
    pub(crate) window: Option<[u32; 2]>,
    pub(crate) softcap: f32,
    pub(crate) alibi: bool,
    pub(crate) mask: bool,
    pub(crate) sinks: bool,
}

pub(crate) const PLAIN: Options = Options {
    batch: 1,
    kv_heads: 1,
    group: 1,
    rows: 130,
    keys: 200,
    dims: None,
    lens: &[],
    packed: false,
    page: 0,
    odd: false,
    causal: false,
    window: None,
    softcap: 0.0,
    alibi: false,
    mask: false,
    sinks: false,
};

/// What a row is made for.
#[derive(Clone, Copy)]
struct Form {
    dtype: u32,
    dims: [usize; 2],
    tile_rows: usize,
    chunk: usize,
    state_bytes: u64,
}

fn form(row: &Row) -> Form {
    match row {
        Row::AttentionSm80(row) => Form {
            dtype: if row.bf16 { BF16 } else { F16 },
            dims: [row.d as usize; 2],
            tile_rows: row.rows() as usize,
            chunk: row.chunk() as usize,
            state_bytes: row.state_bytes(),
        },
        Row::AttentionSm90(row) => Form {
            dtype: if row.bf16 { BF16 } else { F16 },
            dims: [row.d, row.dv].map(|n| n as usize),
            tile_rows: AttentionSm90::ROWS as usize,
            chunk: row.chunk() as usize,
            state_bytes: row.state_bytes(),
        },
        Row::AttentionPaged(row) => Form {
            dtype: if row.bf16 { BF16 } else { F16 },
            dims: [row.d as usize; 2],
            tile_rows: AttentionPaged::ROWS as usize,
            chunk: SPLIT,
            state_bytes: AttentionCombine::part_bytes(row.d),
        },
        Row::AttentionReference(_) => Form {
            dtype: F32,
            dims: [70, 40],
            tile_rows: AttentionReference::ROWS as usize,
            chunk: 77,
            state_bytes: AttentionCombine::part_bytes(256),
        },
        _ => panic!("no attention: {row:?}"),
    }
}

/// Keys of a split, where a row splits them.
const SPLIT: usize = AttentionPaged::SPLIT_STEP as usize * 2;

/// An operation and its operands.
pub(crate) struct Case {
    row: Row,
    options: Options,
    entries: Vec<Entry>,
    /// Numbers of the pages of each entry.
    table: Vec<Vec<u32>>,
    pub(crate) buffers: Vec<Vec<u8>>,
    pub(crate) args: AttentionArgs,
}

/// Order of the buffers.
pub(crate) const Q: usize = 0;
pub(crate) const K: usize = 1;
pub(crate) const V: usize = 2;
pub(crate) const OUT: usize = 3;
pub(crate) const LSE: usize = 4;
pub(crate) const ENTRIES: usize = 5;
const STATE: usize = 6;
const ALIBI: usize = 7;
const SINKS: usize = 8;
const MASK: usize = 9;
pub(crate) const PAGES: usize = 10;
const FAULT: usize = 11;
const PARTIALS: usize = 12;

/// The entries of the batch, and the rows that none owns where rows are packed.
fn entries(options: &Options, tile_rows: usize) -> Vec<Entry> {
    let Options { rows, keys, lens, packed, page, group, .. } = *options;
    if lens.is_empty() {
        return vec![Entry { rows: rows as u32, keys: keys as u32, ..Entry::default() }];
    }
    let mut next = Entry::default();
    let mut all = Vec::new();
    for [rows, keys] in lens {
        all.push(Entry { rows: *rows as u32, keys: *keys as u32, ..next });
        if packed {
            next.first_row += *rows as u32;
            next.first_key += if page == 0 { *keys as u32 } else { 0 };
            next.first_tile += (rows * group).div_ceil(tile_rows) as u32;
        }
    }
    if packed {
        all.push(Entry { rows: rows as u32 - next.first_row, keys: 0, ..next });
    }
    all
}

impl Case {
    pub(crate) fn new(row: Row, options: Options, seed: u64) -> Self {
        let Form { dtype, dims, tile_rows, state_bytes, .. } = form(&row);
        let Options { batch, kv_heads, group, rows, keys, packed, page, odd, .. } = options;
        let ([d, dv], heads) = (options.dims.unwrap_or(dims), kv_heads * group);
        let entries = entries(&options, tile_rows);
        let mut random = Random(seed * 2 + 1);
        // Every entry's pages, shuffled, and some that nobody has.
        let per_entry = keys.div_ceil(page.max(1));
        let page_count = if page == 0 { 0 } else { batch * per_entry + 3 };
        let table: Vec<Vec<u32>> = (0..if page == 0 { 0 } else { batch })
            .map(|b| (0..per_entry).map(|i| ((i * batch + b) * 7 % page_count) as u32).collect())
            .collect();
        let stride = |n: usize| if odd { (n + 1) | 1 } else { n };
        let q_batch = if packed { 1 } else { batch };
        let line = if page == 0 { keys } else { page };
        let k_batch = if page == 0 { q_batch } else { page_count };
        let view = |buffer, heads: usize, rows: usize, columns: usize, dtype| {
            let [row, head, batch] =
                [columns, rows * columns, heads * rows * columns].map(|n| n as i64);
            Heads { at: address(buffer, 0), batch, head, row, column: 1, dtype, present: 1 }
        };
        let [left, right] = options.window.unwrap_or([u32::MAX; 2]);
        let tiles_per_head = if packed {
            let last = entries[entries.len() - 1];
            last.first_tile as usize + (last.rows as usize * group).div_ceil(tile_rows)
        } else {
            (rows * group).div_ceil(tile_rows)
        };
        let args = AttentionArgs {
            q: view(Q, heads, rows, stride(d), dtype),
            k: view(K, kv_heads, line, stride(d), dtype),
            v: view(V, kv_heads, line, stride(dv), dtype),
            mask: if options.mask { view(MASK, heads, rows, keys, F32) } else { Heads::default() },
            out: view(OUT, heads, rows, dv + gap(&options), F32),
            lse: view(LSE, heads, rows, 1, F32),
            alibi: if options.alibi { address(ALIBI, 0) } else { 0 },
            sinks: if options.sinks { address(SINKS, 0) } else { 0 },
            alibi_step: 1,
            sinks_step: 1,
            entries: address(ENTRIES, 0),
            state: address(STATE, 0),
            first_tile: 0,
            tiles: (q_batch * kv_heads * tiles_per_head) as u64,
            kv_heads: kv_heads as u32,
            group: group as u32,
            tiles_per_head: tiles_per_head as u32,
            entry_count: if packed { entries.len() } else { batch } as u32,
            alike: u32::from(options.lens.is_empty()),
            packed: u32::from(packed),
            key_from: 0,
            key_to: keys as u32,
            last: 1,
            scale: 1.0 / (d as f32).sqrt(),
            softcap: options.softcap,
            left,
            right: if options.causal { 0 } else { right },
            d: d as u32,
            dv: dv as u32,
            split: if let Row::AttentionPaged(_) = row { SPLIT as u32 } else { 0 },
            first: 1,
            // Sections of two, and of what is left.
            heads_at_once: 2,
            pages: Pages {
                at: if page == 0 { 0 } else { address(PAGES, 0) },
                entry: per_entry as i64,
                step: 1,
                size: page as u32,
                count: page_count as u32,
            },
            fault: address(FAULT, 0),
            partials: address(PARTIALS, 0),
        };
        let mut case = Self { row, options, entries, table, buffers: Vec::new(), args };
        let width = width(dtype);
        // All of the room may be brought, also what no entry has.
        let mut fill = |x: &Heads, columns: usize, rows: &[[usize; 3]], last| -> Vec<u8> {
            let mut bytes = vec![NO_NUMBER; width * (offset(x, last) + columns)];
            for at in rows {
                let first = width * offset(x, *at);
                let numbers: Vec<u8> =
                    (0..columns).flat_map(|_| bytes_of(dtype, random.draw())).collect();
                bytes[first..first + numbers.len()].copy_from_slice(&numbers);
            }
            bytes
        };
        let of_rows: Vec<[usize; 3]> = case.places(heads, |e| e.rows, |b, i| case.row_at(b, i));
        let of_keys: Vec<[usize; 3]> = case.places(kv_heads, |e| e.keys, |b, j| case.key_at(b, j));
        let mut buffers = vec![
            fill(&args.q, d, &of_rows, [q_batch - 1, heads - 1, rows - 1]),
            fill(&args.k, d, &of_keys, [k_batch - 1, kv_heads - 1, line - 1]),
            fill(&args.v, dv, &of_keys, [k_batch - 1, kv_heads - 1, line - 1]),
            vec![POISON; ((q_batch * heads * rows - 1) * (dv + gap(&options)) + dv) * 4],
            vec![POISON; q_batch * heads * rows * 4],
            bytemuck::cast_slice(&case.entries).to_vec(),
            scratch(state_bytes * args.tiles),
        ];
        let mut floats = |count: usize, scale: f32| -> Vec<u8> {
            (0..count).flat_map(|_| (scale * random.draw().abs()).to_le_bytes()).collect()
        };
        buffers.push(floats(heads, 0.1));
        buffers.push(floats(heads, 2.0));
        let mask =
            |i: usize| if i % 7 == 3 { f32::NEG_INFINITY } else { (i % 5) as f32 * 0.25 - 0.5 };
        let count = if options.mask { batch * heads * rows * keys } else { 0 };
        buffers.push((0..count).flat_map(|i| mask(i).to_le_bytes()).collect());
        buffers.push(case.table.iter().flatten().flat_map(|page| page.to_le_bytes()).collect());
        buffers.push(vec![0; 12]);
        let splits = if args.split == 0 { 0 } else { args.tiles * keys.div_ceil(SPLIT) as u64 };
        let part = AttentionCombine::part_bytes(args.dv);
        buffers.push(scratch(splits * part));
        case.buffers = buffers;
        case
    }

    /// The entry of a number.
    fn entry(&self, b: usize) -> Entry {
        self.entries[if self.options.lens.is_empty() { 0 } else { b }]
    }

    /// Batch entries, those of rows that none owns included.
    fn count(&self) -> usize {
        if self.options.packed { self.entries.len() } else { self.options.batch }
    }

    /// Batch and row of an entry's row in Q and the outputs.
    fn row_at(&self, b: usize, i: usize) -> [usize; 2] {
        if self.options.packed { [0, self.entry(b).first_row as usize + i] } else { [b, i] }
    }

    /// Batch or page, and row, of an entry's key in K and V.
    fn key_at(&self, b: usize, j: usize) -> [usize; 2] {
        match self.options {
            Options { page: 0, packed: true, .. } => [0, self.entry(b).first_key as usize + j],
            Options { page: 0, .. } => [b, j],
            Options { page, .. } => [self.table[b][j / page] as usize, j % page],
        }
    }

    /// Batch, head and row of all rows or keys of all entries.
    fn places(
        &self,
        heads: usize,
        count: impl Fn(Entry) -> u32,
        at: impl Fn(usize, usize) -> [usize; 2],
    ) -> Vec<[usize; 3]> {
        let mut all = Vec::new();
        for b in 0..self.count() {
            for i in 0..count(self.entry(b)) as usize {
                let [batch, row] = at(b, i);
                all.extend((0..heads).map(|h| [batch, h, row]));
            }
        }
        all
    }

    pub(crate) fn launch(
        &self,
        model: &mut Model,
        order: Order,
        attention: AttentionArgs,
        buffers: &[Vec<u8>],
    ) -> Outcome {
        let mut places: Vec<u32> = (0..6).map(|i| i * size_of::<Heads>() as u32).collect();
        let others = [
            offset_of!(AttentionArgs, alibi),
            offset_of!(AttentionArgs, sinks),
            offset_of!(AttentionArgs, entries),
            offset_of!(AttentionArgs, state),
            offset_of!(AttentionArgs, pages) + offset_of!(Pages, at),
            offset_of!(AttentionArgs, fault),
            offset_of!(AttentionArgs, partials),
        ];
        places.extend(others.map(|at| at as u32));
        let (tiles, bytes) = (attention.tiles as u32, bytemuck::bytes_of(&attention));
        let row = match self.row {
            Row::AttentionSm90(row) => row,
            Row::AttentionPaged(_) => {
                let splits = attention.key_to.div_ceil(attention.split)
                    - attention.key_from / attention.split;
                let parts = model.run(&self.row, order, tiles * splits, (bytes, &places), buffers);
                let combine = Row::AttentionCombine(AttentionCombine);
                let Options { rows, group, packed, .. } = self.options;
                let most = AttentionPaged::ROWS;
                let rows = if packed { most } else { most.min((rows * group) as u32) };
                let blocks = tiles * rows;
                let out = model.run(&combine, order, blocks, (bytes, &places), &parts.buffers);
                return Outcome { found: parts.found + &out.found, buffers: out.buffers };
            }
            _ => return model.run(&self.row, order, tiles, (bytes, &places), buffers),
        };
        let inner = offset_of!(AttentionSm90Args, attention) as u32;
        let maps = [offset_of!(AttentionSm90Args, k), offset_of!(AttentionSm90Args, v)];
        let places: Vec<u32> = maps
            .map(|at| at as u32)
            .into_iter()
            .chain(places.iter().map(|at| inner + at))
            .collect();
        let map = |x: &Heads, columns: u32| {
            let Options { batch, kv_heads, keys, packed, .. } = self.options;
            let batch = if packed { 1 } else { batch };
            let sizes = [batch, kv_heads, keys, columns as usize].map(|n| n as u64);
            let map = row.map(x.at, sizes, [x.batch, x.head, x.row].map(|n| n as u64));
            assert!(map.is_valid(), "{map:?}");
            map
        };
        let (k, v) = (map(&attention.k, attention.d), map(&attention.v, attention.dv));
        let args = AttentionSm90Args { k, v, attention, padding: [0; 10] };
        model.run(&self.row, order, 2, (bytemuck::bytes_of(&args), &places), buffers)
    }

    pub(crate) fn run(&self, model: &mut Model, order: Order) -> Outcome {
        self.launch(model, order, self.args, &self.buffers)
    }

    /// In launches of some tiles, their keys in links of some chunks.
    pub(crate) fn run_cut(&self, model: &mut Model, tiles: u64, chunks: usize) -> Outcome {
        self.run_cut_with(model, tiles, chunks, |_| {})
    }

    /// The same, while somebody else does as he likes to memory between the launches.
    pub(crate) fn run_cut_with(
        &self,
        model: &mut Model,
        tiles: u64,
        chunks: usize,
        mut between: impl FnMut(&mut [Vec<u8>]),
    ) -> Outcome {
        let mut outcome = Outcome { found: String::new(), buffers: self.buffers.clone() };
        let keys = self.options.keys;
        for first_tile in (0..self.args.tiles).step_by(tiles as usize) {
            let step = chunks * form(&self.row).chunk;
            let mut cuts: Vec<usize> = (0..keys).step_by(step).collect();
            if let Row::AttentionSm90(_) = self.row {
                cuts.reverse();
            }
            let [first, last] = [cuts[0], cuts[cuts.len() - 1]];
            for key_from in cuts {
                let key_to = keys.min(key_from + step);
                let attention = AttentionArgs {
                    first_tile,
                    tiles: tiles.min(self.args.tiles - first_tile),
                    key_from: key_from as u32,
                    key_to: key_to as u32,
                    first: u32::from(key_from == first),
                    last: u32::from(key_from == last),
                    ..self.args
                };
                let next = self.launch(model, Order::Late, attention, &outcome.buffers);
                outcome = Outcome { found: outcome.found + &next.found, buffers: next.buffers };
                between(&mut outcome.buffers);
            }
        }
        outcome
    }

    /// Makes the keys and values of an entry's page zeros.
    pub(crate) fn clear_page(&mut self, b: usize, page: usize) {
        let number = self.table[b][page] as usize;
        for (buffer, x) in [(K, self.args.k), (V, self.args.v)] {
            let (from, to) = (offset(&x, [number, 0, 0]), offset(&x, [number + 1, 0, 0]));
            let end = self.buffers[buffer].len();
            let width = width(form(&self.row).dtype);
            self.buffers[buffer][(width * from).min(end)..(width * to).min(end)].fill(0);
        }
    }

    /// Writes a number into the table of pages, which the reference does not know of.
    pub(crate) fn set_page(&mut self, b: usize, page: usize, number: u32) {
        let at = 4 * (b * self.args.pages.entry as usize + page);
        self.buffers[PAGES][at..at + 4].copy_from_slice(&number.to_le_bytes());
    }

    /// Taken, value and bound.
    pub(crate) fn fault(&self, outcome: &Outcome) -> [u32; 3] {
        let words: &[[u8; 4]] = outcome.buffers[FAULT].as_chunks().0;
        [0, 1, 2].map(|i| u32::from_le_bytes(words[i]))
    }

    fn element(&self, buffer: usize, index: usize) -> f64 {
        let dtype = form(&self.row).dtype;
        let bytes = &self.buffers[buffer][index * width(dtype)..];
        match dtype {
            BF16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
            F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
            _ => float(bytes, 0),
        }
    }

    /// Score of a key for a row, if it is seen.
    fn score(&self, [b, h, i, j]: [usize; 4]) -> Option<f64> {
        let (o, entry) = (self.options, self.entry(b));
        let here = i as i64 + i64::from(entry.keys) - i64::from(entry.rows);
        let far = here - j as i64;
        let right = i64::from(self.args.right);
        if far > i64::from(self.args.left) || -far > right {
            return None;
        }
        let ([qb, qi], [kb, kj]) = (self.row_at(b, i), self.key_at(b, j));
        let q = offset(&self.args.q, [qb, h, qi]);
        let k = offset(&self.args.k, [kb, h / o.group, kj]);
        let dot: f64 = (0..self.args.d as usize)
            .map(|c| self.element(Q, q + c) * self.element(K, k + c))
            .sum();
        let mut s = f64::from(self.args.scale) * dot;
        if o.softcap > 0.0 {
            s = f64::from(o.softcap) * (s / f64::from(o.softcap)).tanh();
        }
        if o.alibi {
            s -= float(&self.buffers[ALIBI], h) * far.abs() as f64;
        }
        if o.mask {
            s += float(&self.buffers[MASK], offset(&self.args.mask, [b, h, i]) + j);
        }
        Some(s).filter(|s| s.is_finite())
    }

    /// Outputs within what rounding the weights to 16 bits explains, log-sum-exps within f32, and everything between the
    /// rows untouched.
    ///
    /// # Errors
    /// The first that is not.
    pub(crate) fn check(&self, outcome: &Outcome) -> Result<(), String> {
        let o = self.options;
        for b in 0..self.count() {
            for i in 0..self.entry(b).rows as usize {
                for h in 0..o.kv_heads * o.group {
                    self.check_row(outcome, [b, h, i])?;
                }
            }
        }
        self.check_gaps(outcome)
    }

    /// Everything between the rows of the output is untouched.
    ///
    /// # Errors
    /// The first that is not.
    pub(crate) fn check_gaps(&self, outcome: &Outcome) -> Result<(), String> {
        let out: &[[u8; 4]] = outcome.buffers[OUT].as_chunks().0;
        let gap = gap(&self.options);
        let pitch = self.args.dv as usize + gap;
        let gaps = out.iter().skip(self.args.dv as usize).enumerate();
        match gaps.filter(|(i, _)| i % pitch < gap).find(|(_, word)| **word != [POISON; 4]) {
            Some((i, _)) => Err(format!("row {} was written past its end", i / pitch)),
            None => Ok(()),
        }
    }

    fn check_row(&self, outcome: &Outcome, [b, h, i]: [usize; 3]) -> Result<(), String> {
        let (o, dv) = (self.options, self.args.dv as usize);
        let unit = match form(&self.row).dtype {
            BF16 => 1.0 / 256.0,
            F16 => 1.0 / 2048.0,
            _ => 0.0,
        };
        let keys = self.entry(b).keys as usize;
        let scores: Vec<Option<f64>> = (0..keys).map(|j| self.score([b, h, i, j])).collect();
        // Rows that no entry owns see nothing at all.
        let is_owned = !o.packed || b + 1 < self.entries.len();
        let sink = (o.sinks && is_owned).then(|| float(&self.buffers[SINKS], h));
        let top = scores.iter().flatten().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| s.map_or(0.0, |s| (s - top).exp())).collect();
        let sum = weights.iter().sum::<f64>() + sink.map_or(0.0, |s| (s - top).exp());
        let [batch, row] = self.row_at(b, i);
        let got = float(&outcome.buffers[LSE], offset(&self.args.lse, [batch, h, row]));
        let lse = if sum > 0.0 { top + sum.ln() } else { f64::NEG_INFINITY };
        if got != lse && ((got - lse).abs() > 1e-4 || got.is_nan()) {
            return Err(format!("lse of [{b}, {h}, {i}]: {got}, not {lse}"));
        }
        for c in 0..dv {
            let (mut value, mut size) = (0.0, 0.0);
            for (j, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                let [kb, kj] = self.key_at(b, j);
                let v = self.element(V, offset(&self.args.v, [kb, h / o.group, kj]) + c);
                value += weight * v;
                size += weight * v.abs();
            }
            let scale = if sum > 0.0 { 1.0 / sum } else { 0.0 };
            let got = float(&outcome.buffers[OUT], offset(&self.args.out, [batch, h, row]) + c);
            let error = (got - value * scale).abs();
            if error > size * scale * unit + 1e-5 || got.is_nan() {
                return Err(format!("[{b}, {h}, {i}, {c}]: {got}, not {}", value * scale));
            }
        }
        Ok(())
    }
}

/// Element of an operand where a row begins.
fn offset(x: &Heads, [batch, head, row]: [usize; 3]) -> usize {
    (batch as i64 * x.batch + head as i64 * x.head + row as i64 * x.row) as usize
}

fn float(bytes: &[u8], index: usize) -> f64 {
    let words: &[[u8; 4]] = bytes.as_chunks().0;
    f64::from(f32::from_le_bytes(words[index]))
}

fn width(dtype: u32) -> usize {
    if dtype == F32 { 4 } else { 2 }
}

/// A number as an operand has it.
fn bytes_of(dtype: u32, x: f32) -> Vec<u8> {
    match dtype {
        BF16 => bf16::from_f32(x).to_le_bytes().to_vec(),
        F16 => f16::from_f32(x).to_le_bytes().to_vec(),
        _ => x.to_le_bytes().to_vec(),
    }
}
