// attention: a workgroup takes 4 query rows of a batch entry and goes over the keys in chunks of 64, left to right, with a running
// maximum, sum and weighted values. In a chunk each lane scores one key, then owns up to 4 columns of the values.
// Four rows are the four components of a vector.

override KIND: u32 = 0u;

const ROWS: u32 = 4u;
const CHUNK: u32 = 64u;
// Most batch entries whose counts lie in device memory.
const COUNTED: u32 = 1024u;

const HAS_MASK: u32 = 1u;
const HAS_LSE: u32 = 2u;
const HAS_ALIBI: u32 = 4u;
const LAST: u32 = 8u;
const HAS_SINKS: u32 = 16u;
// Rows of the batch entries, or dense keys too, lie one after another.
const PACKED: u32 = 32u;
const PACKED_KEYS: u32 = 64u;
const PAGED: u32 = 128u;
// Counts of rows, or of keys, are operands; keys are counted like rows.
const DEVICE_ROWS: u32 = 256u;
const DEVICE_LENS: u32 = 512u;
const AS_ROWS: u32 = 1024u;
// One entry stands for all.
const ALIKE: u32 = 2048u;

// Strides of views: batch, head, row, column; of pages: batch, page.
struct Params {
    heads: u32,
    // Query heads per key head.
    group: u32,
    // Rows of q.
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
    // Batch entries; where rows are packed, one more of those that none owns.
    batch: u32,
    softcap: f32,
    // Keys seen before and after the row's own.
    left: u32,
    right: u32,
    page: u32,
    page_count: u32,
    // Room for keys of an entry, or of all where they are packed; the largest counts.
    room: u32,
    max_rows: u32,
    max_keys: u32,
    unused_a: u32,
    unused_b: u32,
    // Base and stride of operands of one axis.
    alibi: vec2<u32>,
    sinks: vec2<u32>,
    counts: vec2<u32>,
    lens: vec2<u32>,
    q: View,
    k: View,
    v: View,
    mask: View,
    pages: View,
    out: View,
    lse: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> q: array<u32>;
@group(0) @binding(2) var<storage, read_write> k: array<u32>;
@group(0) @binding(3) var<storage, read_write> v: array<u32>;
@group(0) @binding(4) var<storage, read_write> mask: array<u32>;
@group(0) @binding(5) var<storage, read_write> alibi: array<f32>;
@group(0) @binding(6) var<storage, read_write> sinks: array<f32>;
@group(0) @binding(7) var<storage, read_write> rows: array<u32>;
@group(0) @binding(8) var<storage, read_write> lens: array<u32>;
@group(0) @binding(9) var<storage, read_write> pages: array<u32>;
@group(0) @binding(10) var<storage, read_write> out: array<u32>;
@group(0) @binding(11) var<storage, read_write> out_parts: array<atomic<u32>>;
@group(0) @binding(12) var<storage, read_write> lse: array<u32>;
// Five words an entry: first row, rows, first key, keys, first tile. Then, where `count` makes them, the counts of rows
// and of keys that the host knows.
@group(0) @binding(13) var<storage, read_write> made: array<u32>;
// Maximum, sum and values of each row of one tile that is cut along the keys.
@group(0) @binding(14) var<storage, read_write> state: array<f32>;
@group(0) @binding(15) var<storage, read_write> fault: array<atomic<u32>>;

var<workgroup> counted: array<vec2<u32>, COUNTED>;

fn has(flag: u32) -> bool {
    return (p.flags & flag) != 0u;
}

fn entries() -> u32 {
    return p.batch + select(0u, 1u, has(PACKED));
}

fn held(word: u32, most: u32) -> u32 {
    if word > most {
        report(word, most + 1u);
    }
    return min(word, most);
}

// Reads every count in device memory once, so that all tiles of a launch agree on them.
@compute @workgroup_size(64)
fn count(@builtin(local_invocation_index) lane: u32) {
    for (var i = lane; i < p.batch; i += CHUNK) {
        let given = 5u * entries() + i;
        var one = vec2(made[given], made[given + p.batch]);
        if has(DEVICE_ROWS) {
            one.x = held(rows[p.counts.x + i * p.counts.y], p.max_rows);
        }
        if has(DEVICE_LENS) {
            one.y = held(lens[p.lens.x + i * p.lens.y], p.max_keys);
        }
        counted[i] = select(one, one.xx, has(AS_ROWS));
    }
    workgroupBarrier();
    if lane > 0u {
        return;
    }
    var first_row = 0u;
    var first_key = 0u;
    var tile = 0u;
    for (var i = 0u; i < entries(); i++) {
        var one = vec2(p.rows - first_row, 0u);
        if i < p.batch {
            one = min(counted[i], vec2(p.rows - first_row, p.room - first_key));
        }
        made[5u * i] = first_row;
        made[5u * i + 1u] = one.x;
        made[5u * i + 2u] = first_key;
        made[5u * i + 3u] = one.y;
        made[5u * i + 4u] = tile;
        if has(PACKED) {
            first_row += one.x;
            tile += (one.x + p.tile - 1u) / p.tile;
        }
        if has(PACKED_KEYS) {
            first_key += one.y;
        }
    }
}

var<workgroup> query: array<vec4<f32>, 256>;
var<workgroup> shared_scores: array<vec4<f32>, 64>;
// Where the value of each paged key of the chunk begins.
var<workgroup> values_at: array<u32, 64>;
// The batch entry: itself, first row, rows; first key, keys, first tile.
var<workgroup> found: array<vec3<u32>, 2>;

fn place(base: u32, strides: vec4<u32>, at: vec4<u32>) -> u32 {
    let e = strides * at;
    return base + e.x + e.y + e.z + e.w;
}

// The entry that a tile of a head belongs to: the last that begins at it or before.
fn entry_of(tile: u32, batch: u32) -> u32 {
    if !has(PACKED) {
        return batch;
    }
    var low = 0u;
    var high = entries();
    while high - low > 1u {
        let middle = (low + high) / 2u;
        if made[5u * middle + 4u] <= tile {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// Batch entry of k or page, and row in it, of a key of the entry. An index that is out of range forms no address.
fn key_place(entry: u32, first_key: u32, key: u32) -> vec2<u32> {
    if has(PAGED) {
        let at = p.pages.base + entry * p.pages.strides[0].x + (key / p.page) * p.pages.strides[0].y;
        let page = pages[at];
        if page >= p.page_count {
            report(page, p.page_count);
            return vec2(NOWHERE);
        }
        return vec2(page, key % p.page);
    }
    return vec2(select(entry, 0u, has(PACKED)), first_key + key);
}

// A score: soft cap, distance, and what the mask adds; below LOWEST where it hides the key.
fn adjusted(dot: f32, slope: f32, far: u32, at: vec4<u32>) -> f32 {
    var score = p.scale * dot;
    if p.softcap > 0.0 {
        score = p.softcap * tanh_of(score / p.softcap);
    }
    if has(HAS_ALIBI) {
        score -= slope * f32(far);
    }
    if !has(HAS_MASK) {
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
    let head = (tile / p.tiles) % p.heads;
    if lane == 0u {
        let entry = entry_of(tile % p.tiles, (tile / p.tiles) / p.heads);
        let words = 5u * select(entry, 0u, has(ALIKE));
        found[0] = vec3(entry, made[words], made[words + 1u]);
        found[1] = vec3(made[words + 2u], made[words + 3u], made[words + 4u]);
    }
    let one = workgroupUniformLoad(&found);
    let entry = one[0].x;
    let own_rows = one[0].z;
    let first_key_row = one[1].x;
    let len = one[1].y;
    let row = (tile % p.tiles - one[1].z) * p.tile + tile_row;
    if row >= own_rows {
        return;
    }
    // Where the rows lie in q, out and lse.
    let batch = select(entry, 0u, has(PACKED));
    let start = one[0].y + row;
    // Rows beyond the edge repeat the last and are not stored. A row stands at `here - own_rows` among the keys.
    let own = min(vec4(row) + vec4(0u, 1u, 2u, 3u), vec4(own_rows - 1u));
    let here = own + len;
    // Keys that any of the four rows may see.
    let behind = own_rows + min(p.left, NOWHERE - own_rows);
    let low = here.x - min(here.x, behind);
    let ahead = here.w + min(p.right, 0xfffffffeu - here.w) + 1u;
    let high = min(ahead - min(ahead, own_rows), len);

    for (var c = lane; c < p.d; c += CHUNK) {
        var x = vec4(0.0);
        for (var r = 0u; r < ROWS; r++) {
            let e = place(p.q.base, p.q.strides[0], vec4(batch, head, start + own[r] - row, c));
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
    } else if has(HAS_SINKS) && entry < p.batch {
        let sink = sinks[p.sinks.x + head * p.sinks.y];
        let is_hidden = bitcast<u32>(sink) == NEGATIVE_INFINITY;
        largest = vec4(select(max(sink, LOWEST), LOWEST, is_hidden));
        sum = vec4(select(1.0, 0.0, is_hidden));
    }
    var slope = 0.0;
    if has(HAS_ALIBI) {
        slope = alibi[p.alibi.x + head * p.alibi.y];
    }
    workgroupBarrier();

    let kv_head = head / p.group;
    for (var chunk = p.from_chunk; chunk < p.to_chunk; chunk++) {
        let first_key = chunk * CHUNK;
        // What no row sees would change no bit.
        if first_key >= high || first_key + CHUNK <= low {
            continue;
        }
        let key = first_key + lane;
        var score = vec4(LOWEST);
        var visible = vec4(false);
        if has(PAGED) {
            values_at[lane] = NOWHERE;
        }
        if key >= low && key < high {
            var dot = vec4(0.0);
            let at = key_place(entry, first_key_row, key);
            if at.x != NOWHERE {
                if has(PAGED) {
                    let value_at = vec4(at.x, kv_head, at.y, 0u);
                    values_at[lane] = place(p.v.base, p.v.strides[0], value_at);
                }
                var e = place(p.k.base, p.k.strides[0], vec4(at.x, kv_head, at.y, 0u));
                for (var c = 0u; c < p.d; c++) {
                    dot = fma(query[c], vec4(widen(KIND, k[word_of(KIND, e)], e)), dot);
                    e += p.k.strides[0].w;
                }
            }
            let there = key + own_rows;
            let far = select(vec4(there) - here, here - vec4(there), vec4(there) <= here);
            for (var r = 0u; r < ROWS; r++) {
                let place_in_mask = vec4(entry, head, own[r], key);
                score[r] = adjusted(dot[r], slope, far[r], place_in_mask);
            }
            let inside = far <= select(vec4(p.right), vec4(p.left), vec4(there) <= here);
            visible = (score > vec4(-3.39e38)) & inside;
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
        let keys = min(CHUNK, high - first_key);
        let skipped = max(low, first_key) - first_key;
        let first_row = first_key_row + first_key + skipped;
        let dense = vec4(select(entry, 0u, has(PACKED)), kv_head, first_row, 0u);
        for (var t = 0u; t * CHUNK + lane < p.dv; t++) {
            let column = (t * CHUNK + lane) * p.v.strides[0].w;
            var value = values[t] * shrink;
            if has(PAGED) {
                for (var j = skipped; j < keys; j++) {
                    if values_at[j] != NOWHERE {
                        let e = values_at[j] + column;
                        value = fma(shared_scores[j], vec4(widen(KIND, v[word_of(KIND, e)], e)), value);
                    }
                }
            } else {
                var e = place(p.v.base, p.v.strides[0], dense) + column;
                for (var j = skipped; j < keys; j++) {
                    value = fma(shared_scores[j], vec4(widen(KIND, v[word_of(KIND, e)], e)), value);
                    e += p.v.strides[0].z;
                }
            }
            values[t] = value;
        }
        workgroupBarrier();
    }

    for (var r = 0u; r < ROWS && row + r < own_rows; r++) {
        if !has(LAST) {
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
            let at = vec4(batch, head, start + r, t * CHUNK + lane);
            // A row that sees nothing has sum 0 and gives 0.
            let y = select(0.0, values[t][r] / sum[r], sum[r] > 0.0);
            put_out(place(p.out.base, p.out.strides[0], at), narrow(p.out.kind, y));
        }
        if lane == 0u && has(HAS_LSE) {
            let e = place(p.lse.base, p.lse.strides[0], vec4(batch, head, start + r, 0u));
            let log_sum = bitcast<u32>(largest[r] + ln_of(sum[r]));
            lse[e] = select(NEGATIVE_INFINITY, log_sum, sum[r] > 0.0);
        }
    }
}
