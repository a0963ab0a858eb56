// attention_tiled: as `attention`, with keys and values staged in workgroup memory. A workgroup takes a chunk of the keys
// and TEAMS times 4 rows. In blocks of 64 keys by 64 columns a thread of a team scores 64 / SPAN keys, SPAN apart, and
// holds those scores; then it owns as many neighbouring columns of the values. Every sum is that of `attention`.

override TEAMS: u32 = 8u;
// Threads of a team.
override SPAN: u32 = 16u;

const SIDE: u32 = 64u;
// Vectors of a staged row: one more than it has, so that rows begin in different banks.
const PITCH: u32 = 17u;

// A block of the keys or the values, rows of 64 columns.
var<workgroup> block: array<vec4<f32>, 1088>;
// Four rows of each team, by 64: columns of the queries, weights of keys; or what its threads sum.
var<workgroup> left: array<vec4<f32>, 512>;
// Where each key of the chunk, and its value, begins; NOWHERE where its page is bad.
var<workgroup> keys_at: array<u32, CHUNK>;
var<workgroup> values_at: array<u32, CHUNK>;

// Four elements of 16 bits.
fn four_in(words: vec2<u32>) -> vec4<f32> {
    return vec4(widen(KIND, words.x, 0u), widen(KIND, words.x, 1u), widen(KIND, words.y, 0u), widen(KIND, words.y, 1u));
}

// Four neighbouring columns from `c` on of a row of keys that begins at `at`; beyond the last, zeros.
fn four_of_k(at: u32, c: u32) -> vec4<f32> {
    let step = p.k.strides[0].w;
    let e = at + c * step;
    if at == NOWHERE || c >= p.d {
        return vec4(0.0);
    }
    if fold_of(KIND) == 1u && step == 1u && (e & 1u) == 0u && c + 3u < p.d {
        return four_in(vec2(k[e >> 1u], k[(e >> 1u) + 1u]));
    }
    var x = vec4(widen(KIND, k[word_of(KIND, e)], e), 0.0, 0.0, 0.0);
    for (var i = 1u; i < 4u && c + i < p.d; i++) {
        x[i] = widen(KIND, k[word_of(KIND, e + i * step)], e + i * step);
    }
    return x;
}

// Four neighbouring columns from `c` on of a row of values that begins at `at`; beyond the last, zeros.
fn four_of_v(at: u32, c: u32) -> vec4<f32> {
    let step = p.v.strides[0].w;
    let e = at + c * step;
    if at == NOWHERE || c >= p.dv {
        return vec4(0.0);
    }
    if fold_of(KIND) == 1u && step == 1u && (e & 1u) == 0u && c + 3u < p.dv {
        return four_in(vec2(v[e >> 1u], v[(e >> 1u) + 1u]));
    }
    var x = vec4(widen(KIND, v[word_of(KIND, e)], e), 0.0, 0.0, 0.0);
    for (var i = 1u; i < 4u && c + i < p.dv; i++) {
        x[i] = widen(KIND, v[word_of(KIND, e + i * step)], e + i * step);
    }
    return x;
}

// All vectors of a team as one, the largest or the sum. Every thread must call it.
fn merge(thread: u32, own: vec4<f32>, is_max: bool) -> vec4<f32> {
    workgroupBarrier();
    left[thread] = own;
    workgroupBarrier();
    for (var step = SPAN / 2u; step > 0u; step /= 2u) {
        if thread % SPAN < step {
            let a = left[thread];
            let b = left[thread + step];
            left[thread] = select(a + b, max(a, b), is_max);
        }
        workgroupBarrier();
    }
    return left[thread - thread % SPAN];
}

// Finds the keys of the chunk. Others than those seen are hidden: a key that is there stands for them.
fn find_keys(own: Own, thread: u32, first: u32, seen: vec2<u32>) {
    for (var slot = thread; slot < CHUNK; slot += TEAMS * SPAN) {
        let at = key_place(own, clamp(first + slot, seen.x, seen.y - 1u));
        let row = vec4(at.x, own.kv_head, at.y, 0u);
        let is_bad = at.x == NOWHERE;
        keys_at[slot] = select(place(p.k.base, p.k.strides[0], row), NOWHERE, is_bad);
        values_at[slot] = select(place(p.v.base, p.v.strides[0], row), NOWHERE, is_bad);
    }
}

// Keys of a block that a thread scores, columns of the values that it owns: 1, 2 or 4.
fn share() -> u32 {
    return SIDE / SPAN;
}

// Four columns of dot products of four rows and a key.
fn dots(dot: vec4<f32>, at: u32, key: vec4<f32>) -> vec4<f32> {
    var sum = fma(left[at], vec4(key.x), dot);
    sum = fma(left[at + 1u], vec4(key.y), sum);
    sum = fma(left[at + 2u], vec4(key.z), sum);
    return fma(left[at + 3u], vec4(key.w), sum);
}

// The scores `s` of a thread's keys of block `b`, a column a key, with the products of 64 columns from `column` on.
fn scored(s: mat4x4<f32>, thread: u32, b: u32, column: u32) -> mat4x4<f32> {
    workgroupBarrier();
    for (var i = thread; i < SIDE * 16u; i += TEAMS * SPAN) {
        block[i / 16u * PITCH + i % 16u] = four_of_k(keys_at[b * SIDE + i / 16u], column + 4u * (i % 16u));
    }
    workgroupBarrier();
    let steps = (min(SIDE, p.d - column) + 3u) / 4u;
    let rows = thread / SPAN * SIDE;
    let own = thread % SPAN;
    var one = s[0];
    var two = s[1];
    var three = s[2];
    var four = s[3];
    for (var c = 0u; c < steps; c++) {
        one = dots(one, rows + 4u * c, block[own * PITCH + c]);
        if share() > 1u {
            two = dots(two, rows + 4u * c, block[(own + SPAN) * PITCH + c]);
        }
        if share() > 2u {
            three = dots(three, rows + 4u * c, block[(own + 2u * SPAN) * PITCH + c]);
            four = dots(four, rows + 4u * c, block[(own + 3u * SPAN) * PITCH + c]);
        }
    }
    return mat4x4(one, two, three, four);
}

// Scores out of products: of a thread's keys of a block, the first of them `key`.
fn adjusted_all(s: mat4x4<f32>, own: Own, four: Four, key: u32, seen: vec2<u32>) -> mat4x4<f32> {
    var scores = mat4x4(vec4(HIDDEN), vec4(HIDDEN), vec4(HIDDEN), vec4(HIDDEN));
    let products = s;
    for (var i = 0u; i < share(); i++) {
        let one = key + i * SPAN;
        if one >= seen.x && one < seen.y {
            scores[i] = score_of(own, four, one, products[i]);
        }
    }
    return scores;
}

fn largest_of(s: mat4x4<f32>) -> vec4<f32> {
    return max(max(s[0], s[1]), max(s[2], s[3]));
}

fn weights_of(s: mat4x4<f32>, top: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(weight_of(s[0], top), weight_of(s[1], top), weight_of(s[2], top), weight_of(s[3], top));
}

// Values so far, a column of the result a column, and those of block `b` with the weights `w`.
fn weighted(values: mat4x4<f32>, w: mat4x4<f32>, thread: u32, b: u32, column: u32) -> mat4x4<f32> {
    let rows = thread / SPAN * SIDE;
    let own = thread % SPAN;
    workgroupBarrier();
    left[rows + own] = w[0];
    if share() > 1u {
        left[rows + own + SPAN] = w[1];
    }
    if share() > 2u {
        left[rows + own + 2u * SPAN] = w[2];
        left[rows + own + 3u * SPAN] = w[3];
    }
    for (var i = thread; i < SIDE * 16u; i += TEAMS * SPAN) {
        block[i / 16u * PITCH + i % 16u] = four_of_v(values_at[b * SIDE + i / 16u], column + 4u * (i % 16u));
    }
    workgroupBarrier();
    var one = values[0];
    var two = values[1];
    var three = values[2];
    var four = values[3];
    let at = own * share() / 4u;
    let is_second = own * share() % 4u == 2u;
    for (var j = 0u; j < SIDE; j++) {
        let weight = left[rows + j];
        let x = block[j * PITCH + at];
        let pair = select(x.xy, x.zw, is_second);
        one = fma(weight, vec4(pair.x), one);
        two = fma(weight, vec4(pair.y), two);
        if share() > 2u {
            three = fma(weight, vec4(x.z), three);
            four = fma(weight, vec4(x.w), four);
        }
    }
    return mat4x4(one, two, three, four);
}

@compute @workgroup_size(TEAMS * SPAN)
fn attention_tiled(
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
    let rows = 4u * TEAMS;
    let per_tile = (p.tile + rows - 1u) / rows;
    let tile = p.first + index / chunks / per_tile;
    let tile_row = (index / chunks) % per_tile * rows;
    let own = own_of(thread, tile, tile_row);
    if own.row >= own.rows {
        return;
    }
    let stored = min(min(own.rows - own.row, p.tile - tile_row), rows);
    let first = chunk * CHUNK;
    var seen = seen_by(own, own.row / p.group, (own.row + stored - 1u) / p.group);
    seen = vec2(max(seen.x, first), min(seen.y, first + CHUNK));
    let team = thread / SPAN;
    let place_in_team = thread % SPAN;
    // Rows beyond those stored repeat the last.
    let own_row = min(4u * team, (stored - 1u) / 4u * 4u);
    let four = four_of(own, own.row + own_row);
    let own_stored = select(0u, min(4u, stored - own_row), own_row == 4u * team);
    // Blocks of the chunk that hold keys which are seen.
    let from_block = (max(seen.x, first) - first) / SIDE;
    let to_block = select(0u, (seen.y - first + SIDE - 1u) / SIDE, seen.x < seen.y);

    // Of each block, the scores of this thread's keys, then their weights.
    var s0 = mat4x4<f32>();
    var s1 = mat4x4<f32>();
    var s2 = mat4x4<f32>();
    var s3 = mat4x4<f32>();
    var top = vec4(LOWEST);
    var sum = vec4(0.0);
    let sees = vec4(0u, 1u, 2u, 3u) >= vec4(from_block) & vec4(0u, 1u, 2u, 3u) < vec4(to_block);
    if to_block > 0u {
        find_keys(own, thread, first, seen);
        for (var column = 0u; column < p.d; column += SIDE) {
            workgroupBarrier();
            for (var c = place_in_team; c < SIDE; c += SPAN) {
                left[team * SIDE + c] = vec4(0.0);
                if column + c < p.d {
                    left[team * SIDE + c] = query_of(own, four, column + c);
                }
            }
            if sees.x {
                s0 = scored(s0, thread, 0u, column);
            }
            if sees.y {
                s1 = scored(s1, thread, 1u, column);
            }
            if sees.z {
                s2 = scored(s2, thread, 2u, column);
            }
            if sees.w {
                s3 = scored(s3, thread, 3u, column);
            }
        }
        let key = first + place_in_team;
        s0 = adjusted_all(s0, own, four, key, seen);
        s1 = adjusted_all(s1, own, four, key + SIDE, seen);
        s2 = adjusted_all(s2, own, four, key + 2u * SIDE, seen);
        s3 = adjusted_all(s3, own, four, key + 3u * SIDE, seen);
        top = max(max(largest_of(s0), largest_of(s1)), max(largest_of(s2), largest_of(s3)));
        top = merge(thread, max(top, vec4(LOWEST)), true);
        s0 = weights_of(s0, top);
        s1 = weights_of(s1, top);
        s2 = weights_of(s2, top);
        s3 = weights_of(s3, top);
        // Lanes of four keys that lie 64 apart; the first steps of their tree are this thread's own.
        let lanes = s0 + s1 + s2 + s3;
        sum = merge(thread, (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]), false);
    }
    let result = result_of(own, four, top, sum);
    if place_in_team < own_stored {
        put_sums(own, four, tile, tile_row + own_row, chunk, place_in_team, result);
    }
    for (var column = 0u; column < p.dv; column += SIDE) {
        var values = mat4x4<f32>();
        if sees.x {
            values = weighted(values, s0, thread, 0u, column);
        }
        if sees.y {
            values = weighted(values, s1, thread, 1u, column);
        }
        if sees.z {
            values = weighted(values, s2, thread, 2u, column);
        }
        if sees.w {
            values = weighted(values, s3, thread, 3u, column);
        }
        let c = column + share() * place_in_team;
        for (var r = 0u; r < own_stored && c < p.dv; r++) {
            let x = vec4(values[0][r], values[1][r], values[2][r], values[3][r]);
            let count = min(share(), p.dv - c);
            put_weighted(own, four, tile, tile_row + own_row, chunk, r, c, x, count, result);
        }
    }
}
