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
@group(0) @binding(4) var<storage, read_write> stats: array<u32>;

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

fn merge_two(a: u32, b: u32) -> u32 {
    if p.function >= 2u {
        return max(a, b);
    }
    return bitcast<u32>(bitcast<f32>(a) + bitcast<f32>(b));
}

// Where a row begins in x and in out; the last stride is that of the row.
fn locate(row: u32) -> vec2<u32> {
    var rest = row;
    var at = vec2(p.x.base, p.out.base);
    for (var axis = p.rows.rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let size = p.rows.shape[a / 4u][a % 4u];
        let c = rest % size;
        rest /= size;
        at += c * vec2(p.x.strides[a / 4u][a % 4u], p.out.strides[a / 4u][a % 4u]);
    }
    return at;
}

@compute @workgroup_size(64)
fn fold(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let slot = row_of(workgroup, workgroups);
    if slot >= p.rows.count {
        return;
    }
    let start = locate(p.rows.first + slot).x;
    let stride = p.x.strides[1].w;
    // The key of negative infinity, or the bits of 0.
    let neutral = select(0u, 0x007fffffu, p.function >= 2u);
    var whole = neutral;
    if p.rows.fold_from > 0u {
        whole = stats[2u * slot];
    }
    for (var chunk = p.rows.fold_from; chunk < p.rows.fold_to; chunk++) {
        let from_column = chunk * p.rows.chunk;
        let to_column = min(p.rows.n, from_column + p.rows.chunk);
        var own = neutral;
        for (var i = from_column + lane; i < to_column; i += LANES) {
            let e = start + i * stride;
            let v = widen(p.x.kind, x[word_of(p.x.kind, e)], e);
            if p.function >= 2u {
                own = max(own, key_of(v));
            } else {
                own = bitcast<u32>(bitcast<f32>(own) + v);
            }
        }
        whole = merge_two(whole, merge(lane, own));
    }
    if lane == 0u {
        stats[2u * slot] = whole;
    }
}

// The value of slot `i`: its place in out and its bits.
fn element(i: u32) -> vec2<u32> {
    var bits = stats[2u * i];
    if p.function >= 2u {
        bits = bits_of_key(bits);
    } else if p.function == 1u {
        bits = bitcast<u32>(bitcast<f32>(bits) / f32(max(p.rows.n, 1u)));
    }
    return vec2(locate(p.rows.first + i).y, narrow(p.out.kind, bitcast<f32>(bits)));
}

@compute @workgroup_size(64)
fn write(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = invocation(workgroup, workgroups, lane);
    write_neighbours(0u - p.rows.phase, own, 0u, p.rows.count);
}
