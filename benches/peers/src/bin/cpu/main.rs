//! `cpu`: our products and attention on the CPU beside other crates in the same process, and, with `--python`, beside
//! PyTorch and numpy in the scripts of `benches/scripts`. One table comes out.
//!
//! ```console
//! $ cargo run --release --manifest-path benches/peers/Cargo.toml --bin cpu -- --python /path/to/python
//! ```

mod attention;
mod products;
mod scripts;

use clap::Parser;
use leasehold::Device;
use leasehold_bench::measure::Timing;
use leasehold_peers::Result;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Measures products and attention on the CPU beside other libraries.
#[derive(Parser)]
struct Args {
    /// Seconds to spend on each shape, all sides together.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// A Python with torch and numpy: their scripts run as well.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Only shapes whose names contain this, such as `bf16` or `attention`.
    #[arg(long, default_value = "")]
    only: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cpu: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let device = Device::open_named("cpu")?;
    let budget = Duration::from_secs_f64(args.seconds);
    let mut ours: Vec<(String, Timing)> = Vec::new();
    let chosen = |name: &str| name.contains(&args.only);
    for case in products::CASES.iter().filter(|case| chosen(&case.name())) {
        let (timing, rows) = products::measure(&device, case, budget)?;
        rows.iter().try_for_each(|row| row.print(args.json))?;
        ours.push((case.name(), timing));
    }
    for case in attention::CASES.iter().filter(|case| chosen(&case.name())) {
        let (timing, rows) = attention::measure(&device, case, budget)?;
        rows.iter().try_for_each(|row| row.print(args.json))?;
        ours.push((case.name(), timing));
    }
    if let Some(python) = &args.python {
        for row in scripts::rows(python, &ours)? {
            row.print(args.json)?;
        }
    }
    Ok(())
}
