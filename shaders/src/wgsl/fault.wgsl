// Before the kernels that read indices or counts: the first that is out of range is kept for the host, in the words
// `fault`: taken, value, bound.

fn report(value: u32, bound: u32) {
    // Not a weak compare and exchange: that may fail for no reason, and the only fault would go untold.
    if atomicExchange(&fault[0], 1u) == 0u {
        atomicStore(&fault[1], value);
        atomicStore(&fault[2], bound);
    }
}
