// After every kernel: how it writes `out`. A whole word is stored by the one invocation that owns it. A half of
// a word whose other half is not this invocation's is merged by two atomics that touch no bit of the other:
// that half may belong to another row, another invocation, or another tensor.
// `out` and `out_halves` are one memory; within a dispatch no word is written in both ways.

fn put(e: u32, bits: u32) {
    if !is_half(p.out.kind) {
        out[e] = bits;
        return;
    }
    let shift = (e & 1u) * 16u;
    atomicAnd(&out_halves[e >> 1u], ~(0xffffu << shift));
    atomicOr(&out_halves[e >> 1u], bits << shift);
}

fn put_pair(first: u32, first_bits: u32, second: u32, second_bits: u32) {
    if is_half(p.out.kind) && (first & 1u) == 0u && second == first + 1u {
        out[first >> 1u] = first_bits | (second_bits << 16u);
        return;
    }
    put(first, first_bits);
    put(second, second_bits);
}
