//! Programs: ops recorded once and replayed many times. What a recorded op makes has no memory of its own; when the
//! recording ends, each such buffer gets a place in one scratch buffer, shared with others that live at other steps.
//! Slots and weights are ordinary tensors: what changes between replays is written into them.

use super::{Buffer, RECORDED, Tensor, dims};
use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::engine::{ProgramId, WhenFull};
use crate::error::{Error, Kind, Result};
use crate::layout::{Dims, Layout};
use crate::op::{Binding, BoundOp, BufferId, CheckedOp, Rule};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Places in scratch are multiples of this many bytes, as allocations are.
const ALIGN: u64 = 256;
/// Buffers that one recording makes, and recordings that can be told apart.
const BUFFER_BITS: u32 = 31;

/// A program in the making. Ops become steps of it by their `record`.
pub struct Recorder {
    device: Device,
    serial: u64,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    steps: Vec<BoundOp>,
    /// Lengths of the buffers made so far, by number.
    made: Vec<u64>,
    /// What the program reads or writes and must not lose.
    kept: HashMap<BufferId, Arc<Buffer>>,
    outputs: Vec<Tensor>,
}

impl Recorder {
    fn new(device: &Device) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = u64::from(SERIAL.fetch_add(1, Relaxed));
        Self { device: device.clone(), serial, state: RefCell::default() }
    }

    /// A tensor to be written before replays: [`Program::write`].
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn slot(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        self.device.empty(dtype, shape)
    }

    /// Makes a tensor an output: its contents can be read after each replay, until the next.
    ///
    /// # Errors
    /// `Device` for a tensor of another device or program.
    pub fn output(&self, tensor: &Tensor) -> Result<()> {
        self.owns(tensor)?;
        self.state.borrow_mut().outputs.push(tensor.clone());
        Ok(())
    }

    fn owns(&self, tensor: &Tensor) -> Result<()> {
        let recorded = tensor.buffer.is_recorded();
        let serial = (tensor.buffer.id.0 & !RECORDED) >> BUFFER_BITS;
        if tensor.device().is(&self.device) && (!recorded || serial == self.serial) {
            return Ok(());
        }
        let asked = if recorded { "a tensor of another program" } else { "another device" };
        let allowed = format!("this program's own, or {:?}", self.device);
        Err(Kind::Device { asked: asked.into(), allowed }.into())
    }

    /// A tensor that only the program has, for its ops to write into: what [`Device::empty`] is outside.
    ///
    /// # Errors
    /// `Shape` over the largest size.
    pub fn empty(&self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        self.made(dtype, dims(shape)?)
    }

    pub(super) fn made(&self, dtype: DType, shape: Dims) -> Result<Tensor> {
        let layout = Layout::contiguous(shape);
        let bytes = layout.numel().saturating_mul(u128::from(dtype.size()));
        let len = u64::try_from(bytes).map_err(|_| {
            Error::rejected(Rule::Elements, None, layout, "fewer than 2^62 elements and bytes")
        })?;
        let mut state = self.state.borrow_mut();
        let number = state.made.len() as u64;
        state.made.push(len);
        let id = BufferId(RECORDED | self.serial << BUFFER_BITS | number);
        let buffer = Arc::new(Buffer { device: self.device.clone(), id, len });
        Ok(Tensor { buffer, dtype, layout, offset: 0 })
    }

    pub(super) fn step(&self, op: BoundOp, operands: &[&Tensor]) -> Result<()> {
        operands.iter().try_for_each(|tensor| self.owns(tensor))?;
        let mut state = self.state.borrow_mut();
        for tensor in operands.iter().filter(|tensor| !tensor.buffer.is_recorded()) {
            state.kept.insert(tensor.buffer.id, Arc::clone(&tensor.buffer));
        }
        state.steps.push(op);
        Ok(())
    }

    /// Gives every buffer its place, and hands the steps to the engine.
    fn finish(self) -> Result<Program> {
        let State { steps, made, kept, mut outputs } = self.state.into_inner();
        if outputs.is_empty() {
            return Err(Error::rejected(Rule::OperandCount, None, "no output", "at least 1"));
        }
        let number = |id: BufferId| {
            (id.0 & RECORDED != 0).then_some((id.0 & ((1 << BUFFER_BITS) - 1)) as usize)
        };
        // Outputs keep their contents between replays, so they have memory of their own.
        let mut own: HashMap<usize, Arc<Buffer>> = HashMap::new();
        for output in &mut outputs {
            if let Some(number) = number(output.buffer.id) {
                let len = made[number];
                if let std::collections::hash_map::Entry::Vacant(slot) = own.entry(number) {
                    let id = self.device.engine().alloc(len)?;
                    slot.insert(Arc::new(Buffer { device: self.device.clone(), id, len }));
                }
                output.buffer = Arc::clone(&own[&number]);
            }
        }
        let lives = lives(&steps, made.len(), number);
        let lives: Vec<_> = lives
            .into_iter()
            .enumerate()
            .map(|(i, life)| life.filter(|_| !own.contains_key(&i)))
            .collect();
        let (places, scratch_len) = place(&made, &lives);
        let scratch = match scratch_len {
            0 => None,
            len => {
                let id = self.device.engine().alloc(len)?;
                Some(Arc::new(Buffer { device: self.device.clone(), id, len }))
            }
        };
        let bind = |binding: &Binding| {
            let Some(number) = number(binding.buffer) else { return *binding };
            match (own.get(&number), &scratch) {
                (Some(buffer), _) => Binding { buffer: buffer.id, len: buffer.len, ..*binding },
                (None, Some(scratch)) => Binding {
                    buffer: scratch.id,
                    offset: places[number] + binding.offset,
                    len: scratch.len,
                },
                // Empty buffers alone leave scratch out.
                (None, None) => *binding,
            }
        };
        let steps = steps
            .iter()
            .map(|step| step.op().bind(&step.bindings().iter().map(bind).collect::<Vec<_>>()));
        let steps = steps.collect::<Result<Vec<_>>>()?;
        let ops = steps.iter().map(|step| Arc::clone(step.op())).collect();
        let id = self.device.engine().record(steps)?;
        let kept = kept.into_values().chain(scratch).collect();
        Ok(Program {
            device: self.device,
            id,
            outputs,
            steps: ops,
            scratch: scratch_len,
            _kept: kept,
        })
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} steps so far, on {}", self.state.borrow().steps.len(), self.device.name())
    }
}

/// The first and last step that each buffer takes part in.
fn lives(
    steps: &[BoundOp],
    buffers: usize,
    number: impl Fn(BufferId) -> Option<usize>,
) -> Vec<Option<[usize; 2]>> {
    let mut lives = vec![None; buffers];
    for (at, step) in steps.iter().enumerate() {
        for buffer in step.bindings().iter().filter_map(|binding| number(binding.buffer)) {
            let life: &mut Option<[usize; 2]> = &mut lives[buffer];
            *life = Some([life.map_or(at, |[first, _]| first), at]);
        }
    }
    lives
}

/// Offsets of buffers in one scratch buffer, and its length: each, in the order of their first steps, at the lowest
/// place that no buffer alive at the same time has.
fn place(lens: &[u64], lives: &[Option<[usize; 2]>]) -> (Vec<u64>, u64) {
    let mut order: Vec<(usize, [usize; 2])> =
        lives.iter().enumerate().filter_map(|(i, life)| Some((i, (*life)?))).collect();
    order.sort_by_key(|&(i, [first, _])| (first, i));
    let mut places = vec![0; lens.len()];
    let mut placed: Vec<(u64, u64, [usize; 2])> = Vec::new();
    let mut end = 0;
    for (i, life) in order {
        let len = lens[i].next_multiple_of(ALIGN);
        let beside =
            |other: &&(u64, u64, [usize; 2])| other.2[0] <= life[1] && life[0] <= other.2[1];
        let mut taken: Vec<(u64, u64)> =
            placed.iter().filter(beside).map(|&(from, to, _)| (from, to)).collect();
        taken.sort_unstable();
        let at =
            taken.iter().fold(0, |at, &(from, to)| if at + len <= from { at } else { at.max(to) });
        places[i] = at;
        placed.push((at, at + len, life));
        end = end.max(at + len);
    }
    (places, end)
}

/// Ops recorded once and replayed many times, on one device. Dropping it blocks nothing.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{DType, Device, Map};
/// let dev = Device::open_named("cpu")?;
/// let slot = dev.empty(DType::F32, &[2])?;
/// let step = dev.program(|p| {
///     let twice = Map::add(&slot, &slot).record(p)?;
///     p.output(&Map::add(&twice, &slot).record(p)?)
/// })?;
/// for x in [1f32, 2.] {
///     step.write(&slot, &[x, 10. * x])?;
///     assert_eq!(step.replay()?.read::<f32>()?.wait(None)?, [3. * x, 30. * x]);
/// }
/// # Ok(()) }
/// ```
pub struct Program {
    device: Device,
    id: ProgramId,
    outputs: Vec<Tensor>,
    steps: Vec<Arc<CheckedOp>>,
    scratch: u64,
    _kept: Vec<Arc<Buffer>>,
}

/// What a replay is predicted to take, at most: times are sums of floor rates, bytes are those of every operand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quote {
    /// Nanoseconds of the device.
    pub time_ns: u128,
    /// Bytes read and written at least once.
    pub bytes: u128,
    /// Floating-point operations; a multiply-add counts two.
    pub flops: u128,
}

impl Program {
    /// Writes a slot, after the replays enqueued so far and before those that follow.
    ///
    /// # Errors
    /// As [`Tensor::write`].
    pub fn write<T: Element>(&self, slot: &Tensor, data: &[T]) -> Result<()> {
        slot.write(data)
    }

    /// Enqueues every step, and gives the first output. Each replay overwrites what the last one left there; reads
    /// enqueued before it see the old contents.
    ///
    /// # Errors
    /// What enqueueing fails with. Errors of the steps come back where an output is read; one failed step marks all
    /// that the program writes as failed.
    pub fn replay(&self) -> Result<&Tensor> {
        let queue = self.device.default_queue();
        self.device.engine().replay(self.id, queue.id(), WhenFull::Wait)?;
        // `finish` saw one.
        Ok(&self.outputs[0])
    }

    /// Every output, in the order in which they were named.
    pub fn outputs(&self) -> &[Tensor] {
        &self.outputs
    }

    /// Number of ops, and bytes of scratch that they share.
    pub fn size(&self) -> (usize, u64) {
        (self.steps.len(), self.scratch)
    }

    /// What a replay is predicted to take. Pure: nothing runs, and equal programs on equal devices have one quote.
    ///
    /// # Errors
    /// What planning a step fails with. On a leased device the node makes the plans, and its loss is an error.
    pub fn quote(&self) -> Result<Quote> {
        self.steps.iter().try_fold(Quote::default(), |sum, op| {
            let (plan, cost) = (self.device.engine().plan(op)?, op.cost());
            Ok(Quote {
                time_ns: sum.time_ns.saturating_add(plan.time_ns),
                bytes: sum.bytes.saturating_add(cost.bytes),
                flops: sum.flops.saturating_add(cost.flops),
            })
        })
    }

    /// How each op runs, a line each: its name, the plan that it follows, its bytes, and its predicted time.
    ///
    /// # Errors
    /// As [`Program::quote`].
    pub fn explain(&self) -> Result<String> {
        let lines = self.steps.iter().map(|op| {
            let (plan, name) = (self.device.engine().plan(op)?, op.op().name());
            Ok(format!("{name}: {}; {} B, {} ns\n", plan.text, op.cost().bytes, plan.time_ns))
        });
        lines.collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.device.engine().erase(self.id);
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (steps, scratch) = self.size();
        write!(f, "{steps} steps, {scratch} B of scratch, on {}", self.device.name())
    }
}

impl Device {
    /// Records a program: `record` makes its steps and names its outputs.
    ///
    /// # Errors
    /// What `record` returns, `OutOfMemory`, and `Unsupported` for more steps than a program may have.
    pub fn program(&self, record: impl FnOnce(&Recorder) -> Result<()>) -> Result<Program> {
        let recorder = Recorder::new(self);
        record(&recorder)?;
        recorder.finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::place;

    #[test]
    fn buffers_alive_together_never_overlap_and_others_share() {
        let mut random = 7u64;
        let mut next = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % n
        };
        for _ in 0..200 {
            let count = next(30) as usize + 1;
            let lens: Vec<u64> = (0..count).map(|_| next(2000)).collect();
            let lives: Vec<_> = (0..count)
                .map(|_| {
                    let first = next(20) as usize;
                    (next(5) > 0).then(|| [first, first + next(6) as usize])
                })
                .collect();
            let (places, end) = place(&lens, &lives);
            for i in (0..count).filter(|&i| lives[i].is_some()) {
                assert!(places[i] % 256 == 0 && places[i] + lens[i] <= end);
                for j in (0..i).filter(|&j| lives[j].is_some()) {
                    let ([a, b], [c, d]) = (lives[i].unwrap(), lives[j].unwrap());
                    let apart =
                        places[i] + lens[i] <= places[j] || places[j] + lens[j] <= places[i];
                    assert!(a > d || c > b || apart, "{i} and {j}");
                }
            }
        }
        // A chain needs room for two.
        let lives: Vec<_> = (0..10).map(|i| Some([i, i + 1])).collect();
        assert_eq!(place(&[256; 10], &lives).1, 512);
    }
}
