//! Memory as the driver gives it: ranges of the device, and of the host what copies pass through. `memory` makes blocks of
//! the first, `stream` copies through the second.

use super::api::{Access, Location, OUT_OF_MEMORY};
use super::driver::Context;
use crate::error::{Error, Kind};
use std::ptr::null_mut;
use std::sync::Arc;

/// An address inside a [`Memory`], with room for what was asked after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(u64);

impl Address {
    /// The number that kernels are given.
    pub(super) fn get(self) -> u64 {
        self.0
    }
}

/// Device memory. Where the driver can, it lies alone in a reserved range with a gap on both sides.
pub(super) struct Memory {
    context: Arc<Context>,
    at: u64,
    bytes: u64,
    /// The reserved range and the memory mapped into it.
    mapped: Option<(u64, u64, u64)>,
}

impl Memory {
    /// At least `bytes` bytes, contents undefined.
    ///
    /// # Errors
    /// `None` when the device has no room, else `DeviceLost`.
    pub(super) fn new(context: &Arc<Context>, bytes: u64) -> Result<Option<Self>, Error> {
        context.enter()?;
        let bytes = context.rounded(bytes);
        let context = Arc::clone(context);
        if context.virtual_memory { Self::map(context, bytes) } else { Self::plain(context, bytes) }
    }

    fn plain(context: Arc<Context>, bytes: u64) -> Result<Option<Self>, Error> {
        let mut at = 0;
        // SAFETY: the address is written.
        let code = unsafe { (context.api.cuMemAlloc_v2)(&mut at, bytes as usize) };
        if code == OUT_OF_MEMORY {
            return Ok(None);
        }
        context.api.check("cuMemAlloc", code)?;
        Ok(Some(Self { context, at, bytes, mapped: None }))
    }

    fn map(context: Arc<Context>, bytes: u64) -> Result<Option<Self>, Error> {
        let (api, gap, size) = (context.api, context.granularity, bytes as usize);
        let (property, mut handle, mut range) = (context.property(), 0, 0);
        // SAFETY: the property is whole, the handle is written.
        let code = unsafe { (api.cuMemCreate)(&mut handle, size, &property, 0) };
        if code == OUT_OF_MEMORY {
            return Ok(None);
        }
        api.check("cuMemCreate", code)?;
        let reserved = (bytes + 2 * gap) as usize;
        // SAFETY: the range is written; below it is ours alone.
        let code = unsafe { (api.cuMemAddressReserve)(&mut range, reserved, gap as usize, 0, 0) };
        if code != 0 {
            // SAFETY: made above and mapped nowhere.
            unsafe { (api.cuMemRelease)(handle) };
            return match code {
                OUT_OF_MEMORY => Ok(None),
                code => api.check("cuMemAddressReserve", code).map(|()| None),
            };
        }
        let at = range + gap;
        let mapped = Some((range, reserved as u64, handle));
        // From here on the drop undoes what was done; unmapping what is not mapped is an error that it ignores.
        let memory = Self { context: Arc::clone(&context), at, bytes, mapped };
        let access = Access { location: Location { kind: 1, id: context.device }, flags: 3 };
        // SAFETY: the middle of the reserved range, as long as the memory.
        unsafe {
            match (api.cuMemMap)(at, size, 0, handle, 0) {
                OUT_OF_MEMORY => return Ok(None),
                code => api.check("cuMemMap", code)?,
            }
            api.check("cuMemSetAccess", (api.cuMemSetAccess)(at, size, &access, 1))?;
        }
        Ok(Some(memory))
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
        let api = self.context.api;
        if self.context.enter().is_err() {
            return;
        }
        // SAFETY: made by `new`, and nothing on the device uses it any more. A lost device's errors change nothing.
        unsafe {
            match self.mapped {
                None => {
                    (api.cuMemFree_v2)(self.at);
                }
                Some((range, reserved, handle)) => {
                    (api.cuMemUnmap)(self.at, self.bytes as usize);
                    (api.cuMemRelease)(handle);
                    (api.cuMemAddressFree)(range, reserved as usize);
                }
            }
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
        context.api.check("cuMemHostAlloc", code)?;
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
