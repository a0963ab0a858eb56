//! One case again and again: every plan that a tuner could choose, or the one that it does choose, cut anew at random each
//! time, and every byte held against the first run's. `ours` calls it on a backend, `proofs` and `sanitizer` make rows.

use super::parity::case::{Case, Fill, Operand, Random, Style};
use super::parity::run::{Left, contents, execute};
use super::report::Checked;
use leasehold::DType::{self, BF16, F8E4M3, F16, F32, U32};
use leasehold::backend::Backend;
use leasehold::op::{
    Attention, AttentionBackward, CheckedOp, Group, KeyValue, Lens, Matmul, Scale, Scores,
};
use leasehold::order::Plan;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often, as far as there is time, and where cuts come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Runs; one of each plan where `None`, and at least two, of which the second is cut.
    pub(super) runs: Option<u64>,
    /// No run begins after it.
    pub(super) time: Duration,
    /// Of the cuts.
    pub(super) seed: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) struct Repeated {
    /// Runs that were equal.
    pub(super) checked: Checked,
    /// Of so many that were asked for.
    pub(super) runs: u64,
    /// Plans of the order, all of which ran or were timed by the tuner.
    pub(super) plans: usize,
    /// What the tuner chose; none without one, or without a choice.
    pub(super) chosen: Option<&'static str>,
}

const NORMAL: Fill = Fill::Normal(1.0);

fn tight(dtype: DType, shape: &[u64]) -> Operand {
    Operand::new(dtype, shape, Style::Tight, 0, NORMAL)
}

fn turned(dtype: DType, shape: &[u64]) -> Operand {
    Operand::new(dtype, shape, Style::Turned, 0, NORMAL)
}

fn out(dtype: DType, shape: &[u64]) -> Operand {
    Operand::out(dtype, shape, Style::Tight, 0)
}

fn product(dtype: DType, [m, n, k]: [u64; 3]) -> Case {
    let operands = vec![tight(dtype, &[m, k]), turned(dtype, &[k, n]), out(dtype, &[m, n])];
    Case::new(Matmul::default(), operands)
}

fn scaled([m, n, k]: [u64; 3]) -> Case {
    let blocks = |n: u64| n.div_ceil(128);
    let scale = |shape: &[u64]| Operand::new(F32, shape, Style::Tight, 0, Fill::Positive);
    let operands = vec![
        tight(F8E4M3, &[m, k]),
        turned(F8E4M3, &[k, n]),
        scale(&[m, blocks(k)]),
        scale(&[blocks(k), blocks(n)]),
        out(BF16, &[m, n]),
    ];
    let scales = [Scale::Block1x128, Scale::Block128x128];
    Case::new(Matmul { scales, ..Matmul::default() }, operands)
}

fn grouped(counts: [u32; 3], [n, k]: [u64; 2]) -> Case {
    let m = u64::from(counts.iter().sum::<u32>());
    let operands = vec![tight(BF16, &[m, k]), turned(BF16, &[3, k, n]), out(BF16, &[m, n])];
    let (group, sizes) = (Group::Contiguous, Lens::Host(counts.into()));
    Case::new(Matmul { group, sizes, ..Matmul::default() }, operands)
}

fn causal() -> Scores {
    Scores { scale: 0.125, causal: true, ..Scores::default() }
}

fn attention(batch: u64, rows: u64, dim: u64) -> Case {
    let [q, kv] = [[batch, 4, rows, dim], [batch, 2, rows, dim]];
    let operands = vec![tight(BF16, &q), tight(BF16, &kv), tight(BF16, &kv), out(BF16, &q)];
    Case::new(Attention { scores: causal(), ..Attention::default() }, operands)
}

fn paged(lens: [u32; 3], page: u64, dim: u64) -> Case {
    let most = *lens.iter().max().unwrap_or(&0);
    let (each, q) = (u64::from(most).div_ceil(page), [3, 4, 1, dim]);
    let store = [3 * each, 2, page, dim];
    let words = |shape: &[u64], fill| Operand::new(U32, shape, Style::Tight, 0, fill);
    let operands = vec![
        tight(BF16, &q),
        tight(BF16, &store),
        tight(BF16, &store),
        words(&[3], Fill::List(lens)),
        words(&[3, each], Fill::Indices(3 * each as u32)),
        out(BF16, &q),
    ];
    let scores = Scores { lens: Lens::Device { max: most }, ..causal() };
    let key_value = KeyValue::Paged { page: page as u32 };
    Case::new(Attention { scores, key_value, ..Attention::default() }, operands)
}

/// The output and the log-sum-exp are any numbers: the formula holds for all.
fn gradients(batch: u64, rows: u64, dim: u64) -> Case {
    let [q, kv] = [[batch, 4, rows, dim], [batch, 2, rows, dim]];
    let lse = Operand::new(F32, &q[..3], Style::Tight, 0, Fill::List([2, 3, 2]));
    let inputs = [tight(BF16, &q), tight(BF16, &kv), tight(BF16, &kv), tight(BF16, &q), lse];
    let outs = [tight(BF16, &q), out(BF16, &q), out(BF16, &kv), out(BF16, &kv)];
    let scores = Scores { scale: 0.03, ..causal() };
    Case::new(AttentionBackward { scores }, inputs.into_iter().chain(outs).collect())
}

/// What is run again and again: each with tails, and with chains that are cut; what is used most comes first, since NVIDIA's
/// checker is slow.
pub(super) fn cases() -> Vec<(&'static str, Case)> {
    vec![
        ("product 129x136x1032 bf16", product(BF16, [129, 136, 1032])),
        ("product 129x136x1032 f8e4m3, scales of 128", scaled([129, 136, 1032])),
        ("causal attention 2x4x113x64 bf16", attention(2, 113, 64)),
        ("gradients of causal attention 2x4x97x64 bf16", gradients(2, 97, 64)),
        (
            "attention of a row over 37, 700 and 1 keys in pages of 16 bf16",
            paged([37, 700, 1], 16, 128),
        ),
        ("product of groups of 70, 0 and 59 rows x136x520 bf16", grouped([70, 0, 59], [136, 520])),
        ("causal attention 60x4x33x128 bf16", attention(60, 33, 128)),
        ("gradients of causal attention 60x4x33x64 bf16", gradients(60, 33, 64)),
        ("product 66x136x4104 f16, of few outputs and many terms", product(F16, [66, 136, 4104])),
        ("product 65x72x520 f32", product(F32, [65, 72, 520])),
    ]
}

/// Runs a case so often and holds every byte against the first. With a folder, which the backend's tuner keeps, every
/// second run is by the plan that the tuner chose, the others by the plan that it chose from.
///
/// # Errors
/// What the backend does not run.
pub(super) fn repeat<B: Backend>(
    backend: &mut B,
    case: &Case,
    times: Times,
    tuned: Option<&Path>,
) -> Result<Repeated, String> {
    let op = Arc::new(case.checked());
    let all = backend.candidates(&op).map_err(|error| error.to_string())?;
    let first = *all.first().ok_or("no plan")?;
    let cap = backend.caps().unit_cap_ns;
    let choice = |plan: &&Plan| plan.order == first.order && plan.launch_ns(1) <= cap;
    let plans = all.iter().filter(choice).count();
    let mut wrong = String::new();
    let (run, chosen) = match tuned {
        None => (all, None),
        Some(folder) => {
            let before = remembered(folder);
            let settled = backend.settle(&op, first);
            let timed = remembered(folder) > before;
            if timed != (plans > 1) {
                wrong = format!(
                    "of {plans} plans the tuner timed {}",
                    if timed { "some" } else { "none" }
                );
            }
            (vec![first, settled], timed.then_some(settled.kernel))
        }
    };
    let runs = times.runs.unwrap_or(run.len().max(2) as u64);
    let checked = equal(backend, (&op, case), &run, (runs, times))?;
    let checked = if wrong.is_empty() { checked } else { Checked { wrong, ..checked } };
    Ok(Repeated { checked, runs, plans, chosen })
}

/// Results in the tuner's files, a line each after the hash.
fn remembered(folder: &Path) -> usize {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    texts.map(|text| text.lines().count().saturating_sub(1)).sum()
}

fn equal<B: Backend>(
    backend: &mut B,
    (op, case): (&Arc<CheckedOp>, &Case),
    plans: &[Plan],
    (runs, times): (u64, Times),
) -> Result<Checked, String> {
    let (contents, began) = (contents(case), Instant::now());
    let mut random = Random(times.seed);
    let mut first: Option<Left> = None;
    for (i, plan) in (0..runs).zip(plans.iter().cycle()) {
        if began.elapsed() > times.time && i > 1 {
            return Ok(Checked::all(i));
        }
        let units = plan.units() as u64;
        let mut cuts: Vec<u64> = (0..i % 4).map(|_| random.below(units)).chain([units]).collect();
        cuts.sort_unstable();
        let left = execute(backend, op, plan, &contents, case, &cuts)
            .map_err(|error| format!("{plan}: {error}"))?;
        match &first {
            None => first = Some(left),
            Some(first) if *first == left => {}
            Some(_) => {
                let wrong = format!("run {i}, {plan} cut at {cuts:?}, gives other bits");
                return Ok(Checked { wrong, ..Checked::all(i) });
            }
        }
    }
    Ok(Checked::all(runs))
}
