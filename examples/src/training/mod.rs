//! A small decoder that learns, forward and backward written out in public ops, small enough to copy: the program
//! `train` trains it on a toy task. A step is one program on the device; tokens go in and the loss comes out.

mod block;
mod config;

pub use config::{Config, Stream};

use block::Step;
use config::Parameters;
use leasehold::{
    DType, Device, Gather, Map, MapFn, Matmul, Norm, Program, Recorder, Reduce, Result, Scatter,
    Softmax, Tensor,
};

/// How fast Adam (Kingma and Ba 2015) forgets gradients and their squares, and what keeps its divisor away from zero.
const FORGETS: [f32; 2] = [0.9, 0.98];
const EPSILON: f32 = 1e-8;

/// A model in training.
pub struct Training {
    config: Config,
    rate: f32,
    steps: i32,
    weights: Tensor,
    gradients: Tensor,
    slots: Slots,
    program: Program,
}

/// What is written before each step.
struct Slots {
    /// `[entries rows]`.
    ids: Tensor,
    /// `[entries rows]`: the token that should follow each.
    targets: Tensor,
    /// `[1]`: the learning rate of the step, which corrects for moments that began at zero.
    rate: Tensor,
}

impl Training {
    /// Of a model with these parameters, as [`Config::shapes`] orders them, on batches of `entries` sequences of `rows`
    /// tokens each.
    ///
    /// # Errors
    /// A shape that an op refuses, or what the device fails with.
    pub fn new(
        device: &Device,
        config: Config,
        parameters: &[f32],
        [entries, rows]: [usize; 2],
        rate: f32,
    ) -> Result<Self> {
        let total = config.total();
        let weights = device.tensor([total], parameters)?;
        let gradients = device.tensor([total], &vec![0f32; total])?;
        let slots = Slots {
            ids: device.empty(DType::U32, &[entries * rows])?,
            targets: device.empty(DType::U32, &[entries * rows])?,
            rate: device.empty(DType::F32, &[1])?,
        };
        let place = |sign: i32| -> Vec<i32> {
            (0..entries).flat_map(|_| 0..rows as i32).map(|row| sign * row).collect()
        };
        let position = device.tensor([entries, rows], &place(1))?;
        let back = device.tensor([entries, rows], &place(-1))?;
        let program = device.program(|p| {
            let step = Step { config: &config, entries, rows, position, back, p };
            let (w, d) = (Parameters::of(&config, &weights)?, Parameters::of(&config, &gradients)?);
            p.output(&step.gradients(&w, &slots, &d)?)?;
            adam(p, &weights, &gradients, &slots.rate)
        })?;
        Ok(Self { config, rate, steps: 0, weights, gradients, slots, program })
    }

    /// Learns from one batch: tokens `[entries, rows]` and what should follow each. The loss before it: the mean of
    /// `-ln` of the probability that the model gave to each target.
    ///
    /// # Errors
    /// `Index` for a token that there is not; what the device fails with.
    pub fn step(&mut self, ids: &[u32], targets: &[u32]) -> Result<f32> {
        self.steps += 1;
        let [first, second] = FORGETS.map(|b| 1.0 - f64::from(b).powi(self.steps));
        let rate = (f64::from(self.rate) * second.sqrt() / first) as f32;
        self.program.write(&self.slots.ids, ids)?;
        self.program.write(&self.slots.targets, targets)?;
        self.program.write(&self.slots.rate, &[rate])?;
        let loss = self.program.replay()?.read::<f32>()?.wait(None)?;
        Ok(loss[0])
    }

    /// The model's sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// All parameters as they are now, flat.
    pub fn weights(&self) -> &Tensor {
        &self.weights
    }

    /// The gradients that the last step followed, flat.
    pub fn gradients(&self) -> &Tensor {
        &self.gradients
    }
}

impl Step<'_> {
    /// Records the way there and back: the loss `[1]`, and in `d` the gradient of every parameter.
    fn gradients(&self, w: &Parameters, slots: &Slots, d: &Parameters) -> Result<Tensor> {
        let (p, config) = (self.p, self.config);
        let mut x = Gather::new(&w.embedding, &slots.ids).record(p)?;
        let mut kept = Vec::new();
        for block in &w.blocks {
            let (y, of_block) = self.forward(block, &x)?;
            kept.push(of_block);
            x = y;
        }
        let normal = Norm::rms(&x, config.epsilon).weight(&w.norm).record(p)?;
        let logits = Matmul::new(&normal, &w.embedding.t()).record(p)?;

        // The mean over rows of -ln p[target]; its gradient by the logits is (p - 1[target]) / rows.
        let probabilities = Softmax::new(&logits).record(p)?;
        let one_hot = self.one_hot(&slots.targets)?;
        let named = Reduce::sum(&Map::mul(&probabilities, &one_hot).record(p)?).record(p)?;
        let total = self.entries * self.rows;
        let terms = Map::unary(MapFn::Log, &named).scale(-1.0).record(p)?;
        let loss = Reduce::mean(&terms.reshape(&[1, total])?).record(p)?;
        let d_logits = Map::binary(MapFn::Sub, &probabilities, &one_hot);
        let d_logits = d_logits.scale(1.0 / total as f32).record(p)?;

        // The embedding's gradient comes from the output, and is added to at the input.
        Matmul::new(&d_logits.t(), &normal).into(&d.embedding).record(p)?;
        let d_normal = Matmul::new(&d_logits, &w.embedding).record(p)?;
        let mut d_x = self.norm_backward(&x, &d_normal, &w.norm, &d.norm)?;
        for (block, kept) in kept.iter().enumerate().rev() {
            d_x = self.backward(&w.blocks[block], kept, &d_x, &d.blocks[block])?;
        }
        Scatter::add(&d_x, &slots.ids, &d.embedding).record(p)?;
        Ok(loss)
    }

    /// A row for each target, 1 where it is and 0 elsewhere: rows of the unit matrix.
    fn one_hot(&self, targets: &Tensor) -> Result<Tensor> {
        let n = self.config.tokens;
        let unit: Vec<f32> = (0..n * n).map(|i| f32::from(u8::from(i % (n + 1) == 0))).collect();
        let unit = targets.device().tensor([n, n], &unit)?;
        Gather::new(&unit, targets).record(self.p)
    }
}

/// Records one step of Adam over all parameters at once.
fn adam(p: &Recorder, weights: &Tensor, gradients: &Tensor, rate: &Tensor) -> Result<()> {
    let zeros = vec![0f32; weights.shape()[0] as usize];
    let [means, squares] = [(); 2].map(|()| weights.device().tensor_of(&[zeros.len()], &zeros));
    let (means, squares) = (means?, squares?);
    let moments = [(&means, MapFn::Identity), (&squares, MapFn::Square)];
    for ((moment, of), forgets) in moments.into_iter().zip(FORGETS) {
        let new = Map::unary(of, gradients).scale(1.0 - forgets).record(p)?;
        let old = Map::unary(MapFn::Identity, moment).scale(forgets).record(p)?;
        Map::add(&old, &new).into(moment).record(p)?;
    }
    let root = Map::unary(MapFn::Sqrt, &squares).shift(EPSILON).record(p)?;
    let step = Map::binary(MapFn::Div, &means, &root).record(p)?;
    let step = Map::mul(&step, rate).record(p)?;
    Map::binary(MapFn::Sub, weights, &step).into(weights).record(p)?;
    Ok(())
}
