//! Text of a [`Llama`], token by token, for several sequences at once. Each sequence has a slot: it is begun in one
//! whenever one is free, and then every step makes one token for all of them. A step is one recorded program. What it
//! needs lies on the device, and only the chosen tokens leave it.

use super::{Llama, Sampler};
use crate::model::{Cache, Context, PAGE};
use leasehold::{ArgMax, Copy, Map, Program, Recorder, Result, Tensor, TopK};

/// Tokens of a prompt that run together: enough to keep a device busy, few enough to stay small in memory.
const PROMPT_ROWS: usize = 512;

/// What the cache of a [`Generation`] has room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Sequences at a time.
    pub slots: usize,
    /// Tokens of the longest sequence.
    pub longest: usize,
    /// Tokens of all sequences at a time.
    pub total: usize,
}

/// Sequences in the making.
pub struct Generation<'a> {
    model: &'a Llama,
    cache: Cache,
    sampler: Option<Sampler>,
    /// `[slots]` in i32, on the device: the token that goes in next, how many are in already, and 1 for a slot that
    /// takes part.
    tokens: Tensor,
    lens: Tensor,
    active: Tensor,
    /// The same as `active`, and as the last step's tokens.
    running: Vec<i32>,
    chosen: Vec<i32>,
    step: Program,
}

impl<'a> Generation<'a> {
    /// An empty batch of `model`. The token with the largest logit is chosen, or the `sampler` chooses.
    ///
    /// # Errors
    /// `OutOfMemory`, what the device fails with.
    pub fn new(model: &'a Llama, room: Room, sampler: Option<Sampler>) -> Result<Self> {
        let (device, config) = (&model.device, &model.config);
        let shape = [config.blocks, config.kv_heads, config.dim()];
        let slots = room.slots;
        // Each slot may leave a part of its last page empty.
        let pages = room.total.div_ceil(PAGE) + slots;
        let cache = Cache::new(device, model.dtype, shape, slots, room.longest, pages)?;
        let zeros = || device.tensor([slots], &vec![0i32; slots]);
        let (tokens, lens, active) = (zeros()?, zeros()?, zeros()?);
        let step = device.program(|p| {
            let after = Map::add(&lens, &active).record(p)?;
            let at = Context {
                position: lens.reshape(&[slots, 1])?,
                lens: after,
                pages: cache.table().clone(),
                rope_base: config.rope_base,
            };
            let ids = tokens.reshape(&[slots, 1])?;
            let states = model.states(&ids, &cache, &at, Some(p))?;
            let logits = model.logits(&states, Some(p))?;
            for choice in candidates(&logits, &tokens, sampler.is_some(), Some(p))? {
                p.output(&choice)?;
            }
            Map::add(&lens, &active).into(&lens).record(p)?;
            p.output(&logits)
        })?;
        let (running, chosen) = (vec![0; slots], vec![0; slots]);
        Ok(Self { model, cache, sampler, tokens, lens, active, running, chosen, step })
    }

    /// A slot without a sequence.
    pub fn free_slot(&self) -> Option<usize> {
        self.running.iter().position(|&running| running == 0)
    }

    /// Begins a sequence of at most `longest` tokens with `prompt` in a free slot, and gives its first token; none, and
    /// nothing is begun, while there is no room for it. One that is not ended in time fails the step that outgrows its
    /// pages.
    ///
    /// # Errors
    /// What the device fails with.
    pub fn begin(&mut self, slot: usize, prompt: &[u32], longest: usize) -> Result<Option<u32>> {
        let fits = (1..=longest).contains(&prompt.len()) && self.running[slot] == 0;
        if !fits || !self.cache.take(slot, longest)? {
            return Ok(None);
        }
        let logits = self.read_prompt(slot, prompt)?;
        Copy::new(&logits)
            .into(&self.logits(slot)?.reshape(&[1, logits.shape()[1] as usize])?)
            .run()?;
        let token = self.tokens.narrow(0, slot, 1)?;
        let choices = candidates(&logits, &token, self.sampler.is_some(), None)?;
        let chosen = match (&mut self.sampler, &choices[..]) {
            (Some(sampler), [values, places]) => {
                let chosen = sampler.choose(&all::<f32>(values)?, &all::<i32>(places)?);
                token.write(&[chosen])?;
                chosen
            }
            _ => all::<i32>(&token)?[0],
        };
        self.running[slot] = 1;
        self.active.write(&self.running)?;
        Ok(Some(chosen as u32))
    }

    /// The logits after a prompt, `[1, tokens]`; its keys and values are in the cache.
    fn read_prompt(&self, slot: usize, prompt: &[u32]) -> Result<Tensor> {
        let last = (prompt.len() - 1) / PROMPT_ROWS * PROMPT_ROWS;
        for start in (0..last).step_by(PROMPT_ROWS) {
            self.read_part(slot, start, &prompt[start..start + PROMPT_ROWS])?;
        }
        self.model.logits(&self.read_part(slot, last, &prompt[last..])?, None)
    }

    /// The states of the part of a prompt that stands at `start`.
    fn read_part(&self, slot: usize, start: usize, ids: &[u32]) -> Result<Tensor> {
        let device = &self.model.device;
        let places: Vec<u32> = (start as u32..).take(ids.len()).collect();
        let lens = self.lens.narrow(0, slot, 1)?;
        lens.write(&[(start + ids.len()) as i32])?;
        let at = Context {
            position: device.tensor([1, ids.len()], &places)?,
            lens,
            pages: self.cache.table().narrow(0, slot, 1)?,
            rope_base: self.model.config.rope_base,
        };
        self.model.states(&device.tensor([1, ids.len()], ids)?, &self.cache, &at, None)
    }

    /// One token more for every sequence: each slot with a sequence, and its token.
    ///
    /// # Errors
    /// What the device fails with.
    pub fn step(&mut self) -> Result<impl Iterator<Item = (usize, u32)>> {
        let first = self.step.replay()?;
        match &mut self.sampler {
            None => first.read::<i32>()?.wait_into(&mut self.chosen, None)?,
            Some(sampler) => {
                let best = Sampler::BEST as usize;
                let places = all::<i32>(&self.step.outputs()[1])?;
                let values = all::<f32>(first)?;
                for (slot, chosen) in self.chosen.iter_mut().enumerate() {
                    if self.running[slot] != 0 {
                        let row = slot * best..(slot + 1) * best;
                        *chosen = sampler.choose(&values[row.clone()], &places[row]);
                    }
                }
                self.step.write(&self.tokens, &self.chosen)?;
            }
        }
        let slots = self.running.iter().zip(&self.chosen).enumerate();
        Ok(slots
            .filter(|(_, (running, _))| **running != 0)
            .map(|(slot, (_, &id))| (slot, id as u32)))
    }

    /// The logits that a slot's last token was chosen from, `[tokens]` in f32.
    ///
    /// # Errors
    /// `Value` where there is no such slot.
    pub fn logits(&self, slot: usize) -> Result<Tensor> {
        // The last output of a step.
        let logits = &self.step.outputs()[self.step.outputs().len() - 1];
        logits.narrow(0, slot, 1)?.reshape(&[logits.shape()[1] as usize])
    }

    /// Ends a sequence: its slot and its pages are free.
    ///
    /// # Errors
    /// What the device fails with.
    pub fn end(&mut self, slot: usize) -> Result<()> {
        self.running[slot] = 0;
        self.active.write(&self.running)?;
        self.lens.narrow(0, slot, 1)?.write(&[0i32])?;
        self.cache.give(slot);
        Ok(())
    }
}

/// What a choice is made from: the largest logit's token, written to `tokens`; or, to be sampled from, the largest
/// logits and their tokens.
fn candidates(
    logits: &Tensor,
    tokens: &Tensor,
    sampled: bool,
    p: Option<&Recorder>,
) -> Result<Vec<Tensor>> {
    if !sampled {
        return Ok(vec![ArgMax::new(logits).into(tokens).run_in(p)?]);
    }
    let (values, places) = TopK::new(logits, Sampler::BEST).run_in(p)?;
    Ok(vec![values, places])
}

/// A tensor's elements.
fn all<T: leasehold::Element>(tensor: &Tensor) -> Result<Vec<T>> {
    tensor.read::<T>()?.wait(None)
}
