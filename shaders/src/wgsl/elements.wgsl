// Before the kernels that go element by element: an invocation takes two neighbours of the row-major order,
// paired so that they share a word where the output has no gaps.

const WORKGROUP: u32 = 256u;

// Elements `first .. first + count`; `phase` is 1 where the first element is the upper half of a word.
struct Range {
    first: u32,
    count: u32,
    phase: u32,
    rank: u32,
    shape: array<vec4<u32>, 2>,
}

fn is_in(range: Range, i: u32) -> bool {
    return i - range.first < range.count;
}

fn invocation(workgroup: vec3<u32>, workgroups: vec3<u32>, lane: u32) -> u32 {
    return (workgroup.y * workgroups.x + workgroup.x) * WORKGROUP + lane;
}
