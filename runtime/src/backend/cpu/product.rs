//! Panels of operands as f32, and the one call of the `gemm` crate. `matmul` and `attention` multiply with it.

use super::isa::Isa;
use super::memory::View;

/// A matrix of f32: an operand where it lies, or a widened copy. Valid while its operand's block, or the buffer it
/// was widened into, is neither freed nor written.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    start: *const f32,
    /// Row and column stride in elements.
    strides: [isize; 2],
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
                strides: strides.map(|s| s as isize),
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
        let strides = if by_rows { [cols as isize, 1] } else { [1, rows as isize] };
        Self { start: buffer.as_ptr(), strides, size: [rows, cols], source }
    }

    /// Row-major rows of `cols` elements.
    pub(super) fn dense(data: &'a [f32], rows: usize, cols: usize) -> Self {
        // The type keeps `rows * cols` elements readable, so the size is cut to what is there.
        let rows = rows.min(data.len() / cols.max(1));
        let source = std::marker::PhantomData;
        Self { start: data.as_ptr(), strides: [cols as isize, 1], size: [rows, cols], source }
    }

    /// Where it begins, its row and column strides, and its size.
    pub(super) fn parts(&self) -> (*const f32, [isize; 2], [usize; 2]) {
        (self.start, self.strides, self.size)
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
    /// calling work item's own (see [`View`]). Only f32 with dense rows, and more than one column: a single one
    /// would make `gemm` choose another sequence than for a buffer.
    pub(super) fn of(
        view: &'a View,
        start: u64,
        [ld, step]: [u64; 2],
        size: [u64; 2],
    ) -> Option<Self> {
        let size = size.map(|n| n as usize);
        let dense = step == 1 && size[1] > 1 && ld >= size[1] as u64;
        let start = view.f32_ptr(start).filter(|_| dense)?;
        Some(Self { start, ld: ld as usize, size, owner: std::marker::PhantomData })
    }
}

/// `c (+)= factor a b`: adds to `c` or replaces it. Nothing happens unless inner sizes agree and `c` holds the result.
pub(super) fn multiply(a: Panel<'_>, b: Panel<'_>, c: &mut Target<'_>, add: bool, factor: f32) {
    let ([m, k], n) = (a.size, b.size[1]);
    let fits = b.size[0] == k && n <= c.size[1] && m <= c.size[0];
    if !fits || m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !add {
            // SAFETY: `c` holds m rows of n elements, as just checked.
            (0..m).for_each(|i| unsafe { c.start.add(i * c.ld).write_bytes(0, n) });
        }
        return;
    }
    // SAFETY: `c` holds m rows of n elements `ld` apart, as just checked; `a` and `b` address m by k and k by n
    // readable elements by their type's promise, and overlap no live `&mut`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.start,
            1,
            c.ld as isize,
            add,
            a.start,
            a.strides[1],
            a.strides[0],
            b.start,
            b.strides[1],
            b.strides[0],
            1.0,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
