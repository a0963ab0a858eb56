// With the kernels of products that stage tiles of a and b in workgroup memory: where they begin, and the way
// of sums out and in. Products of groups have other kernels.

// Whether the elements of a, and of b, that lie side by side follow k.
override ALONG_A: bool = true;
override ALONG_B: bool = true;

// Sixteen bytes are one load; the host binds whole ones.
@group(0) @binding(1) var<storage, read_write> a: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> b: array<vec4<u32>>;

fn less(a: u32, b: u32) -> u32 {
    return a - min(a, b);
}

// Eight elements of a or b: where the first lies, the step from one to the next, and how many are inside.
struct Run {
    first: u32,
    step: u32,
    count: u32,
}

// Number `i` of the runs of a part's tile of a, `rows` by `depth` from `k` on.
fn run_of_a(i: u32, rows: u32, depth: u32, part: Part, k: u32) -> Run {
    let v = p.a.strides;
    if ALONG_A {
        let place = vec2(part.row + i / (depth / 8u), k + i % (depth / 8u) * 8u);
        let count = select(0u, less(part.to_k, place.y), place.x < part.tile.end);
        return Run(offset_of(p.a.base, v[0], v[1].xy, part.tile.a, place), v[1].y, count);
    }
    let place = vec2(part.row + i % (rows / 8u) * 8u, k + i / (rows / 8u));
    let count = select(0u, less(part.tile.end, place.x), place.y < part.to_k);
    return Run(offset_of(p.a.base, v[0], v[1].xy, part.tile.a, place), v[1].x, count);
}

fn run_of_b(i: u32, columns: u32, depth: u32, part: Part, k: u32) -> Run {
    let v = p.b.strides;
    if ALONG_B {
        let place = vec2(k + i % (depth / 8u) * 8u, part.column + i / (depth / 8u));
        let count = select(0u, less(part.to_k, place.x), place.y < p.n);
        return Run(offset_of(p.b.base, v[0], v[1].xy, part.tile.b, place), v[1].x, count);
    }
    let place = vec2(k + i / (columns / 8u), part.column + i % (columns / 8u) * 8u);
    let count = select(0u, less(p.n, place.y), place.x < part.to_k);
    return Run(offset_of(p.b.base, v[0], v[1].xy, part.tile.b, place), v[1].y, count);
}

// A workgroup's part of a tile of the plan: where it begins in the tile, and in the matrix; and where its k ends.
struct Part {
    tile: Tile,
    tile_row: u32,
    tile_column: u32,
    row: u32,
    column: u32,
    to_k: u32,
}

// Every lane of a workgroup must call it, once.
fn part_of(index: u32, lane: u32, rows: u32, columns: u32) -> Part {
    let across = p.tile_n / columns;
    let per_tile = (p.tile_m / rows) * across;
    let number = p.first + index / per_tile;
    let tile = whole_tile(number, lane);
    let row = index % per_tile / across * rows;
    let column = index % across * columns;
    let to_k = min(p.to_k, tile.size_k);
    return Part(tile, row, column, tile.row + row, number % p.tiles_n * p.tile_n + column, to_k);
}

// Four sums of a row, at a place of the part: what follows them, or kept for the next link.
fn conclude(sums: vec4<f32>, part: Part, row: u32, column: u32) {
    if part.row + row >= part.tile.end || part.column + column >= p.n {
        return;
    }
    if has(LAST) {
        let y = results(sums, part.tile, part.row + row, part.column + column);
        store_row(y, 0.0, part.tile, part.row + row, part.column + column);
        return;
    }
    let first = (part.tile_row + row) * p.tile_n + part.tile_column + column;
    for (var i = 0u; i < 4u; i++) {
        state[first + i] = bitcast<u32>(sums[i]);
    }
}

// Four sums of the link before, if this is not the first.
fn resumed(part: Part, row: u32, column: u32) -> vec4<f32> {
    if p.from_k == 0u {
        return vec4(0.0);
    }
    let first = (part.tile_row + row) * p.tile_n + part.tile_column + column;
    return bitcast<vec4<f32>>(vec4(state[first], state[first + 1u], state[first + 2u], state[first + 3u]));
}
