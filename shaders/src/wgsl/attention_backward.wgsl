// attention_backward: `queries` gives d_q, `keys` gives d_k and d_v. Each takes 4 rows of its own and goes over those of the
// other side in chunks of 64, left to right: a lane weighs one of them, then owns up to 4 columns of the sums. Four rows
// are the four components of a vector.

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

fn of_q(e: u32) -> f32 {
    return widen(KIND, q[word_of(KIND, e)], e);
}

fn of_k(e: u32) -> f32 {
    return widen(KIND, k[word_of(KIND, e)], e);
}

fn of_v(e: u32) -> f32 {
    return widen(KIND, v[word_of(KIND, e)], e);
}

fn of_d_out(e: u32) -> f32 {
    return widen(p.d_out.kind, d_out[word_of(p.d_out.kind, e)], e);
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

@compute @workgroup_size(64)
fn queries(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup.y * workgroups.x + workgroup.x;
    if index >= p.workgroups {
        return;
    }
    let own = place_of(index, p.heads);
    if own.row >= p.rows {
        return;
    }
    // Rows beyond the edge repeat the last and are not stored.
    let rows = min(vec4(own.row) + vec4(0u, 1u, 2u, 3u), vec4(p.rows - 1u));
    for (var r = 0u; r < ROWS; r++) {
        let at = vec4(own.batch, own.head, rows[r], 0u);
        for (var c = lane; c < p.d; c += CHUNK) {
            first_four[c][r] = of_q(place(p.q, at) + c * p.q.strides[0].w);
        }
        for (var c = lane; c < p.dv; c += CHUNK) {
            second_four[c][r] = of_d_out(place(p.d_out, at) + c * p.d_out.strides[0].w);
        }
    }
    if lane < ROWS {
        means[lane] = mean_of(vec4(own.batch, own.head, rows[lane], 0u));
    }
    var sums: array<vec4<f32>, 4>;
    if p.from_chunk > 0u {
        for (var r = 0u; r < ROWS; r++) {
            for (var t = 0u; t * CHUNK + lane < p.d; t++) {
                sums[t][r] = state[(own.kept + r) * p.d + t * CHUNK + lane];
            }
        }
    }
    workgroupBarrier();
    let mean = vec4(means[0], means[1], means[2], means[3]);
    var logs: vec4<f32>;
    for (var r = 0u; r < ROWS; r++) {
        logs[r] = lse[place(p.lse, vec4(own.batch, own.head, rows[r], 0u))];
    }
    let kv_head = own.head / p.group;
    let to_chunk = min(p.to_chunk, p.chunks);
    for (var chunk = p.from_chunk; chunk < to_chunk; chunk++) {
        let key = chunk * CHUNK + lane;
        var slope = vec4(0.0);
        if key < p.keys {
            let at = vec4(own.batch, kv_head, key, 0u);
            var score = vec4(0.0);
            var e = place(p.k, at);
            for (var c = 0u; c < p.d; c++) {
                score = fma(first_four[c], vec4(of_k(e)), score);
                e += p.k.strides[0].w;
            }
            var d_weight = vec4(0.0);
            e = place(p.v, at);
            for (var c = 0u; c < p.dv; c++) {
                d_weight = fma(second_four[c], vec4(of_v(e)), d_weight);
                e += p.v.strides[0].w;
            }
            let weight = select(vec4(0.0), exp_of4(p.scale * score - logs), sees(rows, vec4(key)));
            slope = p.scale * (weight * (d_weight - mean));
        }
        slopes[lane] = slope;
        workgroupBarrier();
        let keys = min(CHUNK, p.keys - chunk * CHUNK);
        let start = place(p.k, vec4(own.batch, kv_head, chunk * CHUNK, 0u));
        for (var t = 0u; t * CHUNK + lane < p.d; t++) {
            var e = start + (t * CHUNK + lane) * p.k.strides[0].w;
            var sum = sums[t];
            for (var j = 0u; j < keys; j++) {
                sum = fma(slopes[j], vec4(of_k(e)), sum);
                e += p.k.strides[0].z;
            }
            sums[t] = sum;
        }
        workgroupBarrier();
    }
    for (var r = 0u; r < ROWS && own.row + r < p.rows; r++) {
        for (var t = 0u; t * CHUNK + lane < p.d; t++) {
            let c = t * CHUNK + lane;
            if (p.flags & LAST) == 0u {
                state[(own.kept + r) * p.d + c] = sums[t][r];
            } else {
                let e = place(p.d_q, vec4(own.batch, own.head, own.row + r, c));
                put_d_q(e, narrow(p.d_q.kind, sums[t][r]));
            }
        }
    }
}

@compute @workgroup_size(64)
fn keys(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup.y * workgroups.x + workgroup.x;
    if index >= p.workgroups {
        return;
    }
    let own = place_of(index, p.heads / p.group);
    if own.row >= p.keys {
        return;
    }
    let four = min(vec4(own.row) + vec4(0u, 1u, 2u, 3u), vec4(p.keys - 1u));
    for (var r = 0u; r < ROWS; r++) {
        let at = vec4(own.batch, own.head, four[r], 0u);
        for (var c = lane; c < p.d; c += CHUNK) {
            first_four[c][r] = of_k(place(p.k, at) + c * p.k.strides[0].w);
        }
        for (var c = lane; c < p.dv; c += CHUNK) {
            second_four[c][r] = of_v(place(p.v, at) + c * p.v.strides[0].w);
        }
    }
    let width = p.d + p.dv;
    var of_key: array<vec4<f32>, 4>;
    var of_value: array<vec4<f32>, 4>;
    if p.from_chunk > 0u {
        for (var r = 0u; r < ROWS; r++) {
            for (var t = 0u; t * CHUNK + lane < p.d; t++) {
                of_key[t][r] = state[(own.kept + r) * width + t * CHUNK + lane];
            }
            for (var t = 0u; t * CHUNK + lane < p.dv; t++) {
                of_value[t][r] = state[(own.kept + r) * width + p.d + t * CHUNK + lane];
            }
        }
    }
    workgroupBarrier();
    // Head by head of the group, each in chunks of rows.
    let to_chunk = min(p.to_chunk, p.group * p.chunks);
    for (var chunk = p.from_chunk; chunk < to_chunk; chunk++) {
        let head = own.head * p.group + chunk / p.chunks;
        let first = (chunk % p.chunks) * CHUNK;
        let row = first + lane;
        var weight = vec4(0.0);
        var slope = vec4(0.0);
        if row < p.rows {
            let at = vec4(own.batch, head, row, 0u);
            var score = vec4(0.0);
            var e = place(p.q, at);
            for (var c = 0u; c < p.d; c++) {
                score = fma(first_four[c], vec4(of_q(e)), score);
                e += p.q.strides[0].w;
            }
            var d_weight = vec4(0.0);
            e = place(p.d_out, at);
            for (var c = 0u; c < p.dv; c++) {
                d_weight = fma(second_four[c], vec4(of_d_out(e)), d_weight);
                e += p.d_out.strides[0].w;
            }
            let log = vec4(lse[place(p.lse, at)]);
            weight = select(vec4(0.0), exp_of4(p.scale * score - log), sees(vec4(row), four));
            slope = p.scale * (weight * (d_weight - vec4(mean_of(at))));
        }
        weights[lane] = weight;
        slopes[lane] = slope;
        workgroupBarrier();
        let rows = min(CHUNK, p.rows - first);
        let q_start = place(p.q, vec4(own.batch, head, first, 0u));
        for (var t = 0u; t * CHUNK + lane < p.d; t++) {
            var e = q_start + (t * CHUNK + lane) * p.q.strides[0].w;
            var sum = of_key[t];
            for (var j = 0u; j < rows; j++) {
                sum = fma(slopes[j], vec4(of_q(e)), sum);
                e += p.q.strides[0].z;
            }
            of_key[t] = sum;
        }
        let d_out_start = place(p.d_out, vec4(own.batch, head, first, 0u));
        for (var t = 0u; t * CHUNK + lane < p.dv; t++) {
            var e = d_out_start + (t * CHUNK + lane) * p.d_out.strides[0].w;
            var sum = of_value[t];
            for (var j = 0u; j < rows; j++) {
                sum = fma(weights[j], vec4(of_d_out(e)), sum);
                e += p.d_out.strides[0].z;
            }
            of_value[t] = sum;
        }
        workgroupBarrier();
    }
    let is_last = (p.flags & LAST) != 0u;
    for (var r = 0u; r < ROWS && own.row + r < p.keys; r++) {
        for (var t = 0u; t * CHUNK + lane < p.d; t++) {
            let c = t * CHUNK + lane;
            if is_last {
                let e = place(p.d_k, vec4(own.batch, own.head, own.row + r, c));
                put_d_k(e, narrow(p.d_k.kind, of_key[t][r]));
            } else {
                state[(own.kept + r) * width + c] = of_key[t][r];
            }
        }
        for (var t = 0u; t * CHUNK + lane < p.dv; t++) {
            let c = t * CHUNK + lane;
            if is_last {
                let e = place(p.d_v, vec4(own.batch, own.head, own.row + r, c));
                put_d_v(e, narrow(p.d_v.kind, of_value[t][r]));
            } else {
                state[(own.kept + r) * width + p.d + c] = of_value[t][r];
            }
        }
    }
}
