//! Memory that two processes share. The other side may write at any moment, so nothing here hands out a reference:
//! bytes are copied by raw pointers, positions are atomics.

use crate::error::{Error, Kind, Result};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A memfd of fixed size.
#[derive(Debug)]
pub struct Memfd {
    fd: OwnedFd,
    len: u64,
}

fn system(call: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |errno| Error::system(call, errno.into())
}

impl Memfd {
    /// Zeroed memory of `len` bytes, sealed against resizing. Never huge pages: those lack seals.
    ///
    /// # Errors
    /// `System`.
    pub fn new(name: &str, len: u64) -> Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create(name, flags).map_err(system("memfd_create"))?;
        rustix::fs::ftruncate(&fd, len).map_err(system("ftruncate"))?;
        let seals = SealFlags::SHRINK | SealFlags::GROW;
        rustix::fs::fcntl_add_seals(&fd, seals).map_err(system("seal"))?;
        Ok(Self { fd, len })
    }

    /// A memfd that a peer sent, if it has this length and cannot be resized.
    ///
    /// # Errors
    /// `Protocol` when it has another length or lacks the seals, `System`.
    pub fn received(fd: OwnedFd, len: u64) -> Result<Self> {
        let stat = rustix::fs::fstat(&fd).map_err(system("fstat"))?;
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(system("get seals"))?;
        let sized = SealFlags::SHRINK | SealFlags::GROW;
        if stat.st_size as u64 != len || !seals.contains(sized) {
            let (asked, allowed) = (stat.st_size as u64, len);
            return Err(Kind::Protocol { what: "shared memory", asked, allowed }.into());
        }
        Ok(Self { fd, len })
    }

    /// Forbids writes by whoever has not yet mapped it writable, hole punching, and further seals.
    ///
    /// # Errors
    /// `System`.
    pub fn seal_writes(&self) -> Result<()> {
        let seals = SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&self.fd, seals).map_err(system("seal"))
    }

    /// Maps all of it, writable or not.
    ///
    /// # Errors
    /// `System`.
    pub fn map(&self, writable: bool) -> Result<Shared> {
        let write = if writable { ProtFlags::WRITE } else { ProtFlags::empty() };
        let prot = ProtFlags::READ | write;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                self.len as usize,
                prot,
                MapFlags::SHARED,
                &self.fd,
                0,
            )
        };
        let start = start.map_err(system("mmap"))?.cast();
        Ok(Shared { start, len: self.len, writable })
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A socket that this process inherited, as a duplicate of its own; `None` when the number is not that of an open
/// socket of records.
pub fn inherited(number: std::os::fd::RawFd) -> Option<OwnedFd> {
    if number < 0 {
        return None;
    }
    // SAFETY: borrowed for the one call that duplicates it, which fails on a number that is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned().ok()?;
    let kind = rustix::net::sockopt::socket_type(&fd).ok()?;
    (kind == rustix::net::SocketType::SEQPACKET).then_some(fd)
}

/// A mapping of shared memory. Every access is checked against its length; a write to a mapping that is not
/// writable does nothing.
#[derive(Debug)]
pub struct Shared {
    start: *mut u8,
    len: u64,
    writable: bool,
}

// SAFETY: access is by atomics and by raw copies of bytes that may change under them anyway; the mapping is freed
// once, by its one owner.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Memory of this process that a forked child finds zeroed: a non-zero word tells the parent from it.
    ///
    /// # Errors
    /// `System`.
    pub fn wiped_on_fork() -> Result<Self> {
        let (len, prot) = (super::PAGE, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new anonymous mapping touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), len as usize, prot, MapFlags::PRIVATE)
        };
        let start = start.map_err(system("mmap"))?;
        // SAFETY: the range was just mapped; the advice changes only what a child sees.
        unsafe { rustix::mm::madvise(start, len as usize, Advice::LinuxWipeOnFork) }
            .map_err(system("madvise"))?;
        Ok(Self { start: start.cast(), len, writable: true })
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at(&self, offset: u64, len: u64) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        // SAFETY: the range was just held to the mapping.
        (end <= self.len).then(|| unsafe { self.start.add(offset as usize) })
    }

    fn word64(&self, offset: u64) -> Option<&AtomicU64> {
        let at = self.at(offset, 8).filter(|_| offset.is_multiple_of(8))?;
        // SAFETY: in range, aligned, and only ever accessed as an atomic while another process may write it.
        Some(unsafe { AtomicU64::from_ptr(at.cast()) })
    }

    fn word32(&self, offset: u64) -> Option<&AtomicU32> {
        let at = self.at(offset, 4).filter(|_| offset.is_multiple_of(4))?;
        // SAFETY: as in `word64`.
        Some(unsafe { AtomicU32::from_ptr(at.cast()) })
    }

    /// The position at `offset`; 0 outside the mapping.
    pub fn position(&self, offset: u64) -> u64 {
        self.word64(offset).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Publishes a position: what was copied before is seen by whoever reads it.
    pub fn set_position(&self, offset: u64, value: u64) {
        if let Some(word) = self.word64(offset).filter(|_| self.writable) {
            word.store(value, Ordering::Release);
        }
    }

    /// The flag at `offset`, ordered after every earlier access of this thread.
    pub fn flag(&self, offset: u64) -> bool {
        std::sync::atomic::fence(Ordering::SeqCst);
        self.word32(offset).is_some_and(|word| word.load(Ordering::SeqCst) != 0)
    }

    /// Sets the flag, ordered before every later access of this thread.
    pub fn set_flag(&self, offset: u64, value: bool) {
        if let Some(word) = self.word32(offset).filter(|_| self.writable) {
            word.store(value.into(), Ordering::SeqCst);
        }
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Copies bytes out; whether the range lies inside the mapping.
    pub fn read(&self, offset: u64, dst: &mut [u8]) -> bool {
        let Some(from) = self.at(offset, dst.len() as u64) else { return false };
        // SAFETY: in range; `dst` is private memory. The source may change during the copy, which then holds some
        // mix of bytes: callers judge the copy, never the source.
        unsafe { std::ptr::copy_nonoverlapping(from, dst.as_mut_ptr(), dst.len()) };
        true
    }

    /// Copies bytes in; whether the range lies inside a writable mapping.
    pub fn write(&self, offset: u64, src: &[u8]) -> bool {
        let Some(to) = self.at(offset, src.len() as u64).filter(|_| self.writable) else {
            return false;
        };
        // SAFETY: in range and writable; `src` is private memory.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), to, src.len()) };
        true
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped with this length by the constructor, unmapped once; no reference outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len as usize) };
    }
}
