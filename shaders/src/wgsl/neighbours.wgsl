// After the kernels that write `OUT`, their main output, element by element: an invocation takes neighbours of the
// row-major order, two, or four of 8 bits, those that share a word where the output has no gaps. `element` gives the
// place of an element in it, and its bits.

// Writes the neighbours of invocation `own`, where invocation 0 begins at `start`: of them those in
// `first .. first + count`.
fn write_neighbours(start: u32, own: u32, first: u32, count: u32) {
    let i = start + own * max(2u, 1u << fold_of(p.OUT.kind));
    if fold_of(p.OUT.kind) == 2u {
        if i - first < count && count - (i - first) > 3u {
            let a = element(i);
            let b = element(i + 1u);
            let c = element(i + 2u);
            let d = element(i + 3u);
            put_four_OUT(vec4(a.x, b.x, c.x, d.x), vec4(a.y, b.y, c.y, d.y));
            return;
        }
        for (var j = i; j != i + 4u; j++) {
            if j - first < count {
                let one = element(j);
                put_OUT(one.x, one.y);
            }
        }
        return;
    }
    let has_first = i - first < count;
    let has_second = i + 1u - first < count;
    if has_first && has_second {
        let a = element(i);
        let b = element(i + 1u);
        put_pair_OUT(vec2(a.x, b.x), vec2(a.y, b.y));
    } else if has_first || has_second {
        let one = element(select(i + 1u, i, has_first));
        put_OUT(one.x, one.y);
    }
}
