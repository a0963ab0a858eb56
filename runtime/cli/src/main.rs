//! The program leasehold, a small front that starts the others.
fn main() {}
