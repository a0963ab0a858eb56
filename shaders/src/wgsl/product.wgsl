// With every kernel of products: what they are told, the operands but a and b, and where a tile of the plan lies.

override KIND: u32 = 0u;
// Whether indices in device memory name matrices of a or of b.
override INDEXED: bool = false;

const HAS_BIAS: u32 = 1u;
const HAS_GATE: u32 = 2u;
const HAS_RESIDUAL: u32 = 4u;
const LAST: u32 = 8u;
const HAS_C: u32 = 16u;
const HAS_PREACTIVATION: u32 = 32u;
const INTERLEAVED: u32 = 64u;
// Scales of a and of b; whether they change along k.
const HAS_SCALE_A: u32 = 128u;
const HAS_SCALE_B: u32 = 256u;
const A_BY_K: u32 = 512u;
const B_BY_K: u32 = 1024u;
// The output is quantised by a given scale, or by one that is found for each 128 columns.
const SCALE_GIVEN: u32 = 2048u;
const SCALE_FOUND: u32 = 4096u;
// Sixteen bytes of a, of b, that lie side by side begin where a load of them may.
const WIDE_A: u32 = 8192u;
const WIDE_B: u32 = 16384u;
const INDEX_A: u32 = 32768u;
const INDEX_B: u32 = 65536u;

const CONTIGUOUS: u32 = 1u;
const MASKED: u32 = 2u;
const ALONG_K: u32 = 3u;

// Strides of views: four of the batch, then the two of the matrix; those of scales step by runs along k.
struct Params {
    // Rows of a matrix of the output, columns of b.
    m: u32,
    n: u32,
    // k from `from` to `to`, counted in a group.
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
    beta: f32,
    // Lanes of a workgroup side by side.
    across: u32,
    group: u32,
    groups: u32,
    // The largest size of a group in device memory, and room for them: of one, or of all where they share it.
    max_size: u32,
    room: u32,
    // Rows of a, columns of b, to a scale: 2 to this power.
    shift_a: u32,
    shift_b: u32,
    scale_out: u32,
    // Of the output's type.
    largest: f32,
    unused: u32,
    // Base and stride.
    sizes: vec2<u32>,
    // Of a and of b, where indices name them.
    matrices: vec2<u32>,
    batch: vec4<u32>,
    a: View,
    b: View,
    bias: View,
    c: View,
    gate: View,
    residual: View,
    scale_a: View,
    scale_b: View,
    a_index: View,
    b_index: View,
    out: View,
    preactivation: View,
    out_scale: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read_write> bias: array<u32>;
@group(0) @binding(4) var<storage, read_write> c: array<u32>;
@group(0) @binding(5) var<storage, read_write> gate: array<u32>;
@group(0) @binding(6) var<storage, read_write> residual: array<u32>;
@group(0) @binding(7) var<storage, read_write> scale_a: array<f32>;
@group(0) @binding(8) var<storage, read_write> scale_b: array<f32>;
@group(0) @binding(9) var<storage, read_write> sizes: array<u32>;
@group(0) @binding(10) var<storage, read_write> a_index: array<u32>;
@group(0) @binding(11) var<storage, read_write> b_index: array<u32>;
@group(0) @binding(12) var<storage, read_write> scale_out: array<f32>;
@group(0) @binding(13) var<storage, read_write> out: array<u32>;
@group(0) @binding(14) var<storage, read_write> out_parts: array<atomic<u32>>;
@group(0) @binding(15) var<storage, read_write> preactivation: array<u32>;
@group(0) @binding(16) var<storage, read_write> preactivation_parts: array<atomic<u32>>;
@group(0) @binding(17) var<storage, read_write> out_scale: array<f32>;
// Three words a group: first row or element of k, size, first tile. Then, where rows are contiguous, those of no group.
@group(0) @binding(18) var<storage, read_write> made: array<u32>;
// Sums of one tile that is cut along k.
@group(0) @binding(19) var<storage, read_write> state: array<u32>;
@group(0) @binding(20) var<storage, read_write> fault: array<atomic<u32>>;

fn has(flag: u32) -> bool {
    return (p.flags & flag) != 0u;
}

// Where a tile lies: batch entries of a, b and the output; rows from `row` to `end`, of which those below `owned` have
// sums; and the first element of k, and how many.
struct Tile {
    a: vec4<u32>,
    b: vec4<u32>,
    out: vec4<u32>,
    row: u32,
    end: u32,
    owned: u32,
    first_k: u32,
    size_k: u32,
}

fn entry_of(index: u32) -> vec4<u32> {
    let w = index % p.batch.w;
    let to_z = index / p.batch.w;
    let to_y = to_z / p.batch.z;
    return vec4(to_y / p.batch.y, to_y % p.batch.y, to_z % p.batch.z, w);
}

// An index that names a matrix, else NOWHERE, and the fault is told.
fn matrix_of(word: u32, matrices: u32) -> u32 {
    if word < matrices {
        return word;
    }
    report(word, matrices);
    return NOWHERE;
}

// The matrices of a and of b that the indices of an entry name.
var<workgroup> named: vec2<u32>;

// A tile of a product without groups. Every lane of a workgroup must call it, once.
fn whole_tile(index: u32, lane: u32) -> Tile {
    let down = (index % p.tiles_mn) / p.tiles_n;
    let entry = entry_of(index / p.tiles_mn);
    var tile = Tile(entry, entry, entry, down * p.tile_m, p.m, p.m, 0u, NOWHERE);
    if INDEXED {
        // One lane reads for all: indices may change at any time, and the lanes must agree on the way they go.
        if lane == 0u {
            var matrices = vec2(0u);
            if has(INDEX_A) {
                let e = offset_of(p.a_index.base, p.a_index.strides[0], vec2(0u), entry, vec2(0u));
                matrices.x = matrix_of(a_index[e], p.matrices.x);
            }
            if has(INDEX_B) {
                let e = offset_of(p.b_index.base, p.b_index.strides[0], vec2(0u), entry, vec2(0u));
                matrices.y = matrix_of(b_index[e], p.matrices.y);
            }
            named = matrices;
        }
        let matrices = workgroupUniformLoad(&named);
        let exist = matrices != vec2(NOWHERE);
        if has(INDEX_A) {
            tile.a = vec4(0u, 0u, 0u, select(0u, matrices.x, exist.x));
        }
        if has(INDEX_B) {
            tile.b = vec4(0u, 0u, 0u, select(0u, matrices.y, exist.y));
        }
        // Nothing to sum where one does not exist.
        tile.size_k = select(0u, NOWHERE, all(exist));
    }
    return tile;
}

fn tile_of(index: u32, lane: u32) -> Tile {
    let down = (index % p.tiles_mn) / p.tiles_n;
    let batch = index / p.tiles_mn;
    var tile = whole_tile(index, lane);
    if p.group == MASKED {
        tile.owned = made[3u * batch + 1u];
    } else if p.group == ALONG_K {
        tile.a = vec4(0u);
        tile.b = vec4(0u);
        tile.first_k = made[3u * batch];
        tile.size_k = made[3u * batch + 1u];
    } else if p.group == CONTIGUOUS {
        // The last group that begins at this tile or before.
        var low = 0u;
        var high = p.groups + 1u;
        while high - low > 1u {
            let middle = (low + high) / 2u;
            if made[3u * middle + 2u] <= down {
                low = middle;
            } else {
                high = middle;
            }
        }
        tile.b = vec4(0u, 0u, 0u, min(low, p.groups - min(p.groups, 1u)));
        tile.row = made[3u * low] + (down - made[3u * low + 2u]) * p.tile_m;
        tile.end = made[3u * low] + made[3u * low + 1u];
        tile.owned = select(0u, tile.end, low < p.groups);
    }
    return tile;
}

fn offset_of(base: u32, batch: vec4<u32>, matrix: vec2<u32>, entry: vec4<u32>, place: vec2<u32>) -> u32 {
    let e = batch * entry;
    let q = matrix * place;
    return base + e.x + e.y + e.z + e.w + q.x + q.y;
}

// The scale of a row of a, or of a column of b, in a run of k.
fn scale_of_a(entry: vec4<u32>, row: u32, run: u32) -> f32 {
    let place = vec2(row >> p.shift_a, run);
    let v = p.scale_a.strides;
    return scale_a[offset_of(p.scale_a.base, v[0], v[1].xy, entry, place)];
}

fn scale_of_b(entry: vec4<u32>, column: u32, run: u32) -> f32 {
    let place = vec2(run, column >> p.shift_b);
    let v = p.scale_b.strides;
    return scale_b[offset_of(p.scale_b.base, v[0], v[1].xy, entry, place)];
}
