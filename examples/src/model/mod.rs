//! Building blocks of transformers, small enough to copy into a program of one's own: [`crate::bert`] and
//! [`crate::llama`] are made of them. Each block runs its ops, or records them where the caller gives a program.

mod attention;
mod cache;
mod feed_forward;

pub use attention::SelfAttention;
pub use cache::{Cache, Context, PAGE};
pub use feed_forward::{GatedMlp, Mlp};

use leasehold::{DType, Gather, Matmul, Norm, Recorder, Result, Tensor};

/// `x W + bias`.
pub struct Linear {
    /// `[in, out]`; a transposed view where a file has `[out, in]`.
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// The product of `x` `[rows, in]`, to which a block adds what it needs.
    pub fn on<'a>(&'a self, x: &'a Tensor) -> Matmul<'a> {
        let product = Matmul::new(x, &self.weight).constant_b();
        self.bias.iter().fold(product, Matmul::bias)
    }
}

/// A norm over rows, with its weight `[width]`.
pub enum Normal {
    /// Mean and variance.
    Layer {
        /// Multiplies.
        weight: Tensor,
        /// Is added.
        bias: Tensor,
        /// Keeps the variance away from zero.
        epsilon: f32,
    },
    /// Mean square alone.
    Rms {
        /// Multiplies.
        weight: Tensor,
        /// Keeps the mean square away from zero.
        epsilon: f32,
    },
}

impl Normal {
    /// Each row of `x` `[.., width]` normalised.
    ///
    /// # Errors
    /// What the device fails with.
    pub fn run(&self, x: &Tensor, p: Option<&Recorder>) -> Result<Tensor> {
        match self {
            Self::Layer { weight, bias, epsilon } => {
                Norm::layer(x, *epsilon).weight(weight).bias(bias).run_in(p)
            }
            Self::Rms { weight, epsilon } => Norm::rms(x, *epsilon).weight(weight).run_in(p),
        }
    }
}

/// A vector for each token, `[tokens, width]`.
pub struct Embedding(pub Tensor);

impl Embedding {
    /// The vectors of `ids` `[..]`: `[.., width]`.
    ///
    /// # Errors
    /// What the device fails with.
    pub fn rows(&self, ids: &Tensor, p: Option<&Recorder>) -> Result<Tensor> {
        Gather::new(&self.0, ids).run_in(p)
    }

    /// How near each row of `x` `[rows, width]` is to each token: the logits of a model whose output is tied to its
    /// input, `[rows, tokens]` in f32.
    ///
    /// # Errors
    /// What the device fails with.
    pub fn logits(&self, x: &Tensor, p: Option<&Recorder>) -> Result<Tensor> {
        Matmul::new(x, &self.0.t()).constant_b().dtype(DType::F32).run_in(p)
    }
}
