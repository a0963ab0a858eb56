//! The row of `attention_entries`: the list of batch entries from counts in device memory.

use bytemuck::{Pod, Zeroable};

/// Counts of batch entries, in memory that a tenant may write at any time.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Counts {
    /// Address of the first i32 or u32 word; 0: every entry has `most`.
    pub at: u64,
    /// Words from an entry to the next.
    pub step: i64,
    /// The most that an entry may have, less than `u32::MAX`: more is a fault, and counts as this.
    pub most: u32,
    /// Nothing.
    pub padding: u32,
}

/// What a launch of `attention_entries` is given. It makes entries `from..to` of the list, on one block; launches of a list
/// run in order.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct AttentionEntriesArgs {
    /// Query rows of each entry; counts known to the host lie in executor memory.
    pub rows: Counts,
    /// Keys of each.
    pub keys: Counts,
    /// The list of [`Entry`](crate::Entry) to write: one for each entry, and one more where rows are packed.
    pub entries: u64,
    /// Three words: taken, value and bound of the first count out of range.
    pub fault: u64,
    /// First entry of the launch: 0, or a multiple of 32.
    pub from: u32,
    /// End of its entries.
    pub to: u32,
    /// 1: rows lie one entry after another.
    pub packed_rows: u32,
    /// 1: so do keys.
    pub packed_keys: u32,
    /// 1: an entry has as many keys as rows, and `keys` is not read.
    pub keys_as_rows: u32,
    /// Room for rows: of all entries where they are packed, else of each.
    pub row_room: u32,
    /// Room for keys, likewise.
    pub key_room: u32,
    /// Query heads of a key head.
    pub group: u32,
    /// Rows of a tile of the row that the list is for.
    pub tile_rows: u32,
    /// 1: the last launch of packed rows; an entry without keys follows, for the rows that none owns.
    pub last: u32,
}

const _: () = assert!(size_of::<AttentionEntriesArgs>() == 104);

/// The row of `attention_entries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionEntries;

impl AttentionEntries {
    pub(crate) fn shape(self) -> String {
        "attention_entries::Shape".into()
    }

    pub(crate) fn threads(self) -> u32 {
        32
    }
}
