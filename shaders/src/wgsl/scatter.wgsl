// scatter: an invocation owns a few neighbouring columns of every entry of `out`, and goes through the entries of `x` in
// their order, so that the last of equal indices wins and sums have one order. An index is read once, compared as
// unsigned with a bound that the host wrote, and forms an address only if it is below; else its entry is dropped and the
// first such index is kept.

struct Params {
    // Columns `first .. first + count`, and their shape; `phase` is not used.
    range: Range,
    // Entries `from .. to`, and their shape.
    from_entry: u32,
    to_entry: u32,
    rank: u32,
    // 0 set, 1 add, 2 append.
    function: u32,
    entries: array<vec4<u32>, 2>,
    // Entries of out, or pages; keys of a page; pages of a batch entry; rows of x.
    bound: u32,
    page: u32,
    most: u32,
    rows: u32,
    // Strides along columns: of x and of out.
    x: View,
    out: View,
    // Strides along entries: of x and of the index. Those of pages and of lengths when rows are appended.
    x_entry: View,
    index: View,
    lens: View,
    // Steps of out along its entries, and along the keys of a page.
    entry_step: u32,
    key_step: u32,
    unused_a: u32,
    unused_b: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> index: array<u32>;
@group(0) @binding(3) var<storage, read_write> pages: array<u32>;
@group(0) @binding(4) var<storage, read_write> lens: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<u32>;
@group(0) @binding(6) var<storage, read_write> out_parts: array<atomic<u32>>;
@group(0) @binding(7) var<storage, read_write> fault: array<atomic<u32>>;

const ADD: u32 = 1u;
const APPEND: u32 = 2u;

// Where column `i` lies in an entry of x and of out.
fn column(i: u32) -> vec2<u32> {
    var rest = i;
    var at = vec2(p.x.base, p.out.base);
    for (var axis = p.range.rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let size = p.range.shape[a / 4u][a % 4u];
        let c = rest % size;
        rest /= size;
        at += c * vec2(p.x.strides[a / 4u][a % 4u], p.out.strides[a / 4u][a % 4u]);
    }
    return at;
}

// Where entry `i` lies in x and in the index.
fn entry(i: u32) -> vec2<u32> {
    var rest = i;
    var at = vec2(0u, p.index.base);
    for (var axis = p.rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let size = p.entries[a / 4u][a % 4u];
        let c = rest % size;
        rest /= size;
        at += c * vec2(p.x_entry.strides[a / 4u][a % 4u], p.index.strides[a / 4u][a % 4u]);
    }
    return at;
}

// Whether an entry lands, where it begins in x, and where it lands in out.
struct Landing {
    lands: bool,
    from_x: u32,
    to_out: u32,
}

fn selected(i: u32) -> Landing {
    let at = entry(i);
    let to = index[at.y];
    if to >= p.bound {
        report(to, p.bound);
        return Landing(false, 0u, 0u);
    }
    return Landing(true, at.x, to * p.entry_step);
}

fn appended(i: u32) -> Landing {
    let batch = i / p.rows;
    let row = i % p.rows;
    let room = p.most * p.page;
    let word = lens[p.lens.base + batch * p.lens.strides[0].x];
    if word > room {
        report(word, room + 1u);
    }
    let end = min(word, room) + row;
    if end < p.rows {
        return Landing(false, 0u, 0u);
    }
    let key = end - p.rows;
    let to = pages[p.index.base + batch * p.index.strides[0].x + (key / p.page) * p.index.strides[0].y];
    if to >= p.bound {
        report(to, p.bound);
        return Landing(false, 0u, 0u);
    }
    let from_x = batch * p.x_entry.strides[0].x + row * p.x_entry.strides[0].y;
    return Landing(true, from_x, to * p.entry_step + (key % p.page) * p.key_step);
}

fn bits_at(e: u32) -> u32 {
    return bits_of(p.x.kind, x[word_of(p.x.kind, e)], e);
}

@compute @workgroup_size(64)
fn scatter(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    let several = 1u << fold_of(p.out.kind);
    let first = p.range.first + several * own;
    let end = p.range.first + p.range.count;
    if first >= end {
        return;
    }
    // Beyond the last column the first stands for it, and is not written.
    var from_x: vec4<u32>;
    var to_out: vec4<u32>;
    for (var j = 0u; j < several; j++) {
        let at = column(select(first, first + j, first + j < end));
        from_x[j] = at.x;
        to_out[j] = at.y;
    }
    let whole = first + several <= end;
    for (var i = p.from_entry; i < p.to_entry; i++) {
        var landing: Landing;
        if p.function == APPEND {
            landing = appended(i);
        } else {
            landing = selected(i);
        }
        if !landing.lands {
            continue;
        }
        let f = from_x + landing.from_x;
        let t = to_out + landing.to_out;
        if p.function == ADD {
            let sum = bitcast<f32>(out[t.x]) + widen(p.x.kind, x[word_of(p.x.kind, f.x)], f.x);
            out[t.x] = bitcast<u32>(sum);
        } else if several == 1u {
            out[t.x] = bits_at(f.x);
        } else if several == 2u && whole {
            put_pair_out(t.xy, vec2(bits_at(f.x), bits_at(f.y)));
        } else if whole {
            put_four_out(t, vec4(bits_at(f.x), bits_at(f.y), bits_at(f.z), bits_at(f.w)));
        } else {
            for (var j = 0u; first + j < end; j++) {
                put_out(t[j], bits_at(f[j]));
            }
        }
    }
}
