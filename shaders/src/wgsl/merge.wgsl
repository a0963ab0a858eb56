// Before the kernels whose workgroups take a row together: how its lanes' values become one.

var<workgroup> lanes: array<u32, 64>;

// All lanes' values as one, by `merge_two`. Every lane must call it.
fn merge(lane: u32, value: u32) -> u32 {
    lanes[lane] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        if lane < step {
            lanes[lane] = merge_two(lanes[lane], lanes[lane + step]);
        }
        workgroupBarrier();
    }
    let whole = lanes[0];
    workgroupBarrier();
    return whole;
}
