//! Blocks of host memory and strided views of them: most kernels ask for rows as f32 and give rows back.

use super::bytes::{self, Byte};
use super::convert::{self, Half};
use super::isa::Isa;
use super::regions::{Block, Regions};
use crate::DType;
use crate::backend::Place;
use crate::layout::Dims;
use crate::op::Spec;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Narrow elements that are collected side by side before they are converted together.
const NEAR: usize = 256;

/// Every block.
#[derive(Default)]
pub(super) struct Memory {
    blocks: HashMap<u64, Block>,
    pub(super) regions: Regions,
    next: u64,
    pub(super) used: u64,
}

impl Memory {
    /// A block of at least `bytes` bytes; `None` when that would pass `budget` or the system has no more.
    pub(super) fn alloc(&mut self, bytes: u64, budget: u64) -> Option<u64> {
        let block = self.regions.take(bytes, budget.saturating_sub(self.used))?;
        self.next += 1;
        self.used += block.len;
        self.blocks.insert(self.next, block);
        Some(self.next)
    }

    pub(super) fn free(&mut self, id: u64) {
        let Some(block) = self.blocks.remove(&id) else { return };
        self.used -= block.len;
        self.regions.give(block);
    }

    /// A launch may write to the block.
    pub(super) fn wrote(&mut self, id: u64) {
        if let Some(block) = self.blocks.get_mut(&id) {
            block.fresh = false;
        }
    }

    /// Zeroes a byte range; `None` outside the block. What the system zeroed is not even touched: the first touch of a
    /// page takes longer than zeroing it.
    pub(super) fn zero(&mut self, id: u64, offset: u64, len: u64) -> Option<()> {
        self.range(id, offset, len)?;
        if !self.blocks.get(&id)?.fresh {
            self.bytes(id, offset, len)?.fill(0);
        }
        Some(())
    }

    /// Pointer to `len` bytes at `offset`, if they lie inside the block.
    fn range(&self, id: u64, offset: u64, len: u64) -> Option<*mut u8> {
        let block = self.blocks.get(&id)?;
        if offset.checked_add(len)? > block.len {
            return None;
        }
        // SAFETY: `offset` is at most the block's length, which was allocated.
        Some(unsafe { block.start.add(offset as usize) })
    }

    /// A byte range as a slice that may be written; `None` outside the block.
    pub(super) fn bytes(&mut self, id: u64, offset: u64, len: u64) -> Option<&mut [u8]> {
        let start = self.range(id, offset, len)?;
        self.wrote(id);
        // SAFETY: in range, initialised since blocks are zeroed when made, and unique through `&mut self`.
        Some(unsafe { std::slice::from_raw_parts_mut(start, len as usize) })
    }

    /// All bytes of a block.
    pub(super) fn all(&self, id: u64) -> Option<&[u8]> {
        let block = self.blocks.get(&id)?;
        // SAFETY: initialised since blocks are zeroed when made; whoever writes to the block has `&mut self`, or is a
        // launch of which it is an operand.
        Some(unsafe { std::slice::from_raw_parts(block.start, block.len as usize) })
    }

    /// Copies between blocks, or within one where the ranges may overlap; `None` outside.
    pub(super) fn copy(&mut self, src: Place, dst: Place, len: u64) -> Option<()> {
        let from = self.range(src.block.0, src.offset, len)?;
        let to = self.range(dst.block.0, dst.offset, len)?;
        self.wrote(dst.block.0);
        // SAFETY: both ranges lie inside live blocks; `copy` allows overlap.
        unsafe { std::ptr::copy(from, to, len as usize) };
        Some(())
    }

    /// A view of an operand; `None` when its span leaves the block.
    pub(super) fn view(&self, spec: &Spec, place: Place) -> Option<View> {
        let span = u64::try_from(spec.span_bytes()).ok()?;
        let start = self.range(place.block.0, place.offset, span)?;
        let layout = &spec.layout;
        Some(View { start, dtype: spec.dtype, shape: *layout.shape(), strides: *layout.strides() })
    }
}

/// An operand in memory. Offsets are in elements from its first.
///
/// `Memory::view` checked that the whole span lies inside a live block. Kernels of one launch share views across
/// threads: each element of an output belongs to exactly one work item, outputs overlap inputs only as the same
/// element (`BoundOp`), and work items read such an element before they write it. Elements are accessed through
/// raw pointers for moments only, never held as references across a write.
#[derive(Clone, Copy)]
pub(super) struct View {
    start: *mut u8,
    pub(super) dtype: DType,
    pub(super) shape: Dims,
    pub(super) strides: Dims,
}

// SAFETY: see the type: work items touch disjoint outputs, and blocks outlive the launch that made the view.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// Element offset of the row-major `index` over the axes before `axes`.
    pub(super) fn outer_offset(&self, mut index: u64, axes: usize) -> u64 {
        let mut offset = 0;
        for axis in (0..axes).rev() {
            let size = self.shape[axis].max(1);
            offset += index % size * self.strides[axis];
            index /= size;
        }
        offset
    }

    /// Size of the last axis; 1 for rank 0.
    pub(super) fn row_len(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Stride of the last axis; 1 for rank 0.
    pub(super) fn row_stride(&self) -> u64 {
        self.strides.last().copied().unwrap_or(1)
    }

    /// Axes before the last.
    pub(super) fn outer_axes(&self) -> usize {
        self.shape.rank().saturating_sub(1)
    }

    fn element(&self, offset: u64) -> *mut u8 {
        // Offsets come from indices inside the shape, so they stay inside the checked span.
        self.start.wrapping_add(offset.wrapping_mul(self.dtype.size()) as usize)
    }

    /// A float pointer for the matrix kernel, with the row and column strides given by the caller's axes.
    pub(super) fn f32_ptr(&self, offset: u64) -> Option<*mut f32> {
        (self.dtype == DType::F32).then(|| self.element(offset).cast())
    }

    /// A pointer to 16-bit elements, for kernels that read them as they lie.
    pub(super) fn half_ptr(&self, offset: u64) -> Option<*const u16> {
        (self.dtype.size() == 2).then(|| self.element(offset).cast_const().cast())
    }

    fn half(&self) -> Half {
        if self.dtype == DType::BF16 { convert::BF16 } else { convert::F16 }
    }

    /// `dst.len()` elements from `offset`, `stride` apart, as f32.
    pub(super) fn load(&self, isa: Isa, offset: u64, stride: u64, dst: &mut [f32]) {
        let (start, n, step) = (self.element(offset), dst.len(), stride as usize);
        // SAFETY: the caller's indices are inside the shape (see `View`); a block's bytes are initialised and its
        // elements aligned, because `check` held offsets to multiples of the element size.
        unsafe {
            match (self.dtype, step) {
                (DType::F32, 1) => std::ptr::copy_nonoverlapping(start.cast(), dst.as_mut_ptr(), n),
                (DType::F32, _) => {
                    let p: *const f32 = start.cast();
                    dst.iter_mut().enumerate().for_each(|(i, d)| *d = *p.add(i * step));
                }
                (DType::BF16 | DType::F16, _) => {
                    let half = self.half();
                    load_narrow(start.cast(), step, dst, |src, dst| {
                        convert::widen(isa, half, src, dst);
                    });
                }
                (dtype, _) => match Byte::of(dtype) {
                    Some(byte) => load_narrow(start.cast_const(), step, dst, |src, dst| {
                        bytes::widen(isa, byte, src, dst);
                    }),
                    // `check` lets no 32-bit integer reach a kernel that loads as f32.
                    None => dst.fill(0.0),
                },
            }
        }
    }

    /// Stores `src` as elements from `offset`, `stride` apart.
    pub(super) fn store(&self, isa: Isa, offset: u64, stride: u64, src: &[f32]) {
        let (start, n, step) = (self.element(offset), src.len(), stride as usize);
        // SAFETY: as in `load`; these elements belong to the calling work item alone.
        unsafe {
            match (self.dtype, step) {
                (DType::F32, 1) => std::ptr::copy_nonoverlapping(src.as_ptr(), start.cast(), n),
                (DType::F32, _) => {
                    let p: *mut f32 = start.cast();
                    src.iter().enumerate().for_each(|(i, s)| *p.add(i * step) = *s);
                }
                (DType::BF16 | DType::F16, _) => {
                    let half = self.half();
                    store_narrow(start.cast(), step, src, |src, dst| {
                        convert::narrow(isa, half, src, dst);
                    });
                }
                (dtype, _) => {
                    if let Some(byte) = Byte::of(dtype) {
                        store_narrow(start, step, src, |src, dst| {
                            bytes::narrow(isa, byte, src, dst);
                        });
                    }
                }
            }
        }
    }

    /// Has `n` dense elements from `offset` on fetched into the cache, which may lie anywhere.
    pub(super) fn fetch(&self, offset: u64, n: u64) {
        #[cfg(target_arch = "x86_64")]
        if self.row_stride() == 1 {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let (start, bytes) = (self.element(offset), n * self.dtype.size());
            for at in (0..bytes as usize).step_by(64) {
                // SAFETY: a prefetch reads nothing and never faults.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at).cast()) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (offset, n);
    }

    /// The bits of `n` 16-bit elements from `offset`, `stride` apart, then zeros. Without any, `offset` may be anywhere.
    #[inline(always)]
    pub(super) fn halves<const N: usize>(&self, offset: u64, stride: u64, n: usize) -> [u16; N] {
        let start: *const u16 = self.element(offset).cast_const().cast();
        if n >= N && stride == 1 && self.dtype.size() == 2 {
            // SAFETY: as in `load`; there are as many elements, and the array wants no more alignment than one.
            return unsafe { start.cast::<[u16; N]>().read() };
        }
        let mut near = [0; N];
        if self.dtype.size() == 2 {
            for (i, x) in near.iter_mut().enumerate().take(n) {
                // SAFETY: as in `load`.
                *x = unsafe { start.wrapping_add(i * stride as usize).read() };
            }
        }
        near
    }

    /// `n` elements from `offset`, side by side, as they lie; none unless `T` has the size of one. For operands that no
    /// output of the launch may overlap.
    pub(super) fn line<T: bytemuck::Pod>(&self, offset: u64, n: usize) -> &[T] {
        if size_of::<T>() as u64 != self.dtype.size() {
            return &[];
        }
        // SAFETY: as in `load`; nothing writes them while a launch that only reads them runs (`BoundOp`).
        unsafe { std::slice::from_raw_parts(self.element(offset).cast(), n) }
    }

    /// The 32-bit word at an element, read exactly once: another party may be writing it.
    pub(super) fn word(&self, offset: u64) -> u32 {
        // SAFETY: as in `load`; atomic, so that the value compared is the value used.
        unsafe { AtomicU32::from_ptr(self.element(offset).cast()) }.load(Relaxed)
    }

    /// Stores a 32-bit word.
    pub(super) fn store_word(&self, offset: u64, word: u32) {
        // SAFETY: as in `store`.
        unsafe { AtomicU32::from_ptr(self.element(offset).cast()) }.store(word, Relaxed);
    }

    /// Copies the bits of `n` elements from `src` (same dtype), or zeroes them when `src` is `None`. `steps` are the
    /// distances between neighbours here and there.
    pub(super) fn copy_row(&self, offset: u64, src: Option<(&Self, u64)>, steps: [u64; 2], n: u64) {
        let (to, from) = (self.element(offset), src.map(|(src, at)| src.element(at).cast_const()));
        let (steps, n) = (steps.map(|s| s as usize), n as usize);
        // SAFETY: as in `load` and `store`; source and output do not overlap (`BoundOp`).
        unsafe {
            match self.dtype.size() {
                1 => copy_elements::<u8>(to, from, steps, n),
                2 => copy_elements::<u16>(to.cast(), from.map(<*const u8>::cast), steps, n),
                4 => copy_elements::<u32>(to.cast(), from.map(<*const u8>::cast), steps, n),
                // There is no other size.
                _ => {}
            }
        }
    }
}

/// `dst.len()` elements from `start`, `step` apart, widened.
///
/// # Safety
/// Every element named is inside a live block and aligned.
unsafe fn load_narrow<T: bytemuck::Pod>(
    start: *const T,
    step: usize,
    dst: &mut [f32],
    widen: impl Fn(&[T], &mut [f32]),
) {
    // SAFETY: the caller's promise.
    unsafe {
        if step == 1 {
            return widen(std::slice::from_raw_parts(start, dst.len()), dst);
        }
        let mut near = [T::zeroed(); NEAR];
        for (i, part) in dst.chunks_mut(NEAR).enumerate() {
            let near = &mut near[..part.len()];
            let p = start.add(i * NEAR * step);
            near.iter_mut().enumerate().for_each(|(i, d)| *d = *p.add(i * step));
            widen(near, part);
        }
    }
}

/// `src` narrowed to elements from `start`, `step` apart.
///
/// # Safety
/// Every element named is inside a live block and aligned, and the caller's alone.
unsafe fn store_narrow<T: bytemuck::Pod>(
    start: *mut T,
    step: usize,
    src: &[f32],
    narrow: impl Fn(&[f32], &mut [T]),
) {
    // SAFETY: the caller's promise.
    unsafe {
        if step == 1 {
            return narrow(src, std::slice::from_raw_parts_mut(start, src.len()));
        }
        let mut near = [T::zeroed(); NEAR];
        for (i, part) in src.chunks(NEAR).enumerate() {
            let near = &mut near[..part.len()];
            narrow(part, near);
            let p = start.add(i * NEAR * step);
            near.iter().enumerate().for_each(|(i, s)| *p.add(i * step) = *s);
        }
    }
}

/// `n` elements from `from`, or zeros, to `to`, each with its step.
///
/// # Safety
/// Every element named is inside a live block and aligned, and the two runs do not overlap.
unsafe fn copy_elements<T: bytemuck::Pod>(
    to: *mut T,
    from: Option<*const T>,
    [to_step, from_step]: [usize; 2],
    n: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match from {
            Some(from) if to_step == 1 && from_step == 1 => {
                std::ptr::copy_nonoverlapping(from, to, n);
            }
            Some(from) => (0..n).for_each(|i| *to.add(i * to_step) = *from.add(i * from_step)),
            None => (0..n).for_each(|i| *to.add(i * to_step) = T::zeroed()),
        }
    }
}
