//! CUDA kernels of Leasehold and their variant table.
