//! Runs a case on a backend: every plan, the whole range and cut ranges, poisoned outputs, then the judgement.

use super::case::{Case, Fill, POISON, Random};
use super::judge::{judge, unit_of};
use leasehold::backend::{Backend, IndexFault, Place, Progress};
use leasehold::op::{Access, Binding, BoundOp, BufferId, CheckedOp};
use leasehold::order::{Family, Order, Plan};
use leasehold::reference::{self, Unit};
use leasehold::{Error, Kind};
use std::sync::Arc;

/// What a case came to.
#[derive(Debug)]
pub enum Outcome {
    /// All is as it should be.
    Passed,
    /// The backend does not run it, with its error.
    Unsupported(Error),
}

/// What one execution left: the whole allocation of each operand, and the first fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Left {
    pub blocks: Vec<Vec<u8>>,
    pub fault: Option<IndexFault>,
}

/// Runs the case under every plan and several cuts, and judges it.
///
/// # Errors
/// What is wrong.
pub fn run_on<B: Backend>(backend: &mut B, case: &Case) -> Result<Outcome, String> {
    let op = Arc::new(case.checked());
    let contents = contents(case);
    let plans = match backend.candidates(&op) {
        Ok(plans) => plans,
        Err(e) if matches!(e.kind(), Kind::Unsupported { .. }) => {
            return Ok(Outcome::Unsupported(e));
        }
        Err(e) => return Err(e.to_string()),
    };
    // Plans of one order give the same bits: what the first of each left.
    let mut firsts: Vec<(Order, Left)> = Vec::new();
    for plan in &plans {
        if plan.unit_ns > backend.caps().unit_cap_ns {
            return Err(format!("a unit of {plan} is over the cap"));
        }
        let units = plan.units() as u64;
        for cuts in cuts(units) {
            let left = execute(backend, &op, plan, &contents, case, &cuts)
                .map_err(|e| format!("{plan}: {e}"))?;
            match firsts.iter().find(|(order, _)| *order == plan.order) {
                None => firsts.push((plan.order, left)),
                Some((_, first)) if *first == left => {}
                Some(_) => return Err(format!("{plan} cut at {cuts:?} gives other bits")),
            }
        }
    }
    // Ours are of one order each; a vendor's, where an op takes any, has its own.
    if firsts.iter().filter(|(order, _)| order.family != Family::Vendor).count() > 1 {
        return Err("plans of more than one order".into());
    }
    for (order, left) in &firsts {
        judge_all(&op, case, &contents, left, unit_of(&op, order))
            .map_err(|e| format!("{order}: {e}"))?;
    }
    if firsts.is_empty() { Err("no plan".into()) } else { Ok(Outcome::Passed) }
}

/// The bytes of each operand's allocation before the op.
pub fn contents(case: &Case) -> Vec<Vec<u8>> {
    let seed =
        |i: usize| case.name.bytes().fold(i as u64, |h, b| h * 31 % (1 << 50) + u64::from(b));
    case.operands.iter().enumerate().map(|(i, operand)| operand.content(seed(i))).collect()
}

/// Ends of ranges: all at once, the first unit apart; of more than two, every unit apart or some at random.
fn cuts(units: u64) -> Vec<Vec<u64>> {
    let mut all = vec![vec![units]];
    if units > 1 {
        all.push(vec![1, units]);
    }
    if units > 2 {
        let mut random = Random(units);
        all.push(match units {
            0..=64 => (1..=units).collect(),
            _ => {
                let mut ends: Vec<u64> = (0..6).map(|_| random.below(units)).collect();
                ends.push(units);
                ends.sort();
                ends
            }
        });
    }
    all
}

/// Allocates, fills, launches the ranges that end at `cuts`, and reads everything back.
pub fn execute<B: Backend>(
    backend: &mut B,
    op: &Arc<CheckedOp>,
    plan: &Plan,
    contents: &[Vec<u8>],
    case: &Case,
    cuts: &[u64],
) -> Result<Left, Error> {
    execute_between(backend, op, plan, contents, case, cuts, |_, _| Ok(()))
}

/// The same; before a range is launched `between` is called with where operands lie.
pub fn execute_between<B: Backend>(
    backend: &mut B,
    op: &Arc<CheckedOp>,
    plan: &Plan,
    contents: &[Vec<u8>],
    case: &Case,
    cuts: &[u64],
    mut between: impl FnMut(&mut B, &[Place]) -> Result<(), Error>,
) -> Result<Left, Error> {
    let mut places = Vec::new();
    for (i, (operand, content)) in case.operands.iter().zip(contents).enumerate() {
        let block = match operand.fill {
            Fill::Same(other) => {
                let place: &Place = &places[if other < i { other } else { i }];
                place.block
            }
            _ => {
                let block = backend.alloc(content.len() as u64)?;
                backend.upload(block, 0, content)?;
                block
            }
        };
        places.push(Place { block, offset: operand.offset });
    }
    let bound = bind(op, case, &places)?;
    let state = match plan.state_bytes {
        0 => None,
        bytes => {
            let block = backend.alloc(bytes)?;
            backend.upload(block, 0, &vec![POISON; bytes as usize])?;
            Some(Place { block, offset: 0 })
        }
    };
    let mut prepared = backend.prepare(op, plan)?;
    let mut from = 0;
    for &to in cuts {
        if to > from {
            between(backend, &places)?;
            backend.launch(&mut prepared, from..to, &bound, &places, state)?;
        }
        from = to;
    }
    let mark = backend.mark()?;
    let fault = loop {
        if let Progress::Done { fault, .. } = backend.poll(mark, None)? {
            break fault;
        }
    };
    let mut blocks = Vec::new();
    for (place, content) in places.iter().zip(contents) {
        let mut bytes = vec![0; content.len()];
        backend.download(place.block, 0, &mut bytes)?;
        blocks.push(bytes);
    }
    for (i, place) in places.iter().enumerate() {
        if !matches!(case.operands[i].fill, Fill::Same(_)) {
            backend.free(place.block);
        }
    }
    if let Some(state) = state {
        backend.free(state.block);
    }
    Ok(Left { blocks, fault })
}

fn bind(op: &Arc<CheckedOp>, case: &Case, places: &[Place]) -> Result<BoundOp, Error> {
    let bindings = places.iter().zip(&case.operands).map(|(place, operand)| {
        let (buffer, len) = (BufferId(place.block.0), operand.bytes());
        Binding { buffer, offset: place.offset, len }
    });
    op.bind(&bindings.collect::<Vec<_>>())
}

/// Judges every output, and every byte that the op had no business with.
fn judge_all(
    op: &CheckedOp,
    case: &Case,
    contents: &[Vec<u8>],
    left: &Left,
    unit: Unit,
) -> Result<(), String> {
    if let Some(fault) = left.fault {
        return Err(format!("{fault:?} of good indices"));
    }
    let view = |i: usize| &contents[i][(case.operands[i].offset as usize).min(contents[i].len())..];
    let written = |i: usize| op.roles()[i].access.writes();
    let named = |wanted: fn(Access) -> bool| {
        (0..case.operands.len()).filter(move |&i| wanted(op.roles()[i].access))
    };
    let (outs, ins) = (named(Access::writes), named(Access::reads));
    let inputs: Vec<&[u8]> = ins.map(view).collect();
    for (i, [exact, low]) in outs.zip(reference::expected(op, &inputs, unit)) {
        let operand = &case.operands[i];
        let name = op.roles()[i].name;
        let bytes = &left.blocks[i][operand.offset as usize..];
        // The view as `check` left it: the op's axis last.
        let got = reference::read(operand.dtype, &op.specs()[i].layout, bytes);
        judge(operand.dtype, &got, &exact, &low).map_err(|e| format!("{name}: {e}"))?;
    }
    neighbours(case, contents, left, written)
}

/// Bytes outside an output's elements, and all of an input that no output shares, are as they were.
pub fn neighbours(
    case: &Case,
    contents: &[Vec<u8>],
    left: &Left,
    written: impl Fn(usize) -> bool,
) -> Result<(), String> {
    for (i, operand) in case.operands.iter().enumerate() {
        let mut after = left.blocks[i].clone();
        let before = match operand.fill {
            Fill::Same(other) => &contents[other],
            _ => &contents[i],
        };
        let shared = case.operands.iter().any(|o| matches!(o.fill, Fill::Same(j) if j == i));
        if written(i) || shared {
            let size = operand.dtype.size() as usize;
            for at in reference::offsets(&operand.layout) {
                let at = operand.offset as usize + at as usize * size;
                after[at..at + size].copy_from_slice(&before[at..at + size]);
            }
        }
        if let Some(at) = after.iter().zip(before).position(|(a, b)| a != b) {
            return Err(format!("operand {i}: byte {at} was written, it is no element"));
        }
    }
    Ok(())
}
