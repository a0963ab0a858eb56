//! A device judges its own kernels before it is chosen: tiny ops, one at least of each form of kernel, on the very card, each
//! held against the reference by the rule that the parity suite has. `device` and a node's executor call it; tests use the
//! rule.

mod cases;
mod rule;

pub use rule::holds;

use crate::backend::{Backend, IndexFault, Place, Progress};
use crate::error::{Error, Kind, Result};
use crate::op::{Binding, BufferId, CheckedOp, Op, Precision};
use crate::order::{Family, Order, Plan};
use crate::reference::{self, Unit};
use cases::{Case, cases};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What an op left: the bytes of each operand, and the first bad index.
struct Left {
    blocks: Vec<Vec<u8>>,
    fault: Option<IndexFault>,
}

/// The ops that a device is judged by.
///
/// # Errors
/// None: they obey every rule.
pub fn ops() -> Result<Vec<Arc<CheckedOp>>> {
    Ok(cases()?.into_iter().map(|case| case.op).collect())
}

/// What tells this judge from one that asks other ops or has another rule.
pub fn digest() -> [u8; 32] {
    let sources = [include_str!("cases.rs"), include_str!("mod.rs"), include_str!("rule.rs")];
    crate::backend::digest(&sources.map(str::as_bytes))
}

/// How long a device may take to be judged; a card needs a small part of a second.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The backend, once it has run each of [`ops`] that it has kernels for, by every plan of it, cut in two, and all came out as
/// the reference has it. One that does not answer within `limit` is left as it is: what it was given may never end, and
/// closing it would wait for that.
///
/// # Errors
/// `NoDevice` with the first op that came out wrong and its values, `Timeout`, or what the backend fails with.
pub fn judged<B: Backend>(mut backend: B, limit: Duration) -> Result<B> {
    let judged = Instant::now()
        .checked_add(limit)
        .ok_or_else(|| Kind::Timeout { waited_ms: 0 }.into())
        .and_then(|end| judge(&mut backend, end));
    let Err(error) = judged else { return Ok(backend) };
    if !matches!(error.kind(), Kind::Timeout { .. }) {
        return Err(error);
    }
    std::mem::forget(backend);
    Err(Kind::Timeout { waited_ms: limit.as_millis() as u64 }.into())
}

fn judge<B: Backend>(backend: &mut B, end: Instant) -> Result<()> {
    let mut count = 0;
    for case in cases()? {
        let plans = match backend.candidates(&case.op) {
            Err(error) if matches!(error.kind(), Kind::Unsupported { .. }) => continue,
            plans => plans?,
        };
        count += judge_case(backend, &case, &plans, end)?;
    }
    if count == 0 {
        return Err(Kind::NoDevice { why: "it has no kernel to judge".into() }.into());
    }
    Ok(())
}

/// Judges every plan that fits a unit; how many those are.
fn judge_case<B: Backend>(
    backend: &mut B,
    case: &Case,
    plans: &[Plan],
    end: Instant,
) -> Result<usize> {
    let op = &case.op;
    let name = op.op().name();
    let contents: Vec<Vec<u8>> = (0..op.specs().len()).map(|i| case.content(i)).collect();
    let (mut first, mut count): (Option<Left>, usize) = (None, 0);
    let cap = backend.caps().unit_cap_ns;
    for plan in plans.iter().filter(|plan| plan.launch_ns(1) <= cap) {
        let wrong = |why: String| -> Error {
            Kind::NoDevice { why: format!("judged, {name} by {} is wrong: {why}", plan.kernel) }
                .into()
        };
        count += 1;
        let left = run(backend, op, plan, &contents, end).map_err(|error| error.in_op(name))?;
        match &first {
            // All plans of an op have one order, and so the same bits.
            Some(first) if first.blocks != left.blocks => {
                return Err(wrong("other bits than the plan before gave".into()));
            }
            Some(_) => {}
            None => {
                compare(case, &contents, &left, unit_of(op, &plan.order)).map_err(wrong)?;
                first = Some(left);
            }
        }
    }
    Ok(count)
}

/// Runs a plan in two halves on blocks of its own.
fn run<B: Backend>(
    backend: &mut B,
    op: &Arc<CheckedOp>,
    plan: &Plan,
    contents: &[Vec<u8>],
    end: Instant,
) -> Result<Left> {
    let mut places = Vec::new();
    for content in contents {
        let block = backend.alloc(content.len() as u64)?;
        backend.upload(block, 0, content)?;
        places.push(Place { block, offset: 0 });
    }
    let state = match plan.state_bytes {
        0 => None,
        bytes => Some(Place { block: backend.alloc(bytes)?, offset: 0 }),
    };
    let binding = |(place, content): (&Place, &Vec<u8>)| Binding {
        buffer: BufferId(place.block.0),
        offset: 0,
        len: content.len() as u64,
    };
    let bound = op.bind(&places.iter().zip(contents).map(binding).collect::<Vec<_>>())?;
    let mut prepared = backend.prepare(op, plan)?;
    let units = plan.units() as u64;
    for units in [0..units / 2, units / 2..units] {
        backend.launch(&mut prepared, units, &bound, &places, state)?;
    }
    let mark = backend.mark()?;
    let rest = end.saturating_duration_since(Instant::now());
    let fault = match backend.poll(mark, Some(rest))? {
        Progress::Done { fault, .. } => fault,
        Progress::Pending => return Err(Kind::Timeout { waited_ms: 0 }.into()),
    };
    let mut blocks = Vec::new();
    for (place, content) in places.iter().zip(contents) {
        let mut bytes = vec![0; content.len()];
        backend.download(place.block, 0, &mut bytes)?;
        backend.free(place.block);
        blocks.push(bytes);
    }
    state.iter().for_each(|state| backend.free(state.block));
    Ok(Left { blocks, fault })
}

/// What an op's order multiplies with.
pub fn unit_of(op: &CheckedOp, order: &Order) -> Unit {
    let may_round = matches!(op.op(), Op::Matmul(matmul) if matmul.precision == Precision::Tf32);
    let is_wide = op.spec("a").is_some_and(|a| a.dtype.size() == 2);
    match order.family {
        Family::Matrix16 | Family::Vendor if is_wide => Unit::Matrix16,
        Family::MatrixTf32 => Unit::Tf32,
        Family::Vendor if may_round => Unit::Tf32,
        Family::Matrix8 => Unit::Fp8,
        _ => Unit::Single,
    }
}

/// Holds what an op left against the reference.
fn compare(case: &Case, contents: &[Vec<u8>], left: &Left, unit: Unit) -> Result<(), String> {
    let op = &case.op;
    let told = left.fault.map(|fault| [fault.value, fault.bound]);
    if told != case.fault {
        return Err(format!("told of the bad index {told:?}, expected {:?}", case.fault));
    }
    let accesses = || op.roles().iter().map(|role| role.access).enumerate();
    let reads = accesses().filter(|(_, access)| access.reads());
    let inputs: Vec<&[u8]> = reads.map(|(i, _)| &*contents[i]).collect();
    let outputs = accesses().filter(|(_, access)| access.writes());
    for ((i, _), [exact, low]) in outputs.zip(reference::expected(op, &inputs, unit)) {
        let spec = &op.specs()[i];
        let got = reference::read(spec.dtype, &spec.layout, &left.blocks[i]);
        holds(spec.dtype, &got, &exact, &low)
            .map_err(|why| format!("{}: {why}", op.roles()[i].name))?;
    }
    Ok(())
}
