// top_k: a workgroup goes over a row and keeps the k largest, in order. Elements that belong among them are gathered;
// when there may be no more room they are sorted together with the kept ones. The result does not hang on the order of
// gathering: no two elements are equal, since each has its place.

struct Params {
    rows: Rows,
    k: u32,
    // Kept elements, a power of two from 128 and at least k; as many may be gathered.
    room: u32,
    unused_a: u32,
    unused_b: u32,
    x: View,
    value: View,
    index: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> value: array<u32>;
@group(0) @binding(3) var<storage, read_write> value_parts: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> index: array<u32>;
// Keys and places of the kept elements of one row that is cut.
@group(0) @binding(5) var<storage, read_write> state: array<u32>;

// The kept elements, largest first, then the gathered ones: key and place. What is empty is below every element.
var<workgroup> found: array<vec2<u32>, 512>;
var<workgroup> gathered: atomic<u32>;

const EMPTY: vec2<u32> = vec2(0u, NOWHERE);

fn is_before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

// Where a row begins in x, value and index.
fn locate(row: u32) -> vec3<u32> {
    var rest = row;
    var at = vec3(p.x.base, p.value.base, p.index.base);
    for (var axis = p.rows.rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let size = p.rows.shape[a / 4u][a % 4u];
        let c = rest % size;
        rest /= size;
        at += c * vec3(
            p.x.strides[a / 4u][a % 4u],
            p.value.strides[a / 4u][a % 4u],
            p.index.strides[a / 4u][a % 4u],
        );
    }
    return at;
}

// Sorts all that was found, largest first (Batcher's bitonic network), and drops what is beyond the room.
fn settle(lane: u32) {
    let size = 2u * p.room;
    workgroupBarrier();
    for (var run = 2u; run <= size; run *= 2u) {
        for (var apart = run / 2u; apart > 0u; apart /= 2u) {
            for (var t = lane; t < p.room; t += LANES) {
                let i = 2u * t - (t & (apart - 1u));
                let a = found[i];
                let b = found[i + apart];
                if is_before(b, a) == ((i & run) == 0u) {
                    found[i] = b;
                    found[i + apart] = a;
                }
            }
            workgroupBarrier();
        }
    }
    for (var t = lane; t < p.room; t += LANES) {
        found[p.room + t] = EMPTY;
    }
    if lane == 0u {
        atomicStore(&gathered, 0u);
    }
    workgroupBarrier();
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
    for (var t = lane; t < 2u * p.room; t += LANES) {
        found[t] = EMPTY;
        if p.rows.fold_from > 0u && t < p.room {
            found[t] = vec2(state[2u * t], state[2u * t + 1u]);
        }
    }
    if lane == 0u {
        atomicStore(&gathered, 0u);
    }
    workgroupBarrier();
    let to_column = min(p.rows.n, p.rows.fold_to * p.rows.chunk);
    for (var first = p.rows.fold_from * p.rows.chunk; first < to_column; first += LANES) {
        let i = first + lane;
        if i < to_column {
            let e = at.x + i * stride;
            let key = total_key(p.x.kind, bits_of(p.x.kind, x[word_of(p.x.kind, e)], e));
            if is_before(vec2(key, i), found[p.k - 1u]) {
                found[p.room + atomicAdd(&gathered, 1u)] = vec2(key, i);
            }
        }
        workgroupBarrier();
        let count = workgroupUniformLoad(&gathered);
        if count + LANES > p.room {
            settle(lane);
        }
    }
    settle(lane);
    let is_last = p.rows.fold_to == p.rows.chunks;
    for (var t = lane; t < p.room; t += LANES) {
        let one = found[t];
        if !is_last {
            state[2u * t] = one.x;
            state[2u * t + 1u] = one.y;
        } else if t < p.k {
            put_value(at.y + t * p.value.strides[1].w, bits_of_total(p.value.kind, one.x));
            index[at.z + t * p.index.strides[1].w] = one.y;
        }
    }
}
