// rope: each pair turns by the angle of its position. Angles are fractions of a turn, so that the product of a position
// and a frequency, modulo 2^64, is exact however far the position.

struct Params {
    // Batch, heads, rows, columns.
    range: Range,
    dims: u32,
    interleaved: u32,
    unused_a: u32,
    unused_b: u32,
    x: View,
    // Strides along batch and rows alone.
    position: View,
    out: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> position: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;
@group(0) @binding(4) var<storage, read_write> out_parts: array<atomic<u32>>;
// Turns of each pair a position, in 2^-64: low word, high word.
@group(0) @binding(5) var<storage, read_write> made: array<u32>;

fn place(base: u32, strides: vec4<u32>, at: vec4<u32>) -> u32 {
    let e = strides * at;
    return base + e.x + e.y + e.z + e.w;
}

// The upper word of a product.
fn multiply_high(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let cross = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (cross & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (cross >> 16u) + (other >> 16u);
}

// Sine and cosine of `turn / 2^32` turns: the nearest quarter apart, Cephes (sinf, cosf) on the rest.
fn sine_cosine(turn: u32) -> vec2<f32> {
    let quarter = (turn + 0x20000000u) >> 30u;
    let r = f32(bitcast<i32>(turn - (quarter << 30u))) * 1.4629180792671596e-9;
    let z = r * r;
    var s = -1.9515296e-4;
    s = fma(s, z, 8.332161e-3);
    s = fma(s, z, -1.6666655e-1);
    let sine = fma(s * z, r, r);
    var c = 2.4433157e-5;
    c = fma(c, z, -1.3887316e-3);
    c = fma(c, z, 4.1666646e-2);
    let cosine = fma(c, z * z, fma(z, -0.5, 1.0));
    let turned = select(vec2(sine, cosine), vec2(cosine, sine), (quarter & 1u) == 1u);
    let signs = (vec2(quarter, quarter + 1u) & vec2(2u)) << vec2(30u);
    return bitcast<vec2<f32>>(bitcast<vec2<u32>>(turned) ^ signs);
}

// The angle of pair `k` at a position, in 2^-32 of a turn.
fn angle(at: u32, k: u32) -> u32 {
    let word = position[at];
    let low = made[2u * k];
    var turn = multiply_high(word, low) + word * made[2u * k + 1u];
    if p.position.kind == I32 && (word >> 31u) == 1u {
        turn -= low;
    }
    return turn + ((word * low) >> 31u);
}

fn load(e: u32) -> f32 {
    return widen(p.x.kind, x[word_of(p.x.kind, e)], e);
}

// Element `i`: its place in out and its bits.
fn element(i: u32) -> vec2<u32> {
    let shape = p.range.shape[0];
    let row = i / shape.w;
    let head = row / shape.z;
    let c = i % shape.w;
    let at = vec4(head / shape.y, head % shape.y, row % shape.z, c);
    let to = place(p.out.base, p.out.strides[0], at);
    let source = place(p.x.base, p.x.strides[0], at);
    if c >= p.dims {
        return vec2(to, narrow(p.out.kind, load(source)));
    }
    // The other of the pair lies `apart` elements further, or before.
    let apart = select(p.dims / 2u, 1u, p.interleaved == 1u);
    let k = select(c % max(apart, 1u), c / 2u, p.interleaved == 1u);
    let is_first = select(c < apart, (c & 1u) == 0u, p.interleaved == 1u);
    let step = apart * p.x.strides[0].w;
    let own = load(source);
    let other = load(select(source - step, source + step, is_first));
    let turn = sine_cosine(angle(place(p.position.base, p.position.strides[0], at), k));
    let y = own * turn.y + select(other, -other, is_first) * turn.x;
    return vec2(to, narrow(p.out.kind, y));
}

@compute @workgroup_size(256)
fn rope(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = invocation(workgroup, workgroups, lane);
    write_neighbours(p.range.first - p.range.phase, own, p.range.first, p.range.count);
}
