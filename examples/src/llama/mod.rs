//! A llama language model such as SmolLM2, read from a GGUF file: tokens in, logits of the next token out, with the
//! keys and values of what came before in a paged cache. The program `generate` calls it; [`Generation`] makes text.

mod config;
mod generation;
mod sample;
mod weights;

pub use config::Config;
pub use generation::{Generation, Room};
pub use sample::Sampler;

use crate::gguf::{Gguf, GgufError};
use crate::model::{Cache, Context, Embedding, GatedMlp, Linear, Normal, SelfAttention};
use leasehold::{DType, Device, Recorder, Result, Tensor};
use weights::Weights;

/// What a model fails with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LlamaError {
    /// The file is at fault.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The device is.
    #[error(transparent)]
    Device(#[from] leasehold::Error),
}

/// A model on a device.
pub struct Llama {
    device: Device,
    dtype: DType,
    config: Config,
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: Normal,
    /// The output's own table, where it is not the embedding's.
    output: Option<Embedding>,
}

/// One transformer block.
struct Block {
    attention_norm: Normal,
    attention: SelfAttention,
    mlp_norm: Normal,
    mlp: GatedMlp,
}

impl Llama {
    /// Puts the weights of `file`, whose vocabulary has `tokens` tokens, on `device` as `dtype`.
    ///
    /// # Errors
    /// What is wrong with the file; what the device fails with.
    pub fn load(
        file: &Gguf,
        tokens: usize,
        device: &Device,
        dtype: DType,
    ) -> std::result::Result<Self, LlamaError> {
        let config = Config::of(file)?;
        let weights = Weights::new(file, device, dtype);
        let table = |name: &str| {
            let tensor = weights.stacked(&[(name.into(), tokens)], config.width)?;
            Ok::<_, LlamaError>(Embedding(tensor))
        };
        let model = Self {
            device: device.clone(),
            dtype,
            embedding: table("token_embd.weight")?,
            blocks: (0..config.blocks)
                .map(|i| Block::load(&weights, &format!("blk.{i}"), &config))
                .collect::<std::result::Result<_, _>>()?,
            norm: norm(&weights, "output_norm.weight", &config)?,
            output: weights.has("output.weight").then(|| table("output.weight")).transpose()?,
            config,
        };
        weights.all_taken()?;
        Ok(model)
    }

    /// The model's sizes and numbers.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes of the weights that a token takes: all of every block, and the output's table.
    pub fn weight_bytes(&self) -> u64 {
        let bytes =
            |tensor: &Tensor| tensor.shape().iter().product::<u64>() * tensor.dtype().size();
        let linears = |block: &Block| {
            let Block { attention, mlp, .. } = block;
            let all = [&attention.qkv, &attention.output, &mlp.gate, &mlp.up, &mlp.down];
            all.into_iter().map(|linear| bytes(&linear.weight)).sum::<u64>()
        };
        let table = self.output.as_ref().unwrap_or(&self.embedding);
        self.blocks.iter().map(linears).sum::<u64>() + bytes(&table.0)
    }

    /// The states of `ids` `[entries, rows]`, after every block and before the last norm: `[entries, rows, width]`.
    /// Their keys and values join `cache` where `at` says.
    fn states(
        &self,
        ids: &Tensor,
        cache: &Cache,
        at: &Context,
        p: Option<&Recorder>,
    ) -> Result<Tensor> {
        let [entries, rows] = [0, 1].map(|i| at.position.shape()[i] as usize);
        let width = self.config.width;
        let mut x = self.embedding.rows(ids, p)?.reshape(&[entries * rows, width])?;
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.run(&x, (cache, i), at, p)?;
        }
        x.reshape(&[entries, rows, width])
    }

    /// The logits after the last row of each entry of [`Self::states`]: `[entries, tokens]` in f32.
    fn logits(&self, states: &Tensor, p: Option<&Recorder>) -> Result<Tensor> {
        let [entries, rows] = [0, 1].map(|i| states.shape()[i] as usize);
        let last = states.narrow(1, rows - 1, 1)?.reshape(&[entries, self.config.width])?;
        let last = self.norm.run(&last, p)?;
        self.output.as_ref().unwrap_or(&self.embedding).logits(&last, p)
    }
}

impl Block {
    fn load(
        weights: &Weights<'_>,
        name: &str,
        config: &Config,
    ) -> std::result::Result<Self, LlamaError> {
        let Config { width, inner, heads, kv_heads, .. } = *config;
        let dim = config.dim();
        let linear = |parts: &[(&str, usize)], inputs| {
            let parts = parts.iter().map(|(part, rows)| (format!("{name}.{part}.weight"), *rows));
            let weight = weights.stacked(&parts.collect::<Vec<_>>(), inputs)?.t();
            Ok::<_, LlamaError>(Linear { weight, bias: None })
        };
        let qkv = [("attn_q", heads * dim), ("attn_k", kv_heads * dim), ("attn_v", kv_heads * dim)];
        Ok(Self {
            attention_norm: norm(weights, &format!("{name}.attn_norm.weight"), config)?,
            attention: SelfAttention {
                qkv: linear(&qkv, width)?,
                output: linear(&[("attn_output", width)], heads * dim)?,
                heads,
                kv_heads,
            },
            mlp_norm: norm(weights, &format!("{name}.ffn_norm.weight"), config)?,
            mlp: GatedMlp {
                gate: linear(&[("ffn_gate", inner)], width)?,
                up: linear(&[("ffn_up", inner)], width)?,
                down: linear(&[("ffn_down", width)], inner)?,
            },
        })
    }

    /// `x` is `[entries rows, width]`, and so is the result.
    fn run(
        &self,
        x: &Tensor,
        layer: (&Cache, usize),
        at: &Context,
        p: Option<&Recorder>,
    ) -> Result<Tensor> {
        let normal = self.attention_norm.run(x, p)?;
        let x = self.attention.cached(&normal, x, layer, at, p)?;
        self.mlp.run(&self.mlp_norm.run(&x, p)?, &x, p)
    }
}

fn norm(
    weights: &Weights<'_>,
    name: &str,
    config: &Config,
) -> std::result::Result<Normal, LlamaError> {
    Ok(Normal::Rms { weight: weights.vector(name, config.width)?, epsilon: config.epsilon })
}
