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
@group(0) @binding(6) var<storage, read_write> stats: array<u32>;

fn merge_two(a: u32, b: u32) -> u32 {
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

fn load(e: u32) -> f32 {
    return widen(p.x.kind, x[word_of(p.x.kind, e)], e);
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
    var sum = 0.0;
    var squares = 0.0;
    if p.rows.fold_from > 0u {
        sum = bitcast<f32>(stats[2u * slot]);
        squares = bitcast<f32>(stats[2u * slot + 1u]);
    }
    for (var link = p.rows.fold_from; link < p.rows.fold_to; link++) {
        let is_sum = p.layer == 1u && link < p.rows.chunks;
        let from_column = (link % p.rows.chunks) * p.rows.chunk;
        let to_column = min(p.rows.n, from_column + p.rows.chunk);
        let mean = select(0.0, sum / f32(p.rows.n), p.layer == 1u);
        var own = 0.0;
        for (var i = from_column + lane; i < to_column; i += LANES) {
            let v = load(start + i * stride);
            if is_sum {
                own += v;
            } else {
                own = fma(v - mean, v - mean, own);
            }
        }
        let part = bitcast<f32>(merge(lane, bitcast<u32>(own)));
        if is_sum {
            sum += part;
        } else {
            squares += part;
        }
    }
    if lane == 0u {
        stats[2u * slot] = bitcast<u32>(sum);
        stats[2u * slot + 1u] = bitcast<u32>(squares);
    }
}

fn value(slot: u32, column: u32, at: u32) -> u32 {
    let n = f32(p.rows.n);
    let mean = select(0.0, bitcast<f32>(stats[2u * slot]) / n, p.layer == 1u);
    let squares = bitcast<f32>(stats[2u * slot + 1u]);
    var y = (load(at) - mean) * (1.0 / sqrt(squares / n + p.epsilon));
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

@compute @workgroup_size(64)
fn write(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = invocation(workgroup, workgroups, lane);
    write_neighbours(0u - p.rows.phase, own, 0u, p.rows.count * p.rows.columns);
}
