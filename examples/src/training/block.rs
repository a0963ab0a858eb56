//! One transformer block, forward and backward, as steps of a program: causal attention with rotary positions and shared
//! key/value heads, then a gated MLP, each behind an RMS norm and beside a residual. A gradient is called `d_` and the name
//! of what it belongs to; those of parameters are written where they lie.

use super::config::{BlockParameters, Config};
use leasehold::{
    Attention, AttentionBackward, Copy, Map, MapFn, Matmul, Norm, NormBackward, Recorder, Reduce,
    Result, Rope, Tensor,
};

/// What every block of a step shares.
pub(super) struct Step<'a> {
    pub config: &'a Config,
    /// Sequences, and rows of each.
    pub entries: usize,
    pub rows: usize,
    /// `[entries, rows]`: the place of each row in its sequence.
    pub position: Tensor,
    /// The same below zero, which turns back.
    pub back: Tensor,
    pub p: &'a Recorder,
}

/// What the way back needs of the way there.
pub(super) struct Kept {
    x: Tensor,
    attention_in: Tensor,
    heads: [Tensor; 3],
    attended: Tensor,
    lse: Tensor,
    middle: Tensor,
    mlp_in: Tensor,
    /// Up, gate, SiLU of the gate, and its product with up.
    mlp: [Tensor; 4],
}

impl Step<'_> {
    /// `x` `[entries rows, width]` after the block, and what is kept.
    pub(super) fn forward(&self, w: &BlockParameters, x: &Tensor) -> Result<(Tensor, Kept)> {
        let (p, epsilon) = (self.p, self.config.epsilon);
        let attention_in = Norm::rms(x, epsilon).weight(&w.attention_norm).record(p)?;
        let qkv = Matmul::new(&attention_in, &w.qkv).record(p)?;
        let [q, k, v] = self.split(&qkv)?;
        let turned = |x| Rope::new(x, &self.position).base(self.config.rope_base).record(p);
        let heads = [turned(&q)?, turned(&k)?, v];
        let [q, k, v] = &heads;
        let attended = p.empty(x.dtype(), &[self.entries * self.rows, self.config.width])?;
        let view = self.heads(&attended, self.config.heads)?;
        let (_, lse) = Attention::new(q, k, v).causal().into(&view).record_with_lse(p)?;
        let middle = Matmul::new(&attended, &w.output).residual(x).record(p)?;

        let mlp_in = Norm::rms(&middle, epsilon).weight(&w.mlp_norm).record(p)?;
        let up = Matmul::new(&mlp_in, &w.up).record(p)?;
        let gate = Matmul::new(&mlp_in, &w.gate).record(p)?;
        let silu = Map::unary(MapFn::Silu, &gate).record(p)?;
        let wide = Map::mul(&silu, &up).record(p)?;
        let y = Matmul::new(&wide, &w.down).residual(&middle).record(p)?;
        let x = x.clone();
        let mlp = [up, gate, silu, wide];
        Ok((y, Kept { x, attention_in, heads, attended, lse, middle, mlp_in, mlp }))
    }

    /// The gradient of the block's input from that of its output, `d_y`; those of its parameters go to `d`.
    pub(super) fn backward(
        &self,
        w: &BlockParameters,
        kept: &Kept,
        d_y: &Tensor,
        d: &BlockParameters,
    ) -> Result<Tensor> {
        let d_middle = self.mlp_backward(w, kept, d_y, d)?;
        self.attention_backward(w, kept, &d_middle, d)
    }

    fn mlp_backward(
        &self,
        w: &BlockParameters,
        kept: &Kept,
        d_y: &Tensor,
        d: &BlockParameters,
    ) -> Result<Tensor> {
        let p = self.p;
        let [up, gate, silu, wide] = &kept.mlp;
        Matmul::new(&wide.t(), d_y).into(&d.down).record(p)?;
        let d_wide = Matmul::new(d_y, &w.down.t()).record(p)?;

        // silu(x) = x s with s = 1 / (1 + e^-x), and its slope is s + silu(x) (1 - s).
        let s = Map::unary(MapFn::Sigmoid, gate).record(p)?;
        let rest = Map::unary(MapFn::Identity, &s).scale(-1.0).shift(1.0).record(p)?;
        let slope = Map::add(&s, &Map::mul(silu, &rest).record(p)?).record(p)?;
        let d_up = Map::mul(&d_wide, silu).record(p)?;
        let d_silu = Map::mul(&d_wide, up).record(p)?;
        let d_gate = Map::mul(&d_silu, &slope).record(p)?;

        Matmul::new(&kept.mlp_in.t(), &d_up).into(&d.up).record(p)?;
        Matmul::new(&kept.mlp_in.t(), &d_gate).into(&d.gate).record(p)?;
        let by_up = Matmul::new(&d_up, &w.up.t()).record(p)?;
        let d_in = Matmul::new(&d_gate, &w.gate.t()).residual(&by_up).record(p)?;
        let d_middle = self.norm_backward(&kept.middle, &d_in, &w.mlp_norm, &d.mlp_norm)?;
        Map::add(&d_middle, d_y).record(p)
    }

    fn attention_backward(
        &self,
        w: &BlockParameters,
        kept: &Kept,
        d_middle: &Tensor,
        d: &BlockParameters,
    ) -> Result<Tensor> {
        let (p, config) = (self.p, self.config);
        Matmul::new(&kept.attended.t(), d_middle).into(&d.output).record(p)?;
        let d_attended = Matmul::new(d_middle, &w.output.t()).record(p)?;

        let out = self.heads(&kept.attended, config.heads)?;
        let d_out = self.heads(&d_attended, config.heads)?;
        let [q, k, v] = &kept.heads;
        let forward = Attention::new(q, k, v).causal();
        let back = AttentionBackward::new(&forward, &out, &kept.lse, &d_out);
        let [d_q, d_k, d_v] = back.record(p)?;

        // Side by side, as the product made them.
        let shape = [self.entries * self.rows, config.all_heads() * config.dim()];
        let d_qkv = p.empty(d_middle.dtype(), &shape)?;
        let [at_q, at_k, at_v] = self.split(&d_qkv)?;
        for (turned, at) in [(&d_q, &at_q), (&d_k, &at_k)] {
            Rope::new(turned, &self.back).base(config.rope_base).into(at).record(p)?;
        }
        Copy::new(&d_v).into(&at_v).record(p)?;

        Matmul::new(&kept.attention_in.t(), &d_qkv).into(&d.qkv).record(p)?;
        let d_in = Matmul::new(&d_qkv, &w.qkv.t()).record(p)?;
        let d_x = self.norm_backward(&kept.x, &d_in, &w.attention_norm, &d.attention_norm)?;
        Map::add(&d_x, d_middle).record(p)
    }

    /// The gradient of a norm's input; that of its weight goes to `d_weight`.
    pub(super) fn norm_backward(
        &self,
        x: &Tensor,
        d_y: &Tensor,
        weight: &Tensor,
        d_weight: &Tensor,
    ) -> Result<Tensor> {
        let back = NormBackward::rms(x, d_y, self.config.epsilon).weight(weight);
        let (d_x, terms) = back.record(self.p)?;
        Reduce::sum(&terms).axis(0).into(d_weight).record(self.p)?;
        Ok(d_x)
    }

    /// Queries, keys and values `[entries, heads, rows, dim]`: views of the columns of `qkv`.
    fn split(&self, qkv: &Tensor) -> Result<[Tensor; 3]> {
        let Config { heads, kv_heads, .. } = *self.config;
        let all = self.heads(qkv, self.config.all_heads())?;
        Ok([
            all.narrow(1, 0, heads)?,
            all.narrow(1, heads, kv_heads)?,
            all.narrow(1, heads + kv_heads, kv_heads)?,
        ])
    }

    /// Rows of heads side by side, seen as `[entries, heads, rows, dim]`.
    fn heads(&self, x: &Tensor, heads: usize) -> Result<Tensor> {
        let shape = [self.entries, self.rows, heads, self.config.dim()];
        x.reshape(&shape)?.permute(&[0, 2, 1, 3])
    }
}
