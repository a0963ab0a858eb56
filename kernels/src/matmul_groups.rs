//! The row of `matmul_groups`: the list of a product's groups from sizes in device memory.

use bytemuck::{Pod, Zeroable};

/// What a launch of `matmul_groups` is given: one block.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct MatmulGroupsArgs {
    /// Address of the sizes, i32 or u32 words that a tenant may write at any time.
    pub sizes: u64,
    /// Words from a size to the next.
    pub step: i64,
    /// The list of [`GroupEntry`](crate::GroupEntry) to write.
    pub groups: u64,
    /// Three words: taken, value and bound of the first size out of range.
    pub fault: u64,
    /// Groups.
    pub count: u32,
    /// The most that a group may have: more is a fault, and counts as this.
    pub most: u32,
    /// Room for all groups where they follow each other, else for each: likewise.
    pub room: u32,
    /// 1: groups follow each other.
    pub follow: u32,
    /// Rows of a tile of the row that the list is for.
    pub tile_rows: u32,
    /// 1: an entry follows for the rows that no group owns.
    pub rest: u32,
}

const _: () = assert!(size_of::<MatmulGroupsArgs>() == 56);

/// The row of `matmul_groups`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulGroups;
