//! CUDA kernels of Leasehold and their variant table: none yet. The crate keeps the room that the map gives them, so
//! that the arrows between crates are the final ones.
