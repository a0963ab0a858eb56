//! The tenant library of Leasehold: batched matrix multiply and attention, local or leased.
