// Before the kernels that go row by row: `fold` gives a row's statistics, one workgroup a row; `write` then goes
// element by element. A row is folded chunk by chunk, left to right; a chunk in 64 lanes, then by a tree.
// Statistics are four words a row, kept in `stats` between the two, and between links of a row that is cut.

const LANES: u32 = 64u;
const WORKGROUP: u32 = 64u;

struct Rows {
    // The row of slot 0 of `stats`, and the rows from there.
    first: u32,
    count: u32,
    // Elements of a row, and of a chunk.
    n: u32,
    chunk: u32,
    chunks: u32,
    // Links `from..to` of the fold: pass by pass, chunk by chunk.
    fold_from: u32,
    fold_to: u32,
    rank: u32,
    // Columns `column .. column + columns` of the write.
    column: u32,
    columns: u32,
    // Place of the first element written in its word.
    phase: u32,
    unused: u32,
    // Sizes of all axes but the last.
    shape: array<vec4<u32>, 2>,
}

fn row_of(workgroup: vec3<u32>, workgroups: vec3<u32>) -> u32 {
    return workgroup.y * workgroups.x + workgroup.x;
}

fn invocation(workgroup: vec3<u32>, workgroups: vec3<u32>, lane: u32) -> u32 {
    return row_of(workgroup, workgroups) * WORKGROUP + lane;
}
