// arg_max: statistics are the largest key of the elements so far, and the first place that has it. Keys are integers
// that order as IEEE 754's total order does.

struct Params {
    rows: Rows,
    x: View,
    index: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> index: array<u32>;
@group(0) @binding(3) var<storage, read_write> stats: array<vec4<u32>>;

fn begin(row: u32) -> vec2<u32> {
    return locate(row);
}

fn start() -> vec4<u32> {
    return vec4(0u, NOWHERE, 0u, 0u);
}

fn neutral(number: u32) -> vec2<u32> {
    return vec2(0u, NOWHERE);
}

fn take(own: vec2<u32>, kept: vec4<u32>, number: u32, at: vec2<u32>, i: u32) -> vec2<u32> {
    let e = at.x + i * p.x.strides[1].w;
    let key = total_key(p.x.kind, bits_of(p.x.kind, x[word_of(p.x.kind, e)], e));
    return merge(own, vec2(key, i), number);
}

// The larger key, the first place of equal ones.
fn merge(a: vec2<u32>, b: vec2<u32>, number: u32) -> vec2<u32> {
    return select(a, b, b.x > a.x || (b.x == a.x && b.y < a.y));
}

fn join(kept: vec4<u32>, part: vec2<u32>, number: u32) -> vec4<u32> {
    return vec4(merge(kept.xy, part, number), 0u, 0u);
}

fn keep(slot: u32, row: u32, kept: vec4<u32>) {
    if p.rows.fold_to == p.rows.chunks {
        index[locate(row).y] = kept.y;
    } else {
        stats[slot] = kept;
    }
}
