// Before the kernels of attention, after `batch`: what they are told, where things lie, and what a row makes of its chunks.
//
// The query heads that share a key head are rows beside each other: the rows of a tile are those of all its queries,
// `group` heads of a query, then the next query. Keys come in chunks of 256. A kernel gives each row and chunk its
// partial result: the largest score, the sum of e^(score - largest), and the values so weighted; `combine` merges the
// partial results of a row left to right. So chunks may run side by side, and no bit depends on which do.

override KIND: u32 = 0u;

const CHUNK: u32 = 256u;

const HAS_LSE: u32 = 2u;
const HAS_SINKS: u32 = 16u;
const PAGED: u32 = 128u;
// There is one chunk: its kernel writes the output itself.
const DIRECT: u32 = 4096u;

// Strides of views: batch, head, row, column; of pages: batch, page.
struct Params {
    kv_heads: u32,
    // Query heads per key head.
    group: u32,
    // Rows of q.
    rows: u32,
    d: u32,
    dv: u32,
    scale: f32,
    flags: u32,
    // Rows of a tile of the plan, and tiles of a key head.
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
// The table of `batch.wgsl`.
@group(0) @binding(13) var<storage, read_write> made: array<u32>;
// Maximum, sum and values of each row of one tile that is cut along the keys, merged so far.
@group(0) @binding(14) var<storage, read_write> stats: array<f32>;
// Maximum, sum and values of each row and chunk.
@group(0) @binding(15) var<storage, read_write> scratch: array<f32>;
@group(0) @binding(16) var<storage, read_write> fault: array<atomic<u32>>;

fn place(base: u32, strides: vec4<u32>, at: vec4<u32>) -> u32 {
    let e = strides * at;
    return base + e.x + e.y + e.z + e.w;
}

// Batch entry of k or page, and row in it, of a key of the entry. An index that is out of range forms no address.
fn key_place(own: Own, key: u32) -> vec2<u32> {
    if has(PAGED) {
        let at = p.pages.base + own.entry * p.pages.strides[0].x + (key / p.page) * p.pages.strides[0].y;
        let page = pages[at];
        if page >= p.page_count {
            report(page, p.page_count);
            return vec2(NOWHERE);
        }
        return vec2(page, key % p.page);
    }
    return vec2(own.batch, own.first_key + key);
}

// What some rows of a tile belong to, the same in all lanes.
struct Own {
    entry: u32,
    // Of q, k, v and out.
    batch: u32,
    kv_head: u32,
    // The first of the rows among those of the entry's key head, and how many there are.
    row: u32,
    rows: u32,
    first_query: u32,
    queries: u32,
    first_key: u32,
    keys: u32,
}

// Rows of a tile from its row `tile_row` on. Every lane must call it.
fn own_of(lane: u32, tile: u32, tile_row: u32) -> Own {
    let of_head = tile % p.tiles;
    let one = entry_of(lane, of_head, tile / p.tiles / p.kv_heads, ROW_WORD, p.group);
    return Own(
        one.number,
        select(one.number, 0u, has(PACKED)),
        (tile / p.tiles) % p.kv_heads,
        (of_head - one.tile) * p.tile + tile_row,
        one.rows * p.group,
        one.first_row,
        one.rows,
        one.first_key,
        one.keys,
    );
}

// The keys that rows see any of, `first` to `last` by their queries: from, to.
fn seen_by(own: Own, first: u32, last: u32) -> vec2<u32> {
    return seen_between(vec2(first, last), own.queries, own.keys, p.left, p.right);
}

// Four rows of a tile: their queries and heads. Rows beyond the edge repeat the last and are not stored.
struct Four {
    query: vec4<u32>,
    head: vec4<u32>,
    slope: vec4<f32>,
}

fn four_of(own: Own, row: u32) -> Four {
    let rows = min(vec4(row) + vec4(0u, 1u, 2u, 3u), vec4(own.rows - 1u));
    let head = vec4(own.kv_head * p.group) + rows % vec4(p.group);
    var slope = vec4(0.0);
    if has(HAS_ALIBI) {
        for (var r = 0u; r < 4u; r++) {
            slope[r] = alibi[p.alibi.x + head[r] * p.alibi.y];
        }
    }
    return Four(rows / vec4(p.group), head, slope);
}

// Element `c` of the four rows of q.
fn query_of(own: Own, four: Four, c: u32) -> vec4<f32> {
    var x: vec4<f32>;
    for (var r = 0u; r < 4u; r++) {
        let e = place(p.q.base, p.q.strides[0], vec4(own.batch, four.head[r], own.first_query + four.query[r], c));
        x[r] = widen(KIND, q[word_of(KIND, e)], e);
    }
    return x;
}

// A score: soft cap, distance, and what the mask adds.
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
    return select(score + x, HIDDEN, bitcast<u32>(x) == NEGATIVE_INFINITY);
}

// The scores of four rows for a key that the entry has.
fn score_of(own: Own, four: Four, key: u32, dot: vec4<f32>) -> vec4<f32> {
    let apart = apart_of(four.query, vec4(key), own.queries, own.keys);
    var score: vec4<f32>;
    for (var r = 0u; r < 4u; r++) {
        score[r] = adjusted(dot[r], four.slope[r], apart.far[r], vec4(own.entry, four.head[r], four.query[r], key));
    }
    let visible = is_visible(score) & apart.near;
    return select(vec4(HIDDEN), max(score, vec4(LOWEST)), visible);
}

// e^(score - top), 0 for hidden keys.
fn weight_of(score: vec4<f32>, top: vec4<f32>) -> vec4<f32> {
    return select(vec4(0.0), exp_of4(score - top), is_visible(score));
}

// Where the partial result of a row of a tile and of a chunk begins in `scratch`.
fn partial_at(tile: u32, tile_row: u32, chunk: u32) -> u32 {
    let row = (tile - p.first) * p.tile + tile_row;
    return (row * (p.to_chunk - p.from_chunk) + chunk - p.from_chunk) * (p.dv + 2u);
}

// Maximum and sum before the first chunk.
fn sink_of(own: Own, head: u32) -> vec2<f32> {
    if !has(HAS_SINKS) || own.entry >= p.batch {
        return vec2(LOWEST, 0.0);
    }
    let sink = sinks[p.sinks.x + head * p.sinks.y];
    let is_hidden = bitcast<u32>(sink) == NEGATIVE_INFINITY;
    return select(vec2(max(sink, LOWEST), 1.0), vec2(LOWEST, 0.0), is_hidden);
}

// How a row takes in its next chunk: the new maximum and sum, and what the values so far and the chunk's are
// multiplied by.
fn merge_of(largest: f32, sum: f32, next: vec2<f32>) -> vec4<f32> {
    let top = max(largest, next.x);
    let shrink = exp_of(largest - top);
    let grow = exp_of(next.x - top);
    return vec4(top, fma(sum, shrink, next.y * grow), shrink, grow);
}

// A row that sees nothing has sum 0 and gives 0.
fn quotient_of(value: f32, sum: f32) -> u32 {
    return narrow(p.out.kind, select(0.0, value / sum, sum > 0.0));
}

fn out_at(own: Own, query: u32, head: u32, column: u32) -> u32 {
    return place(p.out.base, p.out.strides[0], vec4(own.batch, head, own.first_query + query, column));
}

fn put_value(own: Own, query: u32, head: u32, column: u32, value: f32, sum: f32) {
    put_out(out_at(own, query, head, column), quotient_of(value, sum));
}

fn put_lse(own: Own, query: u32, head: u32, largest: f32, sum: f32) {
    if has(HAS_LSE) {
        let at = vec4(own.batch, head, own.first_query + query, 0u);
        let e = place(p.lse.base, p.lse.strides[0], at);
        lse[e] = select(NEGATIVE_INFINITY, bitcast<u32>(largest + ln_of(sum)), sum > 0.0);
    }
}

// What four rows make of a chunk: maxima and sums, merged with the sinks where the chunk is the only one, and what the
// values are multiplied by then.
struct Result {
    largest: vec4<f32>,
    sum: vec4<f32>,
    grow: vec4<f32>,
}

fn result_of(own: Own, four: Four, largest: vec4<f32>, sum: vec4<f32>) -> Result {
    var result = Result(largest, sum, vec4(1.0));
    if has(DIRECT) {
        for (var r = 0u; r < 4u; r++) {
            let sink = sink_of(own, four.head[r]);
            let is_hidden = bitcast<u32>(sum[r]) == 0u;
            let merged = merge_of(sink.x, sink.y, vec2(largest[r], sum[r]));
            result.largest[r] = select(merged.x, sink.x, is_hidden);
            result.sum[r] = select(merged.y, sink.y, is_hidden);
            result.grow[r] = select(merged.w, 0.0, is_hidden);
        }
    }
    return result;
}

// Stores maximum and sum of row `r` of four: the partial result's, or what they say of the whole row.
fn put_sums(own: Own, four: Four, tile: u32, tile_row: u32, chunk: u32, r: u32, result: Result) {
    if has(DIRECT) {
        put_lse(own, four.query[r], four.head[r], result.largest[r], result.sum[r]);
        return;
    }
    let at = partial_at(tile, tile_row + r, chunk);
    scratch[at] = result.largest[r];
    scratch[at + 1u] = result.sum[r];
}

// Stores weighted values of row `r` of four in the same way: of `count` neighbouring columns.
fn put_weighted(
    own: Own,
    four: Four,
    tile: u32,
    tile_row: u32,
    chunk: u32,
    r: u32,
    column: u32,
    values: vec4<f32>,
    count: u32,
    result: Result,
) {
    if !has(DIRECT) {
        let at = partial_at(tile, tile_row + r, chunk) + 2u + column;
        for (var i = 0u; i < count; i++) {
            scratch[at + i] = values[i];
        }
        return;
    }
    let e = out_at(own, four.query[r], four.head[r], column);
    let step = p.out.strides[0].w;
    for (var i = 0u; i < count; i += 2u) {
        let one = quotient_of(values[i] * result.grow[r], result.sum[r]);
        if i + 1u < count {
            let two = quotient_of(values[i + 1u] * result.grow[r], result.sum[r]);
            put_pair_out(vec2(e + i * step, e + (i + 1u) * step), vec2(one, two));
        } else {
            put_out(e + i * step, one);
        }
    }
}

// A workgroup merges the chunks of a row, each lane up to 4 columns.
@compute @workgroup_size(64)
fn combine(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup.y * workgroups.x + workgroup.x;
    if index >= p.workgroups {
        return;
    }
    let tile = p.first + index / p.tile;
    let tile_row = index % p.tile;
    let own = own_of(lane, tile, tile_row);
    if own.row >= own.rows {
        return;
    }
    let query = own.row / p.group;
    let head = own.kv_head * p.group + own.row % p.group;
    let kept = tile_row * (p.dv + 2u);
    var so_far = sink_of(own, head);
    var values: array<f32, 4>;
    if p.from_chunk > 0u {
        so_far = vec2(stats[kept], stats[kept + 1u]);
        for (var t = 0u; t * LANES + lane < p.dv; t++) {
            values[t] = stats[kept + 2u + t * LANES + lane];
        }
        // Every lane has read what lane 0 writes at the end.
        workgroupBarrier();
    }
    for (var chunk = p.from_chunk; chunk < p.to_chunk; chunk++) {
        let at = partial_at(tile, tile_row, chunk);
        let next = vec2(scratch[at], scratch[at + 1u]);
        // What the row does not see changes nothing.
        if bitcast<u32>(next.y) == 0u {
            continue;
        }
        let merged = merge_of(so_far.x, so_far.y, next);
        so_far = merged.xy;
        for (var t = 0u; t * LANES + lane < p.dv; t++) {
            values[t] = fma(values[t], merged.z, scratch[at + 2u + t * LANES + lane] * merged.w);
        }
    }
    if !has(LAST) {
        if lane == 0u {
            stats[kept] = so_far.x;
            stats[kept + 1u] = so_far.y;
        }
        for (var t = 0u; t * LANES + lane < p.dv; t++) {
            stats[kept + 2u + t * LANES + lane] = values[t];
        }
        return;
    }
    for (var t = 0u; t * LANES + lane < p.dv; t++) {
        put_value(own, query, head, t * LANES + lane, values[t], so_far.y);
    }
    if lane == 0u {
        put_lse(own, query, head, so_far.x, so_far.y);
    }
}
