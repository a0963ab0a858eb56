//! Control's listening sockets: made in the node's folder, and clients accepted on them.

use super::protocol::FromClient;
use super::server::StartError;
use leasehold::wire::{from_bytes, receive};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// The next message; `None` when the peer has gone.
pub(super) fn hear(client: &OwnedFd) -> leasehold::Result<Option<FromClient>> {
    receive(client)?.map(|(bytes, _)| from_bytes(&bytes)).transpose()
}

fn socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// A connection to whoever listens at `path`.
pub(super) fn connect(path: &Path) -> rustix::io::Result<OwnedFd> {
    let socket = socket()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// A listening socket at `path`; a stale one of a node that has gone is replaced, a living one is not.
pub(super) fn listen(path: &Path, mode: u32) -> Result<OwnedFd, StartError> {
    let at = |source: std::io::Error| StartError::Socket { path: path.into(), source };
    let address = SocketAddrUnix::new(path).map_err(|e| at(e.into()))?;
    let socket = socket().map_err(|e| at(e.into()))?;
    if let Err(errno) = rustix::net::bind(&socket, &address) {
        if errno != rustix::io::Errno::ADDRINUSE {
            return Err(at(errno.into()));
        }
        if connect(path).is_ok() {
            return Err(StartError::Served { path: path.into() });
        }
        std::fs::remove_file(path).map_err(at)?;
        rustix::net::bind(&socket, &address).map_err(|e| at(e.into()))?;
    }
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, permissions).map_err(at)?;
    rustix::net::listen(&socket, 128).map_err(|e| at(e.into()))?;
    Ok(socket)
}

/// Accepts clients for ever and hands each on.
pub(super) fn accept(socket: &OwnedFd, attend: impl Fn(OwnedFd)) {
    loop {
        match rustix::net::accept_with(socket, SocketFlags::CLOEXEC) {
            Ok(client) => attend(client),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            // Out of descriptors or memory: others must end first.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
