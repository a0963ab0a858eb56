// In the place of `coop.wgsl` on devices without a matrix unit, so that the kernels are tested everywhere. A tile of a or
// b is its place in workgroup memory, and each lane has its share of a tile of sums.

alias Half = f32;
alias TileA = u32;
alias TileB = u32;

struct TileC {
    sums: array<f32, SHARE>,
}

fn halves_of(word: u32) -> vec2<f32> {
    return vec2(f16_to_f32(word & 0xffffu), f16_to_f32(word >> 16u));
}

fn load_a(at: u32) -> TileA {
    return at;
}

fn load_b(at: u32) -> TileB {
    return at;
}

fn load_c(at: u32) -> TileC {
    var tile: TileC;
    for (var i = 0u; i < SHARE; i++) {
        tile.sums[i] = tile_c[at + i * SUBGROUP + lane_in_subgroup];
    }
    return tile;
}

fn multiplied(x: TileA, y: TileB, sums: TileC) -> TileC {
    var tile = sums;
    for (var i = 0u; i < SHARE; i++) {
        let e = i * SUBGROUP + lane_in_subgroup;
        let at_a = x + staged(ALONG_A, e / EDGE, 0u);
        let at_b = y + staged(ALONG_B, e % EDGE, 0u);
        for (var k = 0u; k < EDGE; k++) {
            let of_a = tile_a[at_a + staged(ALONG_A, 0u, k)];
            let of_b = tile_b[at_b + staged(ALONG_B, 0u, k)];
            tile.sums[i] = fma(of_a, of_b, tile.sums[i]);
        }
    }
    return tile;
}

fn store_c(sums: TileC, at: u32) {
    for (var i = 0u; i < SHARE; i++) {
        tile_c[at + i * SUBGROUP + lane_in_subgroup] = sums.sums[i];
    }
}
