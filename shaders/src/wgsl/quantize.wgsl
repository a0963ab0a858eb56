// quantize: the float tensor is lines of n elements, cut into cells that share a scale: the whole, a line, runs of it, or
// blocks of lines. `fold` finds what a cell's scale hangs on and writes the scale, as a row op whose rows are cells;
// `write` writes the values; `inverse` goes back, element by element.

const GROUP_32: u32 = 4u;

struct Params {
    // Rows are cells. The shape is that of the lines. For the inverse `first` and `count` are elements.
    rows: Rows,
    // Columns and lines of a cell, cells of a line, and of a matrix from top to bottom.
    width: u32,
    height: u32,
    across: u32,
    down: u32,
    // Lines of a matrix, elements of a line.
    m: u32,
    n: u32,
    format: u32,
    largest: f32,
    // Axes of the scales but the last, where cells of a line have scales of their own.
    scale_rank: u32,
    unused_a: u32,
    unused_b: u32,
    unused_c: u32,
    scale_shape: array<vec4<u32>, 2>,
    x: View,
    out: View,
    scale: View,
    min: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;
@group(0) @binding(3) var<storage, read_write> out_parts: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> scale: array<u32>;
@group(0) @binding(5) var<storage, read_write> scale_parts: array<atomic<u32>>;
@group(0) @binding(6) var<storage, read_write> min: array<u32>;
@group(0) @binding(7) var<storage, read_write> min_parts: array<atomic<u32>>;
@group(0) @binding(8) var<storage, read_write> stats: array<vec4<u32>>;

// Where the scale and the minimum of a cell lie.
fn scale_at(cell: u32) -> vec2<u32> {
    var rest = cell / p.across;
    let own = cell % p.across;
    var at = vec2(p.scale.base, p.min.base) + own * vec2(p.scale.strides[1].w, p.min.strides[1].w);
    for (var axis = p.scale_rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let size = p.scale_shape[a / 4u][a % 4u];
        let c = rest % size;
        rest /= size;
        at += c * vec2(p.scale.strides[a / 4u][a % 4u], p.min.strides[a / 4u][a % 4u]);
    }
    return at;
}

// Line and column of element `t` of a cell; NOWHERE beyond the matrix.
fn place_in(cell: u32, t: u32) -> vec2<u32> {
    let rest = cell / p.across;
    let row = (rest % p.down) * p.height + t / p.width;
    let column = (cell % p.across) * p.width + t % p.width;
    if row >= p.m || column >= p.n {
        return vec2(NOWHERE);
    }
    return vec2((rest / p.down) * p.m + row, column);
}

fn x_of(place: vec2<u32>) -> f32 {
    let e = locate(place.x).x + place.y * p.x.strides[1].w;
    return widen(p.x.kind, x[word_of(p.x.kind, e)], e);
}

// A cell is found element by element.
fn begin(cell: u32) -> u32 {
    return cell;
}

// Bits of the largest magnitude; of a group keys of the largest and the smallest.
fn start() -> vec4<u32> {
    return vec4(neutral(0u), 0u, 0u);
}

fn neutral(number: u32) -> vec2<u32> {
    return vec2(0u, NOWHERE);
}

fn take(own: vec2<u32>, kept: vec4<u32>, number: u32, cell: u32, t: u32) -> vec2<u32> {
    let place = place_in(cell, t);
    if place.x == NOWHERE {
        return own;
    }
    let bits = bitcast<u32>(x_of(place));
    if p.format == GROUP_32 {
        return merge(own, vec2(total_key(F32, bits)), number);
    }
    let size = bits & 0x7fffffffu;
    return merge(own, vec2(select(0u, size, size <= 0x7f800000u), NOWHERE), number);
}

fn merge(a: vec2<u32>, b: vec2<u32>, number: u32) -> vec2<u32> {
    return vec2(select(a.x, b.x, b.x > a.x), select(a.y, b.y, b.y < a.y));
}

fn join(kept: vec4<u32>, part: vec2<u32>, number: u32) -> vec4<u32> {
    return vec4(merge(kept.xy, part, number), 0u, 0u);
}

fn keep(slot: u32, cell: u32, kept: vec4<u32>) {
    stats[slot] = kept;
    if p.rows.fold_to < p.rows.chunks {
        return;
    }
    let at = scale_at(cell);
    if p.format == GROUP_32 {
        let least = bitcast<f32>(bits_of_total(F32, kept.y));
        let range = bitcast<f32>(bits_of_total(F32, kept.x)) - least;
        put_scale(at.x, narrow(p.scale.kind, range / 15.0));
        put_min(at.y, narrow(p.min.kind, least));
    } else {
        put_scale(at.x, bitcast<u32>(scale_of(kept.x)));
    }
}

// The scale of a largest magnitude; 0 where that is no number.
fn scale_of(high: u32) -> f32 {
    return select(bitcast<f32>(high) / p.largest, 0.0, high >= 0x7f800000u);
}

// Integers of 64 bits: low word, high word.
fn add(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn negated(a: vec2<u32>) -> vec2<u32> {
    return add(~a, vec2(1u, 0u));
}

// A float in units of 2^-30 of the last place of floats with the exponent `top`.
fn fixed(x: f32, top: u32) -> vec2<u32> {
    let bits = bitcast<u32>(x);
    let exponent = (bits >> 23u) & 0xffu;
    let mantissa = (bits & 0x7fffffu) | select(0x800000u, 0u, exponent == 0u);
    let down = top - select(exponent, 1u, exponent == 0u);
    var size = vec2(mantissa << 30u, mantissa >> 2u);
    if down > 63u {
        size = vec2(0u);
    } else if down > 31u {
        size = vec2(size.y >> (down - 32u), 0u);
    } else if down > 0u {
        size = vec2((size.x >> down) | (size.y << (32u - down)), size.y >> down);
    }
    if (bits >> 31u) == 1u {
        return negated(size);
    }
    return size;
}

fn exponent_of(x: f32) -> u32 {
    let exponent = (bitcast<u32>(x) >> 23u) & 0xffu;
    return select(exponent, 1u, exponent == 0u);
}

// The nearest of 0 to 15 to `(x - low) / ((high - low) / 15)`, ties to even, exactly: as many of the halves between them
// as the quotient passes.
fn code(x: f32, low: f32, high: f32) -> u32 {
    let a = exponent_of(low);
    let b = exponent_of(high);
    let top = select(a, b, b > a);
    let least = negated(fixed(low, top));
    let range = add(fixed(high, top), least);
    let above = add(fixed(x, top), least);
    // 30 * above against odd multiples of the range.
    let two = add(above, above);
    let four = add(two, two);
    let eight = add(four, four);
    let sixteen = add(eight, eight);
    let thirty = add(add(sixteen, eight), add(four, two));
    let step = add(range, range);
    var half = range;
    var passed = 0u;
    for (var c = 0u; c < 15u; c++) {
        let beyond = thirty.y > half.y || (thirty.y == half.y && thirty.x > half.x);
        if beyond || (all(thirty == half) && (c & 1u) == 1u) {
            passed += 1u;
        }
        half = add(half, step);
    }
    return select(passed, 0u, all(range == vec2(0u)));
}

fn group_word(i: u32) {
    let slot = i / 4u;
    if slot >= p.rows.count {
        return;
    }
    let low = bitcast<f32>(bits_of_total(F32, stats[slot].y));
    let high = bitcast<f32>(bits_of_total(F32, stats[slot].x));
    let place = place_in(p.rows.first + slot, 8u * (i % 4u));
    var word = 0u;
    for (var j = 0u; j < 8u; j++) {
        word |= code(x_of(place + vec2(0u, j)), low, high) << (4u * j);
    }
    out[locate(place.x).y + (place.y / 8u) * p.out.strides[1].w] = word;
}

@compute @workgroup_size(64)
fn write(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = invocation(workgroup, workgroups, lane);
    if p.format == GROUP_32 {
        group_word(own);
        return;
    }
    let elements = p.rows.count * p.rows.columns;
    var places: vec4<u32>;
    var bits: vec4<u32>;
    var whole = true;
    for (var j = 0u; j < 4u; j++) {
        let i = 4u * own + j;
        places[j] = NOWHERE;
        if i < elements {
            let slot = i / p.rows.columns;
            let place = place_in(p.rows.first + slot, p.rows.column + i % p.rows.columns);
            if place.x != NOWHERE {
                places[j] = locate(place.x).y + place.y * p.out.strides[1].w;
                bits[j] = narrow(p.out.kind, quotient(x_of(place), scale_of(stats[slot].x), p.largest));
            }
        }
        whole = whole && places[j] != NOWHERE;
    }
    if whole {
        put_four_out(places, bits);
        return;
    }
    for (var j = 0u; j < 4u; j++) {
        if places[j] != NOWHERE {
            put_out(places[j], bits[j]);
        }
    }
}

// Element `i` of the inverse: its place in out and its bits.
fn element(i: u32) -> vec2<u32> {
    let line = i / p.n;
    let column = i % p.n;
    let at = locate(line);
    let matrix = line / p.m;
    let cell = (matrix * p.down + (line % p.m) / p.height) * p.across + column / p.width;
    let of_cell = scale_at(cell);
    let factor = widen(p.scale.kind, scale[word_of(p.scale.kind, of_cell.x)], of_cell.x);
    var y: f32;
    if p.format == GROUP_32 {
        let word = x[at.x + (column / 8u) * p.x.strides[1].w];
        let least = widen(p.min.kind, min[word_of(p.min.kind, of_cell.y)], of_cell.y);
        y = f32((word >> (4u * (column % 8u))) & 15u) * factor + least;
    } else {
        let e = at.x + column * p.x.strides[1].w;
        y = widen(p.x.kind, x[word_of(p.x.kind, e)], e) * factor;
    }
    return vec2(at.y + column * p.out.strides[1].w, narrow(p.out.kind, y));
}

@compute @workgroup_size(64)
fn inverse(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = invocation(workgroup, workgroups, lane);
    write_neighbours(p.rows.first - p.rows.phase, own, p.rows.first, p.rows.count);
}
