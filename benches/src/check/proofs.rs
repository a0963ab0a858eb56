//! What must hold before a speed counts: parity with the reference, the same bits however an op is cut and whoever runs
//! beside it, no byte of another left in memory. `tables` calls it, and `sanitizer` makes rows as it does.

use super::parity::case::Case;
use super::parity::{Count, OPS};
use super::repeats::{self, Repeated, Times};
use super::report::{Checked, Maybe, Number, Row};
use super::{Check, ours};
use crate::served::Served;
use leasehold::{DType, Device, Matmul, Tensor};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Floating-point operations of a case of the parity suite, and in a rehearsal.
pub(super) const CASE_FLOPS: [u64; 2] = [200_000_000, 300_000];
/// Runs of one case, and in a rehearsal.
const TIMES: [u64; 2] = [1000, 6];
/// Bytes that are filled and read, and in a rehearsal; a part at a time.
const FILLED: [u64; 2] = [768 << 20, 4 << 20];
const PART: u64 = 4 << 20;
/// Edge of a neighbour's products, and in a rehearsal; and how many it queues before each wait.
const NEIGHBOUR: [usize; 2] = [4096, 256];
const QUEUED: usize = 4;

pub(super) fn counted(what: &str, unit: &str, checked: Checked) -> Row {
    let number = Number::count(checked.values as f64, unit, checked);
    Row::new(what, None, Maybe::Is(number), Vec::new())
}

/// Every op's cases against the f64 reference, under every plan and several cuts.
pub(super) fn parity(check: &mut Check<'_>) {
    let began = Instant::now();
    let flops = CASE_FLOPS[usize::from(check.is_tiny())];
    for (i, (op, cases)) in OPS.iter().enumerate() {
        check.row(op, |check| {
            // What is left of the time, shared by the ops that are left.
            let time = check.budget.saturating_sub(began.elapsed()) / (OPS.len() - i) as u32;
            of_cases(op, check.ours.parity(&cases(), flops, time), flops)
        });
    }
}

/// What became of an op's cases, as a row.
pub(super) fn of_cases(op: &str, count: Count, flops: u64) -> Row {
    let mut what = op.to_string();
    if count.unsupported > 0 {
        what += &format!(", {} cases unsupported", count.unsupported);
    }
    if count.large > 0 {
        what += &format!(", {} of more than {flops} operations are left to windows", count.large);
    }
    let done = count.passed + count.failed.len() as u64;
    match count.first {
        Some(why) if done == 0 => Row::new(what, None, Maybe::not(why), Vec::new()),
        _ => {
            let wrong = count.failed.first().map_or_else(String::new, |first| {
                format!("{} cases failed, the first {first}", count.failed.len())
            });
            let left = match count.left {
                0 => String::new(),
                cases => format!("{done} cases, no time for {cases}"),
            };
            counted(&what, "cases", Checked { wrong, left, ..Checked::all(done) })
        }
    }
}

/// The same case again and again: every plan and what a tuner chooses, cuts at random, alone and beside a neighbour.
pub(super) fn repeats(check: &mut Check<'_>) {
    let (began, cases) = (Instant::now(), repeats::cases());
    let runs = TIMES[usize::from(check.is_tiny())];
    // The CPU has no tuner.
    let tuners: &[bool] = if check.args.device == "cpu" { &[false] } else { &[false, true] };
    let mut left = (cases.len() * tuners.len() * 2) as u32;
    for (i, (name, case)) in cases.iter().enumerate() {
        for (&is_tuned, beside) in tuners.iter().flat_map(|tuned| [(tuned, false), (tuned, true)]) {
            // Every device that is opened anew makes its kernels again, in software for seconds.
            if check.is_tiny() && is_tuned && (beside || i > 0) {
                continue;
            }
            let time = check.budget.saturating_sub(began.elapsed()) / left;
            left -= 1;
            let times = Times { runs: Some(runs), time, seed: check.args.seed };
            let run = |check: &mut Check<'_>| match is_tuned {
                true => tuned(check, case, times),
                false => check.ours.repeat(case, times, None),
            };
            let company = if beside { "beside a neighbour" } else { "alone" };
            let by = if is_tuned { "a tuner's choice" } else { "every plan" };
            let what = format!("{name}, {company}, by {by}");
            check.row(&what, |check| {
                let found = if beside { beside_another(check, run) } else { run(check) };
                match found {
                    Ok(found) => repeated(&what, found, is_tuned),
                    Err(why) => Row::new(&*what, None, Maybe::not(why), Vec::new()),
                }
            });
        }
    }
}

/// A row of equal runs; fewer than were asked for are neither wrong nor all.
pub(super) fn repeated(what: &str, found: Repeated, is_tuned: bool) -> Row {
    let Repeated { mut checked, runs, plans, chosen } = found;
    let of = match (is_tuned, chosen) {
        (false, _) => format!("{plans} plans of the order"),
        (true, Some(kernel)) => format!("{kernel} of {plans}"),
        (true, None) => "there was none".into(),
    };
    if checked.values < runs && checked.wrong.is_empty() {
        checked.left = format!("{} of {runs} runs, equal so far", checked.values);
    }
    counted(&format!("{what}: {of}"), "equal runs", checked)
}

/// The same on a device that is opened with a tuner which knows nothing yet.
fn tuned(check: &Check<'_>, case: &Case, times: Times) -> Result<Repeated, String> {
    let folder = std::env::temp_dir().join(format!("leasehold-check-{}", std::process::id()));
    let ours = ours::open(&check.args.device, Some(&folder));
    let found = ours.map_err(|error| error.to_string());
    let found = found.and_then(|mut ours| ours.repeat(case, times, Some(&folder)));
    // A tuner that had no choice has made no folder.
    let _ = std::fs::remove_dir_all(&folder);
    found
}

/// Does something while a second user of the device multiplies without a pause.
fn beside_another<T>(
    check: &mut Check<'_>,
    run: impl FnOnce(&mut Check<'_>) -> Result<T, String>,
) -> Result<T, String> {
    let device = Device::open_named(&check.args.device).map_err(|error| error.to_string())?;
    let edge = NEIGHBOUR[usize::from(check.is_tiny())];
    let (enough, rounds) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    std::thread::scope(|scope| {
        let neighbour = scope.spawn(|| -> leasehold::Result<()> {
            let x = crate::ops::random(&device, DType::BF16, &[edge, edge], 7)?;
            let y = Matmul::new(&x, &x).run()?;
            while !enough.load(Relaxed) {
                (0..QUEUED).try_for_each(|_| Matmul::new(&x, &x).into(&y).run().map(drop))?;
                device.wait(None)?;
                rounds.fetch_add(1, Relaxed);
            }
            Ok(())
        });
        let begun = Instant::now();
        while rounds.load(Relaxed) == 0
            && !neighbour.is_finished()
            && begun.elapsed() < Duration::from_secs(60)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        let result = run(check);
        enough.store(true, Relaxed);
        match neighbour.join() {
            Ok(Ok(())) => result,
            Ok(Err(error)) => Err(format!("the neighbour: {error}")),
            Err(_) => Err("the neighbour panicked".into()),
        }
    })
}

/// Memory that was full of a pattern, as the next one who is given it reads it.
pub(super) fn zeroing(check: &mut Check<'_>) {
    let (bytes, mut node) = (FILLED[usize::from(check.is_tiny())], None);
    let names = [
        "memory that this process had filled, given by a node's executor",
        "memory that one lease had filled, given to the next",
    ];
    for what in names {
        // Of a whole card it is a sample: nothing tells that what is given is what was filled.
        let what = format!("{what}, a sample of {} MiB", bytes >> 20);
        let mut run = |check: &mut Check<'_>| -> Result<Checked, Box<dyn std::error::Error>> {
            let node = match &mut node {
                Some(node) => node,
                none => {
                    drop(filled(&Device::open_named(&check.args.device)?, bytes)?);
                    let program = check.programs().join("leasehold-node");
                    none.insert(Served::start(program, &check.args.device)?)
                }
            };
            let tenant = node.tenant(100, None, 1)?;
            let device = &tenant.devices[0];
            let found = read_back(device, bytes)?;
            drop(filled(device, bytes)?);
            device.wait(Some(Duration::from_secs(60)))?;
            tenant.end()?;
            Ok(found)
        };
        check.row(&what, |check| match run(check) {
            Ok(checked) => counted(&what, "zero bytes", checked),
            Err(why) => Row::new(&*what, None, Maybe::not(why), Vec::new()),
        });
    }
}

/// Tensors of a pattern, as many bytes in all.
fn filled(device: &Device, bytes: u64) -> leasehold::Result<Vec<Tensor>> {
    let pattern = vec![0x5a5a_5a5au32; PART as usize / 4];
    let parts = (0..bytes / PART).map(|_| device.tensor([pattern.len()], &pattern));
    let tensors = parts.collect::<leasehold::Result<Vec<_>>>()?;
    device.wait(None)?;
    Ok(tensors)
}

/// What new memory holds.
fn read_back(device: &Device, bytes: u64) -> leasehold::Result<Checked> {
    let parts = (0..bytes / PART).map(|_| device.empty(DType::U32, &[PART as usize / 4]));
    let tensors = parts.collect::<leasehold::Result<Vec<_>>>()?;
    let mut left = 0;
    for tensor in &tensors {
        let words = tensor.read::<u32>()?.wait(None)?;
        left += words.iter().filter(|&&word| word != 0).count();
    }
    let wrong = if left == 0 { String::new() } else { format!("{left} words are not zero") };
    Ok(Checked { wrong, ..Checked::all(bytes) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// What there was no time for makes a row incomplete; other bits make it wrong, however many runs were equal before.
    #[test]
    fn fewer_equal_runs_are_neither_wrong_nor_all() {
        let of = |values, wrong: &str| {
            let checked = Checked { wrong: wrong.into(), ..Checked::all(values) };
            let row =
                repeated("x", Repeated { checked, runs: 1000, plans: 3, chosen: None }, false);
            assert_eq!(row.what, "x: 3 plans of the order");
            let number = row.ours.known().unwrap();
            (number.is_right(), number.is_whole(), number.check.known().unwrap().left.clone())
        };
        assert_eq!(of(1000, ""), (true, true, String::new()));
        assert_eq!(of(143, ""), (true, false, "143 of 1000 runs, equal so far".into()));
        assert_eq!(of(143, "run 143 gives other bits"), (false, true, String::new()));
        // The same of cases.
        let count = Count { passed: 5, left: 2, ..Count::default() };
        let row = of_cases("copy", count, 8);
        let number = row.ours.known().unwrap();
        assert!(number.is_right() && !number.is_whole() && number.value == 5.0, "{row:?}");
    }
}
