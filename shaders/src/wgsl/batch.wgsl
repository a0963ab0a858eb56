// Before the kernels of attention and of its gradients: batch entries, their rows and keys, and which of them see each
// other. A kernel's `Params` have all that is named here, and `made` is the table of entries: first row, rows, first
// key, keys. Where rows are packed one more entry has the rows that none owns, and no keys. Where counts lie in device
// memory `count` makes the table; those that the host knows, of rows and of keys, lie behind it.

const LANES: u32 = 64u;
// A hidden key's score; those of visible keys are LOWEST or more.
const HIDDEN: f32 = -3.4e38;
// Most batch entries whose counts lie in device memory.
const COUNTED: u32 = 1024u;
// Words of an entry, and those that begin its rows and its keys.
const ENTRY: u32 = 4u;
const ROW_WORD: u32 = 0u;
const KEY_WORD: u32 = 2u;

const HAS_MASK: u32 = 1u;
const HAS_ALIBI: u32 = 4u;
const LAST: u32 = 8u;
// Rows of the batch entries, or dense keys too, lie one after another.
const PACKED: u32 = 32u;
const PACKED_KEYS: u32 = 64u;
// Counts of rows, or of keys, are operands; keys are counted like rows.
const DEVICE_ROWS: u32 = 256u;
const DEVICE_LENS: u32 = 512u;
const AS_ROWS: u32 = 1024u;
// One entry stands for all.
const ALIKE: u32 = 2048u;

var<workgroup> counted: array<vec2<u32>, COUNTED>;

fn has(flag: u32) -> bool {
    return (p.flags & flag) != 0u;
}

fn entries() -> u32 {
    return p.batch + select(0u, 1u, has(PACKED));
}

fn held(word: u32, most: u32) -> u32 {
    if word > most {
        report(word, most + 1u);
    }
    return min(word, most);
}

// Reads every count in device memory once, so that all tiles of a launch agree on them.
@compute @workgroup_size(64)
fn count(@builtin(local_invocation_index) lane: u32) {
    for (var i = lane; i < p.batch; i += LANES) {
        let given = ENTRY * entries() + i;
        var one = vec2(made[given], made[given + p.batch]);
        if has(DEVICE_ROWS) {
            one.x = held(rows[p.counts.x + i * p.counts.y], p.max_rows);
        }
        if has(DEVICE_LENS) {
            one.y = held(lens[p.lens.x + i * p.lens.y], p.max_keys);
        }
        counted[i] = select(one, one.xx, has(AS_ROWS));
    }
    workgroupBarrier();
    if lane > 0u {
        return;
    }
    var first_row = 0u;
    var first_key = 0u;
    for (var i = 0u; i < entries(); i++) {
        var one = vec2(p.rows - first_row, 0u);
        if i < p.batch {
            one = min(counted[i], vec2(p.rows - first_row, p.room - first_key));
        }
        made[ENTRY * i] = first_row;
        made[ENTRY * i + 1u] = one.x;
        made[ENTRY * i + 2u] = first_key;
        made[ENTRY * i + 3u] = one.y;
        if has(PACKED) {
            first_row += one.x;
        }
        if has(PACKED_KEYS) {
            first_key += one.y;
        }
    }
}

// A batch entry, the same in all lanes.
struct Entry {
    number: u32,
    first_row: u32,
    rows: u32,
    first_key: u32,
    keys: u32,
    // Its first tile of a head.
    tile: u32,
}

// The first tile of an entry of packed rows or keys, which begin at a word of it, `group` rows each: so many that all
// before have room, whatever partial tiles they end with.
fn tile_of(entry: u32, word: u32, group: u32) -> u32 {
    return made[ENTRY * entry + word] * group / p.tile + entry;
}

var<workgroup> found: array<vec3<u32>, 2>;

// The entry of a tile of a head: the last that begins at it or before; or `batch`, where nothing is packed. Every lane
// must call it.
fn entry_of(lane: u32, tile: u32, batch: u32, word: u32, group: u32) -> Entry {
    if lane == 0u {
        var low = batch;
        var begin = 0u;
        if has(PACKED) {
            low = 0u;
            var high = entries();
            while high - low > 1u {
                let middle = (low + high) / 2u;
                if tile_of(middle, word, group) <= tile {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            begin = tile_of(low, word, group);
        }
        let words = ENTRY * select(low, 0u, has(ALIKE));
        found[0] = vec3(low, made[words], made[words + 1u]);
        found[1] = vec3(made[words + 2u], made[words + 3u], begin);
    }
    let one = workgroupUniformLoad(&found);
    return Entry(one[0].x, one[0].y, one[0].z, one[1].x, one[1].y, one[1].z);
}

// Of the other side those that any from `ends.x` to `ends.y` of a side sees, at most so many before and after its own
// place: from, to. A query stands at `query + keys - queries` among the keys; with the sides exchanged it is the same.
fn seen_between(ends: vec2<u32>, own: u32, other: u32, before: u32, after: u32) -> vec2<u32> {
    let here = ends + other;
    let behind = own + min(before, NOWHERE - own);
    let ahead = here.y + min(after, 0xfffffffeu - here.y) + 1u;
    return vec2(here.x - min(here.x, behind), min(ahead - min(ahead, own), other));
}

// How far queries and keys are apart, and whether that is within the window.
struct Apart {
    far: vec4<u32>,
    near: vec4<bool>,
}

fn apart_of(query: vec4<u32>, key: vec4<u32>, queries: u32, keys: u32) -> Apart {
    let here = query + keys;
    let there = key + queries;
    let is_behind = there <= here;
    let far = select(there - here, here - there, is_behind);
    return Apart(far, far <= select(vec4(p.right), vec4(p.left), is_behind));
}

fn is_visible(score: vec4<f32>) -> vec4<bool> {
    return score > vec4(-3.39e38);
}
