//! Gradients of attention for the host model: operands in every form, the launches, and the judgement. The tests of the
//! kernels of `attention_backward` make them.

// Each test program uses a part.
#![allow(dead_code)]

use super::Random;
use crate::model::{Model, Order, Outcome, address, scratch};
use half::{bf16, f16};
use leasehold_kernels::{
    AttentionBackwardArgs, AttentionBackwardReference, AttentionBackwardRows,
    AttentionBackwardSm90, AttentionBackwardSm90Args, BoxMap, Entry, GradientSide, Heads, Row,
    gradient_tiles,
};
use std::mem::offset_of;

pub(crate) const F32: u32 = 0;
pub(crate) const F16: u32 = 1;
pub(crate) const BF16: u32 = 2;
/// Bytes of what is no number: what lies between elements, and what nobody has written.
const NO_NUMBER: u8 = 0xff;

/// How the rows of operands lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Style {
    /// Whole 16 bytes, with a gap between rows.
    Whole,
    /// No row aligned.
    Odd,
    /// Columns apart, rows side by side.
    Turned,
}

/// Sizes and options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) batch: usize,
    pub(crate) kv_heads: usize,
    pub(crate) group: usize,
    pub(crate) rows: usize,
    pub(crate) keys: usize,
    pub(crate) dims: [usize; 2],
    pub(crate) causal: bool,
    pub(crate) window: Option<[u32; 2]>,
    pub(crate) softcap: f32,
    pub(crate) alibi: bool,
    pub(crate) mask: bool,
    /// Rows and keys of each entry; empty: all have `rows` and `keys`.
    pub(crate) lens: &'static [[usize; 2]],
    /// Whether rows and keys lie one entry after another; `rows` and `keys` are then their room.
    pub(crate) packed: bool,
    /// An entry whose operands are no numbers; so are then those that none owns.
    pub(crate) spoiled: Option<usize>,
    /// Whether every seventh row has a log-sum-exp of minus infinity, whatever it sees, and an
    /// output that is no number.
    pub(crate) hidden: bool,
    pub(crate) style: Style,
    /// Type of Q, K, V and d_out, where it is not the row's.
    pub(crate) operands: Option<u32>,
    /// Types of out, and of the gradients.
    pub(crate) dtypes: [u32; 2],
}

pub(crate) const PLAIN: Options = Options {
    batch: 1,
    kv_heads: 1,
    group: 1,
    rows: 70,
    keys: 90,
    dims: [32, 32],
    causal: false,
    window: None,
    softcap: 0.0,
    alibi: false,
    mask: false,
    lens: &[],
    packed: false,
    spoiled: None,
    hidden: false,
    style: Style::Whole,
    operands: None,
    dtypes: [F32; 2],
};

/// What a row is made for.
#[derive(Clone, Copy)]
struct Form {
    side: GradientSide,
    dtype: u32,
    tile: usize,
    chunk: usize,
    state_bytes: u64,
}

fn form(row: &Row) -> Form {
    match row {
        Row::AttentionBackwardSm80(row) => Form {
            side: row.side,
            dtype: if row.bf16 { BF16 } else { F16 },
            tile: row.tile() as usize,
            chunk: row.chunk() as usize,
            state_bytes: row.state_bytes(),
        },
        Row::AttentionBackwardSm90(row) => Form {
            side: row.side,
            dtype: if row.bf16 { BF16 } else { F16 },
            tile: AttentionBackwardSm90::TILE as usize,
            chunk: row.chunk() as usize,
            state_bytes: row.state_bytes(),
        },
        Row::AttentionBackwardReference(row) => Form {
            side: row.side,
            dtype: F32,
            tile: AttentionBackwardReference::TILE as usize,
            chunk: AttentionBackwardReference::CHUNK as usize,
            state_bytes: AttentionBackwardReference::STATE_BYTES,
        },
        _ => panic!("no gradients: {row:?}"),
    }
}

/// Order of the buffers: as the operands in the arguments, then scratch and state.
const STATISTICS: usize = 9;
const STATE: usize = 10;
const MASK: usize = 11;
const ALIBI: usize = 12;
const ENTRIES: usize = 13;

/// A tensor of the case: its shape without the head dim, and columns.
struct Tensor {
    view: Heads,
    shape: [usize; 4],
    /// What it holds, row-major.
    values: Vec<f64>,
}

/// An operation and its operands.
pub(crate) struct Case {
    row: Row,
    scores: Scores,
    tensors: Vec<Tensor>,
    pub(crate) buffers: Vec<Vec<u8>>,
    pub(crate) args: AttentionBackwardArgs,
    chunks: u64,
}

impl Case {
    pub(crate) fn new(row: Row, options: Options, seed: u64) -> Self {
        let Form { side, dtype, tile, chunk, state_bytes } = form(&row);
        let dtype = options.operands.unwrap_or(dtype);
        let Options { batch, kv_heads, group, rows, keys, dims: [d, dv], .. } = options;
        let heads = kv_heads * group;
        let mut random = Random(seed * 2 + 1);
        let (of_q, of_k) = ([batch, heads, rows, d], [batch, kv_heads, keys, d]);
        let (of_v, of_out) = ([batch, kv_heads, keys, dv], [batch, heads, rows, dv]);
        let [of_given, of_found] = options.dtypes;
        let mut tensors = Vec::new();
        let mut buffers = Vec::new();
        let mut add = |shape: [usize; 4], dtype, values: Option<Vec<f64>>| {
            let view = view(tensors.len(), shape, dtype, options.style, values.is_none());
            let values = values.unwrap_or_default();
            let values: Vec<f64> = values.into_iter().map(|x| round(dtype, x)).collect();
            buffers.push(bytes_of(&view, shape, &values));
            tensors.push(Tensor { view, shape, values: values.clone() });
            values
        };
        let mut draw = |shape: [usize; 4], has_keys| -> Option<Vec<f64>> {
            let is = |n| {
                let owner = owner(&options, shape, has_keys, n);
                options.spoiled.is_none() || (owner.is_some() && owner != options.spoiled)
            };
            let number = |n| if is(n) { random.draw().into() } else { f64::NAN };
            Some((0..shape.iter().product()).map(number).collect())
        };
        let q = add(of_q, dtype, draw(of_q, false));
        let k = add(of_k, dtype, draw(of_k, true));
        let v = add(of_v, dtype, draw(of_v, true));
        let scale = 1.0 / (d.max(1) as f32).sqrt();
        let slopes: Vec<f64> = (0..heads).map(|h| round(F32, 0.02 * (h + 1) as f64)).collect();
        let of_mask = [batch, heads, rows, if options.mask { keys } else { 0 }];
        let masked =
            |i: usize| if i % 7 == 3 { f64::NEG_INFINITY } else { (i % 5) as f64 * 0.25 - 0.5 };
        let mask: Vec<f64> = (0..of_mask.iter().product()).map(masked).collect();
        let scores = Scores { options, scale: scale.into(), slopes, mask };
        let (out, lse) = forward(&scores, [&q, &k, &v]);
        add(of_out, of_given, Some(out));
        add([batch, heads, rows, 1], F32, Some(lse));
        add(of_out, dtype, draw(of_out, false));
        for shape in [of_q, of_k, of_v] {
            add(shape, of_found, None);
        }
        let keyed = side == GradientSide::Keys;
        let (count, of_heads) = if keyed { (keys, kv_heads) } else { (rows, heads) };
        let entries = listed(&options);
        let packed = if options.packed { entries.len() as u64 } else { 0 };
        let tiles = (batch * of_heads) as u64 * gradient_tiles(count as u64, tile as u64, packed);
        // Nobody has the rows of the last of packed entries' list.
        let most = |i: usize, all| options.lens.iter().map(|len| len[i]).max().unwrap_or(all);
        let [most_rows, most_keys] = [most(0, rows), most(1, keys)];
        let chunks =
            if keyed { group * most_rows.div_ceil(chunk) } else { most_keys.div_ceil(chunk) }
                as u64;
        let room = AttentionBackwardRows::room(rows as u64, packed);
        let bytes = AttentionBackwardRows::bytes((batch * heads) as u64, room);
        buffers.push(scratch(bytes));
        buffers.push(scratch(state_bytes * tiles));
        let of_mask_view =
            Heads { at: address(MASK, 0), ..view(0, of_mask, F32, options.style, false) };
        buffers.push(bytes_of(&of_mask_view, of_mask, &scores.mask));
        buffers.push(scores.slopes.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect());
        buffers.push(bytemuck::cast_slice(&entries).to_vec());
        let [left, right] = options.window.unwrap_or([u32::MAX; 2]).map(|n| n.min(i32::MAX as u32));
        let of = |i: usize| tensors[i].view;
        let args = AttentionBackwardArgs {
            q: of(0),
            k: of(1),
            v: of(2),
            mask: if options.mask { of_mask_view } else { Heads::default() },
            out: of(3),
            lse: of(4),
            d_out: of(5),
            d_q: of(6),
            d_k: of(7),
            d_v: of(8),
            alibi: if options.alibi { address(ALIBI, 0) } else { 0 },
            alibi_step: 1,
            entries: if options.lens.is_empty() { 0 } else { address(ENTRIES, 0) },
            statistics: address(STATISTICS, 0),
            state: address(STATE, 0),
            first_tile: 0,
            tiles,
            from: 0,
            to: chunks,
            kv_heads: kv_heads as u32,
            group: group as u32,
            rows: rows as u32,
            keys: keys as u32,
            most_rows: most_rows as u32,
            entry_count: packed as u32,
            room: room as u32,
            last: 1,
            scale,
            softcap: options.softcap,
            left,
            right: if options.causal { 0 } else { right },
            d: d as u32,
            dv: dv as u32,
        };
        Self { row, scores, tensors, buffers, args, chunks }
    }

    fn launch(
        &self,
        model: &mut Model,
        row: &Row,
        order: Order,
        args: AttentionBackwardArgs,
        before: Outcome,
    ) -> Outcome {
        // What ended the model, ended it.
        if !before.found.is_empty() {
            return before;
        }
        let heads = (0..10).map(|i| i * size_of::<Heads>());
        let others = [
            offset_of!(AttentionBackwardArgs, alibi),
            offset_of!(AttentionBackwardArgs, entries),
            offset_of!(AttentionBackwardArgs, statistics),
            offset_of!(AttentionBackwardArgs, state),
        ];
        let places: Vec<u32> = heads.chain(others).map(|at| at as u32).collect();
        match row {
            Row::AttentionBackwardSm90(_) => self.dealt(model, row, order, args, &places, &before),
            _ => {
                let (bytes, tiles) = (bytemuck::bytes_of(&args), args.tiles as u32);
                model.run(row, order, tiles, (bytes, &places), &before.buffers)
            }
        }
    }

    /// A launch whose tiles are dealt out to two blocks, and whose operands the copy engine brings.
    fn dealt(
        &self,
        model: &mut Model,
        row: &Row,
        order: Order,
        backward: AttentionBackwardArgs,
        places: &[u32],
        before: &Outcome,
    ) -> Outcome {
        let map = |i: usize| {
            let Tensor { view: x, shape, .. } = &self.tensors[i];
            let strides = [x.batch, x.head, x.row].map(|n| n as u64);
            AttentionBackwardSm90::map(x.at, shape.map(|n| n as u64), strides)
        };
        let heads = (self.tensors[0].shape[0] * self.tensors[0].shape[1]) as u64;
        let of_rows =
            AttentionBackwardSm90::statistics(backward.statistics, heads, backward.room.into());
        let maps = [map(0), map(1), map(2), map(5), of_rows];
        assert!(maps.iter().all(BoxMap::is_valid), "{maps:?}");
        let [q, k, v, d_out, statistics] = maps;
        let args =
            AttentionBackwardSm90Args { q, k, v, d_out, statistics, backward, padding: [0; 8] };
        let inner = offset_of!(AttentionBackwardSm90Args, backward) as u32;
        let of_maps = (0..5).map(|i| i * size_of::<BoxMap>() as u32);
        let places: Vec<u32> = of_maps.chain(places.iter().map(|at| inner + at)).collect();
        model.run(row, order, 2, (bytemuck::bytes_of(&args), &places), &before.buffers)
    }

    /// What the rows' own kernel leaves, in launches of so many tiles.
    fn statistics(&self, model: &mut Model, order: Order, tiles: u64) -> Outcome {
        let mut outcome = Outcome { found: String::new(), buffers: self.buffers.clone() };
        let Options { batch, kv_heads, group, .. } = self.scores.options;
        let of_head = self.args.room / AttentionBackwardRows::ROWS;
        let all = (batch * kv_heads * group) as u64 * u64::from(of_head);
        for first_tile in (0..all).step_by(tiles as usize) {
            let tiles = tiles.min(all - first_tile);
            let args = AttentionBackwardArgs { first_tile, tiles, ..self.args };
            let row = Row::AttentionBackwardRows(AttentionBackwardRows);
            outcome = self.launch(model, &row, order, args, outcome);
        }
        outcome
    }

    pub(crate) fn run(&self, model: &mut Model, order: Order) -> Outcome {
        let outcome = self.statistics(model, order, u64::MAX);
        self.launch(model, &self.row, order, self.args, outcome)
    }

    /// In launches of some tiles, their chunks in links of some.
    pub(crate) fn run_cut(&self, model: &mut Model, tiles: u64, chunks: u64) -> Outcome {
        let mut outcome = self.statistics(model, Order::Late, tiles);
        for first_tile in (0..self.args.tiles).step_by(tiles as usize) {
            for from in (0..self.chunks).step_by(chunks as usize) {
                let to = self.chunks.min(from + chunks);
                let tiles = tiles.min(self.args.tiles - first_tile);
                let last = u32::from(to == self.chunks);
                let args = AttentionBackwardArgs { first_tile, tiles, from, to, last, ..self.args };
                outcome = self.launch(model, &self.row, Order::Late, args, outcome);
            }
        }
        outcome
    }

    /// The gradients that the row gives.
    fn found(&self) -> &'static [usize] {
        if form(&self.row).side == GradientSide::Keys { &[7, 8] } else { &[6] }
    }

    /// Whether two runs left the same gradients.
    pub(crate) fn agree(&self, a: &Outcome, b: &Outcome) -> bool {
        self.found().iter().all(|&i| a.buffers[i] == b.buffers[i])
    }

    /// Gradients by the parity tests' rule: errors at most twice those of the formula rounded after each step, and twice the
    /// spacing of the output's type. Nothing else is touched.
    ///
    /// # Errors
    /// The first that is not.
    pub(crate) fn check(&self, outcome: &Outcome) -> Result<(), String> {
        let of = |i: usize| &self.tensors[i];
        let coarse =
            if form(&self.row).dtype == F32 { of(6).view.dtype } else { form(&self.row).dtype };
        let (exact, low) = (self.gradients(None), self.gradients(Some(coarse)));
        for &i in self.found() {
            let Tensor { view, shape, .. } = of(i);
            let (mut worst, mut plain, mut largest) = ((0.0, 0), 0f64, 0f64);
            let wanted = exact[i - 6].iter().zip(&low[i - 6]);
            let mut buffer = outcome.buffers[i].clone();
            for ((at, n), (x, low)) in places(view, *shape).zip(0..).zip(wanted) {
                let bytes = &mut buffer[at..at + width(view.dtype)];
                let got = value(view.dtype, bytes);
                bytes.fill(NO_NUMBER);
                let options = &self.scores.options;
                let is_spoiled = |e| owner(options, *shape, i > 6, n) == Some(e);
                if options.spoiled.is_some_and(is_spoiled) {
                    continue;
                }
                if !got.is_finite() {
                    return Err(format!("gradient {i}: {got} at element {n}, not {x}"));
                }
                if (got - x).abs() > worst.0 {
                    worst = ((got - x).abs(), n);
                }
                plain = plain.max((low - x).abs());
                largest = largest.max(x.abs());
            }
            let digits = [23, 10, 7][view.dtype as usize];
            let floor = if largest == 0.0 {
                0.0
            } else {
                2f64.powi(largest.log2().floor() as i32 - digits)
            };
            if worst.0 > 2.0 * plain + 2.0 * floor {
                return Err(format!(
                    "gradient {i}: element {} is {:e} off, allowed 2 x {plain:e} + 2 x {floor:e}",
                    worst.1, worst.0
                ));
            }
            if buffer.iter().any(|byte| *byte != NO_NUMBER) {
                return Err(format!("gradient {i}: something between its rows was written"));
            }
        }
        let touched = (0..STATISTICS).filter(|i| !self.found().contains(i));
        match touched.into_iter().find(|&i| outcome.buffers[i] != self.buffers[i]) {
            Some(i) => Err(format!("operand {i} changed")),
            None => Ok(()),
        }
    }

    /// d_q, d_k and d_v in f64, with each step rounded to a type or not.
    fn gradients(&self, low: Option<u32>) -> [Vec<f64>; 3] {
        let [d, dv] = self.scores.options.dims;
        let value = |x: f64| low.map_or(x, |dtype| round(dtype, x));
        let sum = |x: f64| if low.is_some() { f64::from(x as f32) } else { x };
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).fold(0.0, |s, (x, y)| sum(s + sum(x * y)));
        let line = |i: usize, at: usize| {
            let n = self.tensors[i].shape[3];
            &self.tensors[i].values[at * n..(at + 1) * n]
        };
        let [mut d_q, mut d_k, mut d_v] =
            [0, 1, 2].map(|i| vec![0.0; self.tensors[i].values.len()]);
        let add = |to: &mut [f64], factor: f64, from: &[f64]| {
            to.iter_mut().zip(from).for_each(|(y, x)| *y = sum(*y + sum(factor * x)));
        };
        let scale = f64::from(self.args.scale);
        for Line { at, head, row, keys } in self.scores.lines() {
            let lse = self.tensors[4].values[at];
            let mean = value(dot(line(5, at), line(3, at)));
            for (key, distance) in keys {
                if lse == f64::NEG_INFINITY {
                    continue;
                }
                let product = value(dot(line(0, at), line(1, key)));
                let [score, growth] = self.scores.of(product, [at, head, row], distance, value);
                let weight = value(sum(score - lse).exp());
                add(&mut d_v[key * dv..(key + 1) * dv], weight, line(5, at));
                let slope = value(dot(line(5, at), line(2, key)));
                let slope = value(scale * value(value(weight * value(slope - mean)) * growth));
                add(&mut d_q[at * d..(at + 1) * d], slope, line(1, key));
                add(&mut d_k[key * d..(key + 1) * d], slope, line(0, at));
            }
        }
        [d_q, d_k, d_v].map(|list| list.into_iter().map(value).collect())
    }
}

/// The entries of the batch, and where rows are packed what none owns.
fn listed(options: &Options) -> Vec<Entry> {
    let (mut next, mut all) = (Entry::default(), Vec::new());
    for [rows, keys] in options.lens {
        all.push(Entry { rows: *rows as u32, keys: *keys as u32, ..next });
        if options.packed {
            next.first_row += *rows as u32;
            next.first_key += *keys as u32;
        }
    }
    if options.packed {
        all.push(Entry { rows: options.rows as u32 - next.first_row, ..next });
    }
    all
}

/// The entry that an element of an operand of this shape is of, which has keys or rows.
fn owner(options: &Options, shape: [usize; 4], has_keys: bool, n: usize) -> Option<usize> {
    let [_, heads, rows, columns] = shape;
    let (at, b) = ((n / columns % rows) as u32, n / columns / rows / heads);
    let entries = listed(options).into_iter().take(options.lens.len());
    let owns = |(e, entry): (usize, Entry)| {
        let Entry { first_row, rows, first_key, keys, .. } = entry;
        let [first, count] = if has_keys { [first_key, keys] } else { [first_row, rows] };
        (options.packed || e == b) && (first..first + count).contains(&at)
    };
    entries.enumerate().position(owns)
}

/// What scores are made of.
struct Scores {
    options: Options,
    scale: f64,
    slopes: Vec<f64>,
    /// Row-major.
    mask: Vec<f64>,
}

/// A query row of all: its number, its head, where it stands among the keys, and those of all that it sees, each with its distance.
struct Line {
    at: usize,
    head: usize,
    row: usize,
    keys: Vec<(usize, i64)>,
}

impl Scores {
    fn lines(&self) -> Vec<Line> {
        let Options { batch, kv_heads, group, rows, keys, lens, packed, causal, .. } = self.options;
        let whole = Entry { rows: rows as u32, keys: keys as u32, ..Entry::default() };
        let entries = if lens.is_empty() { vec![whole; batch] } else { listed(&self.options) };
        let [left, right] = self.options.window.unwrap_or([u32::MAX; 2]).map(i64::from);
        let right = if causal { 0 } else { right };
        let mut lines = Vec::new();
        for (b, entry) in entries.into_iter().enumerate() {
            let b = if packed { 0 } else { b };
            for (head, row) in
                (0..kv_heads * group).flat_map(|h| (0..entry.rows).map(move |r| (h, r)))
            {
                let here = i64::from(row) + i64::from(entry.keys) - i64::from(entry.rows);
                let first = (b * kv_heads + head / group) * keys + entry.first_key as usize;
                let far = (0..i64::from(entry.keys)).map(|key| (first + key as usize, key - here));
                let keys = far.filter(|(_, far)| -left <= *far && *far <= right).collect();
                let at = (b * kv_heads * group + head) * rows + (entry.first_row + row) as usize;
                lines.push(Line { at, head, row: here as usize, keys });
            }
        }
        lines
    }

    /// A score, and how fast it grows with the scaled product. `here` stands where the row does among the keys.
    fn of(
        &self,
        product: f64,
        [at, head, here]: [usize; 3],
        distance: i64,
        value: impl Fn(f64) -> f64,
    ) -> [f64; 2] {
        let Options { softcap, alibi, mask, keys, .. } = self.options;
        let (mut score, mut growth) = (value(self.scale * product), 1.0);
        if softcap > 0.0 {
            let part = (score / f64::from(softcap)).tanh();
            score = value(f64::from(softcap) * part);
            growth = 1.0 - part * part;
        }
        if alibi {
            score = value(score - value(self.slopes[head] * distance.abs() as f64));
        }
        if mask {
            let key = (here as i64 + distance) as usize;
            score = value(score + self.mask[at * keys + key]);
        }
        [score, growth]
    }
}

/// Outputs and log-sum-exps of the forward op, row-major.
fn forward(scores: &Scores, [q, k, v]: [&[f64]; 3]) -> (Vec<f64>, Vec<f64>) {
    let Options { batch, kv_heads, group, rows, dims: [d, dv], hidden, .. } = scores.options;
    let count = batch * kv_heads * group * rows;
    let (mut out, mut lse) = (vec![0.0; count * dv], vec![f64::NEG_INFINITY; count]);
    for Line { at, head, row, keys } in scores.lines() {
        let of = |x: &[f64], row: usize| x[row * d..(row + 1) * d].to_vec();
        let weigh = |&(key, distance): &(usize, i64)| {
            let product = of(q, at).iter().zip(of(k, key)).map(|(x, y)| x * y).sum::<f64>();
            scores.of(product, [at, head, row], distance, |x| x)[0].exp()
        };
        let weights: Vec<f64> = keys.iter().map(weigh).collect();
        let sum: f64 = weights.iter().sum();
        let is_hidden = hidden && at % 7 == 3;
        lse[at] = if is_hidden { f64::NEG_INFINITY } else { sum.ln() };
        let sum = if is_hidden { f64::NAN } else { sum.max(f64::MIN_POSITIVE) };
        for c in 0..dv {
            let value = |((key, _), w): (&(usize, i64), &f64)| w * v[key * dv + c];
            out[at * dv + c] = keys.iter().zip(&weights).map(value).sum::<f64>() / sum;
        }
    }
    (out, lse)
}

/// A tensor in its buffer.
fn view(buffer: usize, shape: [usize; 4], dtype: u32, style: Style, written: bool) -> Heads {
    let [_, heads, rows, columns] = shape;
    let pitch = match style {
        _ if written => columns + 3,
        Style::Whole => columns.next_multiple_of(8) + 8,
        Style::Odd => (columns + 1) | 1,
        Style::Turned => 1,
    };
    let column = if style == Style::Turned && !written { rows + 1 } else { 1 };
    let head = if column == 1 { rows * pitch } else { column * columns };
    let [batch, head, row, column] = [heads * head, head, pitch, column].map(|n| n as i64);
    Heads { at: address(buffer, 0), batch, head, row, column, dtype, present: 1 }
}

/// Byte offsets of the elements, row-major.
fn places(view: &Heads, [batch, heads, rows, columns]: [usize; 4]) -> impl Iterator<Item = usize> {
    let v = *view;
    (0..batch * heads * rows * columns).map(move |n| {
        let (c, n) = (n % columns, n / columns);
        let (r, n) = (n % rows, n / rows);
        let steps = [v.column, v.row, v.head, v.batch];
        let at = [c, r, n % heads, n / heads].into_iter().zip(steps);
        at.map(|(i, step)| i * step as usize).sum::<usize>() * width(v.dtype)
    })
}

/// A buffer that ends with the last element; of what has no values yet, no numbers.
fn bytes_of(view: &Heads, shape: [usize; 4], values: &[f64]) -> Vec<u8> {
    let end = places(view, shape).max().map_or(0, |at| at + width(view.dtype));
    let mut bytes = vec![NO_NUMBER; end];
    for (at, x) in places(view, shape).zip(values) {
        match view.dtype {
            F16 => bytes[at..at + 2].copy_from_slice(&f16::from_f64(*x).to_le_bytes()),
            BF16 => bytes[at..at + 2].copy_from_slice(&bf16::from_f64(*x).to_le_bytes()),
            _ => bytes[at..at + 4].copy_from_slice(&(*x as f32).to_le_bytes()),
        }
    }
    bytes
}

fn value(dtype: u32, bytes: &[u8]) -> f64 {
    match (dtype, bytes) {
        (F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f64(),
        (BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f64(),
        (_, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).into(),
        _ => panic!("{} bytes of an element", bytes.len()),
    }
}

fn round(dtype: u32, x: f64) -> f64 {
    match dtype {
        F16 => f16::from_f64(x).to_f64(),
        BF16 => bf16::from_f64(x).to_f64(),
        _ => f64::from(x as f32),
    }
}

fn width(dtype: u32) -> usize {
    if dtype == F32 { 4 } else { 2 }
}
