// Before the kernels that fold rows. A workgroup folds a row, pass by pass and chunk by chunk, left to right; a chunk in
// 64 lanes, then by a tree. What is folded are pairs of words, what is kept of a row four. They say where a row
// begins (`begin`), what it starts with (`start`) and a pass in a lane (`neutral`), how an element is taken in (`take`), how
// two lanes' pairs are one (`merge`), how a chunk's joins what is kept (`join`), and what becomes of that (`keep`).

var<workgroup> lanes: array<vec2<u32>, LANES>;

// All lanes' pairs as one. Every lane must call it.
fn merge_lanes(lane: u32, own: vec2<u32>, number: u32) -> vec2<u32> {
    lanes[lane] = own;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        if lane < step {
            lanes[lane] = merge(lanes[lane], lanes[lane + step], number);
        }
        workgroupBarrier();
    }
    let whole = lanes[0];
    workgroupBarrier();
    return whole;
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
    let row = p.rows.first + slot;
    let at = begin(row);
    var kept = start();
    if p.rows.fold_from > 0u {
        kept = stats[slot];
    }
    for (var link = p.rows.fold_from; link < p.rows.fold_to; link++) {
        let number = link / p.rows.chunks;
        let first = (link % p.rows.chunks) * p.rows.chunk;
        let end = first + select(p.rows.chunk, p.rows.n - first, p.rows.n - first < p.rows.chunk);
        var own = neutral(number);
        for (var i = first + lane; i < end; i += LANES) {
            own = take(own, kept, number, at, i);
        }
        kept = join(kept, merge_lanes(lane, own, number), number);
    }
    if lane == 0u {
        keep(slot, row, kept);
    }
}
