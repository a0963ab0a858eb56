//! Panels of operands as f32, and their product by `wide`. `matmul` and `attention` multiply with it.

use super::dot::Line;
use super::isa::Isa;
use super::memory::View;
use super::panels::{Pack, room};
use super::wide::{Side, Wide};

/// A matrix of f32: an operand where it lies, or a widened copy. Valid while its operand's block, or the buffer it
/// was widened into, is neither freed nor written.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    start: *const f32,
    /// Row and column stride in elements.
    strides: [usize; 2],
    size: [usize; 2],
    source: std::marker::PhantomData<&'a [f32]>,
}

impl<'a> Panel<'a> {
    /// `size` rows and columns of a view from element `start`, with the view's `strides` along them; inside the
    /// view's shape. 16-bit elements are widened into `buffer`, along the axis where they lie dense.
    pub(super) fn of(
        isa: Isa,
        view: &'a View,
        start: u64,
        strides: [u64; 2],
        size: [u64; 2],
        buffer: &'a mut Vec<f32>,
    ) -> Self {
        let [rows, cols] = size.map(|n| n as usize);
        let source = std::marker::PhantomData;
        if let Some(start) = view.f32_ptr(start) {
            return Self {
                start,
                strides: strides.map(|s| s as usize),
                size: [rows, cols],
                source,
            };
        }
        let [row_step, col_step] = strides;
        buffer.resize(rows * cols, 0.0);
        let by_rows = row_step >= col_step;
        let (line, across, along) =
            if by_rows { (cols, row_step, col_step) } else { (rows, col_step, row_step) };
        for (i, part) in (0..).zip(buffer.chunks_exact_mut(line.max(1))) {
            view.load(isa, start + i * across, along, part);
        }
        let strides = if by_rows { [cols, 1] } else { [1, rows] };
        Self { start: buffer.as_ptr(), strides, size: [rows, cols], source }
    }

    /// Row-major rows of `cols` elements.
    pub(super) fn dense(data: &'a [f32], rows: usize, cols: usize) -> Self {
        // The type keeps `rows * cols` elements readable, so the size is cut to what is there.
        let rows = rows.min(data.len() / cols.max(1));
        let source = std::marker::PhantomData;
        Self { start: data.as_ptr(), strides: [cols, 1], size: [rows, cols], source }
    }

    /// Where it begins, its row and column strides, and its size.
    pub(super) fn parts(&self) -> (*const f32, [isize; 2], [usize; 2]) {
        (self.start, self.strides.map(|s| s as isize), self.size)
    }

    /// Rows as columns.
    pub(super) fn t(self) -> Self {
        let ([m, n], [row, col]) = (self.size, self.strides);
        Self { size: [n, m], strides: [col, row], ..self }
    }

    /// The first `cols` columns.
    pub(super) fn narrow(mut self, cols: usize) -> Self {
        self.size[1] = self.size[1].min(cols);
        self
    }
}

/// A side of a product where it lies: `outer` rows of A, or columns of B, of `depth` elements along K.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) view: &'a View,
    pub(super) start: u64,
    pub(super) outer_step: u64,
    pub(super) depth_step: u64,
    pub(super) outer: usize,
    pub(super) depth: usize,
}

impl Source<'_> {
    /// The element at an outer index and a place along K.
    #[inline(always)]
    pub(super) fn at(&self, [outer, k]: [usize; 2]) -> u64 {
        // Past the shape, where nothing is read, a stride may be anything.
        let (outer, k) = (outer as u64, k as u64);
        let at = self.start.wrapping_add(outer.wrapping_mul(self.outer_step));
        at.wrapping_add(k.wrapping_mul(self.depth_step))
    }
}

/// Where a product goes: rows `ld` elements apart, each dense. Nobody else touches its elements while it lives.
pub(super) struct Target<'a> {
    start: *mut f32,
    ld: usize,
    size: [usize; 2],
    owner: std::marker::PhantomData<&'a mut [f32]>,
}

impl<'a> Target<'a> {
    /// The first `cols` of every `ld` elements of a buffer.
    pub(super) fn dense(data: &'a mut [f32], cols: usize, ld: usize) -> Self {
        let cols = cols.min(ld);
        // As many rows as the buffer holds whole.
        let rows = if data.len() < cols { 0 } else { (data.len() - cols) / ld.max(1) + 1 };
        Self { start: data.as_mut_ptr(), ld, size: [rows, cols], owner: std::marker::PhantomData }
    }

    /// An output where it lies: `size` rows and columns from element `start`, inside the view's shape and the
    /// calling work item's own (see [`View`]). Only f32 with dense rows.
    pub(super) fn of(
        view: &'a View,
        start: u64,
        [ld, step]: [u64; 2],
        size: [u64; 2],
    ) -> Option<Self> {
        let size = size.map(|n| n as usize);
        let dense = step == 1 && ld >= size[1] as u64;
        let start = view.f32_ptr(start).filter(|_| dense)?;
        Some(Self { start, ld: ld as usize, size, owner: std::marker::PhantomData })
    }
}

/// B of a product.
#[derive(Clone, Copy)]
pub(super) enum Columns<'a> {
    /// Where it lies.
    Lies(Panel<'a>),
    /// Packed by [`pack`]: as many rows and columns.
    Packed(&'a [Line], [usize; 2]),
}

impl<'a> From<Panel<'a>> for Columns<'a> {
    fn from(panel: Panel<'a>) -> Self {
        Self::Lies(panel)
    }
}

/// Lines that a packed matrix of `k` rows of `n` columns takes.
pub(super) fn packed_lines(k: usize, n: usize) -> usize {
    room(k, n).div_ceil(Line::FLOATS)
}

/// Packs B for many products. Nothing happens unless `to` has as many lines as it takes.
pub(super) fn pack(isa: Isa, b: Panel<'_>, to: &mut [Line]) {
    let [k, n] = b.size;
    if to.len() >= packed_lines(k, n) {
        // SAFETY: `b` addresses readable elements by its type's promise; the room was just checked.
        unsafe {
            Pack { size: b.size, from: b.start, strides: b.strides }
                .run(isa, to.as_mut_ptr().cast());
        }
    }
}

/// `c (+)= factor a b`: adds to `c` or replaces it. Nothing happens unless inner sizes agree and `c` holds the result.
pub(super) fn multiply<'a>(
    isa: Isa,
    a: Panel<'_>,
    b: impl Into<Columns<'a>>,
    c: &mut Target<'_>,
    add: bool,
    factor: f32,
) {
    let [m, k] = a.size;
    let (b, [depth, n]) = match b.into() {
        Columns::Lies(b) => (Side::Lies(b.start, b.strides), b.size),
        Columns::Packed(lines, [k, n]) if lines.len() >= packed_lines(k, n) => {
            (Side::Packed(lines.as_ptr().cast()), [k, n])
        }
        Columns::Packed(..) => return,
    };
    if depth != k || n > c.size[1] || m > c.size[0] {
        return;
    }
    let (a_strides, size) = (a.strides, [m, n, k]);
    let wide = Wide { size, a: a.start, a_strides, b, c: c.start, ld: c.ld, add, factor };
    // SAFETY: `c` holds m rows of n elements `ld` apart, as just checked; `a` and `b` address m by k and k by n
    // readable elements by their type's promise, and overlap no live `&mut`; a class comes from `Isa::detect`.
    unsafe { wide.run(isa) };
}
