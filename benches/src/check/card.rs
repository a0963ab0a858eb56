//! What the card's driver says of it, through `nvidia-smi`: once before, and every tenth of a second while rows are
//! measured, by a child that goes with the watch. Without it the places of these numbers say so.

use super::report::{Card, Maybe, Watched};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// The numbers of a sample, in this order.
const SAMPLED: &str = "clocks.sm,clocks.mem,power.draw,temperature.gpu";
/// Milliseconds between samples.
const EVERY: &str = "100";

type Samples = Arc<Mutex<Vec<[f64; 4]>>>;

/// Samples of one card.
pub(super) struct Watch {
    child: Option<Child>,
    samples: Samples,
    why_not: String,
}

/// The card of a device: none of a device that is not NVIDIA's.
pub(super) fn card(device: &str) -> Maybe<Card> {
    let ask = [
        "--query-gpu=name,driver_version,clocks.max.sm,power.limit",
        "--format=csv,noheader,nounits",
    ];
    let Some(which) = ordinal(device) else { return Maybe::not("no card") };
    let output = match Command::new("nvidia-smi").args(ask).args(["-i", which]).output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => return Maybe::not(format!("nvidia-smi: {}", output.status)),
        Err(error) => return Maybe::not(format!("nvidia-smi: {error}")),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<&str> = text.lines().next().unwrap_or("").split(", ").collect();
    let [name, driver, clock, limit] = words[..] else {
        return Maybe::not(format!("nvidia-smi: {text:?}"));
    };
    let (clock, limit) = (clock.trim().parse(), limit.trim().parse());
    Maybe::Is(Card {
        name: name.into(),
        driver: driver.into(),
        most_sm_mhz: clock.unwrap_or(0.0),
        limit_w: limit.unwrap_or(0.0),
    })
}

/// A CUDA ordinal; a graphics adapter on the only card is that card.
fn ordinal(device: &str) -> Option<&str> {
    match device.split_once(':') {
        Some(("cuda", which)) => Some(which),
        Some(("wgpu", _)) => Some("0"),
        _ => None,
    }
}

impl Watch {
    /// Begins to watch the card of a device, if there is one.
    pub(super) fn of(device: &str, card: &Maybe<Card>) -> Self {
        let samples = Samples::default();
        let query = format!("--query-gpu={SAMPLED}");
        let which = match card {
            Maybe::Is(_) => ordinal(device).unwrap_or("0"),
            Maybe::Not(why) => {
                return Self { child: None, samples, why_not: why.not_run.clone() };
            }
        };
        let child = Command::new("nvidia-smi")
            .args([&query, "--format=csv,noheader,nounits", "-lms", EVERY, "-i", which])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(mut child) => {
                if let Some(out) = child.stdout.take() {
                    let into = Arc::clone(&samples);
                    std::thread::spawn(move || read(BufReader::new(out), &into));
                }
                Self { child: Some(child), samples, why_not: String::new() }
            }
            Err(error) => Self { child: None, samples, why_not: format!("nvidia-smi: {error}") },
        }
    }

    /// What was sampled since the last call.
    pub(super) fn taken(&self) -> Maybe<Watched> {
        if self.child.is_none() {
            return Maybe::not(&self.why_not);
        }
        let taken =
            std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner));
        summed(&taken)
    }
}

fn read(lines: impl BufRead, into: &Mutex<Vec<[f64; 4]>>) {
    for line in lines.lines().map_while(Result::ok) {
        let numbers: Option<Vec<f64>> =
            line.split(',').map(|word| word.trim().parse().ok()).collect();
        // A number that the card does not have is a word; such a line counts for nothing.
        if let Some(sample) = numbers.and_then(|numbers| numbers.try_into().ok()) {
            into.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
        }
    }
}

fn summed(samples: &[[f64; 4]]) -> Maybe<Watched> {
    if samples.is_empty() {
        return Maybe::not("shorter than a sample of nvidia-smi");
    }
    let sorted = |which: usize| {
        let mut all: Vec<f64> = samples.iter().map(|sample| sample[which]).collect();
        all.sort_by(f64::total_cmp);
        [all[0], all[all.len() / 2], all[all.len() - 1]]
    };
    let [least, median, _] = sorted(0);
    let [_, power, most] = sorted(2);
    Maybe::Is(Watched {
        samples: samples.len(),
        sm_mhz: [median, least],
        memory_mhz: sorted(1)[1],
        power_w: [power, most],
        celsius: sorted(3)[2],
    })
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It would write for ever.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn samples_become_medians_and_extremes() {
        let into = Mutex::default();
        read(
            "1980, 2619, 650.5, 60\n1755, 2619, 700.1, 61\n[N/A], 1, 2, 3\n1800, 2619, 690, 59\n"
                .as_bytes(),
            &into,
        );
        let samples = into.into_inner().unwrap();
        let watched = summed(&samples).known().unwrap().clone();
        assert_eq!((watched.samples, watched.sm_mhz), (3, [1800.0, 1755.0]));
        assert_eq!((watched.power_w, watched.celsius), ([690.0, 700.1], 61.0));
        assert!(summed(&[]).why_not().is_some());
        assert!(Watch::of("cpu", &card("cpu")).taken().why_not().is_some());
    }
}
