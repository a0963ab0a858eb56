//! Memory as the driver gives it: ranges of the device, and of the host what copies pass through. `memory` makes blocks of
//! the first, `stream` copies through the second.

use super::api::{Access, Location, OUT_OF_MEMORY};
use super::driver::Context;
use crate::error::{Error, Kind, Result};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An address inside a [`Memory`], with room for what was asked after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(u64);

impl Address {
    /// The number that kernels are given.
    pub(super) fn get(self) -> u64 {
        self.0
    }
}

/// Where device memory comes from.
#[derive(Clone)]
pub(super) enum Source {
    /// From the driver, as it is asked for.
    Driver(Arc<Context>),
    /// From what was taken from it before.
    Taken(Arc<Taken>),
}

impl Source {
    fn context(&self) -> &Arc<Context> {
        match self {
            Self::Driver(context) => context,
            Self::Taken(taken) => &taken.context,
        }
    }

    /// Gets back what another process was faster with, where it has left that since; bytes that are still lost.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn recover(&self) -> Result<u64> {
        match self {
            Self::Driver(_) => Ok(0),
            Self::Taken(taken) => taken.recover(),
        }
    }

    /// Bytes that it can no longer give.
    pub(super) fn lost_bytes(&self) -> u64 {
        match self {
            Self::Driver(_) => 0,
            Self::Taken(taken) => taken.lost.load(Relaxed),
        }
    }

    /// Bytes that it could still give.
    pub(super) fn free_bytes(&self) -> u64 {
        match self {
            Self::Driver(context) => context.free_bytes(),
            Self::Taken(taken) => taken.free_bytes(),
        }
    }
}

/// Free pieces of device memory by their sizes: a granule, and each [`PARTS`] times the one before.
type Free = [Vec<u64>; SIZES];
const PARTS: usize = 4;
const SIZES: usize = 4;
/// A piece is at most this part of all that is taken: what `memory` leaves to the driver then has room for another.
const SHARE: u64 = 16;

/// A piece of device memory without an address.
#[derive(Clone, Copy)]
struct Piece {
    handle: u64,
    bytes: u64,
}

/// Device memory without addresses, in pieces of which any make a range of any size. Making and mapping a piece takes the
/// driver as long whatever its size, and a piece is mapped whole: so they are large, and one of them is made into smaller
/// ones when a range has use for no larger, and those into a larger one when many are free. It is held until the value goes,
/// whether ranges use it or not. Another process can get some of it only where the driver has no room for the smaller ones
/// beside the piece that they are made of, which then goes first: what is lost so counts as gone until the driver has it again.
pub(super) struct Taken {
    context: Arc<Context>,
    free: Mutex<Free>,
    /// The largest of the sizes that pieces have.
    largest: usize,
    lost: AtomicU64,
}

impl Taken {
    /// As many whole granules as fit `bytes`, contents undefined.
    ///
    /// # Errors
    /// `Unsupported` where addresses cannot be had apart from memory, `OutOfMemory`, or `DeviceLost`.
    pub(super) fn new(context: &Arc<Context>, bytes: u64) -> Result<Arc<Self>> {
        if !context.virtual_memory {
            let (asked, allowed) = ("device memory ahead", "a driver with virtual memory");
            return Err(Kind::Unsupported { asked: asked.into(), allowed: allowed.into() }.into());
        }
        // Those made so far go with it when one cannot be made.
        let largest = sizes(context).iter().rposition(|size| *size <= bytes / SHARE).unwrap_or(0);
        let (context, free, lost) = (Arc::clone(context), Mutex::default(), AtomicU64::new(0));
        let taken = Arc::new(Self { context, free, largest, lost });
        let mut left = bytes;
        for (i, size) in taken.sizes().into_iter().enumerate().take(largest + 1).rev() {
            while left >= size {
                let Some(piece) = create(&taken.context, size)? else {
                    let free = bytes - left;
                    return Err(Kind::OutOfMemory { asked: bytes, free, quota: bytes }.into());
                };
                taken.free()[i].push(piece);
                left -= size;
            }
        }
        Ok(taken)
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sizes(&self) -> [u64; SIZES] {
        sizes(&self.context)
    }

    fn free_bytes(&self) -> u64 {
        self.free().iter().zip(self.sizes()).map(|(list, size)| list.len() as u64 * size).sum()
    }

    /// Pieces of so many bytes together, whole granules, the largest first; `None` where fewer are free.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn take(&self, bytes: u64) -> Result<Option<Vec<Piece>>> {
        if self.free_bytes() < bytes {
            return Ok(None);
        }
        let (mut pieces, mut left) = (Vec::new(), bytes);
        while left > 0 {
            let sizes = self.sizes().into_iter().enumerate().rev();
            let mut fits = sizes.filter(|(_, size)| *size <= left);
            let mut free = self.free();
            let piece = fits.find_map(|(i, bytes)| Some(Piece { handle: free[i].pop()?, bytes }));
            drop(free);
            if let Some(piece) = piece {
                left -= piece.bytes;
                pieces.push(piece);
            } else if !self.part()? {
                self.give(pieces);
                return Ok(None);
            }
        }
        Ok(Some(pieces))
    }

    fn give(&self, pieces: Vec<Piece>) {
        for Piece { handle, bytes } in pieces {
            let size = self.sizes().iter().position(|size| *size == bytes);
            self.free()[size.unwrap_or(0)].push(handle);
        }
        // As many as taking a range makes smaller.
        (1..=self.largest).for_each(|size| self.grow(size));
    }

    /// Makes a piece of a size of smaller ones, where so many of those are free that some stay. It is made before they are
    /// released, of what is left to the driver, or not at all.
    fn grow(&self, size: usize) {
        let mut free = self.free();
        let Some(stay) = free[size - 1].len().checked_sub(PARTS).filter(|stay| *stay >= PARTS)
        else {
            return;
        };
        // Of a device that is lost the next call says so.
        let Ok(Some(whole)) = create(&self.context, self.sizes()[size]) else { return };
        release(&self.context, &free[size - 1].split_off(stay));
        free[size].push(whole);
    }

    fn recover(&self) -> Result<u64> {
        let granule = self.context.granularity;
        while self.lost.load(Relaxed) > 0
            && let Some(piece) = create(&self.context, granule)?
        {
            self.free()[0].push(piece);
            self.lost.fetch_sub(granule, Relaxed);
        }
        Ok(self.lost.load(Relaxed))
    }

    /// Makes the smallest piece that is not a granule into smaller ones, contents undefined; whether there are any. They are
    /// made before it is released, of what is left to the driver; only where that has no room does it go first, and another
    /// process could be faster.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn part(&self) -> Result<bool> {
        let (mut free, sizes) = (self.free(), self.sizes());
        let Some(size) = (1..SIZES).find(|size| !free[*size].is_empty()) else { return Ok(false) };
        let (whole, mut parts) = (free[size].pop(), Vec::new());
        self.make(&mut parts, sizes[size - 1])?;
        release(&self.context, whole.as_slice());
        self.make(&mut parts, sizes[size - 1])?;
        let lost = (PARTS - parts.len()) as u64 * sizes[size - 1];
        self.lost.fetch_add(lost, Relaxed);
        let has_some = !parts.is_empty();
        free[size - 1].append(&mut parts);
        Ok(has_some)
    }

    /// Makes pieces until there are [`PARTS`] or the driver has no room.
    fn make(&self, parts: &mut Vec<u64>, bytes: u64) -> Result<()> {
        while parts.len() < PARTS
            && let Some(part) = create(&self.context, bytes)?
        {
            parts.push(part);
        }
        Ok(())
    }
}

/// Every range of it holds the `Arc`, so all pieces are here again.
impl Drop for Taken {
    fn drop(&mut self) {
        self.free().iter().for_each(|pieces| release(&self.context, pieces));
    }
}

/// Bytes of a piece of each size.
fn sizes(context: &Context) -> [u64; SIZES] {
    std::array::from_fn(|i| context.granularity * (PARTS as u64).pow(i as u32))
}

/// Memory without an address; `None` where the device has no room.
fn create(context: &Context, bytes: u64) -> Result<Option<u64>> {
    context.enter()?;
    let (property, mut piece) = (context.property(), 0);
    // SAFETY: the property is whole, the handle is written.
    match unsafe { (context.api.cuMemCreate)(&mut piece, bytes as usize, &property, 0) } {
        OUT_OF_MEMORY => Ok(None),
        code => context.check("cuMemCreate", code).map(|()| Some(piece)),
    }
}

fn release(context: &Context, pieces: &[u64]) {
    if context.enter().is_ok() {
        for piece in pieces {
            // SAFETY: made by `create`, released once; what maps it keeps it until it is unmapped.
            unsafe { (context.api.cuMemRelease)(*piece) };
        }
    }
}

/// Device memory. Where the driver can, it lies alone in a reserved range with a gap on both sides.
pub(super) struct Memory {
    source: Source,
    at: u64,
    bytes: u64,
    mapped: Option<Mapped>,
}

/// A reserved range and the pieces of memory in the middle of it.
struct Mapped {
    range: u64,
    reserved: u64,
    pieces: Vec<Piece>,
}

impl Memory {
    /// At least `bytes` bytes, contents undefined.
    ///
    /// # Errors
    /// `None` when there is no room, else `DeviceLost`.
    pub(super) fn new(source: &Source, bytes: u64) -> Result<Option<Self>> {
        let context = source.context();
        let bytes = context.rounded(bytes);
        match source {
            Source::Taken(taken) => match taken.take(bytes)? {
                Some(pieces) => Self::map(source, bytes, pieces),
                None => Ok(None),
            },
            Source::Driver(_) if context.virtual_memory => match create(context, bytes)? {
                Some(handle) => Self::map(source, bytes, vec![Piece { handle, bytes }]),
                None => Ok(None),
            },
            Source::Driver(_) => Self::plain(source, bytes),
        }
    }

    fn plain(source: &Source, bytes: u64) -> Result<Option<Self>> {
        let (context, mut at) = (source.context(), 0);
        context.enter()?;
        // SAFETY: the address is written.
        let code = unsafe { (context.api.cuMemAlloc_v2)(&mut at, bytes as usize) };
        if code == OUT_OF_MEMORY {
            return Ok(None);
        }
        context.check("cuMemAlloc", code)?;
        Ok(Some(Self { source: source.clone(), at, bytes, mapped: None }))
    }

    /// Pieces, `bytes` together, side by side in a range of their own.
    fn map(source: &Source, bytes: u64, pieces: Vec<Piece>) -> Result<Option<Self>> {
        let context = source.context();
        let (api, gap) = (context.api, context.granularity);
        let mapped = Mapped { range: 0, reserved: bytes + 2 * gap, pieces };
        // From here on the drop undoes what was done.
        let mut memory = Self { source: source.clone(), at: 0, bytes, mapped: Some(mapped) };
        let Some(mapped) = &mut memory.mapped else { return Ok(None) };
        context.enter()?;
        // SAFETY: the range is written; below it is ours alone.
        let code = unsafe {
            let reserved = mapped.reserved as usize;
            (api.cuMemAddressReserve)(&mut mapped.range, reserved, gap as usize, 0, 0)
        };
        if code == OUT_OF_MEMORY {
            return Ok(None);
        }
        context.check("cuMemAddressReserve", code)?;
        memory.at = mapped.range + gap;
        let mut at = memory.at;
        for piece in &mapped.pieces {
            // SAFETY: within the middle of the reserved range, each behind the one before, as long as the piece.
            match unsafe { (api.cuMemMap)(at, piece.bytes as usize, 0, piece.handle, 0) } {
                OUT_OF_MEMORY => return Ok(None),
                code => context.check("cuMemMap", code)?,
            }
            at += piece.bytes;
        }
        let access = Access { location: Location { kind: 1, id: context.device }, flags: 3 };
        // SAFETY: all that was mapped, and nothing else.
        match unsafe { (api.cuMemSetAccess)(memory.at, bytes as usize, &access, 1) } {
            OUT_OF_MEMORY => Ok(None),
            code => context.check("cuMemSetAccess", code).map(|()| Some(memory)),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The address of `len` bytes from `offset` on, if they lie inside.
    pub(super) fn address(&self, offset: u64, len: u64) -> Option<Address> {
        let end = offset.checked_add(len)?;
        (end <= self.bytes).then(|| Address(self.at + offset))
    }
}

/// The caller has waited for everything that uses it.
impl Drop for Memory {
    fn drop(&mut self) {
        let context = self.source.context();
        let api = context.api;
        if context.enter().is_ok() {
            // SAFETY: made by `new`, and nothing on the device uses it any more. What was not done yet is refused, and a lost
            // device's errors change nothing.
            unsafe {
                match &self.mapped {
                    None => {
                        (api.cuMemFree_v2)(self.at);
                    }
                    Some(Mapped { range: 0, .. }) => {}
                    Some(Mapped { range, reserved, pieces }) => {
                        let mut at = self.at;
                        for Piece { bytes, .. } in pieces {
                            (api.cuMemUnmap)(at, *bytes as usize);
                            at += bytes;
                        }
                        (api.cuMemAddressFree)(*range, *reserved as usize);
                    }
                }
            }
        }
        let Some(mapped) = self.mapped.take() else { return };
        match &self.source {
            Source::Driver(context) => {
                mapped.pieces.iter().for_each(|piece| release(context, &[piece.handle]));
            }
            Source::Taken(taken) => taken.give(mapped.pieces),
        }
    }
}

/// Page-locked memory of the host, cached, that copies pass through.
pub(super) struct Staging {
    context: Arc<Context>,
    at: *mut u8,
    bytes: usize,
}

// SAFETY: owned memory, used by whoever owns the value.
unsafe impl Send for Staging {}

impl Staging {
    /// # Errors
    /// `OutOfMemory` of the host, or `DeviceLost`.
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, Error> {
        context.enter()?;
        let mut at = null_mut();
        // SAFETY: the address is written.
        let code = unsafe { (context.api.cuMemHostAlloc)(&mut at, bytes, 0) };
        if code == OUT_OF_MEMORY {
            return Err(Kind::OutOfMemory { asked: bytes as u64, free: 0, quota: 0 }.into());
        }
        context.check("cuMemHostAlloc", code)?;
        // SAFETY: as many bytes were allocated; they become defined here.
        unsafe { at.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { context: Arc::clone(context), at: at.cast(), bytes })
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Its first byte, for copies that the stream does later.
    pub(super) fn start(&self) -> *mut u8 {
        self.at
    }

    /// Its bytes. The stream has been waited for since a copy from or to them was enqueued.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated with this length and initialised; callers keep the word above.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made by `new`; the stream that copies it has been waited for or is gone.
            unsafe { (self.context.api.cuMemFreeHost)(self.at.cast()) };
        }
    }
}
