//! The choice of a token from the largest logits, on the host. [`super::Generation`] calls it.

/// Chooses tokens at random by their probability, the same ones for the same seed.
#[derive(Clone, Debug)]
pub struct Sampler {
    temperature: f32,
    state: u64,
}

impl Sampler {
    /// Logits that take part, the largest ones.
    pub(super) const BEST: u32 = 40;

    /// Logits are divided by `temperature`, above 0.
    pub fn new(temperature: f32, seed: u64) -> Self {
        Self { temperature, state: seed }
    }

    /// A number from 0 to 1, by SplitMix64.
    fn uniform(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The 24 bits that f32 holds exactly.
        ((z ^ z >> 31) >> 40) as f32 / (1 << 24) as f32
    }

    /// One of `tokens`, whose logits are `logits`, largest first.
    pub(super) fn choose(&mut self, logits: &[f32], tokens: &[i32]) -> i32 {
        let largest = logits.first().copied().unwrap_or_default();
        let weights = logits.iter().map(|x| ((x - largest) / self.temperature).exp());
        let weights: Vec<f32> = weights.collect();
        let mut left = self.uniform() * weights.iter().sum::<f32>();
        for (weight, &token) in weights.iter().zip(tokens) {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        tokens.first().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::Sampler;

    #[test]
    fn tokens_come_as_often_as_their_probability_says() {
        // Logits ln 4, ln 2, ln 1 at temperature 1: shares 4/7, 2/7, 1/7.
        let logits = [4f32.ln(), 2f32.ln(), 0.0];
        let mut sampler = Sampler::new(1.0, 7);
        let mut counts = [0; 3];
        (0..7000).for_each(|_| counts[sampler.choose(&logits, &[0, 1, 2]) as usize] += 1);
        for (count, share) in counts.into_iter().zip([4000, 2000, 1000]) {
            assert!(i32::abs(count - share) < 150, "{counts:?}");
        }
        let again = |seed| {
            let mut sampler = Sampler::new(1.0, seed);
            (0..50).map(|_| sampler.choose(&logits, &[0, 1, 2])).collect::<Vec<_>>()
        };
        assert_eq!(again(1), again(1));
        assert_ne!(again(1), again(2));
        let mut cold = Sampler::new(1e-3, 1);
        assert!((0..100).all(|_| cold.choose(&logits, &[5, 6, 7]) == 5));
    }
}
