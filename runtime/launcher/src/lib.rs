//! The jail's launcher as a library: what a jail shall be ([`policy`]), the seccomp allow-list as
//! data ([`filter`]), and what the launcher says of its work ([`report`]).
//!
//! The program of the same name (`main.rs`, built static by `build-static.sh`) receives one
//! [`Policy`] over a socket and builds the jail in numbered steps. `leasehold-node`'s `sandbox`
//! module starts it and reads its reports; nothing else does.

pub mod filter;
pub mod policy;
pub mod report;

pub use policy::{HostId, Limits, Policy, PolicyDraft, PolicyError, Probe, Profile, Source};
pub use report::{Layer, LayerReport, LayerState, Report, Start, Step, Usage};

/// The descriptor number under which the job finds its session, and the value of `LEASEHOLD_FD`.
pub const SESSION_FD: i32 = 3;
