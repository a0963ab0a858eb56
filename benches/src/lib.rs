//! Benchmarks of Leasehold beside its peers.
