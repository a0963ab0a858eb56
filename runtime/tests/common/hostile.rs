//! Indices and counts in device memory that lie, or change while kernels read them. `wgpu_hostile` uses it, and the
//! backend's tests from inside, which force kernels.

use super::case::{Case, Fill, Operand, POISON, Random, Style};
use super::judge::{judge, unit_of};
use super::run::{contents, execute, execute_between, neighbours};
use leasehold::backend::{Backend, Place, Progress};
use leasehold::op::{Attention, Binding, BufferId, KeyValue, Lens, Op, Role, Scores};
use leasehold::order::Plan;
use leasehold::{DType, reference};
use std::sync::Arc;

/// Operands of indices and counts.
const TRUSTED_BY_NONE: [&str; 7] =
    ["index", "pages", "lens", "rows", "sizes", "a_index", "b_index"];
const BAD: [u32; 5] = [u32::MAX, 0x8000_0000, 0x7fff_ffff, 1 << 24, 70_000];

/// Whether an op reads indices or counts.
pub fn is_told(case: &Case) -> bool {
    case.op.roles().iter().any(|role| TRUSTED_BY_NONE.contains(&role.name))
}

fn is_trusted_by_none(role: &Role) -> bool {
    role.access.reads() && TRUSTED_BY_NONE.contains(&role.name)
}

/// Runs a case under a plan with every second index or count a bad one; true if a fault was told.
pub fn lied_to<B: Backend>(backend: &mut B, case: &Case, plan: &Plan) -> bool {
    let op = Arc::new(case.checked());
    let mut contents = contents(case);
    let mut random = Random(contents.len() as u64);
    let mut lies = Vec::new();
    for (i, role) in op.roles().iter().enumerate() {
        if !is_trusted_by_none(role) {
            continue;
        }
        let operand = &case.operands[i];
        // Matrices may overlap: an address of the one just beyond them is one of elements that are bound.
        let beyond = match operand.fill {
            Fill::Indices(bound) if role.name.ends_with("_index") => Some(bound),
            _ => None,
        };
        let known: Vec<u32> = BAD.into_iter().chain(beyond).collect();
        for at in reference::offsets(&operand.layout) {
            let at = (operand.offset + 4 * at) as usize;
            if random.below(2) == 0 {
                let bad = match random.below(known.len() as u64 + 1) as usize {
                    at if at < known.len() => known[at],
                    _ => random.bits() as u32 | 1 << 20,
                };
                contents[i][at..at + 4].copy_from_slice(&bad.to_le_bytes());
                lies.push(bad);
            }
        }
    }
    let units = plan.units() as u64;
    let left = execute(backend, &op, plan, &contents, case, &[units / 2, units]).unwrap();
    let reads: Vec<&[u8]> = op
        .roles()
        .iter()
        .enumerate()
        .filter(|(_, role)| role.access.reads())
        .map(|(i, _)| &contents[i][case.operands[i].offset as usize..])
        .collect();
    let expected = reference::expected(&op, &reads, unit_of(&op, &plan.order));
    let outs = (0..op.roles().len()).filter(|&i| op.roles()[i].access.writes());
    for (i, [exact, low]) in outs.zip(expected) {
        let operand = &case.operands[i];
        let mut after = left.blocks[i].clone();
        let bytes = &after[operand.offset as usize..];
        let got = reference::read(operand.dtype, &op.specs()[i].layout, bytes);
        judge(operand.dtype, &got, &exact, &low).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let size = operand.dtype.size() as usize;
        for at in reference::offsets(&operand.layout) {
            let at = operand.offset as usize + at as usize * size;
            after[at..at + size].copy_from_slice(&contents[i][at..at + size]);
        }
        assert!(after == contents[i], "{}: a byte beside the output changed", case.name);
    }
    for (i, role) in op.roles().iter().enumerate() {
        assert!(
            role.access.writes() || left.blocks[i] == contents[i],
            "{}: operand {i}",
            case.name
        );
    }
    if let Some(fault) = left.fault {
        assert!(lies.contains(&fault.value), "{}: {fault:?}", case.name);
        assert!(fault.value >= fault.bound, "{}: {fault:?}", case.name);
    }
    left.fault.is_some()
}

/// Runs attention of f16 over pages while its own output overwrites its page table and lengths, which lie where it
/// begins: bindings say that they are apart, places say otherwise. All values are 1 and all that is not ours is NaN, so an
/// element of the output that is not from 0 to 1 is one that a bad index found. Whether a fault was told.
pub fn changed<B: Backend>(backend: &mut B, kernel: &str, keys: u32) -> bool {
    let (batch, heads, rows, d, page) = (4u64, 2, 40u64, 64u64, 16u64);
    let room = u64::from(keys).div_ceil(page);
    let pool = [batch * room, heads, page, d];
    let make = |dtype, shape: &[u64], fill| Operand::new(dtype, shape, Style::Tight, 128, fill);
    let operands = vec![
        make(DType::F16, &[batch, heads, rows, d], Fill::Normal(1.0)),
        make(DType::F16, &pool, Fill::Normal(1.0)),
        make(DType::F16, &pool, Fill::List([1; 3])),
        make(DType::I32, &[batch], Fill::List([keys; 3])),
        make(DType::I32, &[batch, room], Fill::Indices(pool[0] as u32)),
        make(DType::F16, &[batch, heads, rows, d], Fill::Poison),
    ];
    let op = Attention {
        scores: Scores { scale: 0.125, lens: Lens::Device { max: keys }, ..Scores::default() },
        key_value: KeyValue::Paged { page: page as u32 },
        ..Attention::default()
    };
    let case = Case::new(op, operands);
    let op = Arc::new(case.checked());
    let plans = backend.candidates(&op).unwrap();
    let plan = *plans.iter().find(|plan| plan.kernel == kernel).unwrap();
    let contents = contents(&case);
    let blocks = [0, 1, 2, 5].map(|i| backend.alloc(contents[i].len() as u64).unwrap());
    let starts = [0, 1, 2].map(|i| case.operands[i].offset);
    let out = &case.operands[5];
    // The first entry's rows hit the lengths and pages of all.
    let [lens_at, pages_at] = [out.offset, out.offset + 256];
    let places: Vec<Place> = (0..3)
        .map(|i| Place { block: blocks[i], offset: starts[i] })
        .chain([lens_at, pages_at, out.offset].map(|offset| Place { block: blocks[3], offset }))
        .collect();
    let bindings = places.iter().zip(&case.operands).enumerate().map(|(i, (place, operand))| {
        let len = place.offset + operand.spec().span_bytes() as u64;
        Binding { buffer: BufferId(i as u64), offset: place.offset, len }
    });
    let bound = op.bind(&bindings.collect::<Vec<_>>()).unwrap();
    let state = (plan.state_bytes > 0).then(|| {
        let block = backend.alloc(plan.state_bytes).unwrap();
        Place { block, offset: 0 }
    });
    for i in 0..3 {
        backend.upload(blocks[i], 0, &contents[i]).unwrap();
    }
    let mut before = contents[5].clone();
    for (i, at) in [(3, lens_at), (4, pages_at)] {
        let operand = &case.operands[i];
        let bytes = operand.spec().span_bytes() as usize;
        let from = operand.offset as usize;
        let at = at as usize;
        before[at..at + bytes].copy_from_slice(&contents[i][from..from + bytes]);
    }
    backend.upload(blocks[3], 0, &before).unwrap();
    let mut prepared = backend.prepare(&op, &plan).unwrap();
    let units = plan.units() as u64;
    for unit in 0..units {
        backend.launch(&mut prepared, unit..unit + 1, &bound, &places, state).unwrap();
    }
    let mark = backend.mark().unwrap();
    let fault = loop {
        if let Progress::Done { fault, .. } = backend.poll(mark, None).unwrap() {
            break fault;
        }
    };
    for i in 0..3 {
        let mut after = vec![0; contents[i].len()];
        backend.download(blocks[i], 0, &mut after).unwrap();
        assert!(after == contents[i], "{kernel}: operand {i} changed");
    }
    let mut after = before.clone();
    backend.download(blocks[3], 0, &mut after).unwrap();
    let (from, bytes) = (out.offset as usize, out.spec().span_bytes() as usize);
    let values = reference::read(DType::F16, &out.layout, &after[from..]);
    // Weights are rounded and summed apart.
    let is_ours = |x: &f64| (0.0..1.002).contains(x);
    assert!(values.iter().all(is_ours), "{kernel}: {:?}", values.iter().find(|x| !is_ours(x)));
    let guard = |bytes: &[u8]| bytes.iter().all(|&byte| byte == POISON);
    assert!(guard(&after[..from]) && guard(&after[from + bytes..]), "{kernel}: a guard changed");
    blocks.into_iter().chain(state.map(|state| state.block)).for_each(|b| backend.free(b));
    if let Some(fault) = fault {
        assert!(fault.value >= fault.bound, "{kernel}: {fault:?}");
        assert!([pool[0] as u32, keys + 1].contains(&fault.bound), "{kernel}: {fault:?}");
    }
    fault.is_some()
}

/// Runs a case while its indices and counts change between slices, to bad ones and to others: what is made is of elements
/// of operands, beside which all is NaN, and no byte beside the outputs changes. Whether a fault was told.
pub fn changing<B: Backend>(backend: &mut B, case: &Case, plan: &Plan) -> bool {
    changing_those(backend, case, plan, |_| true)
}

/// The names of a case's operands of indices and counts.
pub fn told(case: &Case) -> Vec<&'static str> {
    let roles = case.op.roles();
    roles.iter().filter(|role| is_trusted_by_none(role)).map(|role| role.name).collect()
}

/// The same where of these operands only those of some names change.
pub fn changing_those<B: Backend>(
    backend: &mut B,
    case: &Case,
    plan: &Plan,
    changes: impl Fn(&str) -> bool,
) -> bool {
    /// Launches of a case, at most.
    const SLICES: u64 = 12;
    let op = Arc::new(case.checked());
    let contents = contents(case);
    let is_told = |role: &Role| is_trusted_by_none(role) && changes(role.name);
    let told = || (0..op.roles().len()).filter(|&i| is_told(&op.roles()[i]));
    let mut slice = 0;
    let lie = |backend: &mut B, places: &[Place]| {
        slice += 1;
        told().try_for_each(|i| {
            let (operand, mut lies) = (&case.operands[i], contents[i].clone());
            for (n, at) in reference::offsets(&operand.layout).enumerate() {
                let at = (operand.offset + 4 * at) as usize;
                let lie = [0, u32::MAX, 2, i32::MAX as u32, 3, 1 << 31][(n + slice) % 6];
                lies[at..at + 4].copy_from_slice(&lie.to_le_bytes());
            }
            backend.upload(places[i].block, 0, &lies)
        })
    };
    let units = plan.units() as u64;
    let cuts: Vec<u64> = (1..=SLICES.min(units)).map(|i| units * i / SLICES.min(units)).collect();
    let mut left = execute_between(backend, &op, plan, &contents, case, &cuts, lie).unwrap();
    told().for_each(|i| left.blocks[i].clone_from(&contents[i]));
    neighbours(case, &contents, &left, |i| op.roles()[i].access.writes())
        .unwrap_or_else(|wrong| panic!("{}: {plan}: {wrong}", case.name));
    // Rows that are of no group or entry by the counts of one slice and another's by those of the next are nobody's to
    // write, and what a slice hands on may be of other rows than the next has.
    let is_grouped = match op.op() {
        Op::Attention(op) => op.scores.rows != Lens::Full,
        Op::AttentionBackward(op) => op.scores.rows != Lens::Full,
        _ => op.position("sizes").is_some(),
    };
    for out in (0..op.roles().len()).filter(|&i| op.roles()[i].access.writes()) {
        let operand = &case.operands[out];
        let bytes = &left.blocks[out][operand.offset as usize..];
        let values = reference::read(operand.dtype, &op.specs()[out].layout, bytes);
        // The logarithm of no key's sum.
        let is_none = |x: f64| op.roles()[out].name == "lse" && x == f64::NEG_INFINITY;
        let is_made = |x: &f64| x.is_finite() || is_none(*x);
        assert!(is_grouped || values.iter().all(is_made), "{}: {plan}", case.name);
    }
    left.fault.is_some()
}
