//! The node's process that admits leases and keeps the policy, the issuers' public keys and the ledger. It never
//! opens a device and never sees an op: executors own devices, and tenants talk to them directly. Threads wait on
//! sockets; every decision is `book`'s, under one lock.

#[cfg(feature = "serve")]
mod book;
#[cfg(feature = "serve")]
mod door;
#[cfg(feature = "serve")]
mod executor;
pub mod protocol;
#[cfg(feature = "serve")]
mod server;

#[cfg(feature = "serve")]
pub use book::{Book, Refusal};
#[cfg(feature = "serve")]
pub use server::{Config, StartError, private, serve};
