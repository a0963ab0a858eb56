// attention_backward: `queries` gives d_q, `keys` gives d_k and d_v. Each takes 4 rows of its own side and goes over those of
// the other in chunks of 64, left to right: a lane weighs one of them, then owns up to 4 columns of the sums. Four rows
// are the four components of a vector. The sides are alike: a query has its row of q and of d_out, a key those of k and v.

override KIND: u32 = 0u;

const ROWS: u32 = 4u;
const CHUNK: u32 = 64u;
const CAUSAL: u32 = 1u;
const LAST: u32 = 8u;

// Strides of views: batch, head, row, column.
struct Params {
    heads: u32,
    // Query heads per key head.
    group: u32,
    rows: u32,
    keys: u32,
    d: u32,
    dv: u32,
    scale: f32,
    flags: u32,
    // Rows of a tile of the plan, and tiles of a head.
    tile: u32,
    tiles: u32,
    // First tile, and workgroups in all.
    first: u32,
    workgroups: u32,
    // Chunks `from..to`; those of one head.
    from_chunk: u32,
    to_chunk: u32,
    chunks: u32,
    unused: u32,
    q: View,
    k: View,
    v: View,
    out: View,
    lse: View,
    d_out: View,
    d_q: View,
    d_k: View,
    d_v: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> q: array<u32>;
@group(0) @binding(2) var<storage, read_write> k: array<u32>;
@group(0) @binding(3) var<storage, read_write> v: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<u32>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;
@group(0) @binding(6) var<storage, read_write> d_out: array<u32>;
@group(0) @binding(7) var<storage, read_write> d_q: array<u32>;
@group(0) @binding(8) var<storage, read_write> d_q_parts: array<atomic<u32>>;
@group(0) @binding(9) var<storage, read_write> d_k: array<u32>;
@group(0) @binding(10) var<storage, read_write> d_k_parts: array<atomic<u32>>;
@group(0) @binding(11) var<storage, read_write> d_v: array<u32>;
@group(0) @binding(12) var<storage, read_write> d_v_parts: array<atomic<u32>>;
// Sums of each row of one tile that is cut.
@group(0) @binding(13) var<storage, read_write> state: array<f32>;

// The four rows: of q and of d_out, or of k and of v.
var<workgroup> first_four: array<vec4<f32>, 256>;
var<workgroup> second_four: array<vec4<f32>, 256>;
// The rows' means of d_out * out.
var<workgroup> means: array<f32, 4>;
// Of each of the chunk: its weights, and the gradients of its scores.
var<workgroup> weights: array<vec4<f32>, 64>;
var<workgroup> slopes: array<vec4<f32>, 64>;

fn place(view: View, at: vec4<u32>) -> u32 {
    let e = view.strides[0] * at;
    return view.base + e.x + e.y + e.z + e.w;
}

fn of_d_out(e: u32) -> f32 {
    return widen(p.d_out.kind, d_out[word_of(p.d_out.kind, e)], e);
}

// The rows of a side, their views and elements: of q or k, then of d_out or v.
fn rows_of(is_keys: bool) -> u32 {
    return select(p.rows, p.keys, is_keys);
}

fn first_view(is_keys: bool) -> View {
    if is_keys {
        return p.k;
    }
    return p.q;
}

fn second_view(is_keys: bool) -> View {
    if is_keys {
        return p.v;
    }
    return p.d_out;
}

fn first_of(is_keys: bool, e: u32) -> f32 {
    if is_keys {
        return widen(KIND, k[word_of(KIND, e)], e);
    }
    return widen(KIND, q[word_of(KIND, e)], e);
}

fn second_of(is_keys: bool, e: u32) -> f32 {
    if is_keys {
        return widen(KIND, v[word_of(KIND, e)], e);
    }
    return of_d_out(e);
}

// The sum of d_out * out along a row.
fn mean_of(row: vec4<u32>) -> f32 {
    var sum = 0.0;
    var e = place(p.out, row);
    var g = place(p.d_out, row);
    for (var c = 0u; c < p.dv; c++) {
        sum = fma(of_d_out(g), widen(p.out.kind, out[word_of(p.out.kind, e)], e), sum);
        e += p.out.strides[0].w;
        g += p.d_out.strides[0].w;
    }
    return sum;
}

// Whether a row sees a key: the last row sees the last key.
fn sees(row: vec4<u32>, key: vec4<u32>) -> vec4<bool> {
    return vec4((p.flags & CAUSAL) == 0u) | (key + vec4(p.rows) <= row + vec4(p.keys));
}

struct Place {
    // Tile's row or key, the first of four; where its sums are kept; batch entry and head.
    row: u32,
    kept: u32,
    batch: u32,
    head: u32,
}

fn place_of(index: u32, heads: u32) -> Place {
    let per_tile = p.tile / ROWS;
    let tile = p.first + index / per_tile;
    let kept = (index % per_tile) * ROWS;
    let row = (tile % p.tiles) * p.tile + kept;
    let head = tile / p.tiles;
    return Place(row, kept, head / heads, head % heads);
}

// Four rows' scores and gradients of weights, as products with a row of the other side.
fn products(is_keys: bool, at: vec4<u32>) -> array<vec4<f32>, 2> {
    let first = first_view(is_keys);
    let second = second_view(is_keys);
    var score = vec4(0.0);
    var e = place(first, at);
    for (var c = 0u; c < p.d; c++) {
        score = fma(first_four[c], vec4(first_of(is_keys, e)), score);
        e += first.strides[0].w;
    }
    var d_weight = vec4(0.0);
    e = place(second, at);
    for (var c = 0u; c < p.dv; c++) {
        d_weight = fma(second_four[c], vec4(second_of(is_keys, e)), d_weight);
        e += second.strides[0].w;
    }
    return array(score, d_weight);
}

// The gradients of four rows of a side.
fn gradients(is_keys: bool, index: u32, lane: u32) {
    if index >= p.workgroups {
        return;
    }
    let own = place_of(index, select(p.heads, p.heads / p.group, is_keys));
    let own_rows = rows_of(is_keys);
    if own.row >= own_rows {
        return;
    }
    // Rows beyond the edge repeat the last and are not stored.
    let four = min(vec4(own.row) + vec4(0u, 1u, 2u, 3u), vec4(own_rows - 1u));
    let first = first_view(is_keys);
    let second = second_view(is_keys);
    for (var r = 0u; r < ROWS; r++) {
        let at = vec4(own.batch, own.head, four[r], 0u);
        for (var c = lane; c < p.d; c += CHUNK) {
            first_four[c][r] = first_of(is_keys, place(first, at) + c * first.strides[0].w);
        }
        for (var c = lane; c < p.dv; c += CHUNK) {
            second_four[c][r] = second_of(is_keys, place(second, at) + c * second.strides[0].w);
        }
    }
    var logs: vec4<f32>;
    if !is_keys {
        if lane < ROWS {
            means[lane] = mean_of(vec4(own.batch, own.head, four[lane], 0u));
        }
        for (var r = 0u; r < ROWS; r++) {
            logs[r] = lse[place(p.lse, vec4(own.batch, own.head, four[r], 0u))];
        }
    }
    // Columns of the first sums, then of the second, which queries have not.
    let width = p.d + select(0u, p.dv, is_keys);
    var sums: array<vec4<f32>, 8>;
    if p.from_chunk > 0u {
        for (var r = 0u; r < ROWS; r++) {
            for (var c = lane; c < p.d; c += CHUNK) {
                sums[c / CHUNK][r] = state[(own.kept + r) * width + c];
            }
            for (var c = lane; c < width - p.d; c += CHUNK) {
                sums[4u + c / CHUNK][r] = state[(own.kept + r) * width + p.d + c];
            }
        }
    }
    workgroupBarrier();
    let mean = vec4(means[0], means[1], means[2], means[3]);
    // A key goes over the heads of its group, each in chunks of rows.
    let to_chunk = min(p.to_chunk, select(1u, p.group, is_keys) * p.chunks);
    for (var chunk = p.from_chunk; chunk < to_chunk; chunk++) {
        let head = select(own.head / p.group, own.head * p.group + chunk / p.chunks, is_keys);
        let start = (chunk % p.chunks) * CHUNK;
        let row = start + lane;
        var weight = vec4(0.0);
        var slope = vec4(0.0);
        if row < rows_of(!is_keys) {
            let at = vec4(own.batch, head, row, 0u);
            let product = products(!is_keys, at);
            if is_keys {
                let log = vec4(lse[place(p.lse, at)]);
                weight = select(vec4(0.0), exp_of4(p.scale * product[0] - log), sees(vec4(row), four));
                slope = p.scale * (weight * (product[1] - vec4(mean_of(at))));
            } else {
                weight = select(vec4(0.0), exp_of4(p.scale * product[0] - logs), sees(four, vec4(row)));
                slope = p.scale * (weight * (product[1] - mean));
            }
        }
        weights[lane] = weight;
        slopes[lane] = slope;
        workgroupBarrier();
        let rows = min(CHUNK, rows_of(!is_keys) - start);
        let of_other = first_view(!is_keys);
        for (var c = lane; c < p.d; c += CHUNK) {
            var e = place(of_other, vec4(own.batch, head, start, c));
            var sum = sums[c / CHUNK];
            for (var j = 0u; j < rows; j++) {
                sum = fma(slopes[j], vec4(first_of(!is_keys, e)), sum);
                e += of_other.strides[0].z;
            }
            sums[c / CHUNK] = sum;
        }
        for (var c = lane; c < width - p.d; c += CHUNK) {
            var e = place(p.d_out, vec4(own.batch, head, start, c));
            var sum = sums[4u + c / CHUNK];
            for (var j = 0u; j < rows; j++) {
                sum = fma(weights[j], vec4(of_d_out(e)), sum);
                e += p.d_out.strides[0].z;
            }
            sums[4u + c / CHUNK] = sum;
        }
        workgroupBarrier();
    }
    for (var r = 0u; r < ROWS && own.row + r < own_rows; r++) {
        for (var c = lane; c < p.d; c += CHUNK) {
            let sum = sums[c / CHUNK][r];
            let at = vec4(own.batch, own.head, own.row + r, c);
            if (p.flags & LAST) == 0u {
                state[(own.kept + r) * width + c] = sum;
            } else if is_keys {
                put_d_k(place(p.d_k, at), narrow(p.d_k.kind, sum));
            } else {
                put_d_q(place(p.d_q, at), narrow(p.d_q.kind, sum));
            }
        }
        for (var c = lane; c < width - p.d; c += CHUNK) {
            let sum = sums[4u + c / CHUNK][r];
            if (p.flags & LAST) == 0u {
                state[(own.kept + r) * width + p.d + c] = sum;
            } else {
                put_d_v(place(p.d_v, vec4(own.batch, own.head, own.row + r, c)), narrow(p.d_v.kind, sum));
            }
        }
    }
}

@compute @workgroup_size(64)
fn queries(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    gradients(false, workgroup.y * workgroups.x + workgroup.x, lane);
}

@compute @workgroup_size(64)
fn keys(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    gradients(true, workgroup.y * workgroups.x + workgroup.x, lane);
}
