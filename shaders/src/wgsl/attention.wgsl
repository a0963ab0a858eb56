// attention: a workgroup takes 4 rows of a tile, the components of a vector, and a chunk of the keys. Each lane scores
// 4 keys, 64 apart; maximum and sum come from the lanes by a tree; then a lane owns up to 4 columns of the values and
// goes over the keys.

const ROWS: u32 = 4u;

var<workgroup> query: array<vec4<f32>, 256>;
// Scores of the chunk, then its weights.
var<workgroup> scores: array<vec4<f32>, CHUNK>;
// Where the value of each paged key of the chunk begins.
var<workgroup> values_at: array<u32, CHUNK>;
var<workgroup> lanes: array<vec4<f32>, LANES>;

// All lanes' vectors as one, the largest or the sum. Every lane must call it.
fn merge(lane: u32, own: vec4<f32>, is_max: bool) -> vec4<f32> {
    lanes[lane] = own;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        if lane < step {
            let a = lanes[lane];
            let b = lanes[lane + step];
            lanes[lane] = select(a + b, max(a, b), is_max);
        }
        workgroupBarrier();
    }
    let whole = lanes[0];
    workgroupBarrier();
    return whole;
}

// Where a key lies in k; where its value lies in v is kept. NOWHERE where its page is bad.
fn find_key(own: Own, key: u32, slot: u32) -> u32 {
    let at = key_place(own, key);
    if at.x == NOWHERE {
        values_at[slot] = NOWHERE;
        return NOWHERE;
    }
    if has(PAGED) {
        values_at[slot] = place(p.v.base, p.v.strides[0], vec4(at.x, own.kv_head, at.y, 0u));
    }
    return place(p.k.base, p.k.strides[0], vec4(at.x, own.kv_head, at.y, 0u));
}

// Scores the keys that the lane has at `slot` of the chunk and 64 after it, those in `seen`.
fn score_two(own: Own, four: Four, first: u32, slot: u32, seen: vec2<u32>) {
    let key = vec2(first + slot) + vec2(0u, LANES);
    // Other keys are hidden: a key that is there stands for them.
    let near = clamp(key, vec2(seen.x), vec2(seen.y - 1u));
    let at = vec2(find_key(own, near.x, slot), find_key(own, near.y, slot + LANES));
    var e = select(at, vec2(p.k.base), at == vec2(NOWHERE));
    var one = vec4(0.0);
    var two = vec4(0.0);
    for (var c = 0u; c < p.d; c++) {
        one = fma(query[c], vec4(widen(KIND, k[word_of(KIND, e.x)], e.x)), one);
        two = fma(query[c], vec4(widen(KIND, k[word_of(KIND, e.y)], e.y)), two);
        e += p.k.strides[0].w;
    }
    one = select(one, vec4(0.0), at.x == NOWHERE);
    two = select(two, vec4(0.0), at.y == NOWHERE);
    let is_near = key == near;
    scores[slot] = select(vec4(HIDDEN), score_of(own, four, near.x, one), is_near.x);
    scores[slot + LANES] = select(vec4(HIDDEN), score_of(own, four, near.y, two), is_near.y);
}

// A column of the values of the keys `seen`, weighted.
fn weighted(own: Own, first: u32, seen: vec2<u32>, column: u32) -> vec4<f32> {
    var value = vec4(0.0);
    if seen.x >= seen.y {
        return value;
    }
    let along = column * p.v.strides[0].w;
    if has(PAGED) {
        for (var j = seen.x - first; j < seen.y - first; j++) {
            if values_at[j] != NOWHERE {
                let e = values_at[j] + along;
                value = fma(scores[j], vec4(widen(KIND, v[word_of(KIND, e)], e)), value);
            }
        }
        return value;
    }
    var e = place(p.v.base, p.v.strides[0], vec4(own.batch, own.kv_head, own.first_key + seen.x, 0u)) + along;
    for (var j = seen.x - first; j < seen.y - first; j++) {
        value = fma(scores[j], vec4(widen(KIND, v[word_of(KIND, e)], e)), value);
        e += p.v.strides[0].z;
    }
    return value;
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
    let chunks = p.to_chunk - p.from_chunk;
    let chunk = p.from_chunk + index % chunks;
    let four_rows = index / chunks;
    let per_tile = p.tile / ROWS;
    let tile = p.first + four_rows / per_tile;
    let tile_row = (four_rows % per_tile) * ROWS;
    let own = own_of(lane, tile, tile_row);
    if own.row >= own.rows {
        return;
    }
    let four = four_of(own, own.row);
    let first = chunk * CHUNK;
    var seen = seen_by(own, four.query.x, four.query.w);
    seen = vec2(max(seen.x, first), min(seen.y, first + CHUNK));
    var top = vec4(LOWEST);
    var sum = vec4(0.0);
    if seen.x < seen.y {
        for (var c = lane; c < p.d; c += LANES) {
            query[c] = query_of(own, four, c);
        }
        workgroupBarrier();
        let from_slot = (seen.x - first) / (2u * LANES) * (2u * LANES);
        for (var slot = from_slot; slot < seen.y - first; slot += 2u * LANES) {
            score_two(own, four, first, slot + lane, seen);
        }
        // Each lane reads what it wrote.
        for (var slot = from_slot; slot < seen.y - first; slot += LANES) {
            top = max(top, scores[slot + lane]);
        }
        top = merge(lane, top, true);
        for (var slot = from_slot; slot < seen.y - first; slot += LANES) {
            let weight = weight_of(scores[slot + lane], top);
            scores[slot + lane] = weight;
            sum += weight;
        }
        sum = merge(lane, sum, false);
    }
    let result = result_of(own, four, top, sum);
    if lane < min(ROWS, own.rows - own.row) {
        put_sums(own, four, tile, tile_row, chunk, lane, result);
    }
    for (var column = lane; column < p.dv; column += LANES) {
        let value = weighted(own, first, seen, column);
        for (var r = 0u; r < ROWS && own.row + r < own.rows; r++) {
            put_weighted(own, four, tile, tile_row, chunk, r, column, vec4(value[r]), 1u, result);
        }
    }
}
