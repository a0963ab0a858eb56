// copy: the bits of each element to the same index of another view.

struct Params {
    range: Range,
    x: View,
    out: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;
@group(0) @binding(3) var<storage, read_write> out_parts: array<atomic<u32>>;

// Where element `i` lies in x and in out.
fn locate(i: u32) -> vec2<u32> {
    var rest = i;
    var at = vec2(p.x.base, p.out.base);
    for (var axis = p.range.rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let size = p.range.shape[a / 4u][a % 4u];
        let c = rest % size;
        rest /= size;
        at += c * vec2(p.x.strides[a / 4u][a % 4u], p.out.strides[a / 4u][a % 4u]);
    }
    return at;
}

fn value(at: u32) -> u32 {
    return bits_of(p.x.kind, x[word_of(p.x.kind, at)], at);
}

// Element `i`: its place in out and its bits.
fn element(i: u32) -> vec2<u32> {
    let at = locate(i);
    return vec2(at.y, value(at.x));
}

@compute @workgroup_size(256)
fn copy(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = invocation(workgroup, workgroups, lane);
    write_neighbours(p.range.first - p.range.phase, own, p.range.first, p.range.count);
}
