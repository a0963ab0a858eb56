//! The arithmetic of attention on lanes: a register holds sixteen query rows side by side, and keys, values and sums
//! come one after another. So the softmax needs no sum across a register. `flash` calls it, for classes with AVX-512.

use super::dot::{self, Dot, Line, TILE};
use super::isa::Isa;
use super::product::Panel;

/// Rows of a product that padding rounds up to: of floats, and of pairs of bf16.
pub(super) const ROWS: [usize; 2] = [8, 32];

/// Keys that [`Lanes::weigh`] takes at once.
pub(super) const KEYS: usize = 4;

/// What multiplies and adds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Floats, fused.
    Fused,
    /// Pairs of bf16, by vectors.
    Pairs,
    /// Pairs of bf16, by tiles.
    Tiles,
}

/// The instructions, ready on this thread.
pub(super) struct Lanes {
    unit: Unit,
    /// Keeps the configuration of tiles.
    _dot: Option<Dot>,
}

impl Lanes {
    /// For floats or for pairs of bf16; `None` for a class without such instructions.
    pub(super) fn of(isa: Isa, pairs: bool) -> Option<Self> {
        let unit = match (isa, pairs) {
            (Isa::Amx, true) => Unit::Tiles,
            (Isa::Bf16, true) => Unit::Pairs,
            (Isa::Amx | Isa::Bf16 | Isa::V4, false) => Unit::Fused,
            _ => return None,
        };
        Some(Self { unit, _dot: if pairs { Dot::of(isa) } else { None } })
    }

    /// Registers that hold a block of query rows: three for floats, eight rows of sums of which leave room for the
    /// factors; two for pairs, a block of tiles.
    pub(super) const fn width(pairs: bool) -> usize {
        if pairs { 2 } else { 3 }
    }

    fn pairs(&self) -> bool {
        self.unit != Unit::Fused
    }

    /// `c = a b`, or `c += a b` for `add`, in the first `used` registers of each line: each sum takes its products in
    /// their order, from the one that is there. `a` is of floats or of pairs, `b` a line for each of its columns, `c` one
    /// for each of its rows, rounded up. Pairs come in whole tiles with dense rows. Nothing happens to what does not fit.
    pub(super) fn product(&self, a: Panel<'_>, b: &[Line], c: &mut [Line], used: usize, add: bool) {
        let (width, block) = (Self::width(self.pairs()), ROWS[usize::from(self.pairs())]);
        let (start, steps, [rows, depth]) = a.parts();
        let whole = !self.pairs() || (rows % block == 0 && depth % TILE == 0 && steps[1] == 1);
        let fits = b.len() >= depth * width && c.len() >= rows.next_multiple_of(block) * width;
        if !whole || !fits || rows == 0 {
            return;
        }
        if depth == 0 {
            let filled = if add { 0 } else { rows * width };
            return c[..filled].fill(Line([0; TILE]));
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `of` saw the class; `a` addresses `rows` by `depth` readable elements by its type's promise, `b` and
        // `c` hold their lines, as just checked, and pairs come in whole tiles.
        unsafe {
            let (size, b, c) = ([rows, depth], b.as_ptr(), c.as_mut_ptr());
            match (self.unit, used) {
                (Unit::Tiles, _) => x86::tiles(start, steps[0], size, b, c, add),
                (Unit::Pairs, _) => x86::pairs::product::<2, 2>(start, steps, size, b, c, add),
                (Unit::Fused, 1) => x86::fused::product::<3, 1>(start, steps, size, b, c, add),
                (Unit::Fused, 2) => x86::fused::product::<3, 2>(start, steps, size, b, c, add),
                (Unit::Fused, _) => x86::fused::product::<3, 3>(start, steps, size, b, c, add),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (start, used);
    }

    /// One step of the online softmax in base 2. Scores, a line a key, times `factor` become weights: floats, or pairs
    /// of keys in half as many lines, in the first `used` registers of each. `run` holds a line each of exponents, sums and weighted values.
    ///
    /// The exponent that weights are relative to is a maximum that is raised only once the scores grow past it by
    /// [`SLACK`]: weights stay below `2^SLACK`, and most steps rescale nothing.
    pub(super) fn weigh(&self, scores: &mut [Line], used: usize, factor: f32, run: &mut [Line]) {
        let width = Self::width(self.pairs());
        let used = used.min(width);
        let whole = scores.len().is_multiple_of(KEYS * width) && run.len().is_multiple_of(width);
        if !whole || run.len() < 2 * width {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `of` saw the class.
        unsafe {
            if self.pairs() {
                x86::weigh::<2, true>(scores, used, factor, run);
            } else {
                x86::weigh::<3, false>(scores, used, factor, run);
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (used, factor);
    }
}

/// Rows of thirty-two bf16, turned: line `i` of the result holds element `i` of every row.
pub(super) fn turn(isa: Isa, rows: &[&[u16; 2 * TILE]; 2 * TILE]) -> [Line; 2 * TILE] {
    let mut lines = [Line([0; TILE]); 2 * TILE];
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Amx | Isa::Bf16 | Isa::V4) {
        // SAFETY: the classes have these instructions.
        unsafe { x86::zip(rows, &mut lines) };
    }
    let (halves, _) = lines.as_chunks_mut();
    halves.iter_mut().for_each(|half| dot::transpose(isa, half));
    lines
}

/// Binary orders of magnitude by which a score may pass the exponent that weights are relative to.
pub(super) const SLACK: f32 = 8.0;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{KEYS, Line, SLACK, TILE};
    use std::arch::asm;
    use std::arch::x86_64::*;

    /// Products of rows of `a` with lines of `b` by vectors: eight rows of sums stay in registers while the factors pass,
    /// four steps a turn, since what counts turns takes the ports that multiply.
    macro_rules! by_vectors {
        ($name:ident, $features:literal, |$sum:ident, $a:ident, $b:ident| $madd:expr) => {
            pub(super) mod $name {
                use super::super::ROWS;
                use super::*;

                const BLOCK: usize = ROWS[0];

                /// One column of `a`, `offset` floats behind its rows' first, with one line of `b`.
                ///
                /// # Safety
                /// As for `product`.
                #[target_feature(enable = $features)]
                #[inline]
                unsafe fn step<const USED: usize>(
                    rows: &[*const f32; BLOCK],
                    offset: isize,
                    b: *const f32,
                    sums: &mut [[__m512; USED]; BLOCK],
                ) {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let mut line = [_mm512_setzero_ps(); USED];
                        for (i, $b) in line.iter_mut().enumerate() {
                            *$b = _mm512_load_ps(b.add(16 * i));
                        }
                        for (row, sums) in rows.iter().zip(sums) {
                            let $a = _mm512_set1_ps(*row.offset(offset));
                            for ($b, $sum) in line.iter().zip(sums) {
                                *$sum = $madd;
                            }
                        }
                    }
                }

                /// # Safety
                /// The processor has the features; `a` addresses `rows` by `depth` readable elements with these steps;
                /// `b` holds `depth` lines of `WIDTH` registers and `c` as many for `rows`, rounded up to eight.
                #[target_feature(enable = $features)]
                pub(in super::super) unsafe fn product<const WIDTH: usize, const USED: usize>(
                    a: *const f32,
                    [row, column]: [isize; 2],
                    [rows, depth]: [usize; 2],
                    b: *const Line,
                    c: *mut Line,
                    add: bool,
                ) {
                    const TURN: usize = 4;
                    for first in (0..rows).step_by(BLOCK) {
                        // SAFETY: the caller's promise; rows past the last read the last.
                        unsafe {
                            let mut starts = [a; BLOCK];
                            for (i, start) in starts.iter_mut().enumerate() {
                                *start = a.offset((first + i).min(rows - 1) as isize * row);
                            }
                            let c: *mut f32 = c.add(first * WIDTH).cast();
                            let mut sums = [[_mm512_setzero_ps(); USED]; BLOCK];
                            if add {
                                for (i, sums) in sums.iter_mut().enumerate() {
                                    for (j, sum) in sums.iter_mut().enumerate() {
                                        *sum = _mm512_load_ps(c.add(16 * (i * WIDTH + j)));
                                    }
                                }
                            }
                            let (mut b, mut offset): (*const f32, _) = (b.cast(), 0);
                            for _ in 0..depth / TURN {
                                for _ in 0..TURN {
                                    step(&starts, offset, b, &mut sums);
                                    offset += column;
                                    b = b.add(16 * WIDTH);
                                }
                            }
                            for _ in 0..depth % TURN {
                                step(&starts, offset, b, &mut sums);
                                offset += column;
                                b = b.add(16 * WIDTH);
                            }
                            for (i, sums) in sums.iter().enumerate() {
                                for (j, sum) in sums.iter().enumerate() {
                                    _mm512_store_ps(c.add(16 * (i * WIDTH + j)), *sum);
                                }
                            }
                        }
                    }
                }
            }
        };
    }

    by_vectors!(fused, "avx512f", |sum, a, b| _mm512_fmadd_ps(a, *b, *sum));
    by_vectors!(pairs, "avx512f,avx512bf16", |sum, a, b| _mm512_dpbf16_ps(
        *sum,
        std::mem::transmute::<__m512, __m512bh>(a),
        std::mem::transmute::<__m512, __m512bh>(*b)
    ));

    /// The same by tiles: blocks of 32 rows by 32 lanes.
    ///
    /// # Safety
    /// The processor has AMX and this thread its configuration; `a` addresses `rows` by `depth` readable pairs, dense
    /// along a row, whole blocks and tiles of them; `b` holds `depth` lines of two registers and `c` as many for `rows`.
    pub(super) unsafe fn tiles(
        a: *const f32,
        row: isize,
        [rows, depth]: [usize; 2],
        b: *const Line,
        c: *mut Line,
        add: bool,
    ) {
        for first in (0..rows).step_by(32) {
            // SAFETY: the caller's promise; each step reads tiles of 16 rows of 64 bytes.
            unsafe {
                let (a, c) = (a.offset(first as isize * row), c.add(2 * first));
                asm!(
                    "test {add}, {add}",
                    "jz 2f",
                    "tileloadd tmm0, [{c} + {line}]",
                    "tileloadd tmm1, [{c} + {line} + 64]",
                    "tileloadd tmm2, [{c} + {line} + 2048]",
                    "tileloadd tmm3, [{c} + {line} + 2112]",
                    "jmp 3f",
                    "2:",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "3:",
                    "tileloadd tmm4, [{a0} + {row}]",
                    "tileloadd tmm6, [{b} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b} + {line} + 64]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{a1} + {row}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {a0}, 64",
                    "add {a1}, 64",
                    "add {b}, 2048",
                    "dec {steps}",
                    "jnz 3b",
                    "tilestored [{c} + {line}], tmm0",
                    "tilestored [{c} + {line} + 64], tmm1",
                    "tilestored [{c} + {line} + 2048], tmm2",
                    "tilestored [{c} + {line} + 2112], tmm3",
                    a0 = inout(reg) a => _,
                    a1 = inout(reg) a.offset(16 * row) => _,
                    row = in(reg) 4 * row,
                    b = inout(reg) b => _,
                    c = in(reg) c,
                    line = in(reg) 2 * size_of::<Line>(),
                    steps = inout(reg) depth / 16 => _,
                    add = in(reg) usize::from(add),
                    out("tmm0") _,
                    out("tmm1") _,
                    out("tmm2") _,
                    out("tmm3") _,
                    out("tmm4") _,
                    out("tmm5") _,
                    out("tmm6") _,
                    out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }

    /// `2^x` for `x` up to about 100: the fraction's power by a polynomial of degree 5 (weighted least squares until the
    /// largest relative error on `[0, 1]` stood still, 8.3e-8; exactly 1 at 0), scaled by the whole part.
    #[target_feature(enable = "avx512f,avx512dq")]
    #[inline]
    fn exp2(x: __m512) -> __m512 {
        const FLOOR: i32 = 0x09;
        let fraction = _mm512_reduce_ps::<FLOOR>(x);
        let mut p = _mm512_set1_ps(1.867_13e-3);
        for c in [9.017_031e-3, 5.579_991_4e-2, 2.401_644_5e-1, 6.931_513e-1, 1.0] {
            p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(c));
        }
        _mm512_scalef_ps(p, x)
    }

    /// # Safety
    /// The processor has these instructions; `scores` are lines of `WIDTH` registers, a multiple of [`KEYS`], and `run` at
    /// least two such lines; `used` is at most `WIDTH`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    pub(super) unsafe fn weigh<const WIDTH: usize, const PAIRS: bool>(
        scores: &mut [Line],
        used: usize,
        factor: f32,
        run: &mut [Line],
    ) {
        let keys = scores.len() / WIDTH;
        let line = 16 * WIDTH;
        let factor = _mm512_set1_ps(factor);
        let least = _mm512_set1_ps(f32::NEG_INFINITY);
        for lanes in 0..used {
            // SAFETY: the caller's promise: every place is `lanes` registers behind the start of a line.
            unsafe {
                let scores: *mut f32 = scores.as_mut_ptr().add(lanes).cast();
                let mut most = [least; KEYS];
                for key in (0..keys).step_by(KEYS) {
                    for (i, most) in most.iter_mut().enumerate() {
                        *most = _mm512_max_ps(*most, _mm512_load_ps(scores.add((key + i) * line)));
                    }
                }
                let [a, b, c, d] = most;
                let most = _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d));
                let base = grow::<WIDTH>(_mm512_mul_ps(most, factor), lanes, run);
                let sum: *mut f32 = run.as_mut_ptr().add(WIDTH + lanes).cast();
                let mut sums = [_mm512_load_ps(sum), _mm512_setzero_ps()];
                for key in (0..keys).step_by(KEYS) {
                    let mut weights = [least; KEYS];
                    for (i, weight) in weights.iter_mut().enumerate() {
                        // Rounded before the difference, so that the largest weighs exactly 1.
                        let score = _mm512_load_ps(scores.add((key + i) * line));
                        *weight = exp2(_mm512_sub_ps(_mm512_mul_ps(score, factor), base));
                        sums[i % 2] = _mm512_add_ps(sums[i % 2], *weight);
                    }
                    if PAIRS {
                        // Lines of weights stay behind those of the scores that are still to be read.
                        let [a, b, c, d] = weights;
                        _mm512_store_ps(scores.add(key / 2 * line), pair([a, b]));
                        _mm512_store_ps(scores.add((key / 2 + 1) * line), pair([c, d]));
                    } else {
                        for (i, weight) in weights.iter().enumerate() {
                            _mm512_store_ps(scores.add((key + i) * line), *weight);
                        }
                    }
                }
                _mm512_store_ps(sum, _mm512_add_ps(sums[0], sums[1]));
            }
        }
    }

    /// Raises the exponents of a register where `most` passes them, rescales what is relative to them, and gives what to
    /// subtract: 0 where nothing was seen yet.
    ///
    /// # Safety
    /// The processor has these instructions; `run` is at least two lines of `WIDTH` registers.
    #[target_feature(enable = "avx512f,avx512dq")]
    #[inline]
    unsafe fn grow<const WIDTH: usize>(most: __m512, lanes: usize, run: &mut [Line]) -> __m512 {
        let rest = run.len() / WIDTH;
        // SAFETY: the caller's promise: every place is `lanes` registers behind the start of a line.
        unsafe {
            let run: *mut f32 = run.as_mut_ptr().add(lanes).cast();
            let old = _mm512_load_ps(run);
            let limit = _mm512_add_ps(old, _mm512_set1_ps(SLACK));
            let grown = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(most, limit);
            let base = _mm512_mask_mov_ps(old, grown, most);
            if grown != 0 {
                _mm512_store_ps(run, base);
                let one = _mm512_set1_ps(1.0);
                let change = _mm512_mask_mov_ps(one, grown, exp2(_mm512_sub_ps(old, base)));
                for i in 1..rest {
                    let at = run.add(16 * WIDTH * i);
                    _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), change));
                }
            }
            let unseen = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(base, _mm512_set1_ps(f32::NEG_INFINITY));
            _mm512_mask_mov_ps(base, unseen, _mm512_setzero_ps())
        }
    }

    /// Weights of two keys as pairs of bf16, halves rounded up: no weight is negative.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn pair([even, odd]: [__m512; 2]) -> __m512 {
        const EVEN_OR_MASKED_ODD: i32 = 0xf8;
        let half = _mm512_set1_epi32(0x8000);
        let even = _mm512_srli_epi32::<16>(_mm512_add_epi32(_mm512_castps_si512(even), half));
        let odd = _mm512_add_epi32(_mm512_castps_si512(odd), half);
        let high = _mm512_set1_epi32(0xffff_0000u32.cast_signed());
        let both = _mm512_ternarylogic_epi32::<EVEN_OR_MASKED_ODD>(even, odd, high);
        _mm512_castsi512_ps(both)
    }

    /// Pairs of rows, element by element: lines of the first sixteen elements, a pair each, then of the rest.
    ///
    /// # Safety
    /// The processor has these instructions.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn zip(rows: &[&[u16; 2 * TILE]; 2 * TILE], lines: &mut [Line; 2 * TILE]) {
        let mut places = [[0u16; 2 * TILE]; 2];
        for (half, places) in places.iter_mut().enumerate() {
            for (i, place) in places.iter_mut().enumerate() {
                *place = (half * TILE + i / 2 + i % 2 * 2 * TILE) as u16;
            }
        }
        // SAFETY: rows and lines are 64 bytes each.
        unsafe {
            let [low, high] = [
                _mm512_loadu_si512(places[0].as_ptr().cast()),
                _mm512_loadu_si512(places[1].as_ptr().cast()),
            ];
            let to: *mut __m512i = lines.as_mut_ptr().cast();
            for pair in 0..TILE {
                let even = _mm512_loadu_si512(rows[2 * pair].as_ptr().cast());
                let odd = _mm512_loadu_si512(rows[2 * pair + 1].as_ptr().cast());
                _mm512_store_si512(to.add(pair), _mm512_permutex2var_epi16(even, low, odd));
                _mm512_store_si512(to.add(TILE + pair), _mm512_permutex2var_epi16(even, high, odd));
            }
        }
    }
}
