//! Counts that an op takes one of for each batch entry or group: keys, query rows, rows of a group. `attention` and
//! `matmul` use them.

/// One count for each batch entry or group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum Lens {
    /// All that the tensors hold.
    #[default]
    Full,
    /// Copied into the descriptor; that copy is the one used.
    Host(Vec<u32>),
    /// Read on the device from an operand of i32 or u32, one element each, as unsigned, and held to the stated
    /// maximum and to what the tensors hold.
    Device {
        /// The largest count; plans are made from it.
        max: u32,
    },
}

impl Lens {
    /// Whether the counts are an operand.
    pub const fn on_device(&self) -> bool {
        matches!(self, Self::Device { .. })
    }

    /// The counts that the descriptor holds; none unless they are the host's.
    pub fn host(&self) -> &[u32] {
        match self {
            Self::Host(list) => list,
            _ => &[],
        }
    }
}
