// After every kernel, once for each output that elements of any size are written to, its name in the place of `OUT`.
// A whole word is stored by the one invocation that owns it. A part of a word whose rest is not this invocation's is
// merged by two atomics that touch no bit of the rest: that may belong to another row, another invocation, or another
// tensor. `OUT` and `OUT_parts` are one memory; within a dispatch no word is written in both ways.

fn put_OUT(e: u32, bits: u32) {
    let kind = p.OUT.kind;
    if fold_of(kind) == 0u {
        OUT[e] = bits;
        return;
    }
    let shift = shift_of(kind, e);
    atomicAnd(&OUT_parts[word_of(kind, e)], ~(mask_of(kind) << shift));
    atomicOr(&OUT_parts[word_of(kind, e)], bits << shift);
}

fn put_pair_OUT(e: vec2<u32>, bits: vec2<u32>) {
    if fold_of(p.OUT.kind) == 1u && (e.x & 1u) == 0u && e.y == e.x + 1u {
        OUT[e.x >> 1u] = bits.x | (bits.y << 16u);
        return;
    }
    put_OUT(e.x, bits.x);
    put_OUT(e.y, bits.y);
}

fn put_four_OUT(e: vec4<u32>, bits: vec4<u32>) {
    if fold_of(p.OUT.kind) == 2u && (e.x & 3u) == 0u && all(e == vec4(e.x) + vec4(0u, 1u, 2u, 3u)) {
        OUT[e.x >> 2u] = bits.x | (bits.y << 8u) | (bits.z << 16u) | (bits.w << 24u);
        return;
    }
    put_pair_OUT(e.xy, bits.xy);
    put_pair_OUT(e.zw, bits.zw);
}
