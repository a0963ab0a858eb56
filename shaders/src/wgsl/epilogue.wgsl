// With the products: what follows a sum, in f32 and in this order: scales, alpha, C, bias, the pre-activation, activation,
// gate and residual, then the cast or the quantisation.

fn activated(x: f32) -> f32 {
    switch p.activation {
        case 1u: { return relu_of(x); }
        case 2u: { return gelu_erf_of(x); }
        case 3u: { return gelu_tanh_of(x); }
        case 4u: { return silu_of(x); }
        default: { return x; }
    }
}

// The pre-activation.
fn before(sum: f32, tile: Tile, row: u32, column: u32) -> f32 {
    let place = vec2(row, column);
    var v = sum;
    if has(HAS_SCALE_A) && !has(A_BY_K) {
        v *= scale_of_a(tile.a, row, 0u);
    }
    if has(HAS_SCALE_B) && !has(B_BY_K) {
        v *= scale_of_b(tile.b, column, 0u);
    }
    v = p.alpha * v;
    if has(HAS_C) {
        let e = offset_of(p.c.base, p.c.strides[0], p.c.strides[1].xy, tile.out, place);
        v += p.beta * widen(p.c.kind, c[word_of(p.c.kind, e)], e);
    }
    if has(HAS_BIAS) {
        let e = offset_of(p.bias.base, p.bias.strides[0], p.bias.strides[1].xy, tile.out, place);
        v += widen(p.bias.kind, bias[word_of(p.bias.kind, e)], e);
    }
    return v;
}

// What follows the activation.
fn after(y: f32, tile: Tile, row: u32, column: u32) -> f32 {
    let place = vec2(row, column);
    var v = y;
    if has(HAS_GATE) {
        let e = offset_of(p.gate.base, p.gate.strides[0], p.gate.strides[1].xy, tile.out, place);
        v *= widen(p.gate.kind, gate[word_of(p.gate.kind, e)], e);
    }
    if has(HAS_RESIDUAL) {
        let r = offset_of(p.residual.base, p.residual.strides[0], p.residual.strides[1].xy, tile.out, place);
        v += widen(p.residual.kind, residual[word_of(p.residual.kind, r)], r);
    }
    return v;
}

// The results of four sums of a row, two where they gate each other. Writes the pre-activations, once all is read that may
// lie in their place.
fn results(sums: vec4<f32>, tile: Tile, row: u32, column: u32) -> vec4<f32> {
    var v = vec4(0.0);
    var y = vec4(0.0);
    if row < tile.owned {
        for (var i = 0u; i < 4u && column + i < p.n; i++) {
            v[i] = before(sums[i], tile, row, column + i);
        }
        y = results_of(v, tile, row, column);
    }
    if has(HAS_PREACTIVATION) {
        for (var i = 0u; i < 4u && column + i < p.n; i++) {
            let place = vec2(row, column + i);
            let w = p.preactivation.strides;
            let e = offset_of(p.preactivation.base, w[0], w[1].xy, tile.out, place);
            put_preactivation(e, narrow(p.preactivation.kind, v[i]));
        }
    }
    return y;
}

// The results of four pre-activations.
fn results_of(v: vec4<f32>, tile: Tile, row: u32, column: u32) -> vec4<f32> {
    var y = vec4(0.0);
    if has(INTERLEAVED) {
        let first = column / 2u;
        y.x = after(v.y * activated(v.x), tile, row, first);
        if column + 2u < p.n {
            y.y = after(v.w * activated(v.z), tile, row, first + 1u);
        }
        return y;
    }
    for (var i = 0u; i < 4u && column + i < p.n; i++) {
        y[i] = after(activated(v[i]), tile, row, column + i);
    }
    return y;
}

// The bits of a result, by the scale of a quantised output.
fn coded(y: f32, scale: f32) -> u32 {
    if !has(SCALE_GIVEN) && !has(SCALE_FOUND) {
        return narrow(p.out.kind, y);
    }
    return narrow(p.out.kind, quotient(y, scale, p.largest));
}

fn store_row(y: vec4<f32>, scale: f32, tile: Tile, row: u32, column: u32) {
    let step = p.out.strides[1].y;
    let per = select(1u, 2u, has(INTERLEAVED));
    let first = column / per;
    let e = offset_of(p.out.base, p.out.strides[0], p.out.strides[1].xy, tile.out, vec2(row, first));
    let at = vec4(e) + vec4(0u, 1u, 2u, 3u) * step;
    if per == 1u && column + 3u < p.n && (e & 1u) == 0u {
        let bits = vec4(coded(y.x, scale), coded(y.y, scale), coded(y.z, scale), coded(y.w, scale));
        put_four_out(at, bits);
        return;
    }
    for (var i = 0u; i < 4u / per; i++) {
        if column + i * per < p.n {
            put_out(at[i], coded(y[i], scale));
        }
    }
}
