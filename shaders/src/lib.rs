//! WGSL shaders of Leasehold and their table.
