// softmax: statistics are the largest of scale * x, and the sum of e^(scale * x - largest). Negative infinity is
// hidden: it takes no part, and a row of nothing else has sum 0 and gives zeros.

struct Params {
    rows: Rows,
    scale: f32,
    unused_a: u32,
    unused_b: u32,
    unused_c: u32,
    x: View,
    out: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;
@group(0) @binding(3) var<storage, read_write> out_parts: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> stats: array<vec4<u32>>;

struct Score {
    value: f32,
    hidden: bool,
}

fn load(e: u32) -> Score {
    let z = p.scale * widen(p.x.kind, x[word_of(p.x.kind, e)], e);
    let hidden = bitcast<u32>(z) == NEGATIVE_INFINITY;
    return Score(select(max(z, LOWEST), LOWEST, hidden), hidden);
}

fn begin(row: u32) -> vec2<u32> {
    return locate(row);
}

fn start() -> vec4<u32> {
    return bitcast<vec4<u32>>(vec4(LOWEST, 0.0, 0.0, 0.0));
}

// The first pass takes the largest, the second the sum.
fn neutral(number: u32) -> vec2<u32> {
    return vec2(bitcast<u32>(select(LOWEST, 0.0, number == 1u)), 0u);
}

fn take(own: vec2<u32>, kept: vec4<u32>, number: u32, at: vec2<u32>, i: u32) -> vec2<u32> {
    let score = load(at.x + i * p.x.strides[1].w);
    var x = score.value;
    if number == 1u {
        x = select(exp_of(x - bitcast<f32>(kept.x)), 0.0, score.hidden);
    }
    return merge(own, vec2(bitcast<u32>(x), 0u), number);
}

fn merge(a: vec2<u32>, b: vec2<u32>, number: u32) -> vec2<u32> {
    let x = bitcast<f32>(a.x);
    let y = bitcast<f32>(b.x);
    return vec2(bitcast<u32>(select(max(x, y), x + y, number == 1u)), 0u);
}

fn join(kept: vec4<u32>, part: vec2<u32>, number: u32) -> vec4<u32> {
    var all = kept;
    all[number] = merge(vec2(kept[number], 0u), part, number).x;
    return all;
}

fn keep(slot: u32, row: u32, kept: vec4<u32>) {
    stats[slot] = kept;
}

fn value(slot: u32, at: u32) -> u32 {
    let largest = bitcast<f32>(stats[slot].x);
    let sum = bitcast<f32>(stats[slot].y);
    let score = load(at);
    var y = 0.0;
    if !score.hidden {
        y = exp_of(score.value - largest) / sum;
    }
    return narrow(p.out.kind, y);
}

// Element `i` of the write: its place in out and its bits.
fn element(i: u32) -> vec2<u32> {
    let slot = i / p.rows.columns;
    let column = p.rows.column + i % p.rows.columns;
    let at = locate(p.rows.first + slot) + column * vec2(p.x.strides[1].w, p.out.strides[1].w);
    return vec2(at.y, value(slot, at.x));
}
