// Before the kernels whose rows lie in `x` and `OUT`: where a row begins in each. The last stride is that along it.

fn locate(row: u32) -> vec2<u32> {
    var rest = row;
    var at = vec2(p.x.base, p.OUT.base);
    for (var axis = p.rows.rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let size = p.rows.shape[a / 4u][a % 4u];
        let c = rest % size;
        rest /= size;
        at += c * vec2(p.x.strides[a / 4u][a % 4u], p.OUT.strides[a / 4u][a % 4u]);
    }
    return at;
}
