//! Sums of products of bf16 pairs, by the processor's own instructions: AMX tiles, or the dot product of AVX-512.
//! Both add a pair after the other into one f32 an output. The products of `dots` call it, on sides that `bf16` packs.

use super::isa::Isa;
use super::memory::View;
use std::marker::PhantomData;

/// A cache line: sixteen floats, or pairs of bf16.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u32; 16]);

impl Line {
    pub(super) const FLOATS: usize = TILE;
}

// SAFETY: sixteen words, without padding.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above; every bit pattern is one.
unsafe impl bytemuck::Pod for Line {}

/// Sixteen lines: 16 rows by 16 pairs along K, or 16 pairs along K by 16 columns.
pub(super) type Tile = [Line; TILE];

/// Rows and columns of a tile, and pairs of one along K.
pub(super) const TILE: usize = 16;

/// Side of the block that [`Dot::add`] sums into: two tiles by two.
pub(super) const BLOCK: usize = 2 * TILE;

/// Whether there are AMX tiles of bf16 and the kernel grants them: it saves them for no process that has not asked.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_tiles() -> bool {
    cfg!(target_os = "linux") && x86::has_tiles()
}

/// The instructions of a class, ready on this thread.
pub(super) struct Dot {
    /// By tiles, not vectors.
    tiles: bool,
}

impl Dot {
    /// `None` for a class without such instructions.
    pub(super) fn of(isa: Isa) -> Option<Self> {
        match isa {
            Isa::Amx => {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `Isa::detect`, the only maker of `Amx`, saw the instruction and the kernel's grant.
                unsafe {
                    x86::configure_tiles();
                }
                Some(Self { tiles: true })
            }
            Isa::Bf16 => Some(Self { tiles: false }),
            _ => None,
        }
    }

    /// Adds to the 32 by 32 floats of `c`, whose rows lie `ld` apart, or without `add` replaces them by, the product of
    /// a block of rows and one of columns: pairs of tiles, as many of each. `ahead` is fetched meanwhile: a part of what
    /// comes next. Nothing happens where the sides do not agree or `c` is too short.
    pub(super) fn add(
        &self,
        rows: &Rows<'_>,
        columns: &[Tile],
        ahead: &[Tile],
        c: &mut [f32],
        ld: usize,
        add: bool,
    ) {
        let steps = columns.len() / 2;
        let room = ld >= BLOCK && c.len() >= (BLOCK - 1) * ld + BLOCK;
        if steps == 0 || rows.steps != steps || !room {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `of` saw the class and configured this thread; rows and columns have `steps` pairs of tiles and `c` 32
        // rows of 32, as just checked.
        unsafe {
            if self.tiles {
                x86::add_tiles(rows, columns.as_ptr(), ahead.as_ptr(), c.as_mut_ptr(), ld, add);
            } else {
                x86::add_vectors(rows, columns.as_ptr(), c.as_mut_ptr(), ld, add);
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (ahead, add);
    }
}

/// A block of 32 rows of A: two strips of `steps` tiles. Valid while what it was made of is neither freed nor written.
pub(super) struct Rows<'a> {
    strips: [*const u8; 2],
    /// Bytes from a line of a tile, and from a tile along K, to the next.
    line: usize,
    step: usize,
    steps: usize,
    source: PhantomData<&'a [Tile]>,
}

impl<'a> Rows<'a> {
    /// Pairs of tiles.
    pub(super) fn packed(tiles: &'a [Tile]) -> Self {
        let first: *const u8 = tiles.as_ptr().cast();
        let tile = size_of::<Tile>();
        Self {
            strips: [first, first.wrapping_add(tile)],
            line: size_of::<Line>(),
            step: 2 * tile,
            steps: tiles.len() / 2,
            source: PhantomData,
        }
    }

    /// Rows where they lie, `ld` elements apart from element `start` on, dense and inside the view's shape. Only where
    /// they begin with a cache line each: reading across two takes longer than packing.
    pub(super) fn lying(view: &'a View, start: u64, ld: u64, steps: usize) -> Option<Self> {
        let first: *const u8 = view.half_ptr(start)?.cast();
        let line = 2 * ld as usize;
        let even = (first as usize).is_multiple_of(size_of::<Line>())
            && line.is_multiple_of(size_of::<Line>());
        even.then_some(Self {
            strips: [first, first.wrapping_add(TILE * line)],
            line,
            step: size_of::<Line>(),
            steps,
            source: PhantomData,
        })
    }
}

impl Drop for Dot {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.tiles {
            // SAFETY: as in `of`.
            unsafe { x86::release_tiles() };
        }
    }
}

/// Rows and columns of a tile change places, on the classes that have AVX-512.
pub(super) fn transpose(isa: Isa, tile: &mut Tile) {
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Amx | Isa::Bf16 | Isa::V4) {
        // SAFETY: the classes have AVX-512.
        unsafe { x86::transpose(tile) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (isa, tile);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Line, Rows, TILE, Tile};
    use std::arch::asm;
    use std::arch::x86_64::{
        __cpuid_count, __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_load_si512,
        _mm512_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_setzero_si512,
        _mm512_shuffle_i32x4, _mm512_store_si512, _mm512_storeu_ps, _mm512_unpackhi_epi32,
        _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };

    pub(super) fn has_tiles() -> bool {
        const TILES_OF_BF16: u32 = 1 << 24 | 1 << 22;
        if __cpuid_count(7, 0).edx & TILES_OF_BF16 != TILES_OF_BF16 {
            return false;
        }
        const ARCH_PRCTL: i64 = 158;
        const REQUEST_PERMISSION: i64 = 0x1023;
        const TILE_DATA: i64 = 18;
        let status: i64;
        // SAFETY: Linux alone comes here; a system call that reads and writes no memory of ours; its clobbers are named.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => status,
                in("rdi") REQUEST_PERMISSION,
                in("rsi") TILE_DATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        status == 0
    }

    /// # Safety
    /// The processor has AMX and the kernel has granted it.
    pub(super) unsafe fn configure_tiles() {
        let mut config = Line([0; 16]);
        // Palette 1; eight tiles of 16 rows of 64 bytes.
        config.0[0] = 1;
        config.0[4..8].fill(64 << 16 | 64);
        config.0[12..14].fill(u32::from_ne_bytes([TILE as u8; 4]));
        // SAFETY: the caller's promise; the 64 bytes are a valid configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
    }

    /// Tiles that are released are not saved when threads change.
    ///
    /// # Safety
    /// As for `configure_tiles`.
    pub(super) unsafe fn release_tiles() {
        // SAFETY: the caller's promise.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }

    /// `c = a b` or `c += a b` by tiles: four of sums, two of A and two of B.
    ///
    /// # Safety
    /// The processor has AMX and this thread its configuration; `c` holds 32 rows of 32 floats `ld` apart; `b` holds as
    /// many pairs of tiles as `a`, at least one. `ahead` may be anything.
    pub(super) unsafe fn add_tiles(
        a: &Rows<'_>,
        b: *const Tile,
        ahead: *const Tile,
        c: *mut f32,
        ld: usize,
        add: bool,
    ) {
        // SAFETY: the caller's promise: `c` is read and written as stated, each step reads one tile of 1024 bytes of each
        // strip, and a prefetch touches nothing.
        unsafe {
            asm!(
                "test {add:e}, {add:e}",
                "jz 3f",
                "tileloadd tmm0, [{c} + {ld}]",
                "tileloadd tmm1, [{c} + {ld} + 64]",
                "tileloadd tmm2, [{lower} + {ld}]",
                "tileloadd tmm3, [{lower} + {ld} + 64]",
                "jmp 2f",
                "3:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{a0} + {line}]",
                "tileloadd tmm6, [{b} + {dense}]",
                "tileloadd tmm7, [{b} + {dense} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "prefetcht1 [{ahead}]",
                "prefetcht1 [{ahead} + 64]",
                "prefetcht1 [{ahead} + 128]",
                "prefetcht1 [{ahead} + 192]",
                "add {ahead}, 256",
                "add {a0}, {step}",
                "add {a1}, {step}",
                "add {b}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{c} + {ld}], tmm0",
                "tilestored [{c} + {ld} + 64], tmm1",
                "tilestored [{lower} + {ld}], tmm2",
                "tilestored [{lower} + {ld} + 64], tmm3",
                add = in(reg) u32::from(add),
                c = in(reg) c,
                lower = in(reg) c.add(TILE * ld),
                ld = in(reg) 4 * ld,
                a0 = inout(reg) a.strips[0] => _,
                a1 = inout(reg) a.strips[1] => _,
                line = in(reg) a.line,
                step = in(reg) a.step,
                b = inout(reg) b => _,
                dense = in(reg) size_of::<Line>(),
                ahead = inout(reg) ahead => _,
                steps = inout(reg) a.steps => _,
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

    /// The same by vectors, a quarter of `c` after the other: a register a row.
    ///
    /// # Safety
    /// The processor has these instructions; the rest as for `add_tiles`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn add_vectors(
        a: &Rows<'_>,
        b: *const Tile,
        c: *mut f32,
        ld: usize,
        add: bool,
    ) {
        for quarter in 0..4 {
            let (down, right) = (quarter / 2, quarter % 2);
            // SAFETY: the caller's promise; tiles of `b` are aligned by their type, pairs of A are read as they may lie.
            unsafe {
                let c = c.add(down * TILE * ld + right * TILE);
                let mut sums: [__m512; TILE] = [_mm512_setzero_ps(); TILE];
                if add {
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm512_loadu_ps(c.add(r * ld));
                    }
                }
                for step in 0..a.steps {
                    let rows = a.strips[down].add(step * a.step);
                    let columns: *const Line = b.add(2 * step + right).cast();
                    for p in 0..TILE {
                        let columns = _mm512_load_si512(columns.add(p).cast());
                        for (r, sum) in sums.iter_mut().enumerate() {
                            let pair: *const i32 = rows.add(r * a.line + 4 * p).cast();
                            let pair = _mm512_set1_epi32(pair.read_unaligned());
                            *sum = _mm512_dpbf16_ps(*sum, as_bf16(pair), as_bf16(columns));
                        }
                    }
                }
                for (r, sum) in sums.iter().enumerate() {
                    _mm512_storeu_ps(c.add(r * ld), *sum);
                }
            }
        }
    }

    /// The same bits.
    #[inline(always)]
    fn as_bf16(x: __m512i) -> __m512bh {
        // SAFETY: both are 512 bits without invalid values.
        unsafe { std::mem::transmute(x) }
    }

    /// Rows and columns change places.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose(tile: &mut Tile) {
        let lines: *mut __m512i = tile.as_mut_ptr().cast();
        let mut x = [_mm512_setzero_si512(); TILE];
        for (i, x) in x.iter_mut().enumerate() {
            // SAFETY: a tile is 16 aligned lines.
            *x = unsafe { _mm512_load_si512(lines.add(i)) };
        }
        let mut y = x;
        for i in 0..8 {
            y[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
            y[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
        }
        // Quarter q of x[4 g + c] becomes column 4 q + c of rows 4 g to 4 g + 3.
        for g in (0..TILE).step_by(4) {
            x[g] = _mm512_unpacklo_epi64(y[g], y[g + 2]);
            x[g + 1] = _mm512_unpackhi_epi64(y[g], y[g + 2]);
            x[g + 2] = _mm512_unpacklo_epi64(y[g + 1], y[g + 3]);
            x[g + 3] = _mm512_unpackhi_epi64(y[g + 1], y[g + 3]);
        }
        for c in 0..4 {
            let even = |a, b| _mm512_shuffle_i32x4::<0x88>(a, b);
            let odd = |a, b| _mm512_shuffle_i32x4::<0xdd>(a, b);
            let [upper, lower] = [(x[c], x[c + 4]), (x[c + 8], x[c + 12])];
            let quarters = [
                (c, even(even(upper.0, upper.1), even(lower.0, lower.1))),
                (c + 4, even(odd(upper.0, upper.1), odd(lower.0, lower.1))),
                (c + 8, odd(even(upper.0, upper.1), even(lower.0, lower.1))),
                (c + 12, odd(odd(upper.0, upper.1), odd(lower.0, lower.1))),
            ];
            for (line, value) in quarters {
                // SAFETY: as above.
                unsafe { _mm512_store_si512(lines.add(line), value) };
            }
        }
    }
}
