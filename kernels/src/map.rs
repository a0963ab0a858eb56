//! What the copy engine is told of a tensor: the arguments of `cuTensorMapEncodeTiled` as a value, with the driver's
//! refusals checked here. The backend has the driver encode it; the host model reads it as it is.

use bytemuck::{Pod, Zeroable};

/// A tensor of five axes, the dense one first, and the box of it that one copy moves. Rows of a box are 128 bytes,
/// swizzled by 128; what lies outside the tensor reads as zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct BoxMap {
    /// Address of the first element, a multiple of 16.
    pub at: u64,
    /// Elements along each axis, at least 1 and less than 2^32.
    pub sizes: [u64; 5],
    /// Bytes from one index to the next along all axes but the dense first: multiples of 16, less than 2^40. What repeats
    /// along an axis has one element there, not a stride of 0.
    pub strides: [u64; 4],
    /// Elements of the box along each axis, at most 256.
    pub boxed: [u32; 5],
    /// Bytes of an element.
    pub element: u32,
    /// Nothing.
    pub padding: [u32; 6],
}

const _: () = assert!(size_of::<BoxMap>() == 128);

impl BoxMap {
    /// Whether the driver takes it, whatever it makes of a stride of 0.
    pub fn is_valid(&self) -> bool {
        let rows = u64::from(self.boxed[0]) * u64::from(self.element) == 128;
        self.at.is_multiple_of(16)
            && rows
            && self.sizes.iter().all(|&n| (1..=1 << 32).contains(&n))
            && self.strides.iter().all(|&n| n.is_multiple_of(16) && (1..1 << 40).contains(&n))
            && self.boxed.iter().all(|&n| (1..=256).contains(&n))
    }
}
