//! The node's process that admits leases and keeps the policy, the issuers' public keys and the ledger. It never
//! opens a device and never sees an op: executors own devices, and tenants talk to them directly. Threads wait on
//! sockets; every decision is `book`'s, under one lock.

#[cfg(feature = "serve")]
mod book;
#[cfg(feature = "serve")]
mod client;
#[cfg(feature = "serve")]
mod door;
#[cfg(feature = "serve")]
mod executor;
#[cfg(feature = "serve")]
mod node;
pub mod protocol;
#[cfg(feature = "serve")]
mod server;
#[cfg(feature = "serve")]
mod sockets;

#[cfg(feature = "serve")]
pub use book::{Book, Refusal, Running};
#[cfg(feature = "serve")]
pub use server::{Config, StartError, private, serve};

#[cfg(feature = "serve")]
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> leasehold::Result<()> {
    let builder = std::thread::Builder::new().name(name.into());
    builder.spawn(work).map(drop).map_err(|e| leasehold::Error::system("spawn", e))
}
