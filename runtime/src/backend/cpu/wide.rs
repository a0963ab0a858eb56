//! The f32 product of every class: strips of a few rows of A against panels of a few vectors of columns of B, every
//! output one chain of multiply-adds along K in a lane of its own. So its bits depend on its row, its column and K
//! alone: never on how many rows and columns there are beside it or on how the operands lie. `product` calls it.

use super::dot::Line;
use super::isa::Isa;
use super::lanes::Lanes;
use super::panels::{self, Pack, panels};
use super::regions::Reused;
use super::scratch::with_lines;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

/// Most rows of a strip.
const ROWS: usize = 6;
/// Steps along K without a look at the end.
const STEPS: usize = 4;
/// Depth from which a strip of A is worth fetching while the one before is summed, and the lines of each row that are:
/// the processor foresees the rest.
const DEEP: usize = 128;
const FIRST: usize = 4;
/// Most rows that read B where it lies, when its rows do not lie close together.
const NO_PACKING: usize = 2 * ROWS;

/// `c (+)= factor a b` on operands where they lie: `size` is M, N and K, strides are of rows and columns.
#[derive(Clone, Copy)]
pub(super) struct Wide {
    pub(super) size: [usize; 3],
    pub(super) a: *const f32,
    pub(super) a_strides: [usize; 2],
    pub(super) b: Side,
    /// Rows `ld` apart, each dense.
    pub(super) c: *mut f32,
    pub(super) ld: usize,
    pub(super) add: bool,
    pub(super) factor: f32,
}

/// B of a product.
#[derive(Clone, Copy)]
pub(super) enum Side {
    /// Where it lies, with its strides.
    Lies(*const f32, [usize; 2]),
    /// Packed by [`Pack`].
    Packed(*const f32),
}

/// One strip against one panel.
struct Cell {
    depth: usize,
    /// Rows dense along K, `lda` apart.
    a: *const f32,
    lda: usize,
    /// Whole vectors of columns, rows `ldb` apart.
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    /// Columns of the last vector that `c` has.
    last: usize,
    add: bool,
    factor: f32,
}

type Kernel = unsafe fn(&Cell);

/// Kernels by rows of a strip and vectors of a panel, each one less.
macro_rules! kernels {
    ($kernel:ident, $widths:tt) => {
        kernels!($kernel, [1 2 3 4 5 6], $widths)
    };
    ($kernel:ident, [$($rows:literal)*], $widths:tt) => {
        [$(kernels!(@ $kernel $rows $widths)),*]
    };
    (@ $kernel:ident $rows:literal [$($width:literal)*]) => {
        &[$($kernel::<$rows, $width> as Kernel),*] as &[Kernel]
    };
}

/// The kernels of a class: as many sums as its registers hold beside a panel's row and a factor.
type Kernels = [&'static [Kernel]; ROWS];

#[cfg(target_arch = "x86_64")]
static V4: Kernels = kernels!(cell_v4, [1 2 3 4]);
#[cfg(target_arch = "x86_64")]
static V3: Kernels = kernels!(cell_v3, [1 2]);
static GENERIC: Kernels = kernels!(cell_generic, [1 2]);

impl Wide {
    /// # Safety
    /// Every element of `a`, `b` and `c` that the size and strides name can be read, and those of `c` are the caller's,
    /// who holds no reference to any of them. The processor has the class.
    pub(super) unsafe fn run(&self, isa: Isa) {
        // SAFETY: the caller's promise.
        with_lines(|lines| unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Amx | Isa::Bf16 | Isa::V4 => run_v4(self, lines),
                #[cfg(target_arch = "x86_64")]
                Isa::V3 => run_v3(self, lines),
                _ => self.on::<[f32; 4]>(&GENERIC, lines),
            }
        });
    }

    /// # Safety
    /// As for `run`, in code of the class whose `kernels` these are.
    #[inline(always)]
    unsafe fn on<V: Lanes>(&self, kernels: &Kernels, [lines_a, lines_b]: [&mut Reused<Line>; 2]) {
        let [m, n, k] = self.size;
        // SAFETY: the caller's promise; packed sides have room for whole vectors.
        unsafe {
            let (a, lda) = self.rows::<V>(lines_a);
            let (b, in_place) = self.columns::<V>(lines_b);
            let (strips, mut row) = (m.div_ceil(ROWS), 0);
            for strip in 0..strips {
                // As even as can be.
                let rows = (m - row).div_ceil(strips - strip);
                if k >= DEEP && strip + 1 < strips {
                    for i in row + rows..row + rows + ROWS {
                        for line in 0..FIRST {
                            V::prefetch(a.wrapping_add(i * lda + line * Line::FLOATS));
                        }
                    }
                }
                for (at, width) in panels::<V>(n) {
                    let col = at * V::N;
                    let (b, ldb) = match in_place {
                        Some(ldb) => (b.add(col), ldb),
                        None => (b.add(col * k), width * V::N),
                    };
                    kernels[rows - 1][width - 1](&Cell {
                        depth: k,
                        a: a.add(row * lda),
                        lda,
                        b,
                        ldb,
                        c: self.c.add(row * self.ld + col),
                        ldc: self.ld,
                        last: (n - col - (width - 1) * V::N).min(V::N),
                        add: self.add,
                        factor: self.factor,
                    });
                }
                row += rows;
            }
        }
    }

    /// B as the cells read it: packed, or where it lies and how far apart its rows are. In place are whole vectors of
    /// dense rows, for few strips or close together.
    #[inline(always)]
    unsafe fn columns<V: Lanes>(&self, lines: &mut Reused<Line>) -> (*const f32, Option<usize>) {
        let [m, n, k] = self.size;
        match self.b {
            Side::Packed(b) => (b, None),
            Side::Lies(b, [row, 1])
                if n % V::N == 0 && (m <= NO_PACKING || row <= V::PANEL * V::N) =>
            {
                (b, Some(row))
            }
            Side::Lies(from, strides) => {
                let to = reserve(lines, panels::room(k, n));
                // SAFETY: the caller's promise, and room as asked.
                unsafe { Pack { size: [k, n], from, strides }.on::<V>(to) };
                (to, None)
            }
        }
    }

    /// A with rows dense along K: as it lies, or turned into `lines`.
    #[inline(always)]
    unsafe fn rows<V: Lanes>(&self, lines: &mut Reused<Line>) -> (*const f32, usize) {
        let ([m, _, k], [row, along]) = (self.size, self.a_strides);
        if along == 1 {
            return (self.a, row);
        }
        // A power of two would put all rows on the same cache lines.
        let ld = k.next_multiple_of(16) + 16;
        let to = reserve(lines, m * ld);
        for k0 in (0..k).step_by(V::N) {
            let deep = V::N.min(k - k0);
            for i in (0..m).step_by(V::N) {
                let tall = V::N.min(m - i);
                // SAFETY: the caller's promise; `to` has whole vectors up to `ld`.
                unsafe {
                    let (from, to) = (self.a.add(i * row + k0 * along), to.add(i * ld + k0));
                    if row == 1 {
                        V::turn(from, along, [deep, tall], to, ld);
                    } else {
                        for (i, d) in (0..tall).flat_map(|i| (0..deep).map(move |d| (i, d))) {
                            *to.add(i * ld + d) = *from.add(i * row + d * along);
                        }
                    }
                }
            }
        }
        (to, ld)
    }
}

/// Room for `floats` in `lines`.
fn reserve(lines: &mut Reused<Line>, floats: usize) -> *mut f32 {
    lines.grown(floats.div_ceil(Line::FLOATS)).as_mut_ptr().cast()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn run_v4(wide: &Wide, lines: [&mut Reused<Line>; 2]) {
    // SAFETY: the caller's promise.
    unsafe { wide.on::<__m512>(&V4, lines) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_v3(wide: &Wide, lines: [&mut Reused<Line>; 2]) {
    // SAFETY: the caller's promise.
    unsafe { wide.on::<__m256>(&V3, lines) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn cell_v4<const R: usize, const C: usize>(cell: &Cell) {
    // SAFETY: the caller's promise.
    unsafe { cell.sum::<__m512, R, C>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn cell_v3<const R: usize, const C: usize>(cell: &Cell) {
    // SAFETY: the caller's promise.
    unsafe { cell.sum::<__m256, R, C>() }
}

unsafe fn cell_generic<const R: usize, const C: usize>(cell: &Cell) {
    // SAFETY: the caller's promise.
    unsafe { cell.sum::<[f32; 4], R, C>() }
}

impl Cell {
    /// Sums R rows by C vectors.
    ///
    /// # Safety
    /// As for [`Wide::run`]: the cell is inside its operands.
    #[inline(always)]
    unsafe fn sum<V: Lanes, const R: usize, const C: usize>(&self) {
        // SAFETY: the caller's promise, throughout.
        unsafe {
            let mut sums = [[V::splat(0.0); C]; R];
            let mut rows = [self.a; R];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = self.a.add(i * self.lda);
            }
            if self.depth >= DEEP {
                for i in 0..R {
                    for j in 0..C {
                        V::prefetch(self.c.add(i * self.ldc + j * V::N));
                    }
                }
            }
            let mut b = self.b;
            let mut k = 0;
            while k + STEPS <= self.depth {
                for step in 0..STEPS {
                    add::<V, R, C>(&mut sums, &rows, k + step, b);
                    b = b.add(self.ldb);
                }
                k += STEPS;
            }
            while k < self.depth {
                add::<V, R, C>(&mut sums, &rows, k, b);
                b = b.add(self.ldb);
                k += 1;
            }
            let factor = V::splat(self.factor);
            for (i, row) in sums.iter().enumerate() {
                for (j, sum) in row.iter().enumerate() {
                    let c = self.c.add(i * self.ldc + j * V::N);
                    let some = if j + 1 < C { V::N } else { self.last };
                    let old = match (self.add, some == V::N) {
                        (false, _) => V::splat(0.0),
                        (_, true) => V::load(c),
                        _ => V::load_some(c, some),
                    };
                    let sum = sum.fma(factor, old);
                    if some == V::N { sum.store(c) } else { sum.store_some(c, some) }
                }
            }
        }
    }
}

/// Adds the outer product of column `k` of the rows and the row of B at `b`.
#[inline(always)]
unsafe fn add<V: Lanes, const R: usize, const C: usize>(
    sums: &mut [[V; C]; R],
    rows: &[*const f32; R],
    k: usize,
    b: *const f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut columns = [V::splat(0.0); C];
        for (j, column) in columns.iter_mut().enumerate() {
            *column = V::load(b.add(j * V::N));
        }
        for (row, sums) in rows.iter().zip(sums.iter_mut()) {
            let x = V::splat(*row.add(k));
            for (column, sum) in columns.iter().zip(sums.iter_mut()) {
                *sum = x.fma(*column, *sum);
            }
        }
    }
}
