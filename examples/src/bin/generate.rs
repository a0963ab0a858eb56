//! `generate`: prompts in, a language model's answers out, token by token. It runs the same on a local device and,
//! unchanged, as a leased job. `examples/run generate` starts it.

use leasehold::backend::{Backend, BlockId, cpu::Cpu};
use leasehold::{DType, Device};
use leasehold_examples::gguf::{Gguf, GgufError, Spelling, Vocabulary};
use leasehold_examples::llama::{Generation, Llama, LlamaError, Room, Sampler};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

const USAGE: &str = "\
usage: generate [OPTIONS] --prompt TEXT... MODEL

MODEL is a GGUF file of a llama chat model with its tokenizer inside.

  --prompt TEXT     what the user says; several are answered at once
  --tokens N        most tokens of an answer, 1 to 4096 (default 64)
  --temperature T   0 (default) takes the likeliest token; up to 10, tokens are drawn by their probability
  --seed N          of what is drawn; printed, so that a run can be repeated
  --device NAME     instead of the leased or the best local device
  --dtype TYPE      weights and activations: f32 (default), f16 or bf16
  --bench           on the device `cpu`, compares a step with a plain read of the weights by as many threads";

/// Prompts answered at once; further ones begin as answers end.
const SLOTS: usize = 8;

/// What went wrong; each is one line on stderr.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}\n\n{USAGE}")]
    Usage(String),
    #[error(
        "prompt {number} and its answer are {asked} tokens, allowed {allowed}: the model's context"
    )]
    Context { number: usize, asked: usize, allowed: usize },
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(transparent)]
    Model(#[from] LlamaError),
    #[error(transparent)]
    Device(#[from] leasehold::Error),
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match Args::parse(args).and_then(|args| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("generate: {failure}");
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    let device = match &args.device {
        Some(name) => Device::open_named(name)?,
        None => Device::open()?,
    };
    let file = Gguf::open(&args.model)?;
    let vocabulary = Vocabulary::load(&file)?;
    let model = Llama::load(&file, vocabulary.len(), &device, args.dtype)?;
    let mut answers = Vec::new();
    for (number, prompt) in (1..).zip(&args.prompts) {
        let ids = vocabulary.chat(prompt)?;
        let (asked, allowed) = (ids.len() + args.tokens, model.config().context);
        if asked > allowed {
            return Err(Failure::Context { number, asked, allowed });
        }
        answers.push(Answer { ids, longest: asked, ..Answer::default() });
    }
    let sampler = (args.temperature > 0.0).then(|| {
        let seed = args.seed.unwrap_or_else(clock_seed);
        eprintln!("generate: --seed {seed}");
        Sampler::new(args.temperature, seed)
    });
    let mut lengths: Vec<usize> = answers.iter().map(|answer| answer.longest).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.truncate(SLOTS);
    let room = Room { slots: lengths.len(), longest: lengths[0], total: lengths.iter().sum() };
    let generation = Generation::new(&model, room, sampler)?;
    let headings = (answers.len() > 1).then_some(&args.prompts[..]);
    let mut page = Page { headings, answers, shown: 0 };
    let mut bound = args.bench.then(|| Bound::new(&device, &model)).transpose()?;
    let speed = answer_all(generation, &vocabulary, &mut page, args.tokens, bound.as_mut())?;
    eprintln!("{speed}");
    if let Some(bound) = bound {
        eprintln!("{bound}");
    }
    if let Some(peak) = peak_memory() {
        eprintln!("generate: peak memory of this process {peak}");
    }
    Ok(())
}

/// Begins an answer wherever a slot is free and steps all that are running, until all have ended.
fn answer_all(
    mut generation: Generation<'_>,
    vocabulary: &Vocabulary,
    page: &mut Page<'_>,
    most: usize,
    mut bound: Option<&mut Bound>,
) -> Result<Speed, Failure> {
    let mut waiting: VecDeque<usize> = (0..page.answers.len()).collect();
    let mut answering: Vec<Option<usize>> = vec![None; page.answers.len().min(SLOTS)];
    let mut speed = Speed::default();
    loop {
        while let (Some(slot), Some(&number)) = (generation.free_slot(), waiting.front()) {
            let Answer { ids, longest, .. } = &page.answers[number];
            let (start, rows) = (Instant::now(), ids.len());
            let Some(token) = generation.begin(slot, ids, *longest)? else { break };
            speed.prompt.add(rows, start.elapsed());
            waiting.pop_front();
            answering[slot] = Some(number);
            if !page.take(number, vocabulary.bytes(token), most)? {
                generation.end(slot)?;
                answering[slot] = None;
            }
        }
        if answering.iter().all(Option::is_none) {
            return Ok(speed);
        }
        let start = Instant::now();
        let tokens: Vec<(usize, u32)> = generation.step()?.collect();
        speed.decode.add(tokens.len(), start.elapsed());
        if let Some(bound) = &mut bound {
            bound.add(start.elapsed())?;
        }
        for (slot, token) in tokens {
            let Some(number) = answering[slot] else { continue };
            if !page.take(number, vocabulary.bytes(token), most)? {
                generation.end(slot)?;
                answering[slot] = None;
            }
        }
    }
}

/// An answer in the making.
#[derive(Default)]
struct Answer {
    /// The prompt's tokens.
    ids: Vec<u32>,
    /// Tokens of prompt and answer, at most.
    longest: usize,
    made: usize,
    ended: bool,
    spelling: Spelling,
    /// What waits for the answers before it.
    text: String,
}

/// The answers as they are printed: one after another, each as it comes once those before it have ended.
struct Page<'a> {
    /// The prompts, where they are printed too.
    headings: Option<&'a [String]>,
    answers: Vec<Answer>,
    /// The answer that is being printed.
    shown: usize,
}

impl Page<'_> {
    /// Adds a token to an answer, which ends with `None` or with its token number `most`; whether it goes on.
    fn take(&mut self, number: usize, token: Option<&[u8]>, most: usize) -> Result<bool, Failure> {
        let answer = &mut self.answers[number];
        answer.made += 1;
        if answer.made == 1
            && let Some(prompts) = self.headings
        {
            answer.text = format!("> {}\n", prompts[number].escape_debug());
        }
        answer.text += &token.map(|bytes| answer.spelling.push(bytes)).unwrap_or_default();
        answer.ended = token.is_none() || answer.made == most;
        if answer.ended {
            answer.text += answer.spelling.end();
            answer.text += "\n";
        }
        let goes_on = !answer.ended;
        self.print()?;
        Ok(goes_on)
    }

    fn print(&mut self) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        while let Some(answer) = self.answers.get_mut(self.shown) {
            out.write_all(std::mem::take(&mut answer.text).as_bytes())?;
            if !answer.ended {
                break;
            }
            self.shown += 1;
        }
        Ok(out.flush()?)
    }
}

/// Tokens and the time that they took.
#[derive(Default)]
struct Rate {
    tokens: usize,
    time: Duration,
}

impl Rate {
    fn add(&mut self, tokens: usize, time: Duration) {
        self.tokens += tokens;
        self.time += time;
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = self.tokens as f64 / self.time.as_secs_f64().max(1e-9);
        write!(f, "{} tokens, {rate:.1} tokens/s", self.tokens)
    }
}

/// Of prompts, and of the tokens after each answer's first.
#[derive(Default)]
struct Speed {
    prompt: Rate,
    decode: Rate,
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "generate: prompt {}; decode {}", self.prompt, self.decode)
    }
}

/// Steps beside plain reads of as many bytes as the weights have, in turn.
struct Bound {
    cpu: Cpu,
    block: BlockId,
    bytes: u64,
    steps: Vec<Duration>,
    reads: Vec<Duration>,
}

impl Bound {
    fn new(device: &Device, model: &Llama) -> Result<Self, Failure> {
        let backend = device.caps().backend;
        if backend != "cpu" {
            return Err(Failure::Usage(format!("--bench runs on {backend:?}, allowed cpu")));
        }
        let (mut cpu, bytes) = (Cpu::new()?, model.weight_bytes());
        let block = cpu.alloc(bytes)?;
        let ones = vec![1; 1 << 20];
        for at in (0..bytes).step_by(ones.len()) {
            cpu.upload(block, at, &ones[..ones.len().min((bytes - at) as usize)])?;
        }
        Ok(Self { cpu, block, bytes, steps: Vec::new(), reads: Vec::new() })
    }

    fn add(&mut self, step: Duration) -> Result<(), Failure> {
        self.steps.push(step);
        self.reads.push(self.cpu.plain_read(self.block)?);
        Ok(())
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let median = |times: &[Duration]| {
            let mut times = times.to_vec();
            times.sort_unstable();
            times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64) * 1e3
        };
        let (step, read) = (median(&self.steps), median(&self.reads));
        let (mb, ratio) = (self.bytes / 1_000_000, read / step.max(1e-9));
        write!(
            f,
            "generate: a step takes {step:.1} ms, a plain read of the {mb} MB of its weights {read:.1} ms: {ratio:.2}"
        )
    }
}

/// What the kernel says that this process held at most; nothing where it does not say.
fn peak_memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(format!("{} MiB", kib >> 10))
}

fn clock_seed() -> u64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    time.map_or(0, |time| time.as_nanos() as u64)
}

struct Args {
    prompts: Vec<String>,
    tokens: usize,
    temperature: f32,
    seed: Option<u64>,
    device: Option<String>,
    dtype: DType,
    bench: bool,
    model: PathBuf,
}

impl Args {
    fn parse(args: Vec<OsString>) -> Result<Self, Failure> {
        let mut words = args.into_iter();
        let mut model = None;
        let mut args = Self {
            prompts: Vec::new(),
            tokens: 64,
            temperature: 0.0,
            seed: None,
            device: None,
            dtype: DType::F32,
            bench: false,
            model: PathBuf::new(),
        };
        while let Some(word) = words.next() {
            let Some(option) = word.to_str().filter(|word| word.starts_with("--")) else {
                if model.is_some() {
                    let said = format!("unexpected {word:?}: a prompt follows --prompt");
                    return Err(Failure::Usage(said));
                }
                model = Some(PathBuf::from(word));
                continue;
            };
            let mut value = || {
                let value = words.next().and_then(|value| value.into_string().ok());
                value.ok_or_else(|| Failure::Usage(format!("{option} needs a value in UTF-8")))
            };
            match option {
                "--prompt" => args.prompts.push(value()?),
                "--tokens" => {
                    args.tokens =
                        number(option, &value()?, "1 to 4096", |n| (1..=4096).contains(n))?
                }
                "--temperature" => {
                    args.temperature =
                        number(option, &value()?, "0 to 10", |t| (0.0..=10.0).contains(t))?;
                }
                "--seed" => args.seed = Some(number(option, &value()?, "0 to 2^64 - 1", |_| true)?),
                "--device" => args.device = Some(value()?),
                "--dtype" => args.dtype = dtype_of(&value()?)?,
                "--bench" => args.bench = true,
                _ => return Err(Failure::Usage(format!("unknown option {option:?}"))),
            }
        }
        if args.prompts.is_empty() {
            return Err(Failure::Usage("at least one --prompt is needed".into()));
        }
        args.model = model.ok_or_else(|| Failure::Usage("MODEL is missing".into()))?;
        Ok(args)
    }
}

fn number<T: std::str::FromStr>(
    option: &str,
    value: &str,
    allowed: &str,
    good: impl Fn(&T) -> bool,
) -> Result<T, Failure> {
    let number = value.parse().ok().filter(good);
    number.ok_or_else(|| Failure::Usage(format!("{option} is {value:?}, allowed {allowed}")))
}

fn dtype_of(value: &str) -> Result<DType, Failure> {
    match value {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err(Failure::Usage(format!("--dtype is {value:?}, allowed f32, f16, bf16"))),
    }
}
