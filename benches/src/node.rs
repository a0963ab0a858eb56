//! What a node promises its tenants and its owner, measured on the CPU by a node of one's own: a control and an
//! executor beside this process, and tenants in it that keep the device busy. `leasehold bench node` prints it.

use crate::ops::random;
use crate::served::{Served, ServedError, Tenant};
use leasehold::{Copy, DType, Device, Map, MapFn, Matmul, Tensor};
use leasehold_node::job::{Node, Word};
use leasehold_node::lease::Latency;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Edge of the products that keep the device busy: about two slices of work each.
const SIZE: usize = 512;
/// Sessions of a tenant, so that the others have work while one hears of its end.
const SESSIONS: usize = 4;
/// Times that two loads take turns, so that a noisy machine hurts both alike: this often, or less in a short run.
const ROUNDS: u32 = 7;
/// A round is not shorter than this.
const ROUND: Duration = Duration::from_millis(100);
/// How long tenants may take to have their first product.
const WARM_UP: Duration = Duration::from_secs(30);
/// W, the most predicted work that a CPU executor has in flight, in milliseconds.
const WINDOW_MS: f64 = 4.0;

/// A promise and what was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The number: a median where there are several samples.
    pub value: f64,
    /// Its unit; empty for a ratio.
    pub unit: &'static str,
    /// The bound that is promised, and whether the number must lie at or below it.
    pub bound: f64,
    /// `true`: at most the bound; `false`: at least.
    pub at_most: bool,
    /// Whether it is kept.
    pub kept: bool,
    /// What the number was made of.
    pub samples: Vec<f64>,
}

impl Row {
    fn at_most(what: impl Into<String>, value: f64, unit: &'static str, bound: f64) -> Self {
        let (what, kept) = (what.into(), value <= bound);
        Self { what, value, unit, bound, at_most: true, kept, samples: Vec::new() }
    }

    fn at_least(what: impl Into<String>, value: f64, unit: &'static str, bound: f64) -> Self {
        let kept = value >= bound;
        Self { at_most: false, kept, ..Self::at_most(what, value, unit, bound) }
    }

    fn of(self, samples: Vec<f64>) -> Self {
        Self { samples, ..self }
    }
}

/// Measures every promise, each in about `budget`, and hands each row to `show`.
///
/// # Errors
/// The node cannot be started, or an op fails.
pub fn promises(
    program: PathBuf,
    budget: Duration,
    mut show: impl FnMut(&Row),
) -> Result<(), ServedError> {
    let node = Served::start(program, "cpu")?;
    for tenants in [2, 8, 32] {
        sharing_tax(&node, tenants, budget)?.iter().for_each(&mut show);
    }
    show(&equal_weights(&node, budget)?);
    show(&unequal_weights(&node, budget)?);
    show(&latency(&node, budget)?);
    show(&revoke(&node, budget)?);
    show(&zeroing(&node, budget)?);
    show(&bill(&node, budget)?);
    Ok(())
}

/// Total work of `tenants` at once over that of one alone, taking turns: of one that has its own few tensors, whose
/// caches stay warm, and of one that goes through as many tensors as they all have, which leaves what sharing itself
/// costs.
fn sharing_tax(node: &Served, tenants: usize, budget: Duration) -> Result<[Row; 2], ServedError> {
    let window = budget / (3 * rounds(budget));
    let total = |count: usize, tensors: usize| -> Result<f64, ServedError> {
        let tenants = tenants_of(node, &vec![100; count], 2)?;
        let done = flood(&tenants, tensors, window)?;
        tenants.into_iter().try_for_each(|tenant| tenant.end().map(drop))?;
        Ok(done.iter().sum())
    };
    let mut ratios = [Vec::new(), Vec::new()];
    for _ in 0..rounds(budget) {
        let (warm, shared, cold) = (total(1, 1)?, total(tenants, 1)?, total(1, tenants)?);
        ratios[0].push(shared / warm);
        ratios[1].push(shared / cold);
    }
    let what = format!("sharing tax: work of {tenants} tenants over that of one alone");
    let same = format!("{what} with as many tensors");
    let [plain, alike] = ratios;
    let row = |what, ratios: Vec<f64>| Row::at_least(what, median(&ratios), "", 0.97).of(ratios);
    Ok([row(what, plain), row(same, alike)])
}

fn rounds(budget: Duration) -> u32 {
    let fit = budget.as_nanos() / ROUND.as_nanos();
    u32::try_from(fit).unwrap_or(ROUNDS).clamp(1, ROUNDS)
}

/// Jain's index of the device time of four equal tenants.
fn equal_weights(node: &Served, budget: Duration) -> Result<Row, ServedError> {
    let done = shares(node, &[100; 4], budget)?;
    let (sum, squares) = (done.iter().sum::<f64>(), done.iter().map(|x| x * x).sum::<f64>());
    let jain = sum * sum / (done.len() as f64 * squares);
    Ok(Row::at_least("equal weights: Jain's index of 4 tenants", jain, "", 0.99).of(done))
}

/// The share furthest from its weight, of three tenants.
fn unequal_weights(node: &Served, budget: Duration) -> Result<Row, ServedError> {
    let weights = [100, 200, 400];
    let done = shares(node, &weights, budget)?;
    let (all, weight): (f64, f64) =
        (done.iter().sum(), weights.iter().map(|w| f64::from(*w)).sum());
    let off = done.iter().zip(weights).map(|(x, w)| (x / all) / (f64::from(w) / weight) - 1.0);
    let worst = off.fold(0f64, |worst, x| if x.abs() > worst.abs() { x } else { worst });
    let what = "weights 1:2:4: worst share over its due, less 1";
    Ok(Row::at_most(what, worst.abs() * 100.0, "%", 2.0).of(done))
}

/// Milliseconds of device time a second that each tenant had: its products over the window, at what its own cost on
/// average, since the same product costs more after somebody else's.
fn shares(node: &Served, weights: &[u32], budget: Duration) -> Result<Vec<f64>, ServedError> {
    let tenants = tenants_of(node, weights, SESSIONS)?;
    let done = flood(&tenants, 1, budget)?;
    let mut shares = Vec::new();
    for (tenant, done) in tenants.into_iter().zip(done) {
        let usage = tenant.end()?;
        shares.push(done * usage.busy_ns as f64 / usage.ops.max(1) as f64 / 1e6);
    }
    Ok(shares)
}

/// The 99th percentile of a small op and its wait, of a tenant with a latency budget beside two that flood the device.
fn latency(node: &Served, budget: Duration) -> Result<Row, ServedError> {
    let promised = Latency { period_us: 10_000, budget_us: 2_000 };
    let tenant = node.tenant(100, Some(promised), 1)?;
    let dev = &tenant.devices[0];
    let alone = waits(dev, budget / 2)?;
    let floods = tenants_of(node, &[100; 2], 2)?;
    let stop = AtomicBool::new(false);
    let beside = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood_until(&floods, 1, |_| wait_for(&stop)));
        let waits = waits(dev, budget / 2);
        stop.store(true, Relaxed);
        joined(flooding.join()).and(waits)
    })?;
    floods.into_iter().chain([tenant]).try_for_each(|tenant| tenant.end().map(drop))?;
    let (alone, beside) = (quantile(&alone, 0.99), quantile(&beside, 0.99));
    let what = "latency lease: p99 of op + wait beside 2 flooding tenants";
    Ok(Row::at_most(what, beside, "ms", alone + WINDOW_MS + 0.2).of(vec![alone, beside]))
}

/// Milliseconds of op + wait, one each 10 ms.
fn waits(dev: &Device, budget: Duration) -> Result<Vec<f64>, ServedError> {
    let x = random(dev, DType::F32, &[1024], 1)?;
    dev.wait(None)?;
    let (begin, mut ms) = (Instant::now(), Vec::new());
    while ms.len() < 3 || begin.elapsed() < budget {
        std::thread::sleep(Duration::from_millis(10));
        let begin = Instant::now();
        Map::unary(MapFn::Relu, &x).into(&x).run()?;
        dev.wait(None)?;
        ms.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(ms)
}

/// Milliseconds from the operator's order to the receipt of a job in full work: drained, zeroed and written down.
fn revoke(node: &Served, budget: Duration) -> Result<Row, ServedError> {
    let (begin, mut ms) = (Instant::now(), Vec::new());
    while ms.len() < 3 || begin.elapsed() < budget {
        let tenant = node.tenant(100, None, 1)?;
        let dev = &tenant.devices[0];
        let x = random(dev, DType::F32, &[SIZE, SIZE], 1)?;
        let y = Matmul::new(&x, &x).run()?;
        dev.wait(None)?;
        for _ in 0..200 {
            Matmul::new(&x, &x).into(&y).run()?;
        }
        // Until the first of them runs.
        std::thread::sleep(Duration::from_millis(3));
        let begin = Instant::now();
        let admin = node.admin();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| Node::revoke(&admin, tenant.admitted.lease));
            while !matches!(tenant.node.word(), Word::Settled(_) | Word::Gone) {}
            ms.push(begin.elapsed().as_secs_f64() * 1e3);
            joined(asked.join())
        })?;
    }
    let what = "revoke to idle: order to receipt";
    Ok(Row::at_most(what, median(&ms), "ms", WINDOW_MS + 1.0).of(ms))
}

/// The rate at which what a lease leaves is zeroed, over that of filling memory.
fn zeroing(node: &Served, budget: Duration) -> Result<Row, ServedError> {
    const BYTES: usize = 64 << 20;
    let (mut ratios, mut memory) = (Vec::new(), vec![1u8; BYTES]);
    for round in 0..rounds(budget) {
        let tenant = node.tenant(100, None, 1)?;
        // Written, so that every page is there.
        let x = tenant.devices[0].empty(DType::F32, &[BYTES / 4])?;
        Map::unary(MapFn::Identity, &x).shift(1.0).into(&x).run()?;
        tenant.devices[0].wait(None)?;
        drop(x);
        let ns = tenant.end()?.zeroing_ns as f64;
        let begin = Instant::now();
        memory.fill(round as u8);
        std::hint::black_box(&memory);
        ratios.push(begin.elapsed().as_nanos() as f64 / ns);
    }
    let what = "zeroing 64 MiB: rate over that of plain writes";
    Ok(Row::at_least(what, median(&ratios), "", 0.8).of(ratios))
}

/// What four tenants are billed for work and zeroing, and what the executor says that its threads did beside that,
/// against the processor time that the kernel has counted for those threads, over their number. Each nanosecond must be
/// on a bill or in the executor's own account, and on one only; the kernel's count knows of neither.
fn bill(node: &Served, budget: Duration) -> Result<Row, ServedError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let (before, idle_before) = (node.executor_ns()?, Node::idle(&node.admin())?);
    let tenants = tenants_of(node, &[100; 4], 2)?;
    flood(&tenants, 1, budget)?;
    let (mut work, mut zeroing) = (0, 0);
    for tenant in tenants {
        let usage = tenant.end()?;
        (work, zeroing) = (work + usage.busy_ns, zeroing + usage.zeroing_ns);
    }
    // Until its threads have stopped spinning after the last of the zeroing, and said so.
    std::thread::sleep(Duration::from_millis(20));
    let busy = node.executor_ns()?.saturating_sub(before) as f64 / threads;
    let idle = Node::idle(&node.admin())?.saturating_sub(idle_before).as_nanos() as f64;
    let off = ((work + zeroing) as f64 + idle) / busy - 1.0;
    let what = "bill: work, zeroing and idle time of 4 tenants over the executor's, less 1";
    let samples = [work as f64, zeroing as f64, idle, busy].map(|ns| ns / 1e6).to_vec();
    Ok(Row::at_most(what, off.abs() * 100.0, "%", 1.0).of(samples))
}

fn tenants_of(node: &Served, weights: &[u32], sessions: usize) -> Result<Vec<Tenant>, ServedError> {
    weights.iter().map(|weight| node.tenant(*weight, None, sessions)).collect()
}

/// Products a second of each tenant over `window`, once each has had its first.
fn flood(tenants: &[Tenant], tensors: usize, window: Duration) -> Result<Vec<f64>, ServedError> {
    flood_until(tenants, tensors, |counts| {
        let begin = Instant::now();
        while begin.elapsed() < WARM_UP && counts.iter().any(|count| count.load(Relaxed) == 0) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let before: Vec<u64> = counts.iter().map(|count| count.load(Relaxed)).collect();
        let begin = Instant::now();
        std::thread::sleep(window);
        // A short window on a busy machine may see none.
        let none =
            || counts.iter().zip(&before).all(|(count, before)| count.load(Relaxed) == *before);
        while none() && begin.elapsed() < WARM_UP {
            std::thread::sleep(Duration::from_millis(1));
        }
        let seconds = begin.elapsed().as_secs_f64();
        let done = counts.iter().zip(before).map(|(count, before)| count.load(Relaxed) - before);
        done.map(|done| done as f64 / seconds).collect()
    })
}

/// Keeps the device busy for all tenants until `watch` returns; it sees each tenant's finished products. Each session
/// goes through so many tensors.
fn flood_until<T>(
    tenants: &[Tenant],
    tensors: usize,
    watch: impl FnOnce(&[AtomicU64]) -> T,
) -> Result<T, ServedError> {
    let counts: Vec<AtomicU64> = tenants.iter().map(|_| AtomicU64::new(0)).collect();
    let sessions: usize = tenants.iter().map(|tenant| tenant.devices.len()).sum();
    let (ready, stop) = (&Barrier::new(sessions + 1), &AtomicBool::new(false));
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (tenant, count) in tenants.iter().zip(&counts) {
            let devices = tenant.devices.iter();
            threads.extend(
                devices.map(|dev| scope.spawn(move || keep_busy(dev, tensors, ready, stop, count))),
            );
        }
        ready.wait();
        let seen = watch(&counts);
        stop.store(true, Relaxed);
        threads.into_iter().try_for_each(|thread| joined(thread.join()))?;
        Ok(seen)
    })
}

/// Runs one product after another until told to stop; counts those that are done.
fn keep_busy(
    dev: &Device,
    tensors: usize,
    ready: &Barrier,
    stop: &AtomicBool,
    count: &AtomicU64,
) -> Result<(), ServedError> {
    let pair = |x: Tensor| Ok((Matmul::new(&x, &x).run()?, x));
    let made = random(dev, DType::F32, &[SIZE, SIZE], 1).and_then(|first| {
        let more = (1..tensors).map(|_| Copy::new(&first).run().and_then(pair));
        let more = more.collect::<leasehold::Result<Vec<_>>>()?;
        Ok([vec![pair(first)?], more].concat())
    });
    let made = made.and_then(|made| dev.wait(None).map(|()| made));
    ready.wait();
    let made = made?;
    for (y, x) in made.iter().cycle() {
        if stop.load(Relaxed) {
            break;
        }
        Matmul::new(x, x).into(y).run()?;
        dev.wait(None)?;
        count.fetch_add(1, Relaxed);
    }
    Ok(())
}

fn wait_for(stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn joined<T, E: Into<ServedError>>(
    thread: std::thread::Result<Result<T, E>>,
) -> Result<T, ServedError> {
    match thread {
        Ok(result) => result.map_err(Into::into),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().max(1) - 1) as f64 * q;
    sorted.get(at.round() as usize).copied().unwrap_or(0.0)
}
