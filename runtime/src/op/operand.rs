//! What an op says of an operand: its role, and the spec (dtype, layout, offset class) it is checked with.

use crate::dtype::DType;
use crate::layout::Layout;
use std::fmt;

/// What the op does with an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read anywhere: an output may not overlap it.
    Read,
    /// Read only at the element being written: the output may be the very same view.
    ReadElement,
    /// Written, every element once.
    Write,
    /// Written in part: elements that the op does not name keep what they held.
    Update,
}

impl Access {
    /// Whether the op writes there.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Update)
    }

    /// Whether what was there before matters.
    pub const fn reads(self) -> bool {
        !matches!(self, Self::Write)
    }
}

/// An operand's place in an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    /// Name in messages: `a`, `bias`, `out`.
    pub name: &'static str,
    /// What the op does with it.
    pub access: Access,
}

impl Role {
    /// An operand read anywhere.
    pub const fn read(name: &'static str) -> Self {
        Self { name, access: Access::Read }
    }

    /// An operand read element by element where the output is written.
    pub const fn element(name: &'static str) -> Self {
        Self { name, access: Access::ReadElement }
    }

    /// An output that keeps what the op does not name.
    pub const fn update(name: &'static str) -> Self {
        Self { name, access: Access::Update }
    }

    /// An output.
    pub const fn write(name: &'static str) -> Self {
        Self { name, access: Access::Write }
    }
}

/// An operand as `check` and planners see it: everything but where it lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Element type.
    pub dtype: DType,
    /// Shape and strides in elements.
    pub layout: Layout,
    /// Byte offset of the first element modulo 256: the order may depend on it, the rest of the offset not.
    pub offset_class: u8,
}

impl Spec {
    /// A spec of an operand that starts at `offset` bytes.
    pub fn new(dtype: DType, layout: Layout, offset: u64) -> Self {
        Self { dtype, layout, offset_class: (offset % 256) as u8 }
    }

    /// Bytes from the first element to one past the last one touched.
    pub fn span_bytes(&self) -> u128 {
        self.layout.span().saturating_mul(u128::from(self.dtype.size()))
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}+{}", self.dtype, self.layout, self.offset_class)
    }
}
