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
@group(0) @binding(4) var<storage, read_write> stats: array<u32>;

// Whether the fold under way takes the maximum; the same in all lanes.
var<private> is_max: bool;

fn merge_two(a: u32, b: u32) -> u32 {
    let x = bitcast<f32>(a);
    let y = bitcast<f32>(b);
    return bitcast<u32>(select(x + y, max(x, y), is_max));
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

struct Score {
    value: f32,
    hidden: bool,
}

fn load(e: u32) -> Score {
    let z = p.scale * widen(p.x.kind, x[word_of(p.x.kind, e)], e);
    let hidden = bitcast<u32>(z) == NEGATIVE_INFINITY;
    return Score(select(max(z, LOWEST), LOWEST, hidden), hidden);
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
    var largest = LOWEST;
    var sum = 0.0;
    if p.rows.fold_from > 0u {
        largest = bitcast<f32>(stats[2u * slot]);
        sum = bitcast<f32>(stats[2u * slot + 1u]);
    }
    for (var link = p.rows.fold_from; link < p.rows.fold_to; link++) {
        is_max = link < p.rows.chunks;
        let from_column = (link % p.rows.chunks) * p.rows.chunk;
        let to_column = min(p.rows.n, from_column + p.rows.chunk);
        var own = select(0.0, LOWEST, is_max);
        for (var i = from_column + lane; i < to_column; i += LANES) {
            let score = load(start + i * stride);
            if is_max {
                own = max(own, score.value);
            } else {
                own += select(exp_of(score.value - largest), 0.0, score.hidden);
            }
        }
        let part = bitcast<f32>(merge(lane, bitcast<u32>(own)));
        if is_max {
            largest = max(largest, part);
        } else {
            sum += part;
        }
    }
    if lane == 0u {
        stats[2u * slot] = bitcast<u32>(largest);
        stats[2u * slot + 1u] = bitcast<u32>(sum);
    }
}

fn value(slot: u32, at: u32) -> u32 {
    let largest = bitcast<f32>(stats[2u * slot]);
    let sum = bitcast<f32>(stats[2u * slot + 1u]);
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

@compute @workgroup_size(64)
fn write(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = invocation(workgroup, workgroups, lane);
    write_neighbours(0u - p.rows.phase, own, 0u, p.rows.count * p.rows.columns);
}
