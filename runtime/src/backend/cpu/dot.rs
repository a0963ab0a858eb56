//! Sums of products of bf16 pairs, by the processor's own instructions: AMX tiles, or the dot product of AVX-512.
//! Both add a pair after the other into one f32 an output. The packed products of `bf16.rs` call it.

use super::isa::Isa;

/// A cache line of sixteen pairs of bf16.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u32; 16]);

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

    /// Adds to the 32 by 32 floats of `c`, whose rows lie `ld` apart, the products of two strips of row tiles and two of
    /// column tiles, which agree in length. Nothing happens where they do not or `c` is too short.
    pub(super) fn add(&self, a: [&[Tile]; 2], b: [&[Tile]; 2], c: &mut [f32], ld: usize) {
        let steps = a[0].len();
        let agree = [a[1], b[0], b[1]].iter().all(|strip| strip.len() == steps);
        if !agree || steps == 0 || ld < BLOCK || c.len() < (BLOCK - 1) * ld + BLOCK {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if self.tiles {
            // SAFETY: `of` saw the class and configured this thread; `c` holds 32 rows of 32, as just checked.
            unsafe { x86::add_tiles(a, b, c.as_mut_ptr(), ld) };
        } else {
            for (i, a) in a.into_iter().enumerate() {
                for (j, b) in b.into_iter().enumerate() {
                    let c = &mut c[i * TILE * ld + j * TILE..];
                    // SAFETY: `of` saw the class; 16 rows of 16 lie inside `c`, as just checked.
                    unsafe { x86::add_vectors(a, b, c.as_mut_ptr(), ld) };
                }
            }
        }
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
    use super::{Line, TILE, Tile};
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

    /// `c += a b` by tiles: four of sums, two of A and two of B.
    ///
    /// # Safety
    /// The processor has AMX and this thread its configuration; `c` holds 32 rows of 32 floats `ld` apart; the strips
    /// agree in length, which is not 0.
    pub(super) unsafe fn add_tiles(a: [&[Tile]; 2], b: [&[Tile]; 2], c: *mut f32, ld: usize) {
        // SAFETY: the caller's promise; each step reads one tile of 1024 bytes of each strip.
        unsafe {
            asm!(
                "tileloadd tmm0, [{c0} + {ld}]",
                "tileloadd tmm1, [{c1} + {ld}]",
                "tileloadd tmm2, [{c2} + {ld}]",
                "tileloadd tmm3, [{c3} + {ld}]",
                "2:",
                "tileloadd tmm4, [{a0} + {line}]",
                "tileloadd tmm6, [{b0} + {line}]",
                "tileloadd tmm7, [{b1} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 1024",
                "add {a1}, 1024",
                "add {b0}, 1024",
                "add {b1}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{c0} + {ld}], tmm0",
                "tilestored [{c1} + {ld}], tmm1",
                "tilestored [{c2} + {ld}], tmm2",
                "tilestored [{c3} + {ld}], tmm3",
                c0 = in(reg) c,
                c1 = in(reg) c.add(TILE),
                c2 = in(reg) c.add(TILE * ld),
                c3 = in(reg) c.add(TILE * ld + TILE),
                ld = in(reg) 4 * ld,
                a0 = inout(reg) a[0].as_ptr() => _,
                a1 = inout(reg) a[1].as_ptr() => _,
                b0 = inout(reg) b[0].as_ptr() => _,
                b1 = inout(reg) b[1].as_ptr() => _,
                line = in(reg) size_of::<Line>(),
                steps = inout(reg) a[0].len() => _,
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

    /// `c += a b` for one tile of sums: a register a row.
    ///
    /// # Safety
    /// The processor has these instructions; `c` holds 16 rows of 16 floats `ld` apart.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn add_vectors(a: &[Tile], b: &[Tile], c: *mut f32, ld: usize) {
        // SAFETY: the caller's promise; lines are aligned by their type.
        unsafe {
            let mut sums: [__m512; TILE] = [_mm512_setzero_ps(); TILE];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_loadu_ps(c.add(r * ld));
            }
            for (a, b) in a.iter().zip(b) {
                for (p, columns) in b.iter().enumerate() {
                    let columns = _mm512_load_si512((&raw const *columns).cast());
                    for (r, sum) in sums.iter_mut().enumerate() {
                        let pair = _mm512_set1_epi32(a[r].0[p].cast_signed());
                        *sum = _mm512_dpbf16_ps(*sum, as_bf16(pair), as_bf16(columns));
                    }
                }
            }
            for (r, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(c.add(r * ld), *sum);
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
