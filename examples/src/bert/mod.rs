//! Sentence embeddings by a BERT encoder such as all-MiniLM-L6-v2: tokens in, one unit vector a sentence out.
//! The program `embed` calls it. The forward pass is [`Bert::embed`] and what stands below it.

mod config;
mod error;
mod tokens;
mod weights;

pub use config::Config;
pub use error::ModelError;
pub use tokens::{MAX_TOKENS, Tokens};

use crate::model::{Embedding, Mlp, Normal, SelfAttention};
use leasehold::{DType, Device, Gather, Map, Matmul, Norm, Result, Tensor};
use std::path::Path;
use tokens::{Batch, Vocabulary};
use weights::Weights;

/// Sentences of one forward pass: enough rows to keep a device busy, few enough to stay small in memory.
const BATCH: usize = 32;

/// Keeps the length of a vector that is divided by away from zero.
const UNIT_EPSILON: f32 = 1e-12;

/// A model on a device.
pub struct Bert {
    device: Device,
    config: Config,
    vocabulary: Vocabulary,
    words: Embedding,
    /// `[positions, hidden]`, with the vector of token type 0 already added: every token here is of that type.
    positions: Tensor,
    norm: Normal,
    layers: Vec<Layer>,
    /// `[hidden]`, all `1 / sqrt(hidden)`: turns an RMS norm into division by the vector's length.
    unit: Tensor,
}

/// One encoder layer.
struct Layer {
    attention: SelfAttention,
    attention_norm: Normal,
    mlp: Mlp,
    norm: Normal,
}

impl Bert {
    /// Loads `config.json`, `tokenizer.json` and `model.safetensors` of the folder `model` and puts the weights
    /// on `device` as `dtype`.
    ///
    /// # Errors
    /// What is wrong with which file, with the value found and those allowed; what the device fails with.
    pub fn load(
        model: &Path,
        device: &Device,
        dtype: DType,
    ) -> std::result::Result<Self, ModelError> {
        let config = Config::load(&model.join("config.json"))?;
        let vocabulary = Vocabulary::load(&model.join("tokenizer.json"), &config)?;
        let file = weights::read(&model.join("model.safetensors"))?;
        let weights = Weights::new(&file, device, dtype)?;
        let hidden = config.hidden_size;

        let words = "embeddings.word_embeddings.weight";
        let positions = weights.tensor(
            "embeddings.position_embeddings.weight",
            &[config.max_position_embeddings, hidden],
        )?;
        let types = weights
            .tensor("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, hidden])?;
        let unit = device.tensor([hidden], &vec![1.0 / (hidden as f32).sqrt(); hidden])?;
        Ok(Self {
            device: device.clone(),
            words: Embedding(weights.tensor(words, &[config.vocab_size, hidden])?),
            positions: Map::add(&positions, &types.narrow(0, 0, 1)?).run()?,
            norm: weights.norm("embeddings.LayerNorm", &config)?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(&weights, &format!("encoder.layer.{i}"), &config))
                .collect::<std::result::Result<_, _>>()?,
            unit,
            config,
            vocabulary,
        })
    }

    /// The token ids of each sentence, cut at [`MAX_TOKENS`] or at the model's positions.
    ///
    /// # Errors
    /// A tokenizer that gives no token, or one that the model has no row for.
    pub fn tokens(
        &self,
        sentences: &[impl AsRef<str> + Sync],
    ) -> std::result::Result<Vec<Tokens>, ModelError> {
        sentences.iter().map(|sentence| self.vocabulary.tokens(sentence.as_ref())).collect()
    }

    /// One unit vector a sentence: `[sentences, hidden]` in f32.
    ///
    /// # Errors
    /// What the device fails with.
    pub fn embed(&self, sentences: &[Tokens]) -> Result<Tensor> {
        // Longest first, so that the sentences of a batch need little padding.
        let mut order: Vec<usize> = (0..sentences.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(sentences[i].ids().len()));
        let sorted = self.device.empty(DType::F32, &[sentences.len(), self.config.hidden_size])?;
        for (i, chunk) in order.chunks(BATCH).enumerate() {
            let batch = Batch::new(chunk.iter().map(|&i| &sentences[i]));
            let states = self.encode(&batch)?;
            // The mean over a sentence's own tokens is a product with a row of weights 1/length.
            let weights = self.device.tensor([batch.len(), 1, batch.width], &batch.mean)?;
            let weights = Map::cast(&weights, states.dtype()).run()?;
            let mean = Matmul::new(&weights, &states).dtype(DType::F32).run()?;
            let mean = mean.reshape(&[batch.len(), self.config.hidden_size])?;
            let rows = sorted.narrow(0, i * BATCH, batch.len())?;
            Norm::rms(&mean, UNIT_EPSILON).weight(&self.unit).into(&rows).run()?;
        }
        let mut places = vec![0u32; order.len()];
        for (place, &sentence) in order.iter().enumerate() {
            places[sentence] = place as u32;
        }
        Gather::new(&sorted, &self.device.tensor([places.len()], &places)?).run()
    }

    /// The last hidden states of a batch: `[sentences, width, hidden]`.
    fn encode(&self, batch: &Batch) -> Result<Tensor> {
        let (rows, hidden) = (batch.len() * batch.width, self.config.hidden_size);
        let ids = self.device.tensor([batch.len(), batch.width], &batch.ids)?;
        let words = self.words.rows(&ids, None)?;
        let x = Map::add(&words, &self.positions.narrow(0, 0, batch.width)?).run()?;
        let mut x = self.norm.run(&x.reshape(&[rows, hidden])?, None)?;
        for layer in &self.layers {
            x = layer.forward(&x, batch)?;
        }
        x.reshape(&[batch.len(), batch.width, hidden])
    }
}

impl Layer {
    fn load(
        weights: &Weights<'_>,
        name: &str,
        config: &Config,
    ) -> std::result::Result<Self, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let of = |part: &str| format!("{name}.{part}");
        let qkv = ["query", "key", "value"].map(|part| of(&format!("attention.self.{part}")));
        let heads = config.num_attention_heads;
        Ok(Self {
            attention: SelfAttention {
                qkv: weights.linear(&qkv, hidden, hidden)?,
                output: weights.linear(&[of("attention.output.dense")], hidden, hidden)?,
                heads,
                kv_heads: heads,
            },
            attention_norm: weights.norm(&of("attention.output.LayerNorm"), config)?,
            mlp: Mlp {
                up: weights.linear(&[of("intermediate.dense")], hidden, inner)?,
                down: weights.linear(&[of("output.dense")], inner, hidden)?,
            },
            norm: weights.norm(&of("output.LayerNorm"), config)?,
        })
    }

    /// `x` is `[sentences * width, hidden]`, and so is the result.
    fn forward(&self, x: &Tensor, batch: &Batch) -> Result<Tensor> {
        let x = self.attention.among(x, x, batch.width, &batch.lens)?;
        let x = self.attention_norm.run(&x, None)?;
        self.norm.run(&self.mlp.run(&x, &x, None)?, None)
    }
}

/// The cosine similarity of every pair of unit vectors: `[sentences, sentences]`.
///
/// # Errors
/// What the device fails with.
pub fn similarities(embeddings: &Tensor) -> Result<Tensor> {
    Matmul::new(embeddings, &embeddings.t()).run()
}
