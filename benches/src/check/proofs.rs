//! What must hold before a speed counts: parity with the reference, the same bits however an op is cut and whoever runs
//! beside it, no byte of another left in memory, and kernels that NVIDIA's checker finds nothing in. `tables` calls it.

use super::parity::OPS;
use super::parity::case::Case;
use super::repeats::{self, Repeated, Times};
use super::report::{Checked, Maybe, Number, Row};
use super::{Check, ours};
use crate::served::Served;
use leasehold::{DType, Device, Matmul, Tensor};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Floating-point operations of a case of the parity suite, and in a rehearsal.
const CASE_FLOPS: [u64; 2] = [200_000_000, 300_000];
/// Runs of one case, and in a rehearsal.
const TIMES: [u64; 2] = [1000, 6];
/// Bytes that are filled and read, and in a rehearsal; a part at a time.
const FILLED: [u64; 2] = [768 << 20, 4 << 20];
const PART: u64 = 4 << 20;
/// Edge of a neighbour's products.
const NEIGHBOUR: usize = 256;

fn counted(what: &str, unit: &str, checked: Checked) -> Row {
    let number = Number::count(checked.values as f64, unit, checked);
    Row::new(what, None, Maybe::Is(number), Vec::new())
}

/// Every op's cases against the f64 reference, under every plan and several cuts.
pub(super) fn parity(check: &mut Check<'_>) -> Vec<Row> {
    let (began, mut rows) = (Instant::now(), Vec::new());
    let flops = CASE_FLOPS[usize::from(check.is_tiny())];
    for (i, (op, cases)) in OPS.iter().enumerate() {
        // What is left of the time, shared by the ops that are left.
        let time = check.budget.saturating_sub(began.elapsed()) / (OPS.len() - i) as u32;
        let count = check.ours.parity(&cases(), flops, time);
        let mut what = op.to_string();
        if count.unsupported > 0 {
            what += &format!(", {} cases unsupported", count.unsupported);
        }
        if count.large > 0 {
            what +=
                &format!(", {} of more than {flops} operations are left to windows", count.large);
        }
        if count.left > 0 {
            what += &format!(", no time for {}", count.left);
        }
        let done = count.passed + count.failed.len() as u64;
        rows.push(match count.first {
            Some(why) if done == 0 => Row::new(what, None, Maybe::not(why), Vec::new()),
            _ => {
                let wrong = count.failed.first().map_or_else(String::new, |first| {
                    format!("{} cases failed, the first {first}", count.failed.len())
                });
                counted(&what, "cases", Checked { wrong, ..Checked::all(done) })
            }
        });
    }
    rows
}

/// The same case again and again: every plan and what a tuner chooses, cuts at random, alone and beside a neighbour.
pub(super) fn repeats(check: &mut Check<'_>) -> Vec<Row> {
    let (began, cases, mut rows) = (Instant::now(), repeats::cases(), Vec::new());
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
            let times = Times { runs, time, seed: check.args.seed };
            let run = |check: &mut Check<'_>| match is_tuned {
                true => tuned(check, case, times),
                false => check.ours.repeat(case, times, None),
            };
            let found = if beside { beside_another(check, run) } else { run(check) };
            let company = if beside { "beside a neighbour" } else { "alone" };
            let mut what = format!("{name}, {company}");
            rows.push(match found {
                Ok(Repeated { checked, plans, chosen }) => {
                    what += &match (is_tuned, chosen) {
                        (false, _) => format!(", {plans} plans of the order"),
                        (true, Some(kernel)) => format!(", the tuner chose {kernel} of {plans}"),
                        (true, None) => ", the tuner had no choice".into(),
                    };
                    if checked.values < runs && checked.wrong.is_empty() {
                        what += &format!(", no time for {runs} runs");
                    }
                    counted(&what, "equal runs", checked)
                }
                Err(why) => Row::new(what, None, Maybe::not(why), Vec::new()),
            });
        }
    }
    rows
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
    let (enough, rounds) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    std::thread::scope(|scope| {
        let neighbour = scope.spawn(|| -> leasehold::Result<()> {
            let x = crate::ops::random(&device, DType::BF16, &[NEIGHBOUR, NEIGHBOUR], 7)?;
            while !enough.load(Relaxed) {
                Matmul::new(&x, &x).run()?;
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
pub(super) fn zeroing(check: &mut Check<'_>) -> Vec<Row> {
    let bytes = FILLED[usize::from(check.is_tiny())];
    let names = [
        "memory that this process had filled, given by a node's executor",
        "memory that one lease had filled, given to the next",
    ];
    let run = || -> Result<[Checked; 2], Box<dyn std::error::Error>> {
        let own = filled(&Device::open_named(&check.args.device)?, bytes)?;
        drop(own);
        let node = Served::start(check.programs().join("leasehold-node"), &check.args.device)?;
        let mut found = Vec::new();
        for _ in 0..names.len() {
            let tenant = node.tenant(100, None, 1)?;
            let device = &tenant.devices[0];
            found.push(read_back(device, bytes)?);
            drop(filled(device, bytes)?);
            device.wait(Some(Duration::from_secs(60)))?;
            tenant.end()?;
        }
        found.try_into().map_err(|_| "another number of tenants".into())
    };
    match run() {
        Ok(found) => names
            .into_iter()
            .zip(found)
            .map(|(what, checked)| counted(what, "zero bytes", checked))
            .collect(),
        Err(why) => names.map(|what| Row::new(what, None, Maybe::not(&why), Vec::new())).into(),
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

/// NVIDIA's checker on this program as it runs the parity suite's small cases.
pub(super) fn sanitizer(check: &mut Check<'_>) -> Vec<Row> {
    let run = |tool: &str| -> Result<Checked, String> {
        if !check.args.device.starts_with("cuda:") {
            return Err(format!("{} runs no CUDA kernels", check.args.device));
        }
        let program = check.programs().join("leasehold-bench");
        let report = std::env::temp_dir()
            .join(format!("leasehold-check-{}-{tool}.json", std::process::id()));
        let output = Command::new("compute-sanitizer")
            .args(["--tool", tool, "--error-exitcode", "9"])
            .arg(program)
            .args([
                "--device",
                &check.args.device,
                "check",
                "--tiny",
                "--table",
                "parity",
                "--budget",
            ])
            .arg((check.budget.as_secs() / 9).max(1).to_string())
            .arg("--out")
            .arg(&report)
            .output()
            .map_err(|error| format!("compute-sanitizer: {error}"))?;
        let done = super::read(&report).map_err(|error| error.to_string());
        // What it left there is read.
        let _ = std::fs::remove_file(&report);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let summary = said
            .lines()
            .rev()
            .find(|line| line.contains("ERROR SUMMARY") || line.contains("RACECHECK SUMMARY"));
        let summary =
            summary.ok_or_else(|| format!("compute-sanitizer: {}: no summary", output.status))?;
        let rows = done?.tables.into_iter().flat_map(|table| table.rows);
        let cases: f64 = rows.filter_map(|row| row.ours.known().map(|number| number.value)).sum();
        let wrong = if output.status.success() { String::new() } else { summary.to_string() };
        Ok(Checked { wrong, ..Checked::all(cases as u64) })
    };
    let rows = ["memcheck", "racecheck", "synccheck"].map(|tool| match run(tool) {
        Ok(checked) => counted(tool, "cases", checked),
        Err(why) => Row::new(tool, None, Maybe::not(why), Vec::new()),
    });
    rows.into()
}
