//! `train`: a two-block transformer learns to add each token to the one before it, from nothing, in a few seconds. It runs
//! the same on a local device and, unchanged, as a leased job: `leasehold run --private -- target/release/train`.

use leasehold::{Device, Result};
use leasehold_examples::training::{Config, Stream, Training};
use std::process::ExitCode;

const USAGE: &str = "usage: train [--device NAME]";

/// Sequences and rows of a batch.
const BATCH: [usize; 2] = [16, 8];
const STEPS: usize = 400;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let device = match args[..] {
        [] => Device::open(),
        ["--device", name] => Device::open_named(name),
        ["--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match device.and_then(|device| train(&device)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("train: {error}");
            ExitCode::FAILURE
        }
    }
}

fn train(device: &Device) -> Result<()> {
    let mut stream = Stream(1);
    let parameters = Config::TOY.initial(&mut stream);
    println!("{} parameters on {}", parameters.len(), device.name());
    let mut training = Training::new(device, Config::TOY, &parameters, BATCH, 0.01)?;
    for step in 0..=STEPS {
        // Every batch is new: what falls is the loss on what the model has not seen.
        let (ids, sums) = stream.sums(BATCH, Config::TOY.tokens);
        let loss = training.step(&ids, &sums)?;
        if step % 50 == 0 {
            println!("step {step:3}: loss {loss:.4}");
        }
    }
    Ok(())
}
