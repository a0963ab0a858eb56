//! What a GGUF file says of a llama model, checked: [`Config::of`] is the one place that makes a [`Config`].

use crate::gguf::{Gguf, GgufError, Value};

/// Sizes and numbers of a llama model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Transformer blocks.
    pub blocks: usize,
    /// Longest sequence.
    pub context: usize,
    /// Width of a token's vector.
    pub width: usize,
    /// Width inside the gated MLP.
    pub inner: usize,
    /// Heads of queries; they divide the width.
    pub heads: usize,
    /// Heads of keys and values; they divide the heads.
    pub kv_heads: usize,
    /// Base of the rotary embedding.
    pub rope_base: f32,
    /// Epsilon of every norm.
    pub epsilon: f32,
}

/// No published model is near this in any size; products of two stay far from overflow.
const MOST: usize = 1 << 20;

impl Config {
    /// The configuration in a file's fields.
    ///
    /// # Errors
    /// `Field` with its value and the values allowed.
    pub fn of(file: &Gguf) -> Result<Self, GgufError> {
        let only = |name: &str, allowed: &str, good: &dyn Fn(&Value) -> bool| {
            file.need(name, allowed, |value| good(value).then_some(()))
        };
        only("general.architecture", "\"llama\"", &|v| *v == Value::Text("llama".into()))?;
        let heads = file.size("llama.attention.head_count", 1..=MOST)?;
        let width = file.size("llama.embedding_length", 1..=MOST)?;
        let divides = |n: usize| move |v: &Value| matches!(*v, Value::Unsigned(d) if (n as u64).is_multiple_of(d));
        only(
            "llama.attention.head_count",
            &format!("a divisor of the embedding length {width}"),
            &divides(width),
        )?;
        let kv_heads = file.size("llama.attention.head_count_kv", 1..=MOST)?;
        only(
            "llama.attention.head_count_kv",
            &format!("a divisor of the head count {heads}"),
            &divides(heads),
        )?;
        let dim = width / heads;
        // All of a head turns, and nothing scales its positions.
        for name in ["rope.dimension_count", "attention.key_length", "attention.value_length"] {
            let name = format!("llama.{name}");
            if file.field(&name).is_some() {
                let allowed = format!("the head dim {dim}");
                only(&name, &allowed, &|v| *v == Value::Unsigned(dim as u64))?;
            }
        }
        if file.field("llama.rope.scaling.type").is_some() {
            let none = |v: &Value| *v == Value::Text("none".into());
            only("llama.rope.scaling.type", "\"none\"", &none)?;
        }
        let float = |name: &str, allowed: &str, good: fn(f64) -> bool| {
            file.need(name, allowed, |value| match *value {
                Value::Float(x) => Some(x as f32).filter(|x| x.is_finite() && good((*x).into())),
                _ => None,
            })
        };
        Ok(Self {
            blocks: file.size("llama.block_count", 1..=1024)?,
            context: file.size("llama.context_length", 1..=MOST)?,
            width,
            inner: file.size("llama.feed_forward_length", 1..=MOST)?,
            heads,
            kv_heads,
            rope_base: float("llama.rope.freq_base", "above 1", |x| x > 1.0)?,
            epsilon: float("llama.attention.layer_norm_rms_epsilon", "0 or more, finite", |x| {
                x >= 0.0
            })?,
        })
    }

    /// Elements of a head.
    pub fn dim(&self) -> usize {
        self.width / self.heads
    }
}
