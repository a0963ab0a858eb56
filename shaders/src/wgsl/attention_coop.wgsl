// attention_coop: as `attention`, of f16 on a device's matrix unit. A workgroup of some subgroups, each with a tile's edge
// of rows, takes a chunk of the keys. Products of queries and keys are chains of the unit's tile products along the
// columns, and stay in tiles, s. The unit shows no element of a tile, so scores and weights are made of them in workgroup
// memory, block by block, four rows by SPAN threads. The values are weighted by the unit again, key after key, with
// weights rounded to f16; their sum is of weights that are not. So orders of the unit are none of `attention`, but do
// not depend on how many rows a workgroup has: a block that a row does not see adds zeros. A line with i or j after a
// dollar sign stands for each block of the chunk, and each tile of the block.

// Lanes of a subgroup; whole subgroups are runs of threads.
const SUBGROUP: u32 = 32u;
const THREADS: u32 = SUBGROUPS * SUBGROUP;
const ROWS: u32 = SUBGROUPS * EDGE;
// Threads of four rows.
const SPAN: u32 = 4u * SUBGROUP / EDGE;

// Keys of a block, and columns of the values at a time.
const SIDE: u32 = 64u;
// Columns of queries and keys, or keys of the values, that are staged at a time.
const DEPTH: u32 = 32u;
// From row to row of a staged tile, where rows go along the sum and where they do not, and of a block of sums: no power
// of two, so that they begin in other banks.
const PITCH_ALONG: u32 = DEPTH + 8u;
const PITCH_ACROSS: u32 = SIDE + 8u;
const PITCH_SUMS: u32 = SIDE + 4u;

// Queries, or weights.
var<workgroup> tile_a: array<Half, ROWS * PITCH_ALONG>;
// Keys, or values.
var<workgroup> tile_b: array<Half, SIDE * PITCH_ALONG>;
// A block of products, scores or weights, or of the result.
var<workgroup> tile_c: array<f32, ROWS * PITCH_SUMS>;
// Where each key of the chunk, and its value, begins; NOWHERE where none is seen or its page is bad.
var<workgroup> keys_at: array<u32, CHUNK>;
var<workgroup> values_at: array<u32, CHUNK>;
var<workgroup> lanes: array<vec4<f32>, THREADS>;
var<private> lane_in_subgroup: u32;

const OF_Q: u32 = 0u;
const OF_K: u32 = 1u;
const OF_V: u32 = 2u;

fn word_at(operand: u32, i: u32) -> u32 {
    switch operand {
        case OF_Q: { return q[i]; }
        case OF_K: { return k[i]; }
        default: { return v[i]; }
    }
}

// Eight elements of an operand from `at` on, two in a word; zeros from number `count` on.
fn eight_of(operand: u32, at: u32, step: u32, count: u32) -> vec4<u32> {
    if step == 1u && (at & 1u) == 0u && count >= 8u {
        let w = at >> 1u;
        return vec4(word_at(operand, w), word_at(operand, w + 1u), word_at(operand, w + 2u), word_at(operand, w + 3u));
    }
    var words = vec4(0u);
    for (var i = 0u; i < min(count, 8u); i++) {
        let e = at + i * step;
        words[i >> 1u] |= bits_of(F16, word_at(operand, e >> 1u), e) << (16u * (i & 1u));
    }
    return words;
}

// How many columns there are from `c` on.
fn left_of(columns: u32, c: u32) -> u32 {
    return columns - min(columns, c);
}

// Columns of the workgroup's queries from `column` on. Rows beyond the edge repeat the last.
fn stage_queries(own: Own, thread: u32, column: u32) {
    let step = p.q.strides[0].w;
    for (var i = thread; i < ROWS * DEPTH / 8u; i += THREADS) {
        let c = i % (DEPTH / 8u) * 8u;
        let row = min(own.row + i / (DEPTH / 8u), own.rows - 1u);
        let head = own.kv_head * p.group + row % p.group;
        let place_of_row = vec4(own.batch, head, own.first_query + row / p.group, column + c);
        let e = place(p.q.base, p.q.strides[0], place_of_row);
        let words = eight_of(OF_Q, e, step, left_of(p.d, column + c));
        let at = i / (DEPTH / 8u) * PITCH_ALONG + c;
        for (var w = 0u; w < 4u; w++) {
            let two = halves_of(words[w]);
            tile_a[at + 2u * w] = two.x;
            tile_a[at + 2u * w + 1u] = two.y;
        }
    }
}

// Weights of 32 keys of the block in `tile_c`, from its key `from_key` on.
fn stage_weights(thread: u32, from_key: u32) {
    for (var i = thread; i < ROWS * DEPTH / 2u; i += THREADS) {
        let row = i / (DEPTH / 2u);
        let key = i % (DEPTH / 2u) * 2u;
        let at = row * PITCH_SUMS + from_key + key;
        let two = halves_of(f32_to_f16(tile_c[at]) | (f32_to_f16(tile_c[at + 1u]) << 16u));
        tile_a[row * PITCH_ALONG + key] = two.x;
        tile_a[row * PITCH_ALONG + key + 1u] = two.y;
    }
}

fn stage_eight(at: u32, words: vec4<u32>) {
    for (var w = 0u; w < 4u; w++) {
        let two = halves_of(words[w]);
        tile_b[at + 2u * w] = two.x;
        tile_b[at + 2u * w + 1u] = two.y;
    }
}

// Columns of the keys of a block from `column` on.
fn stage_keys(thread: u32, from_slot: u32, column: u32) {
    let step = p.k.strides[0].w;
    for (var i = thread; i < SIDE * DEPTH / 8u; i += THREADS) {
        let c = i % (DEPTH / 8u) * 8u;
        let line = i / (DEPTH / 8u);
        let begin = keys_at[from_slot + line];
        let count = select(left_of(p.d, column + c), 0u, begin == NOWHERE);
        stage_eight(line * PITCH_ALONG + c, eight_of(OF_K, begin + (column + c) * step, step, count));
    }
}

// 64 columns from `column` on of the values of 32 keys.
fn stage_values(thread: u32, from_slot: u32, column: u32) {
    let step = p.v.strides[0].w;
    for (var i = thread; i < DEPTH * SIDE / 8u; i += THREADS) {
        let c = i % (SIDE / 8u) * 8u;
        let line = i / (SIDE / 8u);
        let begin = values_at[from_slot + line];
        let count = select(left_of(p.dv, column + c), 0u, begin == NOWHERE);
        stage_eight(line * PITCH_ACROSS + c, eight_of(OF_V, begin + (column + c) * step, step, count));
    }
}

// Finds the keys of the chunk that are seen.
fn find_keys(own: Own, thread: u32, first: u32, seen: vec2<u32>) {
    for (var slot = thread; slot < CHUNK; slot += THREADS) {
        keys_at[slot] = NOWHERE;
        values_at[slot] = NOWHERE;
        let key = first + slot;
        if key >= seen.x && key < seen.y {
            let at = key_place(own, key);
            if at.x != NOWHERE {
                let row = vec4(at.x, own.kv_head, at.y, 0u);
                keys_at[slot] = place(p.k.base, p.k.strides[0], row);
                values_at[slot] = place(p.v.base, p.v.strides[0], row);
            }
        }
    }
}

// All vectors of the threads of four rows as one, the largest or the sum. Every thread must call it.
fn merge(thread: u32, own: vec4<f32>, is_max: bool) -> vec4<f32> {
    workgroupBarrier();
    lanes[thread] = own;
    workgroupBarrier();
    for (var step = SPAN / 2u; step > 0u; step /= 2u) {
        if thread % SPAN < step {
            let a = lanes[thread];
            let b = lanes[thread + step];
            lanes[thread] = select(a + b, max(a, b), is_max);
        }
        workgroupBarrier();
    }
    return lanes[thread - thread % SPAN];
}

fn four_at(at: u32) -> vec4<f32> {
    return vec4(tile_c[at], tile_c[at + PITCH_SUMS], tile_c[at + 2u * PITCH_SUMS], tile_c[at + 3u * PITCH_SUMS]);
}

fn keep_four(at: u32, x: vec4<f32>) {
    tile_c[at] = x.x;
    tile_c[at + PITCH_SUMS] = x.y;
    tile_c[at + 2u * PITCH_SUMS] = x.z;
    tile_c[at + 3u * PITCH_SUMS] = x.w;
}

// Makes scores of the products of this thread's keys of the block whose first key is `key`; their largest.
fn scored(own: Own, four: Four, thread: u32, key: u32, seen: vec2<u32>) -> vec4<f32> {
    let rows = thread / SPAN * 4u * PITCH_SUMS;
    var top = vec4(LOWEST);
    for (var j = thread % SPAN; j < SIDE; j += SPAN) {
        var score = vec4(HIDDEN);
        if key + j >= seen.x && key + j < seen.y {
            score = score_of(own, four, key + j, four_at(rows + j));
        }
        keep_four(rows + j, score);
        top = max(top, score);
    }
    return top;
}

// Makes weights of those scores; their sum.
fn weighed(thread: u32, top: vec4<f32>) -> vec4<f32> {
    let rows = thread / SPAN * 4u * PITCH_SUMS;
    var sum = vec4(0.0);
    for (var j = thread % SPAN; j < SIDE; j += SPAN) {
        let weight = weight_of(four_at(rows + j), top);
        keep_four(rows + j, weight);
        sum += weight;
    }
    return sum;
}

@compute @workgroup_size(THREADS)
fn attention_coop(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = workgroup.y * workgroups.x + workgroup.x;
    if index >= p.workgroups {
        return;
    }
    let chunks = p.to_chunk - p.from_chunk;
    let chunk = p.from_chunk + index % chunks;
    let per_tile = (p.tile + ROWS - 1u) / ROWS;
    let tile = p.first + index / chunks / per_tile;
    let tile_row = (index / chunks) % per_tile * ROWS;
    let own = own_of(thread, tile, tile_row);
    if own.row >= own.rows {
        return;
    }
    let stored = min(min(own.rows - own.row, p.tile - tile_row), ROWS);
    let first = chunk * CHUNK;
    var seen = seen_by(own, own.row / p.group, (own.row + stored - 1u) / p.group);
    seen = vec2(max(seen.x, first), min(seen.y, first + CHUNK));
    let four_row = thread / SPAN * 4u;
    let four = four_of(own, own.row + four_row);
    let own_stored = min(4u, stored - min(stored, four_row));
    // Blocks of the chunk that hold keys which are seen.
    let from_block = (max(seen.x, first) - first) / SIDE;
    let to_block = select(0u, (seen.y - first + SIDE - 1u) / SIDE, seen.x < seen.y);
    // The subgroup's rows of staged queries or weights, and of a block of sums.
    lane_in_subgroup = thread % SUBGROUP;
    let own_a = thread / SUBGROUP * EDGE * PITCH_ALONG;
    let own_c = thread / SUBGROUP * EDGE * PITCH_SUMS;

    find_keys(own, thread, first, seen);
    var s_$i_$j = TileC();
    for (var column = 0u; column < p.d; column += DEPTH) {
        for (var block = from_block; block < to_block; block++) {
            workgroupBarrier();
            if block == from_block {
                stage_queries(own, thread, column);
            }
            stage_keys(thread, block * SIDE, column);
            workgroupBarrier();
            for (var step = 0u; step < DEPTH; step += EDGE) {
                let queries = load_a_along(own_a + step);
                let keys_$j = load_b_along($ju * EDGE * PITCH_ALONG + step);
                if block == $iu { s_$i_$j = multiplied(queries, keys_$j, s_$i_$j); }
            }
        }
    }
    var top = vec4(LOWEST);
    for (var block = from_block; block < to_block; block++) {
        if block == $iu { store_c(s_$i_$j, own_c + $ju * EDGE); }
        workgroupBarrier();
        top = max(top, scored(own, four, thread, first + block * SIDE, seen));
        workgroupBarrier();
        if block == $iu { s_$i_$j = load_c(own_c + $ju * EDGE); }
        workgroupBarrier();
    }
    top = merge(thread, top, true);
    var sum = vec4(0.0);
    for (var block = from_block; block < to_block; block++) {
        if block == $iu { store_c(s_$i_$j, own_c + $ju * EDGE); }
        workgroupBarrier();
        sum += weighed(thread, top);
        workgroupBarrier();
        if block == $iu { s_$i_$j = load_c(own_c + $ju * EDGE); }
        workgroupBarrier();
    }
    sum = merge(thread, sum, false);
    let result = result_of(own, four, top, sum);
    if thread % SPAN < own_stored {
        put_sums(own, four, tile, tile_row + four_row, chunk, thread % SPAN, result);
    }
    for (var column = 0u; column < p.dv; column += SIDE) {
        var values_$j = TileC();
        for (var block = from_block; block < to_block; block++) {
            if block == $iu { store_c(s_$i_$j, own_c + $ju * EDGE); }
            for (var part = 0u; part < SIDE; part += DEPTH) {
                workgroupBarrier();
                stage_weights(thread, part);
                stage_values(thread, block * SIDE + part, column);
                workgroupBarrier();
                for (var step = 0u; step < DEPTH; step += EDGE) {
                    let weights = load_a_along(own_a + step);
                    let of_keys_$j = load_b_across(step * PITCH_ACROSS + $ju * EDGE);
                    values_$j = multiplied(weights, of_keys_$j, values_$j);
                }
            }
        }
        store_c(values_$j, own_c + $ju * EDGE);
        workgroupBarrier();
        for (var c = thread % SPAN * 4u; c < min(SIDE, p.dv - column); c += 4u * SPAN) {
            for (var r = 0u; r < own_stored; r++) {
                let at = (four_row + r) * PITCH_SUMS + c;
                let x = vec4(tile_c[at], tile_c[at + 1u], tile_c[at + 2u], tile_c[at + 3u]);
                let count = min(4u, p.dv - column - c);
                put_weighted(own, four, tile, tile_row + four_row, chunk, r, column + c, x, count, result);
            }
        }
        workgroupBarrier();
    }
}
