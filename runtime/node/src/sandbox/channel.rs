//! The socket between the node and one launcher: whole messages, descriptors with them.

use leasehold_launcher::{
    Report,
    report::{Order, decode, encode},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

/// Most descriptors in one message: standard input, the session's promise, and a cgroup of each hierarchy.
const MAX_FDS: usize = 16;

/// The word that a job's session will come, so that its jail can be built while the job is admitted. Dropped instead
/// of kept, it ends the jail before its program runs.
#[derive(Debug)]
pub struct Promise(Channel);

impl Promise {
    /// A promise, and the socket that stands for it: [`super::JobIo::session`].
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = Channel::pair()?;
        Ok((Self(ours), theirs))
    }

    /// Hands the session over. A jail that has ended needs none.
    ///
    /// # Errors
    /// The kernel does not pass the descriptor.
    pub fn keep(self, session: &OwnedFd) -> io::Result<()> {
        match self.0.send(b"session", &[session.as_fd()]) {
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// The node's end. Clones share it, so that another thread can give orders.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    socket: Arc<OwnedFd>,
}

impl Channel {
    /// A new channel, and the launcher's end of it.
    pub(super) fn pair() -> Result<(Self, OwnedFd), Errno> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { socket: Arc::new(ours) }, theirs))
    }

    pub(super) fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::MSGSIZE);
        }
        sendmsg(&*self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Gives an order. A launcher that is gone needs none.
    pub(super) fn order(&self, order: Order) {
        let _ = self.send(&encode(&order), &[]);
    }

    /// The next report and its descriptor. `Ok(None)`: nothing came in time. `Err`: the launcher
    /// and the jail have closed their ends.
    pub(super) fn report(
        &self,
        timeout: Option<Duration>,
    ) -> Result<Option<(Report, Option<OwnedFd>)>, Errno> {
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        let mut polled = [PollFd::new(&*self.socket, PollFlags::IN)];
        match poll(&mut polled, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(e) => return Err(e),
        }
        let mut bytes = [0; 16 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let n = match recvmsg(&*self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received.bytes,
            // The launcher ended with an order unread. The kernel says so once, before what the
            // launcher had said itself, which is still to come.
            Err(Errno::CONNRESET) => return Ok(None),
            Err(e) => return Err(e),
        };
        if n == 0 {
            return Err(Errno::PIPE);
        }
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        decode(&bytes[..n]).map(|report| Some((report, fd))).ok_or(Errno::BADMSG)
    }
}
