//! What a tenant's program feels on the host's clock: launches, the replay of a decode step, the example programs local and
//! leased, and another library on the same graphics adapter. `tables` calls it.

use super::report::{Checked, Maybe, Number, Peer, Row};
use super::{Check, models};
use crate::leased::{LeasedError, Pair, Sides, Wait};
use crate::measure::{Timing, interleaved};
use crate::ops::random;
use leasehold::{
    Attention, DType, Device, Map, MapFn, Matmul, Norm, Program, Rope, Scatter, Tensor,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Elements of an op that only its launch costs.
const SMALL: usize = 16;
/// Ops enqueued before a wait, and in a rehearsal.
const QUEUED: [usize; 2] = [500, 20];
/// Layers of the decode step.
const LAYERS: usize = 12;
/// What `embed` and `generate` are given.
const PROMPT: &str = "What is a lease?";
/// As often to `embed`, and in a rehearsal.
const SENTENCES: [usize; 2] = [64, 4];

/// Launch overhead and a decode step.
pub(super) fn launches(check: &mut Check<'_>) {
    let pace = match check.is_tiny() {
        true => Duration::ZERO,
        false => check.budget.min(Duration::from_secs(20)) / 4,
    };
    let device = Device::open_named(&check.args.device);
    for count in [1, QUEUED[usize::from(check.is_tiny())]] {
        let what = format!("an op of {SMALL} elements, {count} and then a wait");
        check.row(&what, |check| {
            let ours = device.clone().and_then(|device| small(&device, count, pace));
            let theirs = check.theirs.host(SMALL, count);
            let theirs = theirs.map(|samples| microseconds(Timing::of(samples)));
            let peer = Peer::new("torch.relu_", theirs.unwrap_or_else(Maybe::not));
            Row::new(&*what, None, ours.map_or_else(Maybe::not, microseconds), vec![peer])
        });
    }
    let sizes = if check.is_tiny() { TINY } else { LLAMA };
    let what = format!("replay of a decode step: {LAYERS} layers, {sizes:?}");
    check.row(&what, |_| {
        let step = device.and_then(|device| replayed(&device, sizes, pace));
        let peer = Peer::new("peers", Maybe::not("nobody else replays this step here"));
        Row::new(&*what, None, step.map_or_else(Maybe::not, microseconds), vec![peer])
    });
}

fn microseconds(timing: Timing) -> Maybe<Number> {
    Maybe::Is(Number::time(timing.median_s * 1e6, "us", timing))
}

/// Seconds of one of `count` ops and a wait.
fn small(device: &Device, count: usize, pace: Duration) -> leasehold::Result<Timing> {
    let x = random(device, DType::F32, &[SMALL], 1)?;
    let mut samples = Vec::new();
    let began = Instant::now();
    while samples.len() < 7 || (began.elapsed() < pace && samples.len() < 2000) {
        let start = Instant::now();
        for _ in 0..count {
            Map::unary(MapFn::Relu, &x).into(&x).run()?;
        }
        device.wait(None)?;
        samples.push(start.elapsed().as_secs_f64() / count as f64);
    }
    Ok(Timing::of(samples))
}

/// Sizes of a decoder.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    inner: usize,
    keys: usize,
    page: usize,
}

const LLAMA: Sizes =
    Sizes { hidden: 2048, heads: 32, kv_heads: 8, inner: 5632, keys: 2048, page: 64 };
const TINY: Sizes = Sizes { hidden: 64, heads: 4, kv_heads: 2, inner: 96, keys: 32, page: 16 };

/// Weights and cache of a layer.
struct Layer {
    norms: [Tensor; 2],
    qkv: Tensor,
    out: Tensor,
    up: Tensor,
    down: Tensor,
    cache: [Tensor; 2],
}

fn replayed(device: &Device, sizes: Sizes, pace: Duration) -> leasehold::Result<Timing> {
    let step = recorded(device, sizes)?;
    let mut once = || {
        step.replay()?;
        device.wait(None)
    };
    Ok(interleaved(pace, &mut [&mut once])?[0])
}

/// One token through all layers, its keys in pages.
fn recorded(device: &Device, sizes: Sizes) -> leasehold::Result<Program> {
    let Sizes { hidden, heads, kv_heads, inner, keys, page } = sizes;
    let (dtype, dim) = (DType::BF16, hidden / heads);
    let weights = |rows: usize, columns: usize, seed| random(device, dtype, &[rows, columns], seed);
    let layer = |i: usize| -> leasehold::Result<Layer> {
        let seed = 10 * i as u64;
        let store = [keys / page, kv_heads, page, dim];
        Ok(Layer {
            norms: [
                random(device, dtype, &[hidden], seed)?,
                random(device, dtype, &[hidden], seed + 1)?,
            ],
            qkv: weights((heads + 2 * kv_heads) * dim, hidden, seed + 2)?,
            out: weights(hidden, hidden, seed + 3)?,
            up: weights(2 * inner, hidden, seed + 4)?,
            down: weights(hidden, inner, seed + 5)?,
            cache: [
                random(device, dtype, &store, seed + 6)?,
                random(device, dtype, &store, seed + 7)?,
            ],
        })
    };
    let layers = (0..LAYERS).map(layer).collect::<leasehold::Result<Vec<_>>>()?;
    let pages: Vec<u32> = (0..(keys / page) as u32).rev().collect();
    let pages = device.tensor([1, pages.len()], &pages)?;
    let lens = device.tensor([1], &[keys as u32])?;
    let position = device.tensor([1, 1], &[keys as u32 - 1])?;
    let input = random(device, dtype, &[1, hidden], 99)?;
    device.program(|p| {
        let mut x = input.clone();
        for layer in &layers {
            let y = Norm::rms(&x, 1e-5).weight(&layer.norms[0]).record(p)?;
            let qkv = Matmul::new(&y, &layer.qkv.t()).record(p)?;
            let split = |from: usize, heads: usize| {
                qkv.narrow(1, from * dim, heads * dim)?.reshape(&[1, heads, 1, dim])
            };
            let (q, k) = (split(0, heads)?, split(heads, kv_heads)?);
            let v = split(heads + kv_heads, kv_heads)?;
            let (q, k) = (Rope::new(&q, &position).record(p)?, Rope::new(&k, &position).record(p)?);
            let [keys_of, values_of] = &layer.cache;
            Scatter::append(&k, &pages, &lens, keys_of).record(p)?;
            Scatter::append(&v, &pages, &lens, values_of).record(p)?;
            let attention = Attention::new(&q, keys_of, values_of).causal().paged(&pages);
            let o =
                attention.lens_on_device(&lens, keys as u32).record(p)?.reshape(&[1, hidden])?;
            x = Matmul::new(&o, &layer.out.t()).residual(&x).record(p)?;
            let y = Norm::rms(&x, 1e-5).weight(&layer.norms[1]).record(p)?;
            let y = Matmul::new(&y, &layer.up.t()).silu().gate_interleaved().record(p)?;
            x = Matmul::new(&y, &layer.down.t()).residual(&x).record(p)?;
        }
        p.output(&x)
    })
}

/// Ops that a lease may cost 2 % of are at least this long.
const LONG: Duration = Duration::from_micros(200);
/// How many of them are queued before a wait, and in a rehearsal.
const QUEUE: [usize; 2] = [50, 3];

/// The same ops through a private node's ring and through a call, in turn. A row that fails leaves the others alone.
pub(super) fn leased(check: &mut Check<'_>) {
    let (tiny, budget) = (check.is_tiny(), check.budget / 8);
    let (time, dtype) = (if tiny { Duration::ZERO } else { budget }, DType::BF16);
    let count = QUEUE[usize::from(tiny)];
    let mut started = Err("no row ran".into());
    let mut row = |what: &str, run: &dyn Fn(&Sides, usize) -> Result<Row, LeasedError>| {
        check.row(&format!("leased: {what}"), |check| {
            if started.is_err() {
                started = both_sides(check, dtype).map_err(|error| error.to_string());
            }
            let found = started.as_ref().map_err(String::clone);
            let found =
                found.and_then(|(sides, size)| run(sides, *size).map_err(|e| e.to_string()));
            let none = |why| Row::new(format!("leased: {what}"), None, Maybe::not(why), Vec::new());
            found.unwrap_or_else(none)
        });
    };
    row("products", &|sides, size| {
        Ok(beside_local(sides.queued(dtype, size, count, time)?, count))
    });
    row("larger products", &|sides, size| {
        Ok(beside_local(sides.queued(dtype, 2 * size, count / 3, time)?, count / 3))
    });
    row("causal attention", &|sides, size| {
        // About as many operations.
        let length = if tiny { 48 } else { size.clamp(512, 4096) };
        Ok(beside_local(sides.attended(dtype, [16, length], count, time)?, count))
    });
    let sizes = if tiny { TINY } else { LLAMA };
    let what = format!("replay of a decode step: {LAYERS} layers, {sizes:?}");
    row(&what, &|sides, _| {
        let make = |device: &Device| {
            let step = recorded(device, sizes)?;
            Ok(move |device: &Device| {
                step.replay()?;
                device.wait(None)
            })
        };
        Ok(beside_local(sides.both(what.clone(), make, time)?, 1))
    });
    row("an op and its wait, hot", &|sides, _| {
        Ok(added(sides.hot(if tiny { 1 } else { 20 })?, "at most 10 us"))
    });
    row("an op and its wait, sleeping", &|sides, _| {
        let rounds = if tiny { 3 } else { 100 };
        Ok(added(sides.sleeping(Duration::from_millis(20), rounds)?, "no aim"))
    });
    if let Ok((sides, _)) = started {
        // The node goes with this process where it cannot be told.
        let _ = sides.end();
    }
}

/// Both sides, and the size of products that are long enough.
fn both_sides(check: &Check<'_>, dtype: DType) -> Result<(Sides, usize), LeasedError> {
    let sides = Sides::start(check.programs().join("leasehold-node"), &check.args.device)?;
    let size = if check.is_tiny() { 32 } else { long_enough(sides.local(), dtype)? };
    Ok((sides, size))
}

/// A size of products of which one takes at least [`LONG`].
fn long_enough(device: &Device, dtype: DType) -> leasehold::Result<usize> {
    for size in [256, 512, 1024, 2048, 4096] {
        let x = random(device, dtype, &[size, size], 1)?;
        let mut queue = || {
            (0..20).try_for_each(|_| Matmul::new(&x, &x).run().map(drop))?;
            device.wait(None)
        };
        let timing = interleaved(Duration::ZERO, &mut [&mut queue])?[0];
        if timing.median_s / 20.0 >= LONG.as_secs_f64() {
            return Ok(size);
        }
    }
    Ok(8192)
}

/// Leased as ours, local as the peer: microseconds of one of so many ops.
fn beside_local(pair: Pair, count: usize) -> Row {
    let us = |timing: Timing| {
        Maybe::Is(Number::time(timing.median_s * 1e6 / count.max(1) as f64, "us", timing))
    };
    let peer = Peer::new("local", us(pair.local));
    Row::new(format!("leased: {}", pair.what), None, us(pair.leased), vec![peer])
}

/// What a lease adds to the median of an op and its wait.
fn added(wait: Wait, aim: &str) -> Row {
    let ([local, _], [leased, _]) = (wait.local_us, wait.leased_us);
    let number = |value: f64, unit: &str| {
        let check = Maybe::not("a time alone");
        Maybe::Is(Number { value, unit: unit.into(), more: false, timing: None, check })
    };
    let peer = |name: &str, us| Peer::new(name, number(us, "us")).beside();
    let what = format!("leased: added by {}, p50, {aim}", wait.what);
    let peers = vec![peer("p50 local", local), peer("p50 leased", leased)];
    Row::new(what, None, number(leased - local, "us added"), peers)
}

/// `embed` and `generate`, leased beside local.
pub(super) fn programs(check: &mut Check<'_>) {
    let programs = [
        ("embed", "all-MiniLM-L6-v2", ""),
        ("generate", "SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    ];
    let made = std::env::temp_dir().join(format!("leasehold-check-{}-models", std::process::id()));
    for (program, model, file) in programs {
        check.row(&format!("{program}, leased"), |check| {
            let named = check.args.models.as_deref().ok_or("no --models".into());
            let (folder, of) = match named.and_then(|folder| found(folder, model)) {
                Ok(folder) => (Ok(folder), model.to_string()),
                Err(_) => {
                    let (is_tiny, seed) = (check.is_tiny(), check.args.seed);
                    let folder = drawn(&made, program, file, (is_tiny, seed));
                    (folder, format!("random weights of seed {seed}, {} {model}", sized(is_tiny)))
                }
            };
            let number = |is_leased: bool| {
                let rate = folder
                    .clone()
                    .and_then(|folder| rate_of(check, program, (&folder, file), is_leased));
                let number = rate.map(|rate| Number::count(rate, "tokens/s", Checked::all(0)));
                number.map_or_else(Maybe::not, Maybe::Is)
            };
            let peer = Peer::new("local", number(false));
            Row::new(format!("{program}, leased, {of}"), None, number(true), vec![peer])
        });
    }
    // Where no model was made there is none.
    let _ = std::fs::remove_dir_all(&made);
}

fn sized(is_tiny: bool) -> &'static str {
    if is_tiny { "much smaller than" } else { "of the size of" }
}

/// A model of random weights for a program.
fn drawn(
    folder: &Path,
    program: &str,
    file: &str,
    (is_tiny, seed): (bool, u64),
) -> Result<PathBuf, String> {
    let folder = folder.join(program);
    let made = std::fs::create_dir_all(&folder).and_then(|()| match program {
        "embed" => models::bert(&folder, is_tiny, seed),
        _ => models::llama(&folder.join(file), is_tiny, seed),
    });
    made.map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// The folder of a model, whose name has its version after it.
fn found(models: &Path, name: &str) -> Result<PathBuf, String> {
    let entries = std::fs::read_dir(models).map_err(|e| format!("{}: {e}", models.display()))?;
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
    };
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths.find(is_it).ok_or_else(|| format!("{}: no {name}", models.display()))
}

fn rate_of(
    check: &Check<'_>,
    program: &str,
    (model, file): (&Path, &str),
    is_leased: bool,
) -> Result<f64, String> {
    let (folder, device) = (check.programs(), &check.args.device);
    // `embed` takes its sentences after the model.
    let sentences = vec![PROMPT; SENTENCES[usize::from(check.is_tiny())]];
    let tokens = if check.is_tiny() { "4" } else { "64" };
    let (options, after): (&[&str], &[&str]) = match program {
        "embed" => (&["--bench", "5"], &sentences),
        _ => (&["--prompt", PROMPT, "--tokens", tokens], &[]),
    };
    let mut command = match is_leased {
        false => Command::new(folder.join(program)),
        true => Command::new(folder.join("leasehold")),
    };
    if is_leased {
        let input = format!("model={}", model.display());
        command.args(["run", "--private", "--device", device, "--in", &input, "--"]);
        command.arg(folder.join(program)).args(options).arg(Path::new("/in/model").join(file));
    } else {
        command.args(["--device", device]).args(options).arg(model.join(file));
    }
    command.args(after);
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let said =
        || format!("{program}: {}: {}", output.status, err.lines().next_back().unwrap_or(""));
    if !output.status.success() {
        return Err(said());
    }
    let of_embed =
        out.split("\"tokens_per_s_median\":").nth(1).and_then(|rest| rest.split([',', '}']).next());
    // The last rate that it prints is that of decoding.
    let of_generate = err.rsplit(" tokens/s").nth(1).and_then(|text| text.rsplit(' ').next());
    let word = if program == "embed" { of_embed } else { of_generate };
    word.and_then(|word| word.trim().parse().ok()).ok_or_else(said)
}

/// Our products and attention beside cubek's on the card's graphics adapter, by the program in `benches/peers`, in which
/// both take turns.
pub(super) fn adapter(check: &mut Check<'_>) {
    let sizes: &[&str] = match check.is_tiny() {
        true => &["--sides", "64", "--sequences", "64", "--seconds", "0.1"],
        false => &["--sides", "512,2048,4096", "--sequences", "1024,4096", "--seconds", "4"],
    };
    let program =
        check.args.adapter.clone().unwrap_or_else(|| "benches/peers/target/release/adapter".into());
    let what = "products and attention on a graphics adapter";
    // The program's rows come at once, after the one in whose time it runs.
    let mut more = Vec::new();
    check.row(what, |_| {
        let output = Command::new(&program).args(sizes).arg("--json").output();
        let why = match output {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                more = text.lines().filter_map(beside_cubek).rev().collect();
                String::from_utf8_lossy(&output.stderr).into_owned()
            }
            Err(error) => error.to_string(),
        };
        let why = Maybe::not(format!("{}: {why}", program.display()));
        more.pop().unwrap_or_else(|| Row::new(what, None, why, Vec::new()))
    });
    while let Some(row) = more.pop() {
        check.row(&row.what.clone(), |_| row);
    }
}

/// A row that the program in `benches/peers` printed.
fn beside_cubek(line: &str) -> Option<Row> {
    let row: serde_json::Value = serde_json::from_str(line).ok()?;
    let number = |seconds: f64| {
        let timing = Timing { best_s: seconds, median_s: seconds, spread_s: 0.0, runs: 1 };
        Maybe::Is(Number::time(seconds * 1e6, "us", timing))
    };
    let (ours, theirs) = (row["ours_s"].as_f64()?, row["theirs_s"].as_f64()?);
    let peer = Peer::new(row["peer"].as_str()?, number(theirs));
    Some(Row::new(row["what"].as_str()?, None, number(ours), vec![peer]))
}
