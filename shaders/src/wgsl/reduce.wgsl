// reduce: the statistic is the fold itself, in f32 for sums. Maxima and minima are taken of integers in the order
// of the floats (a minimum as the maximum of negated values), so that infinities and NaN need no assumption.

struct Params {
    rows: Rows,
    // 0 sum, 1 mean, 2 max, 3 min.
    function: u32,
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

const NAN_KEY: u32 = 0xffffffffu;

// An integer that is larger where the float is; NaN is the largest.
fn key_of(x: f32) -> u32 {
    let bits = bitcast<u32>(x) ^ select(0u, 0x80000000u, p.function == 3u);
    if is_nan(x) {
        return NAN_KEY;
    }
    return bits ^ select(0x80000000u, NAN_KEY, (bits >> 31u) == 1u);
}

fn bits_of_key(key: u32) -> u32 {
    if key == NAN_KEY {
        return 0x7fc00000u;
    }
    let bits = key ^ select(NAN_KEY, 0x80000000u, (key >> 31u) == 1u);
    return bits ^ select(0u, 0x80000000u, p.function == 3u);
}

fn begin(row: u32) -> vec2<u32> {
    return locate(row);
}

fn start() -> vec4<u32> {
    return vec4(neutral(0u), 0u, 0u);
}

// The key of negative infinity, or the bits of 0.
fn neutral(number: u32) -> vec2<u32> {
    return vec2(select(0u, 0x007fffffu, p.function >= 2u), 0u);
}

fn take(own: vec2<u32>, kept: vec4<u32>, number: u32, at: vec2<u32>, i: u32) -> vec2<u32> {
    let e = at.x + i * p.x.strides[1].w;
    let v = widen(p.x.kind, x[word_of(p.x.kind, e)], e);
    return merge(own, vec2(select(bitcast<u32>(v), key_of(v), p.function >= 2u), 0u), number);
}

fn merge(a: vec2<u32>, b: vec2<u32>, number: u32) -> vec2<u32> {
    if p.function >= 2u {
        return max(a, b);
    }
    return vec2(bitcast<u32>(bitcast<f32>(a.x) + bitcast<f32>(b.x)), 0u);
}

fn join(kept: vec4<u32>, part: vec2<u32>, number: u32) -> vec4<u32> {
    return vec4(merge(kept.xy, part, number), 0u, 0u);
}

fn keep(slot: u32, row: u32, kept: vec4<u32>) {
    stats[slot] = kept;
}

// The value of slot `i`: its place in out and its bits.
fn element(i: u32) -> vec2<u32> {
    var bits = stats[i].x;
    if p.function >= 2u {
        bits = bits_of_key(bits);
    } else if p.function == 1u {
        bits = bitcast<u32>(bitcast<f32>(bits) / f32(max(p.rows.n, 1u)));
    }
    return vec2(locate(p.rows.first + i).y, narrow(p.out.kind, bitcast<f32>(bits)));
}
