// matmul: an invocation keeps 4 by 4 outputs in registers, a workgroup 32 by 32, without shared memory: software
// adapters lose by it. Each output is one chain of fused multiply-adds along k, so that a cut of k changes no bit.
// Values of 8 bits are summed by runs of 128 along k, exactly where they are integers; each run joins the whole sum.

const RUN: u32 = 128u;
// Most groups whose sizes lie in device memory.
const COUNTED: u32 = 1024u;

@group(0) @binding(1) var<storage, read_write> a: array<u32>;
@group(0) @binding(2) var<storage, read_write> b: array<u32>;

var<workgroup> counted: array<u32, COUNTED>;

// Reads every size in device memory once, so that all tiles of a launch agree on them.
@compute @workgroup_size(64)
fn count(@builtin(local_invocation_index) lane: u32) {
    for (var i = lane; i < p.groups; i += 64u) {
        let size = sizes[p.sizes.x + i * p.sizes.y];
        if size > p.max_size {
            report(size, p.max_size + 1u);
        }
        counted[i] = min(size, p.max_size);
    }
    workgroupBarrier();
    if lane > 0u {
        return;
    }
    var first = 0u;
    var tile = 0u;
    let of_none = select(0u, 1u, p.group == CONTIGUOUS);
    for (var i = 0u; i < p.groups + of_none; i++) {
        var size = p.room - first;
        if i < p.groups {
            size = min(size, counted[i]);
        }
        made[3u * i] = first;
        made[3u * i + 1u] = size;
        made[3u * i + 2u] = tile;
        if p.group != MASKED {
            first += size;
        }
        tile += (size + p.tile_m - 1u) / p.tile_m;
    }
}

// The 4 by 4 outputs of an invocation: where they begin in the tile and in the matrix.
struct Block {
    tile: Tile,
    tile_row: u32,
    tile_column: u32,
    row: u32,
    column: u32,
    inside: bool,
}

fn block_of(index: u32, lane: u32) -> Block {
    let side_m = 4u * (64u / p.across);
    let side_n = 4u * p.across;
    let across = p.tile_n / side_n;
    let per_tile = (p.tile_m / side_m) * across;
    let tile = tile_of(p.first + index / per_tile, lane);
    let part = index % per_tile;
    let row = (part / across) * side_m + (lane / p.across) * 4u;
    let column = (part % across) * side_n + (lane % p.across) * 4u;
    let first = ((p.first + index / per_tile) % p.tiles_n) * p.tile_n;
    let inside = tile.row + row < tile.end && first + column < p.n;
    return Block(tile, row, column, tile.row + row, first + column, inside);
}

fn load_a(e: u32) -> f32 {
    return widen(KIND, a[word_of(KIND, e)], e);
}

fn load_b(e: u32) -> f32 {
    return widen(KIND, b[word_of(KIND, e)], e);
}

// Of 8 bits, a and b may have two kinds.
fn load_b_byte(e: u32) -> f32 {
    return widen(p.b.kind, b[e >> 2u], e);
}

// Where a and b begin, and the steps of four rows and four columns. Beyond the edge the last row or column is read again
// and not stored.
struct Reach {
    a: vec4<u32>,
    b: vec4<u32>,
}

fn reach(block: Block, k: u32) -> Reach {
    let tile = block.tile;
    let rows = min(vec4(block.row) + vec4(0u, 1u, 2u, 3u), vec4(tile.end - 1u));
    let columns = min(vec4(block.column) + vec4(0u, 1u, 2u, 3u), vec4(p.n - 1u));
    let at = tile.first_k + k;
    let a_start = offset_of(p.a.base, p.a.strides[0], p.a.strides[1].xy, tile.a, vec2(0u, at));
    let b_start = offset_of(p.b.base, p.b.strides[0], p.b.strides[1].xy, tile.b, vec2(at, 0u));
    return Reach(a_start + rows * p.a.strides[1].x, b_start + columns * p.b.strides[1].y);
}

fn kept(block: Block, row: u32, column: u32) -> u32 {
    return (block.tile_row + row) * p.tile_n + block.tile_column + column;
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
    let block = block_of(index, lane);
    var s0 = vec4(0.0);
    var s1 = vec4(0.0);
    var s2 = vec4(0.0);
    var s3 = vec4(0.0);
    if block.inside {
        if p.from_k > 0u {
            for (var i = 0u; i < 4u; i++) {
                s0[i] = bitcast<f32>(state[kept(block, 0u, i)]);
                s1[i] = bitcast<f32>(state[kept(block, 1u, i)]);
                s2[i] = bitcast<f32>(state[kept(block, 2u, i)]);
                s3[i] = bitcast<f32>(state[kept(block, 3u, i)]);
            }
        }
        let to_k = select(0u, min(p.to_k, block.tile.size_k), block.row < block.tile.owned);
        let at = reach(block, p.from_k);
        var at_a = at.a;
        var at_b = at.b;
        let step_a = p.a.strides[1].y;
        let step_b = p.b.strides[1].x;
        for (var k = p.from_k; k < to_k; k++) {
            let y = vec4(load_b(at_b.x), load_b(at_b.y), load_b(at_b.z), load_b(at_b.w));
            s0 = fma(vec4(load_a(at_a.x)), y, s0);
            s1 = fma(vec4(load_a(at_a.y)), y, s1);
            s2 = fma(vec4(load_a(at_a.z)), y, s2);
            s3 = fma(vec4(load_a(at_a.w)), y, s3);
            at_a += step_a;
            at_b += step_b;
        }
        if !has(LAST) {
            for (var i = 0u; i < 4u; i++) {
                state[kept(block, 0u, i)] = bitcast<u32>(s0[i]);
                state[kept(block, 1u, i)] = bitcast<u32>(s1[i]);
                state[kept(block, 2u, i)] = bitcast<u32>(s2[i]);
                state[kept(block, 3u, i)] = bitcast<u32>(s3[i]);
            }
        }
    }
    if has(LAST) {
        finish(array(s0, s1, s2, s3), block, lane);
    }
}

// A sum and a run of it: of integers without scales along k they are integers.
fn joined(sum: u32, run: f32, factor: f32, is_whole: bool) -> u32 {
    if is_whole {
        return sum + bitcast<u32>(i32(run));
    }
    return bitcast<u32>(fma(run, factor, bitcast<f32>(sum)));
}

@compute @workgroup_size(64)
fn bytes(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup.y * workgroups.x + workgroup.x;
    if index >= p.workgroups {
        return;
    }
    let block = block_of(index, lane);
    let is_whole = KIND == I8 && !has(A_BY_K) && !has(B_BY_K);
    var sums: array<vec4<u32>, 4>;
    if block.inside {
        if p.from_k > 0u {
            for (var r = 0u; r < 4u; r++) {
                for (var i = 0u; i < 4u; i++) {
                    sums[r][i] = state[kept(block, r, i)];
                }
            }
        }
        let to_k = select(0u, min(p.to_k, block.tile.size_k), block.row < block.tile.owned);
        let step_a = p.a.strides[1].y;
        let step_b = p.b.strides[1].x;
        for (var first = p.from_k; first < to_k; first += RUN) {
            let at = reach(block, first);
            var at_a = at.a;
            var at_b = at.b;
            var part: array<vec4<f32>, 4>;
            for (var k = first; k < min(first + RUN, to_k); k++) {
                let y = vec4(
                    load_b_byte(at_b.x), load_b_byte(at_b.y), load_b_byte(at_b.z), load_b_byte(at_b.w),
                );
                part[0] = fma(vec4(load_a(at_a.x)), y, part[0]);
                part[1] = fma(vec4(load_a(at_a.y)), y, part[1]);
                part[2] = fma(vec4(load_a(at_a.z)), y, part[2]);
                part[3] = fma(vec4(load_a(at_a.w)), y, part[3]);
                at_a += step_a;
                at_b += step_b;
            }
            let run = first / RUN;
            for (var r = 0u; r < 4u; r++) {
                for (var i = 0u; i < 4u; i++) {
                    var factor = 1.0;
                    if has(A_BY_K) {
                        factor = scale_of_a(block.tile.a, min(block.row + r, block.tile.end - 1u), run);
                    }
                    if has(B_BY_K) {
                        factor *= scale_of_b(block.tile.b, min(block.column + i, p.n - 1u), run);
                    }
                    sums[r][i] = joined(sums[r][i], part[r][i], factor, is_whole);
                }
            }
        }
        if !has(LAST) {
            for (var r = 0u; r < 4u; r++) {
                for (var i = 0u; i < 4u; i++) {
                    state[kept(block, r, i)] = sums[r][i];
                }
            }
        }
    }
    if has(LAST) {
        var floats: array<vec4<f32>, 4>;
        for (var r = 0u; r < 4u; r++) {
            floats[r] = select(
                bitcast<vec4<f32>>(sums[r]),
                vec4<f32>(bitcast<vec4<i32>>(sums[r])),
                is_whole,
            );
        }
        finish(floats, block, lane);
    }
}

// Magnitudes of the rows of a workgroup whose scales are found.
var<workgroup> most: array<atomic<u32>, 8>;

// Everything after the sums. Every lane must call it.
fn finish(sums: array<vec4<f32>, 4>, block: Block, lane: u32) {
    let tile = block.tile;
    var y: array<vec4<f32>, 4>;
    for (var r = 0u; r < 4u; r++) {
        if block.inside && block.row + r < tile.end {
            y[r] = results(sums[r], tile, block.row + r, block.column);
        }
    }
    var scales = vec4(0.0);
    if has(SCALE_GIVEN) {
        scales = vec4(scale_out[p.scale_out]);
    }
    if has(SCALE_FOUND) {
        if lane < 8u {
            atomicStore(&most[lane], 0u);
        }
        workgroupBarrier();
        let first = (lane / p.across) * 4u;
        for (var r = 0u; r < 4u; r++) {
            let size = max(max(abs(y[r].x), abs(y[r].y)), max(abs(y[r].z), abs(y[r].w)));
            atomicMax(&most[first + r], bitcast<u32>(size));
        }
        workgroupBarrier();
        for (var r = 0u; r < 4u; r++) {
            scales[r] = bitcast<f32>(atomicLoad(&most[first + r])) / p.largest;
            if block.inside && block.row + r < tile.end && lane % p.across == 0u {
                let place = vec2(block.row + r, block.column / (4u * p.across));
                let v = p.out_scale.strides;
                out_scale[offset_of(p.out_scale.base, v[0], v[1].xy, tile.out, place)] = scales[r];
            }
        }
    }
    for (var r = 0u; r < 4u; r++) {
        if block.inside && block.row + r < tile.end {
            store_row(y[r], scales[r], tile, block.row + r, block.column);
        }
    }
}
