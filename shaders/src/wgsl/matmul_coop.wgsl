// matmul_coop: f16 by f16 on a device's matrix unit. A workgroup of four subgroups, two by two, stages tiles of a and b
// in its memory, edges filled with zeros, and a subgroup keeps REPEAT by REPEAT square tiles of sums. Each sum is a chain
// of the unit's tile products along k, so that a cut of k at a chunk changes no bit. A line with i or j after a dollar sign
// stands for one of each. `coop.wgsl` or `coop_emulated.wgsl` has the operations on tiles, the table their edge.

// Lanes of a subgroup; whole subgroups are runs of lanes.
override SUBGROUP: u32 = 32u;

const REPEAT: u32 = $nu;
const DEPTH: u32 = 32u;
// Rows and columns of a subgroup, and of the workgroup.
const SIDE: u32 = REPEAT * EDGE;
const ROWS: u32 = 2u * SIDE;
// From row to row of a staged tile, where rows go along k and where they do not: no power of two, so that they begin in
// other banks.
const PITCH_ALONG: u32 = DEPTH + 8u;
const PITCH_ACROSS: u32 = ROWS + 8u;
const PITCH_SUMS: u32 = EDGE;
// Of the tiles of a and of b, by eights.
const EIGHTS: u32 = ROWS * DEPTH / 8u;

var<workgroup> tile_a: array<Half, ROWS * PITCH_ALONG>;
var<workgroup> tile_b: array<Half, ROWS * PITCH_ALONG>;
// One tile of sums a subgroup, on its way in or out.
var<workgroup> tile_c: array<f32, 4u * EDGE * EDGE>;
var<private> lane_in_subgroup: u32;

// Where row or column `line` and `k` lie in a staged tile.
fn staged(along: bool, line: u32, k: u32) -> u32 {
    return select(k * PITCH_ACROSS + line, line * PITCH_ALONG + k, along);
}

// Where eight number `i` of a staged tile lies.
fn slot(along: bool, i: u32) -> u32 {
    if along {
        return i / (DEPTH / 8u) * PITCH_ALONG + i % (DEPTH / 8u) * 8u;
    }
    return i / (ROWS / 8u) * PITCH_ACROSS + i % (ROWS / 8u) * 8u;
}

// Two elements in a word, zeros beyond the edge.
fn words_of_a(run: Run) -> vec4<u32> {
    if has(WIDE_A) && run.count >= 8u {
        return a[run.first >> 3u];
    }
    var words = vec4(0u);
    for (var i = 0u; i < min(run.count, 8u); i++) {
        let at = run.first + i * run.step;
        words[i >> 1u] |= bits_of(F16, a[at >> 3u][(at >> 1u) & 3u], at) << (16u * (i & 1u));
    }
    return words;
}

fn words_of_b(run: Run) -> vec4<u32> {
    if has(WIDE_B) && run.count >= 8u {
        return b[run.first >> 3u];
    }
    var words = vec4(0u);
    for (var i = 0u; i < min(run.count, 8u); i++) {
        let at = run.first + i * run.step;
        words[i >> 1u] |= bits_of(F16, b[at >> 3u][(at >> 1u) & 3u], at) << (16u * (i & 1u));
    }
    return words;
}

fn stage(part: Part, k: u32, lane: u32) {
    for (var i = lane; i < EIGHTS; i += 4u * SUBGROUP) {
        let from_a = words_of_a(run_of_a(i, ROWS, DEPTH, part, k));
        let from_b = words_of_b(run_of_b(i, ROWS, DEPTH, part, k));
        let at_a = slot(ALONG_A, i);
        let at_b = slot(ALONG_B, i);
        for (var w = 0u; w < 4u; w++) {
            let of_a = halves_of(from_a[w]);
            let of_b = halves_of(from_b[w]);
            tile_a[at_a + 2u * w] = of_a.x;
            tile_a[at_a + 2u * w + 1u] = of_a.y;
            tile_b[at_b + 2u * w] = of_b.x;
            tile_b[at_b + 2u * w + 1u] = of_b.y;
        }
    }
}

fn load_a(at: u32) -> TileA {
    if ALONG_A {
        return load_a_along(at);
    }
    return load_a_across(at);
}

fn load_b(at: u32) -> TileB {
    if ALONG_B {
        return load_b_along(at);
    }
    return load_b_across(at);
}

// A tile of sums of the link before.
fn resumed_tile(part: Part, row: u32, column: u32, own: u32) -> TileC {
    for (var i = lane_in_subgroup; i < EDGE * EDGE / 4u; i += SUBGROUP) {
        let four = resumed(part, row + i / (EDGE / 4u), column + i % (EDGE / 4u) * 4u);
        for (var j = 0u; j < 4u; j++) {
            tile_c[own + 4u * i + j] = four[j];
        }
    }
    workgroupBarrier();
    let tile = load_c(own);
    workgroupBarrier();
    return tile;
}

@compute @workgroup_size(4u * SUBGROUP)
fn matmul_coop(
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
    let subgroup = lane / SUBGROUP;
    lane_in_subgroup = lane % SUBGROUP;
    let row = subgroup / 2u * SIDE;
    let column = subgroup % 2u * SIDE;
    let own = subgroup * EDGE * EDGE;
    var c_$i_$j = TileC();
    if p.from_k > 0u {
        c_$i_$j = resumed_tile(part, row + $iu * EDGE, column + $ju * EDGE, own);
    }
    for (var k = p.from_k; k < part.to_k; k += DEPTH) {
        workgroupBarrier();
        stage(part, k, lane);
        workgroupBarrier();
        for (var step = 0u; step < DEPTH; step += EDGE) {
            let a_$i = load_a(staged(ALONG_A, row + $iu * EDGE, step));
            let b_$j = load_b(staged(ALONG_B, column + $ju * EDGE, step));
            c_$i_$j = multiplied(a_$i, b_$j, c_$i_$j);
        }
    }
    for (var t = 0u; t < REPEAT * REPEAT; t++) {
        workgroupBarrier();
        if t == $iu * REPEAT + $ju { store_c(c_$i_$j, own); }
        workgroupBarrier();
        for (var i = lane_in_subgroup; i < EDGE * EDGE / 4u; i += SUBGROUP) {
            let at = own + 4u * i;
            let four = vec4(tile_c[at], tile_c[at + 1u], tile_c[at + 2u], tile_c[at + 3u]);
            let down = t / REPEAT * EDGE + i / (EDGE / 4u);
            conclude(four, part, row + down, column + t % REPEAT * EDGE + i % (EDGE / 4u) * 4u);
        }
    }
}
