// arg_max: statistics are the largest key of the elements so far, and the first place that has it. Keys are integers
// that order as IEEE 754's total order does.

struct Params {
    rows: Rows,
    x: View,
    index: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> index: array<u32>;
@group(0) @binding(3) var<storage, read_write> stats: array<u32>;

// Whether the merge under way takes the larger; the same in all lanes.
var<private> is_max: bool;

fn merge_two(a: u32, b: u32) -> u32 {
    return select(min(a, b), max(a, b), is_max);
}

// Where a row begins in x and in index.
fn locate(row: u32) -> vec2<u32> {
    var rest = row;
    var at = vec2(p.x.base, p.index.base);
    for (var axis = p.rows.rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let size = p.rows.shape[a / 4u][a % 4u];
        let c = rest % size;
        rest /= size;
        at += c * vec2(p.x.strides[a / 4u][a % 4u], p.index.strides[a / 4u][a % 4u]);
    }
    return at;
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
    let at = locate(p.rows.first + slot);
    let stride = p.x.strides[1].w;
    var best = 0u;
    var place = 0u;
    if p.rows.fold_from > 0u {
        best = stats[2u * slot];
        place = stats[2u * slot + 1u];
    }
    for (var chunk = p.rows.fold_from; chunk < p.rows.fold_to; chunk++) {
        let from_column = chunk * p.rows.chunk;
        let to_column = min(p.rows.n, from_column + p.rows.chunk);
        var own = 0u;
        var own_place = NOWHERE;
        for (var i = from_column + lane; i < to_column; i += LANES) {
            let e = at.x + i * stride;
            let key = total_key(p.x.kind, bits_of(p.x.kind, x[word_of(p.x.kind, e)], e));
            if own_place == NOWHERE || key > own {
                own = key;
                own_place = i;
            }
        }
        is_max = true;
        let top = merge(lane, own);
        is_max = false;
        let first = merge(lane, select(NOWHERE, own_place, own == top));
        // The first of equals came before.
        if chunk == 0u || top > best {
            best = top;
            place = first;
        }
    }
    if lane == 0u {
        if p.rows.fold_to == p.rows.chunks {
            index[at.y] = place;
        } else {
            stats[2u * slot] = best;
            stats[2u * slot + 1u] = place;
        }
    }
}
