// map: a function of each element, or of each pair, in f32; integers in their own type, wrapping.

struct Params {
    range: Range,
    function: u32,
    scale: f32,
    shift: f32,
    unused: u32,
    x: View,
    y: View,
    out: View,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;
@group(0) @binding(4) var<storage, read_write> out_parts: array<atomic<u32>>;

// Where element `i` lies in x, y and out.
fn locate(i: u32) -> vec3<u32> {
    var rest = i;
    var at = vec3(p.x.base, p.y.base, p.out.base);
    for (var axis = p.range.rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let size = p.range.shape[a / 4u][a % 4u];
        let c = rest % size;
        rest /= size;
        at += c * vec3(
            p.x.strides[a / 4u][a % 4u],
            p.y.strides[a / 4u][a % 4u],
            p.out.strides[a / 4u][a % 4u],
        );
    }
    return at;
}

fn of_floats(x: f32, y: f32) -> f32 {
    switch p.function {
        case 1u: { return -x; }
        case 2u: { return abs(x); }
        case 3u: { return exp_of(x); }
        case 4u: { return ln_of(x); }
        case 5u: { return sqrt(x); }
        case 6u: { return 1.0 / sqrt(x); }
        case 7u: { return 1.0 / x; }
        case 8u: { return x * x; }
        case 9u: { return tanh_of(x); }
        case 10u: { return sigmoid_of(x); }
        case 11u: { return relu_of(x); }
        case 12u: { return gelu_erf_of(x); }
        case 13u: { return gelu_tanh_of(x); }
        case 14u: { return silu_of(x); }
        case 15u: { return x + y; }
        case 16u: { return x - y; }
        case 17u: { return x * y; }
        case 18u: { return x / y; }
        case 19u: { return select(y, x, is_nan(x) || (x > y && !is_nan(y))); }
        case 20u: { return select(y, x, is_nan(x) || (x < y && !is_nan(y))); }
        default: { return x; }
    }
}

fn of_integers(x: u32, y: u32) -> u32 {
    let signed = p.out.kind == I32;
    switch p.function {
        case 15u: { return x + y; }
        case 16u: { return x - y; }
        case 17u: { return x * y; }
        case 19u: { return select(max(x, y), u32(max(i32(x), i32(y))), signed); }
        case 20u: { return select(min(x, y), u32(min(i32(x), i32(y))), signed); }
        default: { return x; }
    }
}

fn value(at: vec3<u32>) -> u32 {
    let x_word = x[word_of(p.x.kind, at.x)];
    // With one input, y is a view of x: reading it costs nothing and asks for no branch.
    let y_word = y[word_of(p.y.kind, at.y)];
    if p.out.kind > BF16 {
        return of_integers(x_word, y_word);
    }
    let result = of_floats(widen(p.x.kind, x_word, at.x), widen(p.y.kind, y_word, at.y));
    return narrow(p.out.kind, p.scale * result + p.shift);
}

// Element `i`: its place in out and its bits.
fn element(i: u32) -> vec2<u32> {
    let at = locate(i);
    return vec2(at.z, value(at));
}

@compute @workgroup_size(256)
fn map(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = invocation(workgroup, workgroups, lane);
    write_neighbours(p.range.first - p.range.phase, own, p.range.first, p.range.count);
}
