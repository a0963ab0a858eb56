//! `embed`: sentences in, the table of their cosine similarities out. It runs the same on a local device and,
//! unchanged, as a leased job. `examples/run embed` starts it.

use leasehold::{DType, Device};
use leasehold_examples::bert::{Bert, MAX_TOKENS, ModelError, Tokens, similarities};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "\
usage: embed [OPTIONS] MODEL SENTENCE...

MODEL is a folder with config.json, tokenizer.json and model.safetensors of a BERT sentence encoder.

  --device NAME   instead of the leased or the best local device
  --dtype TYPE    weights and activations: f32 (default), f16 or bf16
  --file FILE     also the sentences of FILE, one a line
  --bench RUNS    print the speed of RUNS runs as JSON instead of the table";

/// What went wrong; each is one line on stderr.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}\n\n{USAGE}")]
    Usage(String),
    #[error("{}: {source}", path.display())]
    Sentences { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Device(#[from] leasehold::Error),
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match Args::parse(args).and_then(|args| run(&args)) {
        Ok(output) => {
            print!("{output}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("embed: {failure}");
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn run(args: &Args) -> Result<String, Failure> {
    let device = match &args.device {
        Some(name) => Device::open_named(name)?,
        None => Device::open()?,
    };
    let bert = Bert::load(&args.model, &device, args.dtype)?;
    let tokens = bert.tokens(&args.sentences)?;
    for (i, _) in tokens.iter().enumerate().filter(|(_, tokens)| tokens.truncated()) {
        eprintln!("embed: sentence {} is cut after {MAX_TOKENS} tokens", i + 1);
    }
    if let Some(runs) = args.bench {
        return bench(&bert, &device, &tokens, runs);
    }
    let table = similarities(&bert.embed(&tokens)?)?.read::<f32>()?.wait(None)?;
    Ok(render(&table, &args.sentences))
}

/// Tokens a second over `runs` runs, each from token ids on the host to embeddings on the host.
fn bench(bert: &Bert, device: &Device, tokens: &[Tokens], runs: usize) -> Result<String, Failure> {
    let once = || bert.embed(tokens)?.read::<f32>()?.wait(None);
    once()?;
    let mut seconds = Vec::with_capacity(runs);
    for _ in 0..runs {
        let start = Instant::now();
        once()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let count: usize = tokens.iter().map(|tokens| tokens.ids().len()).sum();
    let rate = |seconds: f64| (count as f64 / seconds).round();
    let report = serde_json::json!({
        "device": device.name(),
        "sentences": tokens.len(),
        "tokens": count,
        "tokens_per_s_median": rate(seconds[runs / 2]),
        "tokens_per_s_best": rate(seconds[0]),
        "tokens_per_s_worst": rate(seconds[runs - 1]),
    });
    Ok(format!("{report}\n"))
}

/// One row a sentence: its number, its similarity to each sentence, and how it begins.
fn render(table: &[f32], sentences: &[String]) -> String {
    let count = sentences.len();
    let margin = count.to_string().len();
    let heads: String = (1..=count).map(|i| format!("{i:>9}")).collect();
    let mut out = format!("{:margin$}{heads}\n", "");
    for (i, (row, sentence)) in table.chunks(count).zip(sentences).enumerate() {
        let row: String = row.iter().map(|&x| format!("{:>9}", four_decimals(x))).collect();
        let begins: String = sentence.chars().take(48).flat_map(char::escape_debug).collect();
        let more = if sentence.chars().nth(48).is_some() { "…" } else { "" };
        out += &format!("{:>margin$}{row}  \"{begins}{more}\"\n", i + 1);
    }
    out
}

/// `x` rounded, without a minus sign before zeros.
fn four_decimals(x: f32) -> String {
    let text = format!("{x:.4}");
    if text == "-0.0000" { "0.0000".into() } else { text }
}

struct Args {
    device: Option<String>,
    dtype: DType,
    bench: Option<usize>,
    model: PathBuf,
    sentences: Vec<String>,
}

impl Args {
    /// Options stand before MODEL, so a sentence may begin with a dash.
    fn parse(args: Vec<std::ffi::OsString>) -> Result<Self, Failure> {
        let mut words = args.into_iter();
        let (mut device, mut dtype, mut bench, mut file) = (None, DType::F32, None, None);
        let model = loop {
            let word = words.next().ok_or_else(|| Failure::Usage("MODEL is missing".into()))?;
            let Some(option) = word.to_str().filter(|word| word.starts_with("--")) else {
                break PathBuf::from(word);
            };
            let mut value = || {
                let value = words.next().and_then(|value| value.into_string().ok());
                value.ok_or_else(|| Failure::Usage(format!("{option} needs a value in UTF-8")))
            };
            match option {
                "--device" => device = Some(value()?),
                "--dtype" => dtype = dtype_of(&value()?)?,
                "--file" => file = Some(PathBuf::from(value()?)),
                "--bench" => bench = Some(runs_of(&value()?)?),
                _ => return Err(Failure::Usage(format!("unknown option {option:?}"))),
            }
        };
        let utf8 = |word: std::ffi::OsString| {
            word.into_string()
                .map_err(|word| Failure::Usage(format!("sentence {word:?} is not UTF-8")))
        };
        let mut sentences = words.map(utf8).collect::<Result<Vec<_>, _>>()?;
        if let Some(path) = file {
            let text = std::fs::read_to_string(&path)
                .map_err(|source| Failure::Sentences { path, source })?;
            sentences.extend(text.lines().map(String::from));
        }
        if sentences.is_empty() {
            return Err(Failure::Usage("at least one SENTENCE is needed".into()));
        }
        Ok(Self { device, dtype, bench, model, sentences })
    }
}

fn dtype_of(value: &str) -> Result<DType, Failure> {
    match value {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err(Failure::Usage(format!("--dtype is {value:?}, allowed f32, f16, bf16"))),
    }
}

fn runs_of(value: &str) -> Result<usize, Failure> {
    let runs = value.parse().ok().filter(|runs| (1..=1000).contains(runs));
    runs.ok_or_else(|| Failure::Usage(format!("--bench is {value:?}, allowed 1 to 1000")))
}
