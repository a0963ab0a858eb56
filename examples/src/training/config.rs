//! Sizes of the model, where its parameters lie, and what they are at first.

use leasehold::{Result, Tensor};

/// Sizes of a decoder with norms before its parts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Tokens that there are.
    pub tokens: usize,
    /// Elements of a row.
    pub width: usize,
    /// Heads of queries; `width` is a multiple of them.
    pub heads: usize,
    /// Heads of keys and of values, each shared by a group of queries.
    pub kv_heads: usize,
    /// Elements of a row inside an MLP.
    pub inner: usize,
    /// Blocks.
    pub blocks: usize,
    /// Keeps a norm's mean square away from zero.
    pub epsilon: f32,
    /// Base of the rotary embedding's frequencies.
    pub rope_base: f32,
}

impl Config {
    /// Two blocks, enough to learn [`Stream::sums`].
    pub const TOY: Self = Self {
        tokens: 8,
        width: 16,
        heads: 4,
        kv_heads: 2,
        inner: 24,
        blocks: 2,
        epsilon: 1e-5,
        rope_base: 100.0,
    };

    /// Elements of a head.
    pub fn dim(&self) -> usize {
        self.width / self.heads
    }

    /// Heads of queries, keys and values together.
    pub(super) fn all_heads(&self) -> usize {
        self.heads + 2 * self.kv_heads
    }

    /// Name and shape of every parameter, in the order in which they lie.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let Self { tokens, width, inner, .. } = *self;
        let mut shapes = vec![("embedding".to_string(), vec![tokens, width])];
        for block in 0..self.blocks {
            let parts = [
                ("attention_norm", vec![width]),
                ("qkv", vec![width, self.all_heads() * self.dim()]),
                ("output", vec![width, width]),
                ("mlp_norm", vec![width]),
                ("gate", vec![width, inner]),
                ("up", vec![width, inner]),
                ("down", vec![inner, width]),
            ];
            shapes.extend(parts.map(|(name, shape)| (format!("{block}.{name}"), shape)));
        }
        shapes.push(("norm".into(), vec![width]));
        shapes
    }

    /// Numbers that all parameters have together.
    pub fn total(&self) -> usize {
        self.shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Parameters to begin with: uniform, a norm's weight about 1, a matrix by the root of its inputs.
    pub fn initial(&self, stream: &mut Stream) -> Vec<f32> {
        let mut all = Vec::with_capacity(self.total());
        for (_, shape) in self.shapes() {
            let scale = (3.0 / shape[0] as f64).sqrt();
            let value = |u: f64| if shape.len() == 1 { 1.0 + 0.25 * u } else { scale * u };
            let count = shape.iter().product();
            all.extend((0..count).map(|_| value(stream.uniform()) as f32));
        }
        all
    }
}

/// Every parameter, or every parameter's gradient, as a view of one flat tensor, so that an optimiser sees one.
pub(super) struct Parameters {
    /// `[tokens, width]`, of the input and the output.
    pub embedding: Tensor,
    pub blocks: Vec<BlockParameters>,
    /// `[width]`.
    pub norm: Tensor,
}

/// Those of one block, shaped as [`Config::shapes`] says.
pub(super) struct BlockParameters {
    pub attention_norm: Tensor,
    pub qkv: Tensor,
    pub output: Tensor,
    pub mlp_norm: Tensor,
    pub gate: Tensor,
    pub up: Tensor,
    pub down: Tensor,
}

impl Parameters {
    pub(super) fn of(config: &Config, flat: &Tensor) -> Result<Self> {
        let mut at = 0;
        let mut shapes = config.shapes().into_iter();
        let mut next = || {
            let shape = shapes.next().map(|(_, shape)| shape).unwrap_or_default();
            let len = shape.iter().product();
            at += len;
            flat.narrow(0, at - len, len)?.reshape(&shape)
        };
        let embedding = next()?;
        let block = |_| {
            Ok(BlockParameters {
                attention_norm: next()?,
                qkv: next()?,
                output: next()?,
                mlp_norm: next()?,
                gate: next()?,
                up: next()?,
                down: next()?,
            })
        };
        let blocks = (0..config.blocks).map(block).collect::<Result<_>>()?;
        Ok(Self { embedding, blocks, norm: next()? })
    }
}

/// SplitMix64: the same numbers everywhere.
pub struct Stream(pub u64);

impl Stream {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform from -1 to 1.
    fn uniform(&mut self) -> f64 {
        (self.bits() >> 40) as f64 / f64::from(1 << 23) - 1.0
    }

    /// `entries` rows of tokens below `tokens`, and for each token the sum of it and the one before, modulo `tokens`; the
    /// first is counted twice. What the toy model learns.
    pub fn sums(&mut self, [entries, rows]: [usize; 2], tokens: usize) -> (Vec<u32>, Vec<u32>) {
        let tokens = tokens as u64;
        let ids: Vec<u32> = (0..entries * rows).map(|_| (self.bits() % tokens) as u32).collect();
        let sum = |(i, id): (usize, &u32)| {
            let before = if i % rows == 0 { *id } else { ids[i - 1] };
            (id + before) % tokens as u32
        };
        let sums = ids.iter().enumerate().map(sum).collect();
        (ids, sums)
    }
}
