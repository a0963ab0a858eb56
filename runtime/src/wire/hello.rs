//! Opening a session: messages on sequenced-packet sockets, with file descriptors beside them.
//!
//! ```text
//! tenant -> control   Open          on the inherited socket
//! control -> executor session, its socket and memory (node/executor/protocol)
//! control -> tenant   Opened        and four descriptors: socket, submit, staging, complete
//! tenant -> control   Mapped        control now seals submit and staging against new writers
//! ```

use super::shm::Memfd;
use super::{COMPLETE_BYTES, PAGE, STAGING_BYTES, SUBMIT_BYTES};
use crate::error::{Error, Kind, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The version of everything on the wire. Both sides must speak one.
pub const VERSION: u32 = 1;
/// The longest message on a socket.
const MESSAGE_MAX: usize = 16 << 10;
/// The most descriptors beside a message.
const FDS_MAX: usize = 8;

/// The tenant asks for a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Open {
    /// The newest version that the tenant speaks.
    pub version: u32,
}

/// The tenant has mapped its memory. Not empty, since an empty packet reads like the end.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Mapped {
    /// The version that both will speak.
    pub version: u32,
}

/// What the session is, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opened {
    /// The session; its descriptors come beside the message.
    Session {
        /// The version that both will speak.
        version: u32,
        /// The device's own name.
        name: String,
        /// The backend's name.
        backend: String,
        /// The arch class.
        arch: String,
        /// Equal id, equal bits.
        numerics: [u8; 32],
        /// Bytes of device memory that the lease allows.
        memory: u64,
        /// Largest allocation in bytes.
        max_alloc: u64,
        /// Largest span of one operand in bytes.
        max_binding: u64,
        /// Predicted nanoseconds that a unit may take.
        unit_cap_ns: u64,
        /// Predicted nanoseconds that an op may take.
        op_cap_ns: u64,
    },
    /// Refused: another version, too many sessions, an ended lease.
    Refused {
        /// In words, with asked and allowed values.
        why: String,
        /// Whether a later try, here or elsewhere, may succeed.
        retryable: bool,
    },
}

/// The tenant's end of a session, as it travels.
#[derive(Debug)]
pub struct TenantEnd {
    /// Wakes the executor, and says by its end that the session is over.
    pub socket: OwnedFd,
    /// Ring that the tenant writes.
    pub submit: Memfd,
    /// Bytes on their way to and from the device, written by both.
    pub staging: Memfd,
    /// Ring that the executor writes.
    pub complete: Memfd,
}

/// Everything a session is made of: the tenant's end, and the executor's socket.
#[derive(Debug)]
pub struct Ends {
    /// The tenant's end; the executor maps the same memory.
    pub tenant: TenantEnd,
    /// The executor's socket.
    pub socket: OwnedFd,
}

impl Ends {
    /// Fresh zeroed memory and a connected pair.
    ///
    /// # Errors
    /// `System`.
    pub fn new() -> Result<Self> {
        let (tenant, socket) = pair()?;
        Ok(Self {
            tenant: TenantEnd {
                socket: tenant,
                submit: Memfd::new("leasehold-submit", PAGE + SUBMIT_BYTES)?,
                staging: Memfd::new("leasehold-staging", STAGING_BYTES)?,
                complete: Memfd::new("leasehold-complete", PAGE + COMPLETE_BYTES)?,
            },
            socket,
        })
    }
}

impl TenantEnd {
    /// The descriptors in the order that they travel.
    pub fn fds(&self) -> [BorrowedFd<'_>; 4] {
        [self.socket.as_fd(), self.submit.as_fd(), self.staging.as_fd(), self.complete.as_fd()]
    }

    /// The end that these descriptors are.
    ///
    /// # Errors
    /// `Protocol` when their number, sizes or seals are wrong.
    pub fn received(fds: Vec<OwnedFd>) -> Result<Self> {
        let count = fds.len() as u64;
        let [socket, submit, staging, complete] = <[OwnedFd; 4]>::try_from(fds).map_err(|_| {
            Error::from(Kind::Protocol { what: "descriptors", asked: count, allowed: 4 })
        })?;
        Ok(Self {
            socket,
            submit: Memfd::received(submit, PAGE + SUBMIT_BYTES)?,
            staging: Memfd::received(staging, STAGING_BYTES)?,
            complete: Memfd::received(complete, PAGE + COMPLETE_BYTES)?,
        })
    }
}

/// A connected pair of sequenced-packet sockets, closed on exec.
///
/// # Errors
/// `System`.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::system("socketpair", e.into()))
}

/// A message as bytes.
///
/// # Errors
/// `Protocol` when it is too long for one packet.
pub fn message(value: &impl Serialize) -> Result<Vec<u8>> {
    let too_long = |asked: u64| -> Error {
        Kind::Protocol { what: "message length", asked, allowed: MESSAGE_MAX as u64 }.into()
    };
    let bytes = postcard::to_allocvec(value).map_err(|_| too_long(0))?;
    if bytes.len() > MESSAGE_MAX { Err(too_long(bytes.len() as u64)) } else { Ok(bytes) }
}

/// The message that these bytes are, all of them.
///
/// # Errors
/// `Protocol`.
pub fn from_bytes<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    let bad = |left: usize| -> Error {
        Kind::Protocol { what: "message", asked: left as u64, allowed: 0 }.into()
    };
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, left)) => Err(bad(left.len())),
        Err(_) => Err(bad(bytes.len())),
    }
}

/// Sends a message with descriptors beside it.
///
/// # Errors
/// `System`; a peer that has gone is one.
pub fn send(socket: impl AsFd, value: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let bytes = message(value)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        let asked = fds.len() as u64;
        return Err(Kind::Protocol { what: "descriptors", asked, allowed: FDS_MAX as u64 }.into());
    }
    let parts = [IoSlice::new(&bytes)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)
    })
    .map(drop)
    .map_err(|e| Error::system("sendmsg", e.into()))
}

/// Receives one message: its bytes and descriptors, or `None` when the peer has gone. Descriptors beyond the
/// allowed number are closed by the kernel.
///
/// # Errors
/// `System`, or `Protocol` for a message that was cut.
pub fn receive(socket: impl AsFd) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut hear = || {
        rustix::io::retry_on_intr(|| {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            rustix::net::recvmsg(&socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        })
    };
    let got = match hear() {
        // The peer went with a message of ours unread. The kernel says so once, before what the peer had said itself.
        Err(rustix::io::Errno::CONNRESET) => hear(),
        got => got,
    };
    let got = match got {
        Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        got => got.map_err(|e| Error::system("recvmsg", e.into()))?,
    };
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    if got.flags.contains(rustix::net::ReturnFlags::TRUNC) {
        let (asked, allowed) = (got.bytes as u64, MESSAGE_MAX as u64);
        return Err(Kind::Protocol { what: "message length", asked, allowed }.into());
    }
    bytes.truncate(got.bytes);
    Ok(Some((bytes, fds)))
}
