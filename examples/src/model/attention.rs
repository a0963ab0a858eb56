//! Self-attention with its projections: over the rows at hand, or over a [`Cache`](super::Cache) that they join.

use super::{Cache, Context, Linear};
use leasehold::{Attention, Recorder, Result, Rope, Scatter, Tensor};

/// Attention of every row to those of its own sequence. Fewer key/value heads than heads are shared by groups.
pub struct SelfAttention {
    /// Queries, keys and values side by side, so that one product makes all three:
    /// `[width, (heads + 2 kv_heads) dim]`.
    pub qkv: Linear,
    /// `[heads dim, width]`.
    pub output: Linear,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and of values.
    pub kv_heads: usize,
}

impl SelfAttention {
    /// `residual` plus the attention of `x` `[entries rows, width]` to itself, in entries of which the first `lens[i]`
    /// rows exist.
    ///
    /// # Errors
    /// What the device fails with.
    pub fn among(
        &self,
        x: &Tensor,
        residual: &Tensor,
        rows: usize,
        lens: &[u32],
    ) -> Result<Tensor> {
        let [q, k, v] = self.project(x, rows, None)?;
        let attention = Attention::new(&q, &k, &v).lens(lens);
        let mixed = Self::side_by_side(attention, &q, None)?;
        self.output.on(&mixed).residual(residual).run()
    }

    /// `residual` plus the attention of `x` `[entries rows, width]` to the keys of `cache` and, causally, to its own,
    /// which are turned by their position and stored first.
    ///
    /// # Errors
    /// What the device fails with.
    pub fn cached(
        &self,
        x: &Tensor,
        residual: &Tensor,
        (cache, layer): (&Cache, usize),
        at: &Context,
        p: Option<&Recorder>,
    ) -> Result<Tensor> {
        let [q, k, v] = self.project(x, at.position.shape()[1] as usize, p)?;
        let turned = |x| Rope::new(x, &at.position).base(at.rope_base).interleaved().run_in(p);
        let (q, k) = (turned(&q)?, turned(&k)?);
        let [keys, values] = cache.layer(layer);
        Scatter::append(&k, &at.pages, &at.lens, keys).run_in(p)?;
        Scatter::append(&v, &at.pages, &at.lens, values).run_in(p)?;
        let attention = Attention::new(&q, keys, values)
            .causal()
            .paged(&at.pages)
            .lens_on_device(&at.lens, at.most_keys());
        let mixed = Self::side_by_side(attention, &q, p)?;
        self.output.on(&mixed).residual(residual).run_in(p)
    }

    /// Queries, keys and values `[entries, heads, rows, dim]`: views of the columns of one product.
    fn project(&self, x: &Tensor, rows: usize, p: Option<&Recorder>) -> Result<[Tensor; 3]> {
        let qkv = self.qkv.on(x).run_in(p)?;
        let (total, width) = (qkv.shape()[0] as usize, qkv.shape()[1] as usize);
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        let all = heads + 2 * kv_heads;
        let qkv = qkv.reshape(&[total / rows.max(1), rows, all, width / all])?;
        let qkv = qkv.permute(&[0, 2, 1, 3])?;
        Ok([
            qkv.narrow(1, 0, heads)?,
            qkv.narrow(1, heads, kv_heads)?,
            qkv.narrow(1, heads + kv_heads, kv_heads)?,
        ])
    }

    /// The result for queries `q` with the heads of each row side by side, `[entries rows, heads dim]`: written so, as
    /// a view.
    fn side_by_side<'a>(
        attention: Attention<'a>,
        q: &Tensor,
        p: Option<&'a Recorder>,
    ) -> Result<Tensor> {
        let &[entries, heads, rows, dim] = q.shape() else { return attention.run_in(p) };
        let [entries, heads, rows, dim] = [entries, heads, rows, dim].map(|n| n as usize);
        let shape = [entries, rows, heads, dim];
        let out = match p {
            Some(program) => program.empty(q.dtype(), &shape)?,
            None => q.device().empty(q.dtype(), &shape)?,
        };
        attention.into(&out.permute(&[0, 2, 1, 3])?).run_in(p)?;
        out.reshape(&[entries * rows, heads * dim])
    }
}
