// In the place of `coop.wgsl` on devices without a matrix unit, so that the kernels are tested everywhere. A tile of a or
// b is its place in workgroup memory: where it begins, the step from line to line, and that along the sum. Each lane has
// its share of a tile of sums.

alias Half = f32;
alias TileA = vec3<u32>;
alias TileB = vec3<u32>;

struct TileC {
    sums: array<f32, SHARE>,
}

fn halves_of(word: u32) -> vec2<f32> {
    return vec2(f16_to_f32(word & 0xffffu), f16_to_f32(word >> 16u));
}

fn load_a_along(at: u32) -> TileA {
    return vec3(at, PITCH_ALONG, 1u);
}

fn load_a_across(at: u32) -> TileA {
    return vec3(at, 1u, PITCH_ACROSS);
}

fn load_b_along(at: u32) -> TileB {
    return vec3(at, PITCH_ALONG, 1u);
}

fn load_b_across(at: u32) -> TileB {
    return vec3(at, 1u, PITCH_ACROSS);
}

// Where a lane's sum number `i` lies in a tile of sums.
fn sum_at(at: u32, i: u32) -> u32 {
    let e = i * SUBGROUP + lane_in_subgroup;
    return at + e / EDGE * PITCH_SUMS + e % EDGE;
}

fn load_c(at: u32) -> TileC {
    var tile: TileC;
    for (var i = 0u; i < SHARE; i++) {
        tile.sums[i] = tile_c[sum_at(at, i)];
    }
    return tile;
}

fn multiplied(x: TileA, y: TileB, sums: TileC) -> TileC {
    var tile = sums;
    for (var i = 0u; i < SHARE; i++) {
        let e = i * SUBGROUP + lane_in_subgroup;
        var at_a = x.x + e / EDGE * x.y;
        var at_b = y.x + e % EDGE * y.y;
        var sum = tile.sums[i];
        // Four at a time: software has few loops to spend.
        for (var k = 0u; k < EDGE; k += 4u) {
            sum = fma(tile_a[at_a], tile_b[at_b], sum);
            sum = fma(tile_a[at_a + x.z], tile_b[at_b + y.z], sum);
            sum = fma(tile_a[at_a + 2u * x.z], tile_b[at_b + 2u * y.z], sum);
            sum = fma(tile_a[at_a + 3u * x.z], tile_b[at_b + 3u * y.z], sum);
            at_a += 4u * x.z;
            at_b += 4u * y.z;
        }
        tile.sums[i] = sum;
    }
    return tile;
}

fn store_c(sums: TileC, at: u32) {
    for (var i = 0u; i < SHARE; i++) {
        tile_c[sum_at(at, i)] = sums.sums[i];
    }
}
