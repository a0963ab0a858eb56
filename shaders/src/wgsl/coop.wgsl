// With the kernels of the matrix unit: its operations on tiles, by wgpu's extension. Only tiles that the kernel staged
// are loaded: no check of a device holds a tile's load to its buffer.

alias Half = f16;

fn halves_of(word: u32) -> vec2<f16> {
    return vec2<f16>(unpack2x16float(word));
}

// A tile of a that begins at `at`, whose rows go along the sum, or across it; of b the same with its columns.
fn load_a_along(at: u32) -> TileA {
    return coopLoadT<TileA>(&tile_a[at], PITCH_ALONG);
}

fn load_a_across(at: u32) -> TileA {
    return coopLoad<TileA>(&tile_a[at], PITCH_ACROSS);
}

fn load_b_along(at: u32) -> TileB {
    return coopLoad<TileB>(&tile_b[at], PITCH_ALONG);
}

fn load_b_across(at: u32) -> TileB {
    return coopLoadT<TileB>(&tile_b[at], PITCH_ACROSS);
}

fn load_c(at: u32) -> TileC {
    return coopLoadT<TileC>(&tile_c[at], PITCH_SUMS);
}

fn multiplied(x: TileA, y: TileB, sums: TileC) -> TileC {
    return coopMultiplyAdd(x, y, sums);
}

fn store_c(sums: TileC, at: u32) {
    coopStoreT(sums, &tile_c[at], PITCH_SUMS);
}
