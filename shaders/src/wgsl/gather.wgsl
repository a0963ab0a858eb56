// gather: rows of the table by index. An index is read once, compared as unsigned with `rows`, which the host
// wrote, and forms an address only if it is below; else the element is zero and the first such index is kept.

struct Params {
    range: Range,
    rows: u32,
    row_stride: u32,
    unused_a: u32,
    unused_b: u32,
    table: View,
    index: View,
    out: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> table: array<u32>;
@group(0) @binding(2) var<storage, read_write> index: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;
@group(0) @binding(4) var<storage, read_write> out_parts: array<atomic<u32>>;
@group(0) @binding(5) var<storage, read_write> fault: array<atomic<u32>>;

// Where element `i` lies: in a row of the table, in the index, in out.
fn locate(i: u32) -> vec3<u32> {
    var rest = i;
    var at = vec3(p.table.base, p.index.base, p.out.base);
    for (var axis = p.range.rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let size = p.range.shape[a / 4u][a % 4u];
        let c = rest % size;
        rest /= size;
        at += c * vec3(
            p.table.strides[a / 4u][a % 4u],
            p.index.strides[a / 4u][a % 4u],
            p.out.strides[a / 4u][a % 4u],
        );
    }
    return at;
}

fn value(at: vec3<u32>) -> u32 {
    let row = index[at.y];
    if row >= p.rows {
        report(row, p.rows);
        return 0u;
    }
    let e = at.x + row * p.row_stride;
    return bits_of(p.table.kind, table[word_of(p.table.kind, e)], e);
}

// Element `i`: its place in out and its bits.
fn element(i: u32) -> vec2<u32> {
    let at = locate(i);
    return vec2(at.z, value(at));
}

@compute @workgroup_size(256)
fn gather(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = invocation(workgroup, workgroups, lane);
    write_neighbours(p.range.first - p.range.phase, own, p.range.first, p.range.count);
}
