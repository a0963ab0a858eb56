//! What [`super::Attention`] and its gradients are told of the scores: how they are made, which keys a row sees, and how
//! many rows and keys each batch entry has. The shapes and the formula are those of [`super::Attention`].

use super::lens::Lens;

/// What is added to the scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Mask {
    /// Nothing.
    #[default]
    None = 0,
    /// A tensor of the scores' shape, after scaling; negative infinity hides a key.
    Additive = 1,
}

/// How the scores of attention are made, and which keys a row sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Factor of the products; usually `1/sqrt(d)`.
    pub scale: f32,
    /// Hide keys after the row's own.
    pub causal: bool,
    /// Keys seen to the left and to the right of the row's own position, besides it.
    pub window: Option<[u32; 2]>,
    /// The soft cap; 0 is off.
    pub softcap: f32,
    /// What is added to the scores.
    pub mask: Mask,
    /// Whether the distance to the key, times the head's slope from an `alibi` operand, is subtracted.
    pub alibi: bool,
    /// Query rows of each batch entry; `Full`: Q has a batch axis. The device operand is `rows`.
    pub rows: Lens,
    /// Keys of each batch entry. The device operand is `lens`.
    pub lens: Lens,
}

impl Default for Scores {
    fn default() -> Self {
        Self {
            scale: 1.0,
            causal: false,
            window: None,
            softcap: 0.0,
            mask: Mask::None,
            alibi: false,
            rows: Lens::Full,
            lens: Lens::Full,
        }
    }
}
