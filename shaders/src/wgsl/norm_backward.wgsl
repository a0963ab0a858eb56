// norm_backward: statistics of a row are the sum of x and the sum of squares about the mean, as in norm, then the sums of
// g = d_out * weight and of g * (x - mean). RMS has no mean: its passes are the second and the last.

struct Params {
    rows: Rows,
    layer: u32,
    epsilon: f32,
    has_weight: u32,
    unused: u32,
    x: View,
    d_out: View,
    weight: View,
    d_x: View,
    terms: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> weight: array<u32>;
@group(0) @binding(3) var<storage, read_write> d_out: array<u32>;
@group(0) @binding(4) var<storage, read_write> d_x: array<u32>;
@group(0) @binding(5) var<storage, read_write> d_x_parts: array<atomic<u32>>;
@group(0) @binding(6) var<storage, read_write> terms: array<f32>;
@group(0) @binding(7) var<storage, read_write> stats: array<vec4<f32>>;

// Where a row begins in x, d_out, d_x and terms; the last strides are those of the row.
fn locate(row: u32) -> vec4<u32> {
    var rest = row;
    var at = vec4(p.x.base, p.d_out.base, p.d_x.base, p.terms.base);
    for (var axis = p.rows.rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let size = p.rows.shape[a / 4u][a % 4u];
        let c = rest % size;
        rest /= size;
        at += c * vec4(
            p.x.strides[a / 4u][a % 4u],
            p.d_out.strides[a / 4u][a % 4u],
            p.d_x.strides[a / 4u][a % 4u],
            p.terms.strides[a / 4u][a % 4u],
        );
    }
    return at;
}

fn along() -> vec4<u32> {
    return vec4(p.x.strides[1].w, p.d_out.strides[1].w, p.d_x.strides[1].w, p.terms.strides[1].w);
}

fn mean_of(sums: vec4<f32>) -> f32 {
    return select(0.0, sums.x / f32(p.rows.n), p.layer == 1u);
}

fn variance_of(sums: vec4<f32>) -> f32 {
    return sums.y / f32(p.rows.n) + p.epsilon;
}

fn x_of(e: u32) -> f32 {
    return widen(p.x.kind, x[word_of(p.x.kind, e)], e);
}

fn d_out_of(e: u32) -> f32 {
    return widen(p.d_out.kind, d_out[word_of(p.d_out.kind, e)], e);
}

fn weight_of(column: u32) -> f32 {
    if p.has_weight == 0u {
        return 1.0;
    }
    let e = p.weight.base + column * p.weight.strides[1].w;
    return widen(p.weight.kind, weight[word_of(p.weight.kind, e)], e);
}

// The statistic that a pass sums.
fn which(number: u32) -> u32 {
    return select(1u + 2u * number, number, p.layer == 1u);
}

fn begin(row: u32) -> vec4<u32> {
    return locate(row);
}

fn start() -> vec4<f32> {
    return vec4(0.0);
}

fn neutral(number: u32) -> vec2<u32> {
    return vec2(0u);
}

fn take(own: vec2<u32>, kept: vec4<f32>, number: u32, at: vec4<u32>, i: u32) -> vec2<u32> {
    let step = along();
    let v = x_of(at.x + i * step.x);
    let mean = mean_of(kept);
    var sum = bitcast<f32>(own.x);
    if which(number) == 0u {
        sum += v;
    } else if which(number) == 1u {
        sum = fma(v - mean, v - mean, sum);
    } else {
        let g = d_out_of(at.y + i * step.y) * weight_of(i);
        sum += select(g * (v - mean), g, which(number) == 2u);
    }
    return vec2(bitcast<u32>(sum), 0u);
}

fn merge(a: vec2<u32>, b: vec2<u32>, number: u32) -> vec2<u32> {
    return vec2(bitcast<u32>(bitcast<f32>(a.x) + bitcast<f32>(b.x)), 0u);
}

fn join(kept: vec4<f32>, part: vec2<u32>, number: u32) -> vec4<f32> {
    var sums = kept;
    sums[which(number)] += bitcast<f32>(part.x);
    return sums;
}

fn keep(slot: u32, row: u32, kept: vec4<f32>) {
    stats[slot] = kept;
}

// Element `i` of the write: its place in d_x and its bits. Its term is written here: no other invocation has it.
fn element(i: u32) -> vec2<u32> {
    let slot = i / p.rows.columns;
    let column = p.rows.column + i % p.rows.columns;
    let at = locate(p.rows.first + slot) + column * along();
    let sums = stats[slot];
    let n = f32(p.rows.n);
    let variance = variance_of(sums);
    let factor = 1.0 / sqrt(variance);
    let from_mean = x_of(at.x) - mean_of(sums);
    let gradient = d_out_of(at.y);
    let g = gradient * weight_of(column);
    let shift = select(0.0, sums.z / n, p.layer == 1u);
    terms[at.w] = gradient * (from_mean * factor);
    // The square of the factor as one division: the difference may be small.
    let d_x = factor * ((g - shift) - from_mean * ((sums.w / n) / variance));
    return vec2(at.z, narrow(p.d_x.kind, d_x));
}
