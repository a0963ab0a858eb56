// Before the kernels that go element by element.

const WORKGROUP: u32 = 256u;

// Elements `first .. first + count`; `phase` is the place of the first element in its word.
struct Range {
    first: u32,
    count: u32,
    phase: u32,
    rank: u32,
    shape: array<vec4<u32>, 2>,
}

fn invocation(workgroup: vec3<u32>, workgroups: vec3<u32>, lane: u32) -> u32 {
    return (workgroup.y * workgroups.x + workgroup.x) * WORKGROUP + lane;
}
