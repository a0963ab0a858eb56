//! The numerics id: equal id, equal bits. A hash of everything that can change a result on this device.

use crate::backend::Backend;
use std::fmt;

/// BLAKE3 of arch class and the backend's digest (which covers its order table, sources and compilers).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Numerics(pub [u8; 32]);

impl Numerics {
    /// The id of a backend.
    pub fn of<B: Backend>(backend: &B) -> Self {
        let caps = backend.caps();
        let parts = [caps.backend.as_bytes(), caps.arch.as_bytes(), &backend.digest()];
        Self(crate::backend::digest(&parts))
    }
}

impl fmt::Display for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
