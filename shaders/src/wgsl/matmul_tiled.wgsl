// matmul_tiled: a workgroup stages tiles of a and b in its memory and keeps a square of outputs, an invocation up to 8
// by 8 of them, in blocks of 4 by 4. Each output is the chain of fused multiply-adds along k that `matmul` has, so the
// bits are the same. The next tiles are read while these are multiplied.

// Invocations of a workgroup down and across, blocks of an invocation either way, and elements of k in a tile.
override SIDE: u32 = 16u;
override BLOCKS: u32 = 2u;
override DEPTH: u32 = 16u;
// Rows of a tile, columns of one, and the fours of these and of k.
override ROWS: u32 = 4u * SIDE * BLOCKS;
override FOURS: u32 = SIDE * BLOCKS;
override STEPS: u32 = DEPTH / 4u;
// Eights of a tile that an invocation reads, one or two.
override EIGHTS: u32 = ROWS * DEPTH / (8u * SIDE * SIDE);

struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
}

// What is read beyond the edge, of a and of b: their product is -0, which changes no sum, not even one of -0.
const BEYOND_A: f32 = -0.0;
const BEYOND_B: f32 = 0.0;

fn pair_of(word: u32) -> vec2<f32> {
    if KIND == BF16 {
        return bitcast<vec2<f32>>(vec2(word << 16u, word & 0xffff0000u));
    }
    return vec2(f16_to_f32(word & 0xffffu), f16_to_f32(word >> 16u));
}

fn eight_of(words: vec4<u32>) -> Eight {
    return Eight(
        vec4(pair_of(words.x), pair_of(words.y)),
        vec4(pair_of(words.z), pair_of(words.w)),
    );
}

fn eight_a(run: Run) -> Eight {
    let e = run.first;
    if has(WIDE_A) && run.count >= 8u {
        if KIND == F32 {
            return Eight(bitcast<vec4<f32>>(a[e >> 2u]), bitcast<vec4<f32>>(a[(e >> 2u) + 1u]));
        }
        return eight_of(a[e >> 3u]);
    }
    var eight = Eight(vec4(BEYOND_A), vec4(BEYOND_A));
    for (var i = 0u; i < min(run.count, 8u); i++) {
        let at = e + i * run.step;
        let word = word_of(KIND, at);
        let x = widen(KIND, a[word >> 2u][word & 3u], at);
        if i < 4u {
            eight.low[i] = x;
        } else {
            eight.high[i - 4u] = x;
        }
    }
    return eight;
}

fn eight_b(run: Run) -> Eight {
    let e = run.first;
    if has(WIDE_B) && run.count >= 8u {
        if KIND == F32 {
            return Eight(bitcast<vec4<f32>>(b[e >> 2u]), bitcast<vec4<f32>>(b[(e >> 2u) + 1u]));
        }
        return eight_of(b[e >> 3u]);
    }
    var eight = Eight(vec4(BEYOND_B), vec4(BEYOND_B));
    for (var i = 0u; i < min(run.count, 8u); i++) {
        let at = e + i * run.step;
        let word = word_of(KIND, at);
        let x = widen(KIND, b[word >> 2u][word & 3u], at);
        if i < 4u {
            eight.low[i] = x;
        } else {
            eight.high[i - 4u] = x;
        }
    }
    return eight;
}

// Fours along k: row r lies at (r % 4) * FOURS + r / 4, one four longer than it is, so that neighbours read other
// banks. Fours of rows: as they are, k after k.
var<workgroup> tile_a: array<vec4<f32>, ROWS * (STEPS + 1u)>;
var<workgroup> tile_b: array<vec4<f32>, ROWS * (STEPS + 1u)>;

// Where the eight number `i` begins.
fn slot(along: bool, i: u32) -> u32 {
    if along {
        let row = i / (DEPTH / 8u);
        let line = (row & 3u) * FOURS + (row >> 2u);
        return line * (STEPS + 1u) + i % (DEPTH / 8u) * 2u;
    }
    return i * 2u;
}

fn put_a(eight: Eight, i: u32) {
    let at = slot(ALONG_A, i);
    tile_a[at] = eight.low;
    tile_a[at + 1u] = eight.high;
}

fn put_b(eight: Eight, i: u32) {
    let at = slot(ALONG_B, i);
    tile_b[at] = eight.low;
    tile_b[at + 1u] = eight.high;
}

// Four by four elements, a column a k: number `four` of the rows, `step` of the fours of k.
fn block_a(four: u32, step: u32) -> mat4x4<f32> {
    if ALONG_A {
        let at = four * (STEPS + 1u) + step;
        let line = FOURS * (STEPS + 1u);
        return transpose(mat4x4(tile_a[at], tile_a[at + line], tile_a[at + 2u * line], tile_a[at + 3u * line]));
    }
    let at = 4u * step * FOURS + four;
    return mat4x4(tile_a[at], tile_a[at + FOURS], tile_a[at + 2u * FOURS], tile_a[at + 3u * FOURS]);
}

fn block_b(four: u32, step: u32) -> mat4x4<f32> {
    if ALONG_B {
        let at = four * (STEPS + 1u) + step;
        let line = FOURS * (STEPS + 1u);
        return transpose(mat4x4(tile_b[at], tile_b[at + line], tile_b[at + 2u * line], tile_b[at + 3u * line]));
    }
    let at = 4u * step * FOURS + four;
    return mat4x4(tile_b[at], tile_b[at + FOURS], tile_b[at + 2u * FOURS], tile_b[at + 3u * FOURS]);
}

// A column of four outputs' sums is a row of them: one k.
fn grown(s: mat4x4<f32>, x: vec4<f32>, y: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(
        fma(vec4(x.x), y, s[0]),
        fma(vec4(x.y), y, s[1]),
        fma(vec4(x.z), y, s[2]),
        fma(vec4(x.w), y, s[3]),
    );
}

fn product(s: mat4x4<f32>, x: mat4x4<f32>, y: mat4x4<f32>) -> mat4x4<f32> {
    return grown(grown(grown(grown(s, x[0], y[0]), x[1], y[1]), x[2], y[2]), x[3], y[3]);
}

fn resumed_block(part: Part, row: u32, column: u32) -> mat4x4<f32> {
    return mat4x4(
        resumed(part, row, column),
        resumed(part, row + 1u, column),
        resumed(part, row + 2u, column),
        resumed(part, row + 3u, column),
    );
}

@compute @workgroup_size(SIDE * SIDE)
fn matmul_tiled(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup.y * workgroups.x + workgroup.x;
    if index >= p.workgroups {
        return;
    }
    let part = part_of(index, lane, ROWS, ROWS);
    if part.row >= part.tile.end || part.column >= p.n {
        return;
    }
    let down = lane / SIDE;
    let across = lane % SIDE;
    var s00 = resumed_block(part, 4u * down, 4u * across);
    var s01 = mat4x4<f32>();
    var s10 = mat4x4<f32>();
    var s11 = mat4x4<f32>();
    if BLOCKS > 1u {
        s01 = resumed_block(part, 4u * down, 4u * (across + SIDE));
        s10 = resumed_block(part, 4u * (down + SIDE), 4u * across);
        s11 = resumed_block(part, 4u * (down + SIDE), 4u * (across + SIDE));
    }
    let second = lane + SIDE * SIDE;
    var a0 = eight_a(run_of_a(lane, ROWS, DEPTH, part, p.from_k));
    var b0 = eight_b(run_of_b(lane, ROWS, DEPTH, part, p.from_k));
    var a1 = Eight();
    var b1 = Eight();
    if EIGHTS > 1u {
        a1 = eight_a(run_of_a(second, ROWS, DEPTH, part, p.from_k));
        b1 = eight_b(run_of_b(second, ROWS, DEPTH, part, p.from_k));
    }
    for (var k = p.from_k; k < part.to_k; k += DEPTH) {
        workgroupBarrier();
        put_a(a0, lane);
        put_b(b0, lane);
        if EIGHTS > 1u {
            put_a(a1, second);
            put_b(b1, second);
        }
        workgroupBarrier();
        // Beyond the last of k nothing is read.
        let next = k + DEPTH;
        a0 = eight_a(run_of_a(lane, ROWS, DEPTH, part, next));
        b0 = eight_b(run_of_b(lane, ROWS, DEPTH, part, next));
        if EIGHTS > 1u {
            a1 = eight_a(run_of_a(second, ROWS, DEPTH, part, next));
            b1 = eight_b(run_of_b(second, ROWS, DEPTH, part, next));
        }
        for (var step = 0u; step < STEPS; step++) {
            let x0 = block_a(down, step);
            let y0 = block_b(across, step);
            s00 = product(s00, x0, y0);
            if BLOCKS > 1u {
                let x1 = block_a(down + SIDE, step);
                let y1 = block_b(across + SIDE, step);
                s01 = product(s01, x0, y1);
                s10 = product(s10, x1, y0);
                s11 = product(s11, x1, y1);
            }
        }
    }
    // One copy of what follows for all rows: the switch reads registers.
    for (var i = 0u; i < 4u * BLOCKS * BLOCKS; i++) {
        var sums = vec4(0.0);
        switch i {
            case 0u: { sums = s00[0]; }
            case 1u: { sums = s00[1]; }
            case 2u: { sums = s00[2]; }
            case 3u: { sums = s00[3]; }
            case 4u: { sums = s01[0]; }
            case 5u: { sums = s01[1]; }
            case 6u: { sums = s01[2]; }
            case 7u: { sums = s01[3]; }
            case 8u: { sums = s10[0]; }
            case 9u: { sums = s10[1]; }
            case 10u: { sums = s10[2]; }
            case 11u: { sums = s10[3]; }
            case 12u: { sums = s11[0]; }
            case 13u: { sums = s11[1]; }
            case 14u: { sums = s11[2]; }
            default: { sums = s11[3]; }
        }
        let row = 4u * (down + (i >> 3u) * SIDE) + (i & 3u);
        conclude(sums, part, row, 4u * (across + ((i >> 2u) & 1u) * SIDE));
    }
}
