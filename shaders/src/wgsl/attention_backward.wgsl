// attention_backward: `queries` gives d_q, `keys` gives d_k and d_v. Each takes 4 rows of its own side and goes over those of
// the other that see them, or are seen, in chunks of 64, left to right: a lane weighs one of them, then owns up to 4
// columns of the sums. Four rows are the four components of a vector. The sides are alike: a query has its row of q and
// of d_out, a key those of k and v. `batch` has the entries.

override KIND: u32 = 0u;

const ROWS: u32 = 4u;
const CHUNK: u32 = 64u;

// Strides of views: batch, head, row, column.
struct Params {
    heads: u32,
    // Query heads per key head.
    group: u32,
    // Rows of q and of k.
    rows: u32,
    room: u32,
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
    // Batch entries; where rows are packed, one more of those that none owns.
    batch: u32,
    softcap: f32,
    // Keys seen before and after the row's own.
    left: u32,
    right: u32,
    // The largest counts of an entry in device memory.
    max_rows: u32,
    max_keys: u32,
    unused: u32,
    // Base and stride of operands of one axis.
    alibi: vec2<u32>,
    counts: vec2<u32>,
    lens: vec2<u32>,
    q: View,
    k: View,
    v: View,
    out: View,
    lse: View,
    d_out: View,
    mask: View,
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
@group(0) @binding(7) var<storage, read_write> mask: array<u32>;
@group(0) @binding(8) var<storage, read_write> alibi: array<f32>;
@group(0) @binding(9) var<storage, read_write> rows: array<u32>;
@group(0) @binding(10) var<storage, read_write> lens: array<u32>;
@group(0) @binding(11) var<storage, read_write> d_q: array<u32>;
@group(0) @binding(12) var<storage, read_write> d_q_parts: array<atomic<u32>>;
@group(0) @binding(13) var<storage, read_write> d_k: array<u32>;
@group(0) @binding(14) var<storage, read_write> d_k_parts: array<atomic<u32>>;
@group(0) @binding(15) var<storage, read_write> d_v: array<u32>;
@group(0) @binding(16) var<storage, read_write> d_v_parts: array<atomic<u32>>;
// The table of `batch.wgsl`.
@group(0) @binding(17) var<storage, read_write> made: array<u32>;
// Sums of each row of one tile that is cut.
@group(0) @binding(18) var<storage, read_write> state: array<f32>;
@group(0) @binding(19) var<storage, read_write> fault: array<atomic<u32>>;

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

// The views of a side and elements: of q or k, then of d_out or v.
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

// Four rows, or keys, the same in all lanes.
struct Own {
    // Batch entry of the tensors, and head.
    batch: u32,
    head: u32,
    // The first of the four among those of the entry, and where its sums are kept.
    row: u32,
    kept: u32,
    // How many the entry has, and how many of them others may see, or may see others.
    stored: u32,
    owned: u32,
    // Where those of the entry begin on both sides.
    first: u32,
    first_other: u32,
    // The entry's, by which rows stand among keys.
    queries: u32,
    keys: u32,
}

// Every lane must call it.
fn own_of(is_keys: bool, index: u32, lane: u32) -> Own {
    let heads = select(p.heads, p.heads / p.group, is_keys);
    let per_tile = p.tile / ROWS;
    let tile = p.first + index / per_tile;
    let kept = (index % per_tile) * ROWS;
    let of_head = tile % p.tiles;
    let line = tile / p.tiles;
    let one = entry_of(lane, of_head, line / heads, select(ROW_WORD, KEY_WORD, is_keys), 1u);
    let first = select(vec2(one.first_row, one.first_key), vec2(one.first_key, one.first_row), is_keys);
    // Rows and keys that no entry owns meet nobody.
    let is_owned = one.number < p.batch;
    let counts = select(vec2(0u), vec2(one.rows, one.keys), is_owned);
    let owned = select(counts.x, counts.y, is_keys);
    let rest = select(p.rows, p.room, is_keys) - first.x;
    return Own(
        select(line / heads, 0u, has(PACKED)),
        line % heads,
        (of_head - one.tile) * p.tile + kept,
        kept,
        select(rest, owned, has(PACKED) && is_owned),
        owned,
        first.x,
        first.y,
        counts.x,
        counts.y,
    );
}

// The others that rows or keys from `row` to `last` meet: from, to.
fn met_by(is_keys: bool, own: Own, last: u32) -> vec2<u32> {
    if own.row >= own.owned {
        return vec2(0u);
    }
    let ends = vec2(own.row, min(last, own.owned - 1u));
    if is_keys {
        return seen_between(ends, own.keys, own.queries, p.right, p.left);
    }
    return seen_between(ends, own.queries, own.keys, p.left, p.right);
}

// Scores out of products, how fast they grow with the scaled products, and which of them there are.
struct Scores {
    score: vec4<f32>,
    growth: vec4<f32>,
    seen: vec4<bool>,
}

fn scores_of(own: Own, head: u32, query: vec4<u32>, key: vec4<u32>, dot: vec4<f32>) -> Scores {
    let apart = apart_of(query, key, own.queries, own.keys);
    var score = p.scale * dot;
    var growth = vec4(1.0);
    if p.softcap > 0.0 {
        let x = score / p.softcap;
        let part = vec4(tanh_of(x.x), tanh_of(x.y), tanh_of(x.z), tanh_of(x.w));
        score = p.softcap * part;
        growth = fma(-part, part, growth);
    }
    if has(HAS_ALIBI) {
        score -= alibi[p.alibi.x + head * p.alibi.y] * vec4<f32>(apart.far);
    }
    if has(HAS_MASK) {
        for (var r = 0u; r < ROWS; r++) {
            let e = place(p.mask, vec4(own.batch, head, query[r], key[r]));
            let x = widen(p.mask.kind, mask[word_of(p.mask.kind, e)], e);
            score[r] = select(score[r] + x, HIDDEN, bitcast<u32>(x) == NEGATIVE_INFINITY);
        }
    }
    return Scores(score, growth, apart.near & is_visible(score));
}

// Weights of scores and the gradients of their products; none of those that are not seen, or of rows that saw nothing.
fn weigh(s: Scores, log: vec4<f32>, d_weight: vec4<f32>, mean: vec4<f32>) -> array<vec4<f32>, 2> {
    let seen = s.seen & (bitcast<vec4<u32>>(log) != vec4(NEGATIVE_INFINITY));
    let weight = select(vec4(0.0), exp_of4(s.score - log), seen);
    let slope = p.scale * (weight * (d_weight - mean) * s.growth);
    return array(weight, select(vec4(0.0), slope, seen));
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
    let own = own_of(is_keys, index, lane);
    if own.row >= own.stored {
        return;
    }
    // Rows beyond the edge repeat the last and are not stored.
    let four = min(vec4(own.row) + vec4(0u, 1u, 2u, 3u), vec4(own.stored - 1u));
    let at_four = own.first + four;
    let first = first_view(is_keys);
    let second = second_view(is_keys);
    for (var r = 0u; r < ROWS; r++) {
        let at = vec4(own.batch, own.head, at_four[r], 0u);
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
            means[lane] = mean_of(vec4(own.batch, own.head, at_four[lane], 0u));
        }
        for (var r = 0u; r < ROWS; r++) {
            logs[r] = lse[place(p.lse, vec4(own.batch, own.head, at_four[r], 0u))];
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
    let met = met_by(is_keys, own, four.w);
    // A key goes over the heads of its group, each in chunks of rows.
    let to_chunk = min(p.to_chunk, select(1u, p.group, is_keys) * p.chunks);
    for (var chunk = p.from_chunk; chunk < to_chunk; chunk++) {
        let head = select(own.head / p.group, own.head * p.group + chunk / p.chunks, is_keys);
        let start = (chunk % p.chunks) * CHUNK;
        let low = max(met.x, start);
        let high = min(met.y, start + CHUNK);
        if low >= high {
            continue;
        }
        let row = start + lane;
        if row >= low && row < high {
            let at = vec4(own.batch, head, own.first_other + row, 0u);
            let product = products(!is_keys, at);
            var both: array<vec4<f32>, 2>;
            if is_keys {
                let scores = scores_of(own, head, vec4(row), four, product[0]);
                both = weigh(scores, vec4(lse[place(p.lse, at)]), product[1], vec4(mean_of(at)));
            } else {
                let scores = scores_of(own, own.head, four, vec4(row), product[0]);
                both = weigh(scores, logs, product[1], mean);
            }
            weights[lane] = both[0];
            slopes[lane] = both[1];
        }
        workgroupBarrier();
        let of_other = first_view(!is_keys);
        for (var c = lane; c < p.d; c += CHUNK) {
            var e = place(of_other, vec4(own.batch, head, own.first_other + low, c));
            var sum = sums[c / CHUNK];
            for (var j = low - start; j < high - start; j++) {
                sum = fma(slopes[j], vec4(first_of(!is_keys, e)), sum);
                e += of_other.strides[0].z;
            }
            sums[c / CHUNK] = sum;
        }
        for (var c = lane; c < width - p.d; c += CHUNK) {
            var e = place(p.d_out, vec4(own.batch, head, own.first_other + low, c));
            var sum = sums[4u + c / CHUNK];
            for (var j = low - start; j < high - start; j++) {
                sum = fma(weights[j], vec4(of_d_out(e)), sum);
                e += p.d_out.strides[0].z;
            }
            sums[4u + c / CHUNK] = sum;
        }
        workgroupBarrier();
    }
    for (var r = 0u; r < ROWS && own.row + r < own.stored; r++) {
        // What meets nobody has no gradient, whatever it holds.
        let is_owned = own.row + r < own.owned;
        let at = vec4(own.batch, own.head, own.first + own.row + r, 0u);
        for (var c = lane; c < p.d; c += CHUNK) {
            let sum = select(0.0, sums[c / CHUNK][r], is_owned);
            if !has(LAST) {
                state[(own.kept + r) * width + c] = sum;
            } else if is_keys {
                put_d_k(place(p.d_k, at) + c * p.d_k.strides[0].w, narrow(p.d_k.kind, sum));
            } else {
                put_d_q(place(p.d_q, at) + c * p.d_q.strides[0].w, narrow(p.d_q.kind, sum));
            }
        }
        for (var c = lane; c < width - p.d; c += CHUNK) {
            let sum = select(0.0, sums[4u + c / CHUNK][r], is_owned);
            if !has(LAST) {
                state[(own.kept + r) * width + p.d + c] = sum;
            } else {
                put_d_v(place(p.d_v, at) + c * p.d_v.strides[0].w, narrow(p.d_v.kind, sum));
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
