//! Timing: warm-up, repetitions, median and spread. Everything here is about one number, seconds a run.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Seconds a run over several runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Fastest.
    pub best_s: f64,
    /// Median.
    pub median_s: f64,
    /// Distance between the first and third quartile.
    pub spread_s: f64,
    /// Runs timed.
    pub runs: usize,
}

impl Timing {
    /// Of the seconds of each run, which need not be sorted; zeros when there are none.
    pub fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let at = |q: f64| seconds.get(((seconds.len().max(1) - 1) as f64 * q) as usize).copied();
        let at = |q| at(q).unwrap_or(0.0);
        let (best_s, median_s, runs) = (at(0.0), at(0.5), seconds.len());
        Self { best_s, median_s, spread_s: at(0.75) - at(0.25), runs }
    }
}

/// Times several ways of doing the same, taking turns so that a noisy machine hurts all alike: two warm-up rounds,
/// then rounds until `budget` is spent, at least 5.
///
/// # Errors
/// The first error that a way returns.
pub fn interleaved<E>(
    budget: Duration,
    ways: &mut [&mut dyn FnMut() -> Result<(), E>],
) -> Result<Vec<Timing>, E> {
    let mut seconds = vec![Vec::new(); ways.len()];
    let start = Instant::now();
    let mut round = 0;
    while round < 7 || start.elapsed() < budget {
        for (way, seconds) in ways.iter_mut().zip(&mut seconds) {
            let begin = Instant::now();
            way()?;
            if round >= 2 {
                seconds.push(begin.elapsed().as_secs_f64());
            }
        }
        round += 1;
    }
    Ok(seconds.into_iter().map(Timing::of).collect())
}

/// A seeded stream of standard normal numbers (SplitMix64 and Box-Muller): data changes speed on some devices, so
/// the distribution is fixed.
pub fn normal(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..len)
        .map(|_| {
            let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
            (radius * (std::f64::consts::TAU * uniform()).cos()) as f32
        })
        .collect()
}
