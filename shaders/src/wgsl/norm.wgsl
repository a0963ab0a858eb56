// norm: statistics are the sum of x, and the sum of squares about the mean (about 0 for RMS, which has that
// pass alone).

struct Params {
    rows: Rows,
    // 1: the first pass is the sum of x.
    layer: u32,
    epsilon: f32,
    has_weight: u32,
    has_bias: u32,
    x: View,
    weight: View,
    bias: View,
    out: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> weight: array<u32>;
@group(0) @binding(3) var<storage, read_write> bias: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<u32>;
@group(0) @binding(5) var<storage, read_write> out_parts: array<atomic<u32>>;
@group(0) @binding(6) var<storage, read_write> stats: array<vec4<f32>>;

fn load(e: u32) -> f32 {
    return widen(p.x.kind, x[word_of(p.x.kind, e)], e);
}

// The statistic that a pass sums.
fn which(number: u32) -> u32 {
    return select(1u, number, p.layer == 1u);
}

fn mean_of(sums: vec4<f32>) -> f32 {
    return select(0.0, sums.x / f32(p.rows.n), p.layer == 1u);
}

fn begin(row: u32) -> vec2<u32> {
    return locate(row);
}

fn start() -> vec4<f32> {
    return vec4(0.0);
}

fn neutral(number: u32) -> vec2<u32> {
    return vec2(0u);
}

fn take(own: vec2<u32>, kept: vec4<f32>, number: u32, at: vec2<u32>, i: u32) -> vec2<u32> {
    let v = load(at.x + i * p.x.strides[1].w);
    let sum = bitcast<f32>(own.x);
    if which(number) == 0u {
        return vec2(bitcast<u32>(sum + v), 0u);
    }
    let mean = mean_of(kept);
    return vec2(bitcast<u32>(fma(v - mean, v - mean, sum)), 0u);
}

fn merge(a: vec2<u32>, b: vec2<u32>, number: u32) -> vec2<u32> {
    return vec2(bitcast<u32>(bitcast<f32>(a.x) + bitcast<f32>(b.x)), 0u);
}

fn join(kept: vec4<f32>, part: vec2<u32>, number: u32) -> vec4<f32> {
    var sums = kept;
    sums[which(number)] += bitcast<f32>(part.x);
    return sums;
}

fn keep(slot: u32, row: u32, kept: vec4<f32>) {
    stats[slot] = kept;
}

fn value(slot: u32, column: u32, at: u32) -> u32 {
    let n = f32(p.rows.n);
    let sums = stats[slot];
    var y = (load(at) - mean_of(sums)) * (1.0 / sqrt(sums.y / n + p.epsilon));
    if p.has_weight == 1u {
        let e = p.weight.base + column * p.weight.strides[1].w;
        y *= widen(p.weight.kind, weight[word_of(p.weight.kind, e)], e);
    }
    if p.has_bias == 1u {
        let e = p.bias.base + column * p.bias.strides[1].w;
        y += widen(p.bias.kind, bias[word_of(p.bias.kind, e)], e);
    }
    return narrow(p.out.kind, y);
}

// Element `i` of the write: its place in out and its bits.
fn element(i: u32) -> vec2<u32> {
    let slot = i / p.rows.columns;
    let column = p.rows.column + i % p.rows.columns;
    let at = locate(p.rows.first + slot) + column * vec2(p.x.strides[1].w, p.out.strides[1].w);
    return vec2(at.y, value(slot, column, at.x));
}
