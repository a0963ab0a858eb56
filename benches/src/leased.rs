//! Leased against local on the same device: a private node of two processes beside this one, the same ops through the
//! ring and through a call, taking turns.
//!
//! How the cores are used where the device is the CPU: locally the caller computes, with a pool thread on each further core; leased, the
//! executor's loop does, with as many pool threads, while the tenant sleeps in its wait. In the hot ring tenant and
//! executor spin on a core each; in the sleeping one both sleep, and an op pays for waking either side.

use crate::measure::{Timing, interleaved};
use crate::ops::random;
use leasehold::remote::Remote;
use leasehold::{Attention, DType, Device, Map, MapFn, Matmul, Tensor};
use leasehold_node::job::{Admitted, JobError, Node};
use leasehold_node::ledger::Outcome;
use serde::Serialize;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Bytes of a card's memory that local ops have beside a node.
const LOCAL_BYTES: u64 = 4 << 30;

/// Why the comparison did not run.
#[derive(Debug, thiserror::Error)]
pub enum LeasedError {
    /// The node.
    #[error(transparent)]
    Job(#[from] JobError),
    /// An op.
    #[error(transparent)]
    Op(#[from] leasehold::Error),
}

/// One measurement of both sides.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// What was done.
    pub what: String,
    /// Seconds in this process.
    pub local: Timing,
    /// Seconds through the ring.
    pub leased: Timing,
    /// Leased median over local median.
    pub ratio: f64,
}

/// Op + wait of one small op: microseconds at two quantiles.
#[derive(Clone, Debug, Serialize)]
pub struct Wait {
    /// What was done.
    pub what: String,
    /// Local p50 and p99.
    pub local_us: [f64; 2],
    /// Leased p50 and p99.
    pub leased_us: [f64; 2],
}

/// Both sides.
pub struct Sides {
    node: Node,
    _admitted: Admitted,
    local: Device,
    leased: Device,
}

impl Sides {
    /// Opens a device, then starts a private node on it by its program. A card's executor takes what memory is left, so what
    /// local ops will need is held until it has.
    ///
    /// # Errors
    /// The node cannot be started or refuses.
    pub fn start(program: PathBuf, device: &str) -> Result<Self, LeasedError> {
        let local = Device::open_named(device)?;
        let held = match local.caps().backend {
            "cuda" => Some(local.empty(DType::F32, &[(LOCAL_BYTES / 4) as usize])?),
            _ => None,
        };
        local.wait(None)?;
        let (node, grant) = Node::private(program, Some(device))?;
        let admitted = node.admit(&grant, None)?;
        let remote = Remote::on(admitted.door.as_fd())?;
        drop(held);
        let leased = Device::from_engine(Box::new(remote), "private node".into());
        Ok(Self { node, _admitted: admitted, local, leased })
    }

    /// The device without a lease.
    pub fn local(&self) -> &Device {
        &self.local
    }

    /// Queues `count` products of `size` cubed and waits once.
    ///
    /// # Errors
    /// What an op fails with.
    pub fn queued(
        &self,
        dtype: DType,
        size: usize,
        count: usize,
        budget: Duration,
    ) -> Result<Pair, LeasedError> {
        let run = |dev: &Device| -> leasehold::Result<_> {
            let x = random(dev, dtype, &[size, size], 1)?;
            let y = Matmul::new(&x, &x).run()?;
            Ok(move |dev: &Device| {
                for _ in 0..count {
                    Matmul::new(&x, &x).into(&y).run()?;
                }
                dev.wait(None)
            })
        };
        self.both(format!("{count} queued matmuls {size}x{size}x{size} {dtype}"), run, budget)
    }

    /// Queues `count` causal attentions of `[1, heads, length, 64]` and waits once.
    ///
    /// # Errors
    /// What an op fails with.
    pub fn attended(
        &self,
        dtype: DType,
        [heads, length]: [usize; 2],
        count: usize,
        budget: Duration,
    ) -> Result<Pair, LeasedError> {
        let run = |dev: &Device| -> leasehold::Result<_> {
            let x = random(dev, dtype, &[1, heads, length, 64], 1)?;
            let y = Attention::new(&x, &x, &x).causal().run()?;
            Ok(move |dev: &Device| {
                for _ in 0..count {
                    Attention::new(&x, &x, &x).causal().into(&y).run()?;
                }
                dev.wait(None)
            })
        };
        self.both(
            format!("{count} queued causal attentions {heads}x{length}x64 {dtype}"),
            run,
            budget,
        )
    }

    /// Queues `count` maps of 16 elements and waits once.
    ///
    /// # Errors
    /// What an op fails with.
    pub fn tiny(&self, count: usize, budget: Duration) -> Result<Pair, LeasedError> {
        let run = |dev: &Device| -> leasehold::Result<_> {
            let x = random(dev, DType::F32, &[16], 1)?;
            Ok(move |dev: &Device| {
                for _ in 0..count {
                    Map::unary(MapFn::Relu, &x).into(&x).run()?;
                }
                dev.wait(None)
            })
        };
        self.both(format!("{count} queued ops of 16 elements"), run, budget)
    }

    /// What `make` makes of each device, on that device, taking turns.
    ///
    /// # Errors
    /// What it fails with.
    pub fn both<R: Fn(&Device) -> leasehold::Result<()>>(
        &self,
        what: String,
        make: impl Fn(&Device) -> leasehold::Result<R>,
        budget: Duration,
    ) -> Result<Pair, LeasedError> {
        self.pair(what, make(&self.local)?, make(&self.leased)?, budget)
    }

    fn pair(
        &self,
        what: String,
        local: impl Fn(&Device) -> leasehold::Result<()>,
        leased: impl Fn(&Device) -> leasehold::Result<()>,
        budget: Duration,
    ) -> Result<Pair, LeasedError> {
        let mut ours = || local(&self.local);
        let mut theirs = || leased(&self.leased);
        let timings = interleaved(budget, &mut [&mut ours, &mut theirs])?;
        let ratio = timings[1].median_s / timings[0].median_s;
        Ok(Pair { what, local: timings[0], leased: timings[1], ratio })
    }

    /// Op + wait of a small op, again at once (the ring is hot): blocks of both sides take turns, and the first ops
    /// of a block, which wake the executor, are left out.
    ///
    /// # Errors
    /// What an op fails with.
    pub fn hot(&self, blocks: usize) -> Result<Wait, LeasedError> {
        const WARM: usize = 50;
        const COUNTED: usize = 500;
        self.waits("op + wait, hot ring", blocks, |dev, x, us| {
            for i in 0..WARM + COUNTED {
                let took = op_and_wait(dev, x)?;
                if i >= WARM {
                    us.push(took);
                }
            }
            Ok(())
        })
    }

    /// Op + wait of a small op after `pause`, when both sides sleep.
    ///
    /// # Errors
    /// What an op fails with.
    pub fn sleeping(&self, pause: Duration, rounds: usize) -> Result<Wait, LeasedError> {
        let what = format!("op + wait, sleeping ring ({} ms)", pause.as_millis());
        self.waits(&what, rounds, |dev, x, us| {
            std::thread::sleep(pause);
            us.push(op_and_wait(dev, x)?);
            Ok(())
        })
    }

    fn waits(
        &self,
        what: &str,
        rounds: usize,
        block: impl Fn(&Device, &Tensor, &mut Vec<f64>) -> leasehold::Result<()>,
    ) -> Result<Wait, LeasedError> {
        let sides = [&self.local, &self.leased];
        let mut us = [Vec::new(), Vec::new()];
        let mut tensors = Vec::new();
        for dev in sides {
            tensors.push(random(dev, DType::F32, &[1024], 1)?);
            dev.wait(None)?;
        }
        for _ in 0..rounds {
            for ((dev, x), us) in sides.iter().zip(&tensors).zip(&mut us) {
                block(dev, x, us)?;
            }
        }
        let [local_us, leased_us] = us.map(|mut us| {
            us.sort_by(f64::total_cmp);
            [us.len() / 2, us.len() * 99 / 100].map(|at| us.get(at).copied().unwrap_or(0.0))
        });
        Ok(Wait { what: what.into(), local_us, leased_us })
    }

    /// Writing `mib` MiB and waiting, then reading them back.
    ///
    /// # Errors
    /// What a copy fails with.
    pub fn copies(&self, mib: usize, budget: Duration) -> Result<[Pair; 2], LeasedError> {
        let data = vec![1f32; mib << 18];
        let place = |dev: &Device| dev.tensor([data.len()], &data);
        let [local, leased] = [place(&self.local)?, place(&self.leased)?];
        let up = |x: &Tensor, dev: &Device| x.write(&data).and_then(|()| dev.wait(None));
        let up = self.pair(
            format!("upload of {mib} MiB"),
            |dev| up(&local, dev),
            |dev| up(&leased, dev),
            budget,
        )?;
        let down = |x: &Tensor| x.read::<f32>()?.wait(None).map(drop);
        let what = format!("readback of {mib} MiB");
        let down = self.pair(what, |_| down(&local), |_| down(&leased), budget)?;
        Ok([up, down])
    }

    /// Ends the job, so that the node settles it.
    ///
    /// # Errors
    /// The node has gone.
    pub fn end(self) -> Result<(), LeasedError> {
        drop((self.local, self.leased));
        self.node.ended(Outcome::Exited(0))?;
        self.node.word();
        Ok(())
    }
}

/// Microseconds of one small op and the wait for it.
fn op_and_wait(dev: &Device, x: &Tensor) -> leasehold::Result<f64> {
    let begin = Instant::now();
    Map::unary(MapFn::Relu, x).into(x).run()?;
    dev.wait(None)?;
    Ok(begin.elapsed().as_secs_f64() * 1e6)
}

/// How many cores both sides have, and who uses them when.
pub fn cores() -> String {
    let n = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{n} cores. Queued ops: the caller (local) or the executor (leased) computes with a pool of {n} threads, its \
         own included, and a tenant that waits sleeps. Hot ring: tenant and executor spin, a core each. Sleeping \
         ring: both sleep, and the time includes waking them."
    )
}
