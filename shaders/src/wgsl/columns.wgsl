// After the kernels that write rows as a whole: element by element, neighbours together.

@compute @workgroup_size(64)
fn write(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = invocation(workgroup, workgroups, lane);
    write_neighbours(0u - p.rows.phase, own, 0u, p.rows.count * p.rows.columns);
}
