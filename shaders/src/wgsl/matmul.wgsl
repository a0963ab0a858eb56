// matmul: an invocation keeps 4 by 4 outputs in registers, a workgroup 32 by 32, without shared memory: software
// adapters lose by it. Each output is one chain of fused multiply-adds along k, so that a cut of k changes no bit.

override KIND: u32 = 0u;

// Rows and columns of a workgroup.
const SIDE: u32 = 32u;

const HAS_BIAS: u32 = 1u;
const HAS_GATE: u32 = 2u;
const HAS_RESIDUAL: u32 = 4u;
const LAST: u32 = 8u;

// Strides of views: four of the batch, then the two of the matrix.
struct Params {
    m: u32,
    n: u32,
    // k from `from` to `to`.
    from_k: u32,
    to_k: u32,
    // Sides of a tile of the plan, and tiles along n and in a batch entry.
    tile_m: u32,
    tile_n: u32,
    tiles_n: u32,
    tiles_mn: u32,
    // First tile, and workgroups in all.
    first: u32,
    workgroups: u32,
    flags: u32,
    activation: u32,
    alpha: f32,
    unused_a: u32,
    unused_b: u32,
    unused_c: u32,
    batch: vec4<u32>,
    a: View,
    b: View,
    bias: View,
    gate: View,
    residual: View,
    out: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<u32>;
@group(0) @binding(2) var<storage, read_write> b: array<u32>;
@group(0) @binding(3) var<storage, read_write> bias: array<u32>;
@group(0) @binding(4) var<storage, read_write> gate: array<u32>;
@group(0) @binding(5) var<storage, read_write> residual: array<u32>;
@group(0) @binding(6) var<storage, read_write> out: array<u32>;
@group(0) @binding(7) var<storage, read_write> out_parts: array<atomic<u32>>;
// Sums of one tile that is cut along k.
@group(0) @binding(8) var<storage, read_write> state: array<f32>;

fn load_a(e: u32) -> f32 {
    return widen(KIND, a[word_of(KIND, e)], e);
}

fn load_b(e: u32) -> f32 {
    return widen(KIND, b[word_of(KIND, e)], e);
}

fn activated(x: f32) -> f32 {
    switch p.activation {
        case 1u: { return relu_of(x); }
        case 2u: { return gelu_erf_of(x); }
        case 3u: { return gelu_tanh_of(x); }
        case 4u: { return silu_of(x); }
        default: { return x; }
    }
}

fn epilogue(sum: f32, entry: vec4<u32>, row: u32, column: u32) -> u32 {
    let place = vec2(row, column);
    var v = p.alpha * sum;
    if (p.flags & HAS_BIAS) != 0u {
        let e = offset_of(p.bias.base, p.bias.strides[0], p.bias.strides[1].xy, entry, place);
        v += widen(p.bias.kind, bias[word_of(p.bias.kind, e)], e);
    }
    v = activated(v);
    if (p.flags & HAS_GATE) != 0u {
        let e = offset_of(p.gate.base, p.gate.strides[0], p.gate.strides[1].xy, entry, place);
        v *= widen(p.gate.kind, gate[word_of(p.gate.kind, e)], e);
    }
    if (p.flags & HAS_RESIDUAL) != 0u {
        let r = offset_of(p.residual.base, p.residual.strides[0], p.residual.strides[1].xy, entry, place);
        v += widen(p.residual.kind, residual[word_of(p.residual.kind, r)], r);
    }
    return narrow(p.out.kind, v);
}

fn offset_of(base: u32, batch: vec4<u32>, matrix: vec2<u32>, entry: vec4<u32>, place: vec2<u32>) -> u32 {
    let e = batch * entry;
    let q = matrix * place;
    return base + e.x + e.y + e.z + e.w + q.x + q.y;
}

fn entry_of(index: u32) -> vec4<u32> {
    let w = index % p.batch.w;
    let to_z = index / p.batch.w;
    let to_y = to_z / p.batch.z;
    return vec4(to_y / p.batch.y, to_y % p.batch.y, to_z % p.batch.z, w);
}

fn store_row(sums: vec4<f32>, entry: vec4<u32>, row: u32, column: u32) {
    if row >= p.m {
        return;
    }
    let step = p.out.strides[1].y;
    let e = offset_of(p.out.base, p.out.strides[0], p.out.strides[1].xy, entry, vec2(row, column));
    if column + 3u < p.n && (e & 1u) == 0u {
        put_pair_out(
            vec2(e, e + step),
            vec2(epilogue(sums.x, entry, row, column), epilogue(sums.y, entry, row, column + 1u)),
        );
        put_pair_out(
            vec2(e + 2u * step, e + 3u * step),
            vec2(epilogue(sums.z, entry, row, column + 2u), epilogue(sums.w, entry, row, column + 3u)),
        );
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        if column + i < p.n {
            put_out(e + i * step, epilogue(sums[i], entry, row, column + i));
        }
    }
}

@compute @workgroup_size(64)
fn matmul(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup.y * workgroups.x + workgroup.x;
    if index >= p.workgroups {
        return;
    }
    let across = p.tile_n / SIDE;
    let per_tile = (p.tile_m / SIDE) * across;
    let tile = p.first + index / per_tile;
    let part = index % per_tile;
    let within = tile % p.tiles_mn;
    let entry = entry_of(tile / p.tiles_mn);
    // Row and column in the tile, then in the matrix.
    let tile_row = (part / across) * SIDE + (lane / 8u) * 4u;
    let tile_column = (part % across) * SIDE + (lane % 8u) * 4u;
    let row = (within / p.tiles_n) * p.tile_m + tile_row;
    let column = (within % p.tiles_n) * p.tile_n + tile_column;
    if row >= p.m || column >= p.n {
        return;
    }
    // Beyond the edge the last row or column is read again and not stored.
    let rows = min(vec4(row) + vec4(0u, 1u, 2u, 3u), vec4(p.m - 1u));
    let columns = min(vec4(column) + vec4(0u, 1u, 2u, 3u), vec4(p.n - 1u));
    let a_start = offset_of(p.a.base, p.a.strides[0], p.a.strides[1].xy, entry, vec2(0u, p.from_k));
    let b_start = offset_of(p.b.base, p.b.strides[0], p.b.strides[1].xy, entry, vec2(p.from_k, 0u));
    var at_a = vec4(a_start) + rows * p.a.strides[1].x;
    var at_b = vec4(b_start) + columns * p.b.strides[1].y;
    let step_a = p.a.strides[1].y;
    let step_b = p.b.strides[1].x;
    var s0 = vec4(0.0);
    var s1 = vec4(0.0);
    var s2 = vec4(0.0);
    var s3 = vec4(0.0);
    let kept = tile_row * p.tile_n + tile_column;
    if p.from_k > 0u {
        for (var i = 0u; i < 4u; i++) {
            s0[i] = state[kept + i];
            s1[i] = state[kept + p.tile_n + i];
            s2[i] = state[kept + 2u * p.tile_n + i];
            s3[i] = state[kept + 3u * p.tile_n + i];
        }
    }
    for (var k = p.from_k; k < p.to_k; k++) {
        let y = vec4(load_b(at_b.x), load_b(at_b.y), load_b(at_b.z), load_b(at_b.w));
        s0 = fma(vec4(load_a(at_a.x)), y, s0);
        s1 = fma(vec4(load_a(at_a.y)), y, s1);
        s2 = fma(vec4(load_a(at_a.z)), y, s2);
        s3 = fma(vec4(load_a(at_a.w)), y, s3);
        at_a += step_a;
        at_b += step_b;
    }
    if (p.flags & LAST) == 0u {
        for (var i = 0u; i < 4u; i++) {
            state[kept + i] = s0[i];
            state[kept + p.tile_n + i] = s1[i];
            state[kept + 2u * p.tile_n + i] = s2[i];
            state[kept + 3u * p.tile_n + i] = s3[i];
        }
        return;
    }
    store_row(s0, entry, row, column);
    store_row(s1, entry, row + 1u, column);
    store_row(s2, entry, row + 2u, column);
    store_row(s3, entry, row + 3u, column);
}
