//! Tensors whose elements lie farther apart than 32 bits count, in bytes and in elements: memory is mapped where they lie and
//! nowhere else, so that an address computed in fewer bits is a fault. Kernels of copies, gathers, softmax, attention and
//! products, by the model driver.

use super::cuda::{Cuda, Handle};
use super::{SWIZZLE_128, element, launch, open_alone};
use half::f16;
use leasehold_kernels::{
    AttentionArgs, AttentionCombine, AttentionPaged, AttentionReference, AttentionSm80,
    AttentionSm90, AttentionSm90Args, Axes, BoxMap, Bytes, CopyArgs, Entry, Fp8, GatherArgs, Heads,
    Major, MatmulArgs, MatmulScaledArgs, MatmulSm90Args, MatmulSm90Fp8Args, Matrices, Pages, Range,
    Row, Rows, Side, SoftmaxArgs, Streaming, Values, View, rows,
};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Memory comes in pieces of so many bytes.
const PIECE: usize = 2 << 20;
/// Bytes from one place to the next. Whichever number loses its high half, bytes or elements of one, two or four of them,
/// what is left is the distance to where nothing is mapped.
const STEP: usize = (1 << 34) + PIECE;

const F32: u32 = 0;
const F16: u32 = 1;
const F8E4M3: u32 = 3;
const I8: u32 = 5;

fn width(dtype: u32) -> usize {
    match dtype {
        F32 => 4,
        F16 => 2,
        _ => 1,
    }
}

/// [`STEP`] in elements.
fn far(dtype: u32) -> i64 {
    (STEP / width(dtype)) as i64
}

/// A whole number, at most 3 from 0, as the device holds it.
fn bits(dtype: u32, x: i32) -> Vec<u8> {
    let code = [0x00, 0x38, 0x40, 0x44][x.unsigned_abs() as usize];
    match dtype {
        F32 => (x as f32).to_le_bytes().into(),
        F16 => f16::from_f32(x as f32).to_le_bytes().into(),
        F8E4M3 => vec![code | if x < 0 { 0x80 } else { 0 }],
        _ => vec![x as i8 as u8],
    }
}

/// The device with memory at places far apart.
struct Sparse {
    cuda: Cuda,
    stream: Handle,
    /// The first of some places, and how many.
    taken: RefCell<Vec<(u64, usize)>>,
}

impl Sparse {
    /// `None` where there is no model driver. Its faults are nobody else's.
    fn open(name: &str) -> Option<Self> {
        let cuda = open_alone(name)?;
        let stream = cuda.stream().expect("a stream");
        Some(Self { cuda, stream, taken: RefCell::default() })
    }

    /// The first of so many places; lines of equal values lie at them.
    fn lines(&self, dtype: u32, lines: &[Vec<i32>]) -> u64 {
        let at = self.places(lines.len());
        for (i, line) in lines.iter().enumerate() {
            let bytes: Vec<u8> = line.iter().flat_map(|&x| bits(dtype, x)).collect();
            self.cuda.write(at + (i * STEP) as u64, &bytes, self.stream).expect("a write");
        }
        at
    }

    fn places(&self, count: usize) -> u64 {
        let at = self.cuda.reserve(count * STEP).expect("addresses");
        for i in 0..count {
            self.cuda.map(at + (i * STEP) as u64, PIECE).expect("memory");
        }
        self.taken.borrow_mut().push((at, count));
        at
    }

    /// Gives all places back.
    fn clear(&self) {
        for (at, count) in self.taken.take() {
            for i in 0..count {
                self.cuda.unmap(at + (i * STEP) as u64, PIECE).expect("no memory");
            }
            self.cuda.unreserve(at, count * STEP).expect("no addresses");
        }
    }

    fn near(&self, bytes: &[u8]) -> u64 {
        let at = self.cuda.alloc(bytes.len()).expect("memory");
        self.cuda.write(at, bytes, self.stream).expect("a write");
        at
    }

    fn launch(&self, row: Row, blocks: u64, args: &[u8]) {
        launch(&self.cuda, &row, blocks as u32, args, self.stream).expect("a launch");
        let done = self.cuda.synchronize(self.stream);
        done.unwrap_or_else(|failure| panic!("{}: {failure}", row.key()));
    }

    fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        self.cuda.read(at, bytes, self.stream).expect("bytes")
    }

    /// Numbers of f32 at each place.
    fn floats(&self, at: u64, places: usize, count: usize) -> Vec<Vec<f32>> {
        let of = |i: usize| self.read(at + (i * STEP) as u64, 4 * count);
        let floats =
            |bytes: Vec<u8>| bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
        (0..places).map(|i| floats(of(i))).collect()
    }

    fn map(&self, map: &BoxMap) -> BoxMap {
        assert!(map.is_valid(), "{map:?}");
        bytemuck::cast(self.cuda.encode(map, SWIZZLE_128).expect("a map").0)
    }
}

fn view(at: u64, outer: i64, inner: i64, dtype: u32) -> View {
    View { at, outer: [outer, 0, 0, 0, 0, 0], inner, dtype, present: 1 }
}

fn axes(size: u64) -> Axes {
    Axes { sizes: [size, 0, 0, 0, 0, 0], rank: 1, padding: 0 }
}

/// All of so many rows.
fn range(rows: u64, inner: u64, row: Streaming) -> Range {
    let range = Range { outer: axes(rows), inner, first: 0, count: 0 };
    Range { count: range.vectors(row.vector()), ..range }
}

const ROWS: usize = 3;
const LINE: usize = 40;

fn lines() -> Vec<Vec<i32>> {
    (0..ROWS).map(|i| (0..LINE).map(|j| element(i, j, 1)).collect()).collect()
}

#[test]
fn copies_reach_every_row() {
    let Some(on) = Sparse::open("far-copy") else { return };
    for (dtype, width) in [(I8, 1), (F16, 2), (F32, 4)] {
        let (lines, row) = (lines(), Streaming::Copy(width));
        let (x, out) = (on.lines(dtype, &lines), on.places(ROWS));
        let range = range(ROWS as u64, LINE as u64, row);
        let views = [x, out].map(|at| view(at, far(dtype), 1, dtype));
        let args = CopyArgs { range, views };
        on.launch(Row::Streaming(row), range.blocks(), bytemuck::bytes_of(&args));
        for (i, line) in lines.iter().enumerate() {
            let want: Vec<u8> = line.iter().flat_map(|&x| bits(dtype, x)).collect();
            assert_eq!(on.read(out + (i * STEP) as u64, want.len()), want, "{dtype} row {i}");
        }
    }
}

/// A few elements behind many: numbers of vectors, columns and elements are all of more than 32 bits.
#[test]
fn a_launch_may_begin_behind_many_elements() {
    let Some(on) = Sparse::open("far-first") else { return };
    let row = Streaming::Copy(1);
    let line: Vec<i32> = (0..LINE).map(|j| element(2, j, 3)).collect();
    let (x, out) = (on.lines(I8, &[vec![0; LINE], line.clone()]), on.places(2));
    let vector = u64::from(row.vector());
    let range = Range {
        outer: Axes::default(),
        inner: (STEP + LINE) as u64,
        first: STEP as u64 / vector,
        count: (LINE as u64).div_ceil(vector),
    };
    let args = CopyArgs { range, views: [x, out].map(|at| view(at, 0, 1, I8)) };
    on.launch(Row::Streaming(row), range.blocks(), bytemuck::bytes_of(&args));
    let want: Vec<u8> = line.iter().flat_map(|&x| bits(I8, x)).collect();
    assert_eq!(on.read(out + STEP as u64, LINE), want);
}

#[test]
fn gathers_reach_every_entry() {
    let Some(on) = Sparse::open("far-gather") else { return };
    for (dtype, width) in [(I8, 1), (F16, 2), (F32, 4)] {
        let (lines, row) = (lines(), Streaming::Gather(width));
        let which = [2u32, 0, 1, 2];
        let table = on.lines(dtype, &lines);
        let index = on.near(bytemuck::cast_slice(&which));
        let out = on.places(which.len());
        let range = range(which.len() as u64, LINE as u64, row);
        let args = GatherArgs {
            range,
            views: [
                view(table, 0, 1, dtype),
                view(index, 1, 0, 7),
                view(out, far(dtype), 1, dtype),
            ],
            step: far(dtype),
            bound: ROWS as u32,
            padding: 0,
            fault: on.near(&[0; 12]),
        };
        on.launch(Row::Streaming(row), range.blocks(), bytemuck::bytes_of(&args));
        for (i, &entry) in which.iter().enumerate() {
            let line = &lines[entry as usize];
            let want: Vec<u8> = line.iter().flat_map(|&x| bits(dtype, x)).collect();
            assert_eq!(on.read(out + (i * STEP) as u64, want.len()), want, "{dtype} row {i}");
        }
    }
}

#[test]
fn softmax_reaches_every_row() {
    let Some(on) = Sparse::open("far-softmax") else { return };
    let lines = lines();
    let (x, out) = (on.lines(F16, &lines), on.places(ROWS));
    let row = Streaming::Softmax(Streaming::lanes(LINE as u64));
    let (count, pieces) = (ROWS as u64, 1);
    let rows = Rows {
        outer: axes(count),
        n: LINE as u64,
        count,
        pieces,
        piece_count: pieces,
        ..Rows::default()
    };
    let views = [view(x, far(F16), 1, F16), view(out, far(F32), 1, F32)];
    let args = SoftmaxArgs { rows, views, scale: 1.0, padding: 0 };
    on.launch(Row::Streaming(row), row.row_blocks(&rows), bytemuck::bytes_of(&args));
    for (line, got) in lines.iter().zip(on.floats(out, ROWS, LINE)) {
        let sum: f32 = line.iter().map(|&x| (x as f32).exp()).sum();
        let is_close = |(&x, got): (&i32, f32)| ((x as f32).exp() / sum - got).abs() < 1e-6;
        assert!(line.iter().zip(got).all(is_close));
    }
}

const KEYS: usize = 5;
const GROUP: usize = 2;
const DIM: usize = 32;
const QUERIES: usize = 2;
/// Keys of a page.
const PAGE: usize = 3;
const SCALE: f32 = 0.125;

/// Query heads and keys lie near each other; rows, or pages, are far apart.
fn attention(on: &Sparse, row: &Row, dtype: u32) {
    let is_paged = matches!(row, Row::AttentionPaged(_));
    let numbers =
        |seed, i, count: usize| (0..count).map(|j| element(seed, i, j)).collect::<Vec<_>>();
    let q: Vec<Vec<i32>> = (0..QUERIES).map(|i| numbers(1, i, GROUP * DIM)).collect();
    let keys = |seed| (0..KEYS).map(move |i| numbers(seed, i, DIM));
    // The second page first.
    let of_pages = |seed| {
        let keys: Vec<Vec<i32>> = keys(seed).collect();
        let mut pages: Vec<Vec<i32>> = keys.chunks(PAGE).map(<[_]>::concat).collect();
        pages.reverse();
        pages
    };
    let lie = |seed| if is_paged { of_pages(seed) } else { keys(seed).collect() };
    let [k, v] = [2, 3].map(|seed| on.lines(dtype, &lie(seed)));
    let (out, lse) = (on.places(QUERIES), on.places(QUERIES));
    let rows = |at, head: usize, dtype| Heads {
        at,
        batch: 0,
        head: head as i64,
        row: far(dtype),
        column: 1,
        dtype,
        present: 1,
    };
    let of_keys = |at| match is_paged {
        true => Heads { batch: far(dtype), row: DIM as i64, ..rows(at, 0, dtype) },
        false => rows(at, 0, dtype),
    };
    let entry = Entry { rows: QUERIES as u32, keys: KEYS as u32, ..Entry::default() };
    let args = AttentionArgs {
        q: rows(on.lines(dtype, &q), DIM, dtype),
        k: of_keys(k),
        v: of_keys(v),
        out: rows(out, DIM, F32),
        lse: rows(lse, 1, F32),
        entries: on.near(bytemuck::bytes_of(&entry)),
        state: on.near(&[0; 1 << 17]),
        tiles: 1,
        kv_heads: 1,
        group: GROUP as u32,
        tiles_per_head: 1,
        entry_count: 1,
        alike: 1,
        key_to: KEYS as u32,
        last: 1,
        first: 1,
        scale: SCALE,
        left: u32::MAX,
        right: u32::MAX,
        d: DIM as u32,
        dv: DIM as u32,
        split: if is_paged { AttentionPaged::SPLIT_STEP } else { 0 },
        heads_at_once: 1,
        pages: match is_paged {
            true => Pages {
                at: on.near(bytemuck::cast_slice(&[1u32, 0])),
                entry: 2,
                step: 1,
                size: PAGE as u32,
                count: 2,
            },
            false => Pages::default(),
        },
        fault: on.near(&[0; 12]),
        partials: on.near(&[0; 1 << 16]),
        ..AttentionArgs::default()
    };
    match row {
        Row::AttentionSm90(sm90) => {
            let map = |x: &Heads| {
                let strides = [DIM as u64, DIM as u64, x.row as u64];
                on.map(&sm90.map(x.at, [1, 1, KEYS as u64, DIM as u64], strides))
            };
            let (k, v) = (map(&args.k), map(&args.v));
            let args = AttentionSm90Args { k, v, attention: args, padding: [0; 10] };
            on.launch(*row, 1, bytemuck::bytes_of(&args));
        }
        _ => on.launch(*row, 1, bytemuck::bytes_of(&args)),
    }
    if is_paged {
        let combine = Row::AttentionCombine(AttentionCombine);
        on.launch(combine, (QUERIES * GROUP) as u64, bytemuck::bytes_of(&args));
    }
    let got = on.floats(out, QUERIES, GROUP * DIM);
    let sums = on.floats(lse, QUERIES, GROUP);
    for (i, head) in (0..QUERIES).flat_map(|i| (0..GROUP).map(move |head| (i, head))) {
        let q = &q[i][head * DIM..][..DIM];
        let score = |k: Vec<i32>| q.iter().zip(k).map(|(q, k)| q * k).sum::<i32>() as f32 * SCALE;
        let weights: Vec<f32> = keys(2).map(|k| score(k).exp()).collect();
        let sum: f32 = weights.iter().sum();
        assert!((sums[i][head] - sum.ln()).abs() < 1e-4, "{}", row.key());
        for (j, got) in got[i][head * DIM..][..DIM].iter().enumerate() {
            let values = keys(3).map(|v| v[j] as f32);
            let want = weights.iter().zip(values).map(|(w, v)| w * v).sum::<f32>() / sum;
            // Weights may be rounded to 11 bits.
            assert!(
                (got - want).abs() < 4e-3,
                "{}: [{i}, {head}, {j}]: {got}, not {want}",
                row.key()
            );
        }
    }
}

#[test]
fn attention_reaches_every_row_and_page() {
    let Some(on) = Sparse::open("far-attention") else { return };
    for (row, dtype) in [
        (Row::AttentionReference(AttentionReference), F32),
        (Row::AttentionSm80(AttentionSm80 { bf16: false, d: 32 }), F16),
        (Row::AttentionPaged(AttentionPaged { bf16: false, d: 32 }), F16),
        (Row::AttentionSm90(AttentionSm90 { bf16: false, d: 64, dv: 64 }), F16),
    ] {
        attention(&on, &row, dtype);
        on.clear();
    }
}

const M: usize = 4;
const N: usize = 5;
const K: usize = 3;

/// Of each form of product and way that operands lie a row: its operands' type, and which of them lie along k.
fn products() -> Vec<(Row, u32, [bool; 2])> {
    let mut seen = BTreeSet::new();
    let of = |row: Row| {
        let (dtype, along_k) = match row {
            Row::MatmulReference(row) if !row.finds => (F32, [true; 2]),
            Row::MatmulF32(_) => (F32, [true; 2]),
            Row::MatmulSm80(row) => {
                let dtype = match row.values {
                    Values::F16 => F16,
                    Values::Tf32 => F32,
                    Values::Bf16 => return None,
                };
                (dtype, [row.a, row.b].map(|major| major != Major::Outer))
            }
            Row::MatmulSm80Bytes(row) if row.values == Bytes::I8 => (I8, [true; 2]),
            Row::MatmulSm80Bytes(_) => (F8E4M3, [true; 2]),
            Row::MatmulSm90(row) if !row.bf16 => (F16, [!row.a_outer, !row.b_outer]),
            Row::MatmulSm90Fp8(row) if [row.a, row.b] == [Fp8::E4m3; 2] && !row.by_columns => {
                (F8E4M3, [true; 2])
            }
            _ => return None,
        };
        Some((row, dtype, along_k))
    };
    let mut products: Vec<_> = rows().into_iter().filter_map(of).collect();
    products.retain(|(row, dtype, along_k)| {
        let form = match row {
            Row::MatmulSm80(row) => format!("{:?}", [row.a, row.b]),
            Row::MatmulSm80Bytes(row) => format!("{:?} {}", row.values, row.gathered),
            Row::MatmulSm90(row) => format!("{:?} {}", row.form, row.cluster),
            _ => String::new(),
        };
        seen.insert((row.template().2, *dtype, *along_k, form))
    });
    products
}

/// Rows of A, columns of B and rows of the output are far apart; where a side does not lie along k, its k is.
fn product(on: &Sparse, row: &Row, dtype: u32, along_k: [bool; 2]) {
    let side = |seed, outer: usize, along_k: bool| {
        let [lines, length] = if along_k { [outer, K] } else { [K, outer] };
        let number = |i, j| if along_k { element(seed, i, j) } else { element(seed, j, i) };
        let line = |i| (0..length).map(|j| number(i, j)).collect();
        on.lines(dtype, &(0..lines).map(line).collect::<Vec<_>>())
    };
    let (far, out) = (far(dtype), on.places(M));
    let steps = |along_k| if along_k { [far, 1] } else { [1, far] };
    let matrices = |at, [row, column]: [i64; 2], dtype| Matrices {
        at,
        row,
        column,
        dtype,
        present: 1,
        ..Matrices::default()
    };
    let [of_a, of_b] = along_k.map(steps);
    let matmul = MatmulArgs {
        a: matrices(side(1, M, along_k[0]), of_a, dtype),
        b: matrices(side(2, N, along_k[1]), [of_b[1], of_b[0]], dtype),
        out: matrices(out, [self::far(F32), 1], F32),
        batch: [1; 4],
        m: M as u32,
        n: N as u32,
        k: K as u32,
        tiles: 1,
        tiles_m: 1,
        tiles_n: 1,
        k_to: K as u32,
        alpha: 1.0,
        ..MatmulArgs::default()
    };
    let whole = 16 / width(dtype) as u64;
    // A stride that nothing follows is any valid one.
    let batch = [[1, whole]; 3];
    let sizes = |outer: usize| [outer as u64, K as u64];
    match row {
        Row::MatmulSm90(sm90) => {
            let map = |side, at, outer, steps: [i64; 2]| {
                on.map(&sm90.map(side, at, sizes(outer), steps.map(|n| n as u64), batch))
            };
            let a = map(Side::A, matmul.a.at, M, of_a);
            let b = map(Side::B, matmul.b.at, N, of_b);
            let args = MatmulSm90Args { a, b, matmul, ..MatmulSm90Args::default() };
            on.launch(*row, row.cluster().into(), bytemuck::bytes_of(&args));
        }
        Row::MatmulSm90Fp8(fp8) => {
            let map = |side, at, outer| on.map(&fp8.map(side, at, sizes(outer), far as u64, batch));
            let a = map(Side::A, matmul.a.at, M);
            let b = map(Side::B, matmul.b.at, N);
            let scaled = MatmulScaledArgs { matmul, ..MatmulScaledArgs::default() };
            let args = MatmulSm90Fp8Args { a, b, scaled, ..MatmulSm90Fp8Args::default() };
            on.launch(*row, row.cluster().into(), bytemuck::bytes_of(&args));
        }
        Row::MatmulReference(_) | Row::MatmulSm80Bytes(_) => {
            let args = MatmulScaledArgs { matmul, ..MatmulScaledArgs::default() };
            on.launch(*row, 1, bytemuck::bytes_of(&args));
        }
        _ => on.launch(*row, 1, bytemuck::bytes_of(&matmul)),
    }
    for (i, got) in on.floats(out, M, N).into_iter().enumerate() {
        let sum = |j| (0..K).map(|k| element(1, i, k) * element(2, j, k)).sum::<i32>() as f32;
        assert_eq!(got, (0..N).map(sum).collect::<Vec<_>>(), "{} row {i}", row.key());
    }
}

#[test]
fn products_reach_every_row_and_column() {
    let Some(on) = Sparse::open("far-products") else { return };
    let products = products();
    println!("cases: {} rows of products", products.len());
    for (row, dtype, along_k) in &products {
        product(&on, row, *dtype, *along_k);
        on.clear();
    }
    let files: BTreeSet<&str> = products.iter().map(|(row, ..)| row.file()).collect();
    assert_eq!(files.len(), 6, "{files:?}");
}
