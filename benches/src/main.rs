//! The program `leasehold-bench`.

use clap::{Parser, Subcommand};
use leasehold::{DType, Device};
use leasehold_bench::leased::{Pair, Sides, Wait};
use leasehold_bench::measure::Timing;
use leasehold_bench::ops::Report;
use leasehold_bench::{check, leased, ops, plan};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Measures ops on a device, leased beside local, and what a node promises.
#[derive(Parser)]
#[command(name = "leasehold-bench", version)]
struct Args {
    #[command(subcommand)]
    what: What,
    /// The device: `auto`, or a name that `leasehold devices` prints.
    #[arg(long, default_value = "auto", global = true)]
    device: String,
    /// Seconds to spend on each measurement.
    #[arg(long, default_value_t = 2.0, global = true, value_parser = seconds)]
    seconds: f64,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// Products of m x k by k x n.
    Matmul {
        #[arg(short, default_value_t = 1024, value_parser = size)]
        m: usize,
        #[arg(short, default_value_t = 1024, value_parser = size)]
        n: usize,
        #[arg(short, default_value_t = 1024, value_parser = size)]
        k: usize,
        /// Products in the batch.
        #[arg(short, long, default_value_t = 1, value_parser = size)]
        batch: usize,
        /// B lies as [n, k], as weights do.
        #[arg(short, long)]
        transposed: bool,
        #[arg(long, default_value = "f32", value_parser = dtype)]
        dtype: DType,
    },
    /// Attention of [batch, heads, sequence, dim].
    Attention {
        #[arg(long, default_value_t = 1, value_parser = size)]
        batch: usize,
        #[arg(long, default_value_t = 8, value_parser = size)]
        heads: usize,
        #[arg(long, default_value_t = 1024, value_parser = size)]
        sequence: usize,
        #[arg(long, default_value_t = 64, value_parser = size)]
        dim: usize,
        #[arg(long)]
        causal: bool,
        #[arg(long, default_value = "f32", value_parser = dtype)]
        dtype: DType,
    },
    /// The ranked plans of an op on a CUDA architecture, with what they are predicted to take.
    Plan {
        /// `matmul DTYPE MxNxK` or `BATCHxMxNxK`, or `attention DTYPE BATCHxHEADSxSEQUENCExDIM`.
        op: String,
        #[arg(long, default_value = "sm_90a")]
        arch: String,
    },
    /// CUDA kernels made ahead.
    #[command(subcommand)]
    Kernels(Kernels),
    /// The tables by which a card is judged, as JSON. `benches/gpu/check/README.md` tells more.
    Check(check::Args),
    /// A summary of what `check` wrote, as Markdown.
    CheckSummary {
        /// Its files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Leased against local on the CPU, by a private node.
    Leased,
    /// What a node promises: sharing, weights, latency, revocation, zeroing and bills, on the CPU by a node of its own.
    Node,
}

#[derive(Subcommand)]
enum Kernels {
    /// Compile every kernel of some architectures into one file. It needs NVIDIA's run-time compiler and no GPU.
    Build {
        /// Architectures, by commas.
        #[arg(long, value_delimiter = ',', default_values = leasehold::backend::cuda::ARCHS)]
        arch: Vec<String>,
        /// The file, which is replaced as a whole.
        #[arg(long)]
        out: PathBuf,
    },
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.01..=600.0).contains(&s) => Ok(s),
        _ => Err("allowed: 0.01 to 600".into()),
    }
}

fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1_048_576) => Ok(n),
        _ => Err("allowed: 1 to 1048576".into()),
    }
}

fn dtype(text: &str) -> Result<DType, String> {
    let floats = DType::ALL.into_iter().filter(|d| d.is_float());
    floats.clone().find(|d| d.name() == text).ok_or_else(|| {
        let names: Vec<&str> = floats.map(DType::name).collect();
        format!("allowed: {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leasehold-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    match &args.what {
        What::Plan { op, arch } => {
            print!("{}", plan::ranked(op, arch)?);
            return Ok(());
        }
        What::Kernels(Kernels::Build { arch, out }) => {
            let archs: Vec<&str> = arch.iter().map(String::as_str).collect();
            println!("{}", plan::build(&archs, out)?);
            return Ok(());
        }
        _ => {}
    }
    match &args.what {
        What::Check(asked) => {
            let device = args.device.clone();
            let asked = check::Args { device, ..asked.clone() };
            return judged(&check::faults(&check::run(&asked, None)?, &asked));
        }
        What::CheckSummary { files } => {
            let reports =
                files.iter().map(|file| check::read(file)).collect::<Result<Vec<_>, _>>()?;
            print!("{}", check::summary::markdown(&reports));
            return Ok(());
        }
        _ => {}
    }
    if matches!(args.what, What::Leased) {
        return run_leased(args);
    }
    if matches!(args.what, What::Node) {
        return run_node(args);
    }
    let device = match args.device.as_str() {
        "auto" => Device::open()?,
        name => Device::open_named(name)?,
    };
    let budget = Duration::from_secs_f64(args.seconds);
    match args.what {
        What::Matmul { m, n, k, batch, transposed, dtype } => {
            print_report(
                &ops::matmul(&device, [batch, m, n, k], transposed, dtype, budget)?,
                args.json,
            );
        }
        What::Attention { batch, heads, sequence, dim, causal, dtype } => {
            let shape = [batch, heads, sequence, dim];
            print_report(&ops::attention(&device, shape, causal, dtype, budget)?, args.json);
        }
        _ => {}
    }
    Ok(())
}

/// A report whose results are wrong is a failure, however fast they came.
fn judged(faults: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

fn run_leased(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let program = std::env::current_exe()?.with_file_name("leasehold-node");
    let sides = Sides::start(program, "cpu")?;
    let budget = Duration::from_secs_f64(args.seconds);
    if !args.json {
        println!("{}", leased::cores());
    }
    // About 0.2, 0.6 and 4.5 ms an op on two cores with AVX-512.
    for (size, count) in [(320, 200), (512, 80), (1024, 12)] {
        print_pair(&sides.queued(DType::F32, size, count, budget)?, count as f64, args.json);
    }
    print_pair(&sides.tiny(10_000, budget)?, 1e4, args.json);
    print_wait(&sides.hot(20)?, args.json);
    print_wait(&sides.sleeping(Duration::from_millis(20), 100)?, args.json);
    for mib in [16, 64] {
        for pair in sides.copies(mib, budget)? {
            print_copy(&pair, (mib << 20) as f64, args.json);
        }
    }
    sides.end()?;
    Ok(())
}

/// Both medians of `ops` ops, and of each.
fn print_pair(pair: &Pair, ops: f64, as_json: bool) {
    let side = |t: &Timing| {
        let ms = t.median_s * 1e3;
        format!("{ms:9.3} ms, {:8.4} ms an op", ms / ops)
    };
    print_sides(pair, side, as_json);
}

/// Both medians of a copy, as bytes a second.
fn print_copy(pair: &Pair, bytes: f64, as_json: bool) {
    let side =
        |t: &Timing| format!("{:9.3} ms, {:6.2} GB/s", t.median_s * 1e3, bytes / t.median_s / 1e9);
    print_sides(pair, side, as_json);
}

fn print_sides(pair: &Pair, side: impl Fn(&Timing) -> String, as_json: bool) {
    if as_json {
        return json(pair);
    }
    let (local, leased) = (side(&pair.local), side(&pair.leased));
    println!("{:34} local {local}  leased {leased}  ratio {:.3}", pair.what, pair.ratio);
}

fn print_wait(wait: &Wait, as_json: bool) {
    if as_json {
        return json(wait);
    }
    let ([l50, l99], [r50, r99]) = (wait.local_us, wait.leased_us);
    println!(
        "{:34} local p50 {l50:.1} p99 {l99:.1} us  leased p50 {r50:.1} p99 {r99:.1} us  added p50 {:.1} us",
        wait.what,
        r50 - l50
    );
}

fn run_node(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let program = std::env::current_exe()?.with_file_name("leasehold-node");
    let budget = Duration::from_secs_f64(args.seconds);
    Ok(leasehold_bench::node::promises(program, budget, |row| {
        if args.json {
            return json(row);
        }
        let (sign, kept) = (
            if row.at_most { "at most" } else { "at least" },
            if row.kept { "kept" } else { "NOT KEPT" },
        );
        println!(
            "{:64} {:8.3} {:2}  {sign} {:.3}: {kept}",
            row.what, row.value, row.unit, row.bound
        );
    })?)
}

fn json(value: &impl serde::Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => println!("{text}"),
        Err(error) => eprintln!("leasehold-bench: {error}"),
    }
}

fn print_report(report: &Report, as_json: bool) {
    if as_json {
        return json(report);
    }
    let t = report.timing;
    println!("{} {:?} {} on {}", report.op, report.shape, report.dtype, report.device);
    println!(
        "{:.1} GFLOP/s; median {:.3} ms, spread {:.3} ms, best {:.3} ms of {} runs",
        report.gflops,
        t.median_s * 1e3,
        t.spread_s * 1e3,
        t.best_s * 1e3,
        t.runs
    );
    if let Some(fraction) = report.fraction_of_peak {
        println!("{:.0} % of the measured f32 peak", fraction * 100.0);
    }
}
