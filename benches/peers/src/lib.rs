//! What the programs of this package share: a peer as something that runs and can be checked, and a row of the table.

use leasehold::DType;
use leasehold_bench::measure::{Timing, interleaved};
use serde::Serialize;
use std::time::Duration;

/// Ours and the peers' errors alike.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Another library doing what one of our ops does.
pub trait Peer {
    /// Its crate, as `Cargo.lock` names it.
    fn package(&self) -> &'static str;
    /// What is called, where that is not plain.
    fn how(&self) -> &'static str {
        ""
    }
    /// Computes once, and waits for the end.
    fn run(&mut self) -> Result<()>;
    /// What the last run computed, row-major.
    fn output(&self) -> Result<Vec<f32>>;
}

/// One line of the table: our median beside a peer's.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was computed.
    pub what: String,
    /// The peer with its version.
    pub peer: String,
    /// Our median in seconds.
    pub ours_s: f64,
    /// The peer's.
    pub theirs_s: f64,
    /// The peer's over ours: above 1 we are faster.
    pub ratio: f64,
}

impl Row {
    /// Of two medians.
    pub fn new(what: &str, peer: String, ours_s: f64, theirs_s: f64) -> Self {
        Self { what: what.into(), peer, ours_s, theirs_s, ratio: theirs_s / ours_s }
    }

    /// Prints it, as JSON if asked.
    ///
    /// # Errors
    /// Numbers that JSON has no words for.
    pub fn print(&self, as_json: bool) -> Result<()> {
        if as_json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let (ours, theirs) = (self.ours_s * 1e3, self.theirs_s * 1e3);
        let Self { what, peer, ratio, .. } = self;
        println!("{what:36} ours {ours:9.3} ms  {peer:32} {theirs:9.3} ms  ratio {ratio:.2}");
        Ok(())
    }
}

/// Our median, and a row for each peer: all take turns, and each peer must have computed what we did.
///
/// # Errors
/// What a side fails with, or a peer whose output differs from `expected` by more than 2⁻¹⁰ of its largest element, or
/// what bf16 rounds it to by more than 2⁻⁷.
pub fn beside(
    what: &str,
    dtype: DType,
    budget: Duration,
    ours: &mut dyn FnMut() -> Result<()>,
    expected: &[f32],
    peers: &mut [Box<dyn Peer>],
) -> Result<(Timing, Vec<Row>)> {
    let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    for peer in &mut *peers {
        peer.run()?;
        let output = peer.output()?;
        let part = if dtype == DType::BF16 { 128.0 } else { 1024.0 };
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= largest / part;
        if output.len() != expected.len() || !output.iter().zip(expected).all(near) {
            return Err(format!("{what}: {} computes something else", peer.package()).into());
        }
    }
    let names: Vec<String> = peers.iter().map(|peer| name(peer.as_ref())).collect();
    let mut theirs: Vec<_> = peers.iter_mut().map(|peer| || peer.run()).collect();
    let mut ways: Vec<&mut dyn FnMut() -> Result<()>> = vec![ours];
    ways.extend(theirs.iter_mut().map(|run| run as &mut dyn FnMut() -> Result<()>));
    let timings = interleaved(budget, &mut ways)?;
    let ours = timings[0];
    let row =
        |(peer, timing): (String, &Timing)| Row::new(what, peer, ours.median_s, timing.median_s);
    Ok((ours, names.into_iter().zip(&timings[1..]).map(row).collect()))
}

fn name(peer: &dyn Peer) -> String {
    let (package, how) = (peer.package(), peer.how());
    let space = if how.is_empty() { "" } else { " " };
    format!("{package} {}{space}{how}", version(package))
}

/// The version of a package that this program was locked to.
fn version(package: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let entry =
        lock.split_once(&format!("name = \"{package}\"\nversion = \"")).map(|(_, rest)| rest);
    entry.and_then(|rest| rest.split('"').next()).unwrap_or("of unknown version")
}
