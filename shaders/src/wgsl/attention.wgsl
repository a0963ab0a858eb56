// attention: a workgroup takes 4 query rows and goes over the keys in chunks of 64, left to right, with a running
// maximum, sum and weighted values. In a chunk each lane scores one key, then owns up to 4 columns of the values.
// Four rows are the four components of a vector.

override KIND: u32 = 0u;

const ROWS: u32 = 4u;
const CHUNK: u32 = 64u;

const CAUSAL: u32 = 1u;
const HAS_MASK: u32 = 2u;
const HAS_LSE: u32 = 4u;
const LAST: u32 = 8u;

// Strides of views: batch, head, row, column.
struct Params {
    heads: u32,
    // Query heads per key head.
    group: u32,
    rows: u32,
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
    // Chunks `from..to`.
    from_chunk: u32,
    to_chunk: u32,
    unused_a: u32,
    unused_b: u32,
    unused_c: u32,
    q: View,
    k: View,
    v: View,
    mask: View,
    out: View,
    lse: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> q: array<u32>;
@group(0) @binding(2) var<storage, read_write> k: array<u32>;
@group(0) @binding(3) var<storage, read_write> v: array<u32>;
@group(0) @binding(4) var<storage, read_write> mask: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<u32>;
@group(0) @binding(6) var<storage, read_write> out_parts: array<atomic<u32>>;
@group(0) @binding(7) var<storage, read_write> lse: array<u32>;
// Keys of each batch entry, written by the host.
@group(0) @binding(8) var<storage, read_write> made: array<u32>;
// Maximum, sum and values of each row of one tile that is cut along the keys.
@group(0) @binding(9) var<storage, read_write> state: array<f32>;

var<workgroup> query: array<vec4<f32>, 256>;
var<workgroup> shared_scores: array<vec4<f32>, 64>;

fn place(base: u32, strides: vec4<u32>, at: vec4<u32>) -> u32 {
    let e = strides * at;
    return base + e.x + e.y + e.z + e.w;
}

// What the mask adds to a score; below LOWEST where it hides the key.
fn masked(score: f32, at: vec4<u32>) -> f32 {
    if (p.flags & HAS_MASK) == 0u {
        return score;
    }
    let e = place(p.mask.base, p.mask.strides[0], at);
    let x = widen(p.mask.kind, mask[word_of(p.mask.kind, e)], e);
    return select(score + x, -3.4e38, bitcast<u32>(x) == NEGATIVE_INFINITY);
}

@compute @workgroup_size(64)
fn attention(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup.y * workgroups.x + workgroup.x;
    if index >= p.workgroups {
        return;
    }
    let per_tile = p.tile / ROWS;
    let tile = p.first + index / per_tile;
    let tile_row = (index % per_tile) * ROWS;
    let row = (tile % p.tiles) * p.tile + tile_row;
    if row >= p.rows {
        return;
    }
    let head = (tile / p.tiles) % p.heads;
    let entry = (tile / p.tiles) / p.heads;
    // Keys that each of the four rows sees. Rows beyond the edge repeat the last and are not stored.
    let len = made[entry];
    let rows = min(vec4(row) + vec4(0u, 1u, 2u, 3u), vec4(p.rows - 1u));
    var seen = vec4(len);
    if (p.flags & CAUSAL) != 0u {
        let end = rows + 1u + len;
        seen = min(end - min(end, vec4(p.rows)), vec4(len));
    }
    let most = seen.w;

    for (var c = lane; c < p.d; c += CHUNK) {
        var x = vec4(0.0);
        for (var r = 0u; r < ROWS; r++) {
            let e = place(p.q.base, p.q.strides[0], vec4(entry, head, rows[r], c));
            x[r] = widen(KIND, q[word_of(KIND, e)], e);
        }
        query[c] = x;
    }
    var largest = vec4(LOWEST);
    var sum = vec4(0.0);
    var values: array<vec4<f32>, 4>;
    let width = p.dv + 2u;
    if p.from_chunk > 0u {
        for (var r = 0u; r < ROWS; r++) {
            let kept = (tile_row + r) * width;
            largest[r] = state[kept];
            sum[r] = state[kept + 1u];
            for (var t = 0u; t * CHUNK + lane < p.dv; t++) {
                values[t][r] = state[kept + 2u + t * CHUNK + lane];
            }
        }
    }
    workgroupBarrier();

    let k_start = place(p.k.base, p.k.strides[0], vec4(entry, head / p.group, 0u, 0u));
    let v_start = place(p.v.base, p.v.strides[0], vec4(entry, head / p.group, 0u, 0u));
    for (var chunk = p.from_chunk; chunk < p.to_chunk; chunk++) {
        let first_key = chunk * CHUNK;
        let key = first_key + lane;
        var score = vec4(LOWEST);
        var visible = vec4(false);
        if key < most {
            var dot = vec4(0.0);
            var e = k_start + key * p.k.strides[0].z;
            for (var c = 0u; c < p.d; c++) {
                dot = fma(query[c], vec4(widen(KIND, k[word_of(KIND, e)], e)), dot);
                e += p.k.strides[0].w;
            }
            for (var r = 0u; r < ROWS; r++) {
                score[r] = masked(p.scale * dot[r], vec4(entry, head, rows[r], key));
            }
            visible = (score > vec4(-3.39e38)) & (vec4(key) < seen);
            score = select(vec4(LOWEST), max(score, vec4(LOWEST)), visible);
        }
        shared_scores[lane] = score;
        workgroupBarrier();
        var top = largest;
        for (var j = 0u; j < CHUNK; j++) {
            top = max(top, shared_scores[j]);
        }
        workgroupBarrier();
        shared_scores[lane] = select(vec4(0.0), exp_of4(score - top), visible);
        workgroupBarrier();
        let shrink = exp_of4(largest - top);
        var part = vec4(0.0);
        for (var j = 0u; j < CHUNK; j++) {
            part += shared_scores[j];
        }
        sum = fma(sum, shrink, part);
        largest = top;
        let keys = min(CHUNK, most - min(most, first_key));
        for (var t = 0u; t * CHUNK + lane < p.dv; t++) {
            var e = v_start + first_key * p.v.strides[0].z + (t * CHUNK + lane) * p.v.strides[0].w;
            var value = values[t] * shrink;
            for (var j = 0u; j < keys; j++) {
                value = fma(shared_scores[j], vec4(widen(KIND, v[word_of(KIND, e)], e)), value);
                e += p.v.strides[0].z;
            }
            values[t] = value;
        }
        workgroupBarrier();
    }

    for (var r = 0u; r < ROWS && row + r < p.rows; r++) {
        if (p.flags & LAST) == 0u {
            let kept = (tile_row + r) * width;
            if lane == 0u {
                state[kept] = largest[r];
                state[kept + 1u] = sum[r];
            }
            for (var t = 0u; t * CHUNK + lane < p.dv; t++) {
                state[kept + 2u + t * CHUNK + lane] = values[t][r];
            }
            continue;
        }
        for (var t = 0u; t * CHUNK + lane < p.dv; t++) {
            let at = vec4(entry, head, row + r, t * CHUNK + lane);
            // A row that sees nothing has sum 0 and gives 0.
            let y = select(0.0, values[t][r] / sum[r], sum[r] > 0.0);
            put_out(place(p.out.base, p.out.strides[0], at), narrow(p.out.kind, y));
        }
        if lane == 0u && (p.flags & HAS_LSE) != 0u {
            let e = place(p.lse.base, p.lse.strides[0], vec4(entry, head, row + r, 0u));
            let log_sum = bitcast<u32>(largest[r] + ln_of(sum[r]));
            lse[e] = select(NEGATIVE_INFINITY, log_sum, sum[r] > 0.0);
        }
    }
}
