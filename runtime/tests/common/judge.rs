//! The rule of acceptance, as devices judge themselves by it.

pub use leasehold::judge::{holds as judge, unit_of};
