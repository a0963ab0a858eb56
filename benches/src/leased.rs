//! Leased against local on the same CPU: a private node of two processes beside this one, the same ops through the
//! ring and through a call, taking turns.

use crate::measure::{Timing, interleaved};
use crate::ops::random;
use leasehold::remote::Remote;
use leasehold::{DType, Device, Map, MapFn, Matmul, Tensor};
use leasehold_node::job::{Admitted, JobError, Node};
use leasehold_node::ledger::Outcome;
use serde::Serialize;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

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
    /// Starts a private node by its program and opens both devices.
    ///
    /// # Errors
    /// The node cannot be started or refuses.
    pub fn start(program: PathBuf) -> Result<Self, LeasedError> {
        let (node, grant) = Node::private(program, Some("cpu"))?;
        let admitted = node.admit(&grant, None)?;
        let remote = Remote::on(admitted.door.as_fd())?;
        let leased = Device::from_engine(Box::new(remote), "private node".into());
        Ok(Self { node, _admitted: admitted, local: Device::open_named("cpu")?, leased })
    }

    /// Queues `count` products of `size` cubed and waits once.
    ///
    /// # Errors
    /// What an op fails with.
    pub fn queued(&self, size: usize, count: usize, budget: Duration) -> Result<Pair, LeasedError> {
        let run = |dev: &Device| -> leasehold::Result<_> {
            let x = random(dev, DType::F32, &[size, size], 1)?;
            let y = Matmul::new(&x, &x).run()?;
            Ok(move |dev: &Device| {
                for _ in 0..count {
                    Matmul::new(&x, &x).into(&y).run()?;
                }
                dev.wait(None)
            })
        };
        self.pair(
            format!("{count} queued matmuls {size}x{size}x{size}"),
            run(&self.local)?,
            run(&self.leased)?,
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
        self.pair(
            format!("{count} queued ops of 16 elements"),
            run(&self.local)?,
            run(&self.leased)?,
            budget,
        )
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

    /// Op + wait of a small op, again at once (the ring is hot) or after `pause` (both sides sleep).
    ///
    /// # Errors
    /// What an op fails with.
    pub fn waits(&self, pause: Option<Duration>, rounds: usize) -> Result<Wait, LeasedError> {
        let time = |dev: &Device| -> leasehold::Result<[f64; 2]> {
            let x: Tensor = random(dev, DType::F32, &[1024], 1)?;
            dev.wait(None)?;
            let mut us = Vec::with_capacity(rounds);
            for _ in 0..rounds {
                if let Some(pause) = pause {
                    std::thread::sleep(pause);
                }
                let begin = Instant::now();
                Map::unary(MapFn::Relu, &x).into(&x).run()?;
                dev.wait(None)?;
                us.push(begin.elapsed().as_secs_f64() * 1e6);
            }
            us.sort_by(f64::total_cmp);
            Ok([us[rounds / 2], us[rounds * 99 / 100]])
        };
        let what = match pause {
            None => "op + wait, hot ring".to_string(),
            Some(pause) => format!("op + wait after {} ms of sleep", pause.as_millis()),
        };
        Ok(Wait { what, local_us: time(&self.local)?, leased_us: time(&self.leased)? })
    }

    /// Bytes a second of writing and of reading back `mib` MiB through the ring, in units of 10^9.
    ///
    /// # Errors
    /// What a copy fails with.
    pub fn copies(&self, mib: usize) -> Result<[f64; 2], LeasedError> {
        let data = vec![1f32; mib << 18];
        let x = self.leased.tensor([data.len()], &data)?;
        self.leased.wait(None)?;
        let bytes = (mib << 20) as f64 / 1e9;
        let best =
            |mut once: Box<dyn FnMut() -> leasehold::Result<()> + '_>| -> leasehold::Result<f64> {
                let mut least = f64::INFINITY;
                for _ in 0..7 {
                    let begin = Instant::now();
                    once()?;
                    least = least.min(begin.elapsed().as_secs_f64());
                }
                Ok(bytes / least)
            };
        let up = best(Box::new(|| x.write(&data).and_then(|()| self.leased.wait(None))))?;
        let down = best(Box::new(|| x.read::<f32>()?.wait(None).map(drop)))?;
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
