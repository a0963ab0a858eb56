//! NVIDIA's compute-sanitizer on kernels of ours: the table `sanitizer` starts this program under each of its tools, where it
//! runs the table `watched`. `tables` calls both.

use super::Check;
use super::parity::OPS;
use super::proofs::{CASE_FLOPS, counted, of_cases, repeated};
use super::repeats::{self, Times};
use super::report::{Checked, Maybe, Row, Table};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

const TOOLS: [&str; 3] = ["memcheck", "racecheck", "synccheck"];

/// What runs under the checker: the cases of `repeats` once by each plan, whole and cut, what is used most first; then small
/// cases of every op.
pub(super) fn watched(check: &mut Check<'_>) {
    let began = Instant::now();
    let no_time = |what: &str| Row::new(what, None, Maybe::not("no time"), Vec::new());
    for (i, (name, case)) in repeats::cases().iter().enumerate() {
        check.row(name, |check| {
            let time = check.budget.saturating_sub(began.elapsed());
            // A rehearsal asks every row.
            if i > 0 && time.is_zero() && !check.is_tiny() {
                return no_time(name);
            }
            let times = Times { runs: None, time, seed: check.args.seed };
            match check.ours.repeat(case, times, None) {
                Ok(found) => repeated(name, found, false),
                Err(why) => Row::new(*name, None, Maybe::not(why), Vec::new()),
            }
        });
    }
    let [_, flops] = CASE_FLOPS;
    for (i, (op, cases)) in OPS.iter().enumerate() {
        check.row(op, |check| {
            let time = check.budget.saturating_sub(began.elapsed()) / (OPS.len() - i) as u32;
            if time.is_zero() && !check.is_tiny() {
                return no_time(op);
            }
            of_cases(op, check.ours.parity(&cases(), flops, time), flops)
        });
    }
}

/// The same under each tool of the checker, which share the time.
pub(super) fn sanitizer(check: &mut Check<'_>) {
    let began = Instant::now();
    for (i, tool) in TOOLS.iter().enumerate() {
        check.row(tool, |check| {
            let left = check.budget.saturating_sub(began.elapsed()).as_secs();
            let found = match check.args.device.starts_with("cuda:") {
                true => sanitized(check, tool, (left / (TOOLS.len() - i) as u64).max(2)),
                false => Err(format!("{} runs no CUDA kernels", check.args.device)),
            };
            match found {
                Ok(checked) => counted(tool, "runs and cases", checked),
                Err(why) => Row::new(*tool, None, Maybe::not(why), Vec::new()),
            }
        });
    }
}

/// One tool within a limit; what it says is kept beside the report.
fn sanitized(check: &Check<'_>, tool: &str, limit: u64) -> Result<Checked, String> {
    let beside = |end: &str| check.args.out.with_extension(format!("{tool}.{end}"));
    let (report, log) = (beside("part.json"), beside("log"));
    let output = Command::new("timeout")
        .args(["--kill-after=5", &limit.to_string()])
        .args(["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"])
        .arg(check.programs().join("leasehold-bench"))
        .args(["--device", &check.args.device, "check", "--table", "watched", "--budget"])
        // It is slow to start, and ends in order where its own time is over first.
        .arg((limit / 2).max(1).to_string())
        .args(["--seed", &check.args.seed.to_string(), "--out"])
        .arg(&report)
        .output()
        .map_err(|error| format!("timeout: {error}"))?;
    let said = [&output.stdout[..], &output.stderr].concat();
    std::fs::write(&log, said).map_err(|error| format!("{}: {error}", log.display()))?;
    let tables = watched_tables(&report);
    // It was one for this process alone.
    let _ = std::fs::remove_file(&report);
    judged(&output, tables?, limit)
}

fn watched_tables(report: &Path) -> Result<Vec<Table>, String> {
    super::read(report).map(|report| report.tables).map_err(|error| error.to_string())
}

/// What a tool's run comes to: how much it saw, the first that it found, and what it did not get to.
fn judged(output: &Output, tables: Vec<Table>, limit: u64) -> Result<Checked, String> {
    let (said, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let last = || format!("{}: {}", output.status, err.lines().next_back().unwrap_or(""));
    let rows = || tables.iter().flat_map(|table| &table.rows);
    let seen = rows().filter_map(|row| row.ours.known()).map(|number| number.value as u64).sum();
    let is_whole = said.contains("ERROR SUMMARY") || said.contains("RACECHECK SUMMARY");
    let wrong = match finding(&said) {
        Some(found) => found,
        None if is_whole && !output.status.success() => last(),
        None if seen == 0 => return Err(format!("nothing was run in {limit} s: {}", last())),
        None => String::new(),
    };
    let is_left = |row: &&Row| !row.ours.known().is_some_and(|number| number.is_whole());
    let mut left: Vec<&str> = rows().filter(is_left).map(|row| row.what.as_str()).collect();
    if !is_whole {
        left.push("all after it");
    }
    let left = match left.is_empty() {
        true => String::new(),
        false => format!("in {limit} s not, or not all of: {}", left.join("; ")),
    };
    Ok(Checked { wrong, left, ..Checked::all(seen) })
}

/// The first that the checker found and where: lines of its own that are neither its name nor a sum.
fn finding(said: &str) -> Option<String> {
    let own = said.lines().filter_map(|line| line.strip_prefix("========= ")).map(str::trim);
    let mut own = own.skip_while(|line| {
        line.is_empty() || line.contains("COMPUTE-SANITIZER") || line.contains("SUMMARY")
    });
    let found = own.next()?;
    let place = own.next().filter(|line| line.starts_with("at "));
    Some(place.map_or_else(|| found.into(), |place| format!("{found} {place}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::report::Number;
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    const CLEAN: &str = "========= COMPUTE-SANITIZER\nours\n========= ERROR SUMMARY: 0 errors\n";
    const FOUND: &str = "========= COMPUTE-SANITIZER\n========= Invalid __global__ read of size 4 bytes\n=========     at matmul_sm90+0x120\n=========     by thread (0,0,0)\n";

    #[test]
    fn a_finding_of_the_checker_is_told_from_its_other_words() {
        assert_eq!(finding(CLEAN), None);
        let found = "Invalid __global__ read of size 4 bytes at matmul_sm90+0x120";
        assert_eq!(finding(FOUND).as_deref(), Some(found));
    }

    #[test]
    fn what_the_checker_did_not_get_to_is_said() {
        let number = Number::count(7.0, "equal runs", Checked::all(7));
        let ran = Row::new("product", None, Maybe::Is(number), Vec::new());
        let not = Row::new("paged", None, Maybe::not("no time"), Vec::new());
        let of = |said: &str, status: i32, rows: &[&Row]| {
            let rows = rows.iter().map(|row| (*row).clone()).collect();
            let table = Table { name: "watched".into(), about: "x".into(), seconds: 1.0, rows };
            let (stdout, stderr) = (said.into(), b"the last words".to_vec());
            judged(
                &Output { status: ExitStatus::from_raw(status << 8), stdout, stderr },
                vec![table],
                9,
            )
        };
        let clean = of(CLEAN, 0, &[&ran]).unwrap();
        assert_eq!((clean.values, &*clean.wrong, &*clean.left), (7, "", ""));
        let part = of(CLEAN, 0, &[&ran, &not]).unwrap();
        assert_eq!((&*part.wrong, &*part.left), ("", "in 9 s not, or not all of: paged"));
        let cut = of("========= COMPUTE-SANITIZER\n", 124, &[&ran, &not]).unwrap();
        assert_eq!(
            (&*cut.wrong, &*cut.left),
            ("", "in 9 s not, or not all of: paged; all after it")
        );
        // A finding stands however far it came; a program that fails is none that is clean.
        assert!(of(FOUND, 124, &[&not]).unwrap().wrong.starts_with("Invalid"));
        assert!(of(CLEAN, 1, &[&ran]).unwrap().wrong.ends_with("the last words"));
        assert!(of("", 127, &[&not]).is_err());
    }
}
