//! The peers' side: PyTorch and the libraries it brings, in this process. `benches/gpu/check/peers.py` is the program then,
//! which loads ours as a library and hands it a function that answers one JSON request with another; without it every
//! peer's place says why there is none. `speed` asks.

use super::problem::{Built, Problem};
use super::report::{Maybe, PeersOf};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Answers a request that comes with the bytes of operands.
pub type Answer<'a> = dyn FnMut(&str, &[&[u8]]) -> Result<String, String> + 'a;

/// The peers, or why there are none.
pub(super) struct Theirs<'a> {
    answer: Option<Box<Answer<'a>>>,
    /// What they are.
    pub(super) about: Maybe<PeersOf>,
}

/// One peer of the problem that is loaded.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Offer {
    /// What is called.
    pub(super) name: String,
    /// Whether it is no part of the ratio.
    pub(super) beside: bool,
    /// Why it is not, where it is not.
    pub(super) not_run: Option<String>,
    /// Which of its ways it takes.
    pub(super) how: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Offers {
    peers: Vec<Offer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Seconds {
    seconds: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Values {
    /// Where one is infinite or none it is a word, which is no value.
    values: Vec<Option<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Samples {
    samples: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl<'a> Theirs<'a> {
    /// Asks who is there.
    pub(super) fn new(answer: Option<Box<Answer<'a>>>) -> Self {
        let why = "benches/gpu/check/peers.py was not what started this";
        let mut theirs = Self { answer, about: Maybe::not(why) };
        if theirs.answer.is_some() {
            let about = theirs.ask::<Maybe<PeersOf>>(&json!({ "do": "hello" }), &[]);
            theirs.about = about.unwrap_or_else(Maybe::not);
        }
        theirs
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &Value, bytes: &[&[u8]]) -> Result<T, String> {
        let Some(answer) = &mut self.answer else { return Err("there are no peers".into()) };
        let text = answer(&request.to_string(), bytes)?;
        let value: Value =
            serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        if let Some(why) = value.get("error") {
            return Err(why.as_str().map_or_else(|| why.to_string(), String::from));
        }
        serde_json::from_value(value).map_err(|error| format!("{error}: {text}"))
    }

    /// Loads a problem in so many copies; who would compute it.
    ///
    /// # Errors
    /// Why nobody would.
    pub(super) fn load(
        &mut self,
        problem: &Problem,
        built: &Built,
        copies: u64,
    ) -> Result<Vec<Offer>, String> {
        if let Some(why) = self.about.why_not() {
            return Err(why.into());
        }
        let given = built.given.iter().map(|given| {
            let layout = &given.spec.layout;
            let (shape, strides) = (layout.shape().to_vec(), layout.strides().to_vec());
            json!({ "name": given.name, "dtype": given.spec.dtype.name(), "shape": shape, "strides": strides })
        });
        let outs = &built.op.specs()[built.given.len()..];
        let written: u64 = outs.iter().map(|spec| spec.span_bytes() as u64).sum();
        let request = json!({
            "do": "load",
            "problem": problem,
            "copies": copies,
            "given": given.collect::<Vec<_>>(),
            "written": written,
        });
        let bytes: Vec<&[u8]> = built.given.iter().map(|given| given.bytes.as_slice()).collect();
        self.ask::<Offers>(&request, &bytes).map(|offers| offers.peers)
    }

    /// Seconds of so many runs of a peer.
    ///
    /// # Errors
    /// What it fails with.
    pub(super) fn time(&mut self, peer: usize, runs: u32) -> Result<f64, String> {
        let request = json!({ "do": "time", "peer": peer, "runs": runs });
        self.ask::<Seconds>(&request, &[]).map(|answer| answer.seconds)
    }

    /// Elements of what a peer computed, by their places in one of our outputs; none where it does not compute that one.
    ///
    /// # Errors
    /// What it fails with.
    pub(super) fn values(
        &mut self,
        peer: usize,
        output: usize,
        at: &[u64],
    ) -> Result<Vec<f64>, String> {
        let request = json!({ "do": "values", "peer": peer, "output": output, "at": at });
        let values = self.ask::<Values>(&request, &[])?;
        Ok(values.values.into_iter().map(|value| value.unwrap_or(f64::NAN)).collect())
    }

    /// Seconds of one small op of `count` before a wait, a sample each, on the host's clock.
    ///
    /// # Errors
    /// Why there is no such number.
    pub(super) fn host(&mut self, elements: usize, count: usize) -> Result<Vec<f64>, String> {
        if let Some(why) = self.about.why_not() {
            return Err(why.into());
        }
        let request = json!({ "do": "host", "elements": elements, "count": count });
        self.ask::<Samples>(&request, &[]).map(|answer| answer.samples)
    }

    /// Forgets the problem.
    pub(super) fn unload(&mut self) {
        if self.about.known().is_some() {
            // What cannot be forgotten fails where the next is loaded.
            let _ = self.ask::<Nothing>(&json!({ "do": "unload" }), &[]);
        }
    }
}
