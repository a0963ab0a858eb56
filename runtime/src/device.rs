//! Devices and queues, and the one place that names the backends. Tenants open a device here.

#[cfg(feature = "cuda")]
use crate::backend::cuda::{Cuda, Pack, Verdict};
use crate::backend::{Backend, Caps};
use crate::engine::{Engine, Local, QueueId};
use crate::error::{Kind, Result};
#[cfg(feature = "cuda")]
use crate::judge::{self, LIMIT, judged};
use crate::numerics::Numerics;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// The variable that names the inherited session socket of a leased job.
pub const LEASEHOLD_FD: &str = "LEASEHOLD_FD";

/// The variable that names a folder for what the tuner of CUDA devices and graphics adapters finds; without it nothing is
/// tuned.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub const LEASEHOLD_TUNED: &str = "LEASEHOLD_TUNED";

/// The variable that names a file of CUDA kernels that `leasehold kernels build` made; with it nothing is compiled here.
#[cfg(feature = "cuda")]
pub const LEASEHOLD_KERNELS: &str = "LEASEHOLD_KERNELS";

/// A device that runs ops. Clones share it.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    engine: Box<dyn Engine>,
    why: String,
    queues: AtomicU32,
}

/// A device that could be opened, and what is known of it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The name that [`Device::open_named`] takes: `cpu`, `cuda:0`, `wgpu:0`.
    pub name: String,
    /// What it is and can do.
    pub caps: Caps,
}

impl Device {
    /// The leased device if `LEASEHOLD_FD` is set, and then no other; else the first hardware adapter; else the CPU. A
    /// software adapter is never chosen here: ask for it by name. A CUDA device is chosen once its kernels have run tiny ops
    /// of each kind on this very card, and all came out right; [`Device::why`] says what did not. That they did is remembered
    /// in the user's cache folder.
    ///
    /// # Errors
    /// `NoDevice`, `Environment`, or what opening the leased device fails with.
    pub fn open() -> Result<Self> {
        if let Some(fd) = std::env::var_os(LEASEHOLD_FD) {
            let why = format!("{LEASEHOLD_FD} is set: leased");
            return Ok(Self::from_engine(leased(&fd)?, why));
        }
        let mut why = Vec::new();
        #[cfg(feature = "cuda")]
        why.extend(Cuda::enumerate().err().map(|e| format!("cuda: {e}")));
        for found in Self::list() {
            if found.caps.software && found.caps.backend != "cpu" {
                why.push(format!("{}: software adapter, passed over", found.name));
                continue;
            }
            match Self::open_found(&found.name, true) {
                Ok(engine) => {
                    why.push(format!("{}: chosen", found.name));
                    return Ok(Self::from_engine(engine, why.join("; ")));
                }
                Err(error) => why.push(format!("{}: {error}", found.name)),
            }
        }
        Err(Kind::NoDevice { why: why.join("; ") }.into())
    }

    /// The device of this name, as [`Device::list`] gives it. Nothing is run on it.
    ///
    /// # Errors
    /// `NoDevice` with the names that exist; what opening it fails with.
    pub fn open_named(name: &str) -> Result<Self> {
        Ok(Self::from_engine(Self::open_found(name, false)?, format!("{name}: asked for by name")))
    }

    /// Every device of this machine that this build can open, in the order of choice.
    pub fn list() -> Vec<Found> {
        #[cfg(feature = "cuda")]
        let cuda = Cuda::enumerate().unwrap_or_default();
        #[cfg(feature = "cuda")]
        let cuda = cuda.into_iter().map(|(i, caps)| Found { name: format!("cuda:{i}"), caps });
        #[cfg(not(feature = "cuda"))]
        let cuda = std::iter::empty();
        #[cfg(feature = "wgpu")]
        let gpus = crate::backend::wgpu::Wgpu::enumerate();
        #[cfg(feature = "wgpu")]
        let gpus = gpus
            .into_iter()
            .enumerate()
            .map(|(i, adapter)| Found { name: format!("wgpu:{i}"), caps: adapter.caps });
        #[cfg(not(feature = "wgpu"))]
        let gpus = std::iter::empty();
        #[cfg(feature = "cpu")]
        let cpu =
            Some(Found { name: "cpu".into(), caps: crate::backend::cpu::Cpu::caps_of_host() });
        #[cfg(not(feature = "cpu"))]
        let cpu: Option<Found> = None;
        let mut found: Vec<Found> = cuda.chain(gpus).chain(cpu).collect();
        // Adapters in software come last: the CPU backend does the same faster.
        found.sort_by_key(|found| found.caps.software && found.caps.backend != "cpu");
        found
    }

    /// Opens a device, and has it judge its kernels first where a driver that we do not know made them code.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    fn open_found(name: &str, is_judged: bool) -> Result<Box<dyn Engine>> {
        #[cfg(feature = "cpu")]
        if name == "cpu" {
            return boxed(crate::backend::cpu::Cpu::new()?.unshared());
        }
        #[cfg(feature = "cuda")]
        if let Some(ordinal) = name.strip_prefix("cuda:").and_then(|i| i.parse().ok()) {
            let kernels = std::env::var_os(LEASEHOLD_KERNELS).filter(|file| !file.is_empty());
            let cuda = match kernels {
                Some(file) => Cuda::open_with(ordinal, &Pack::read(file.as_ref())?)?,
                None => Cuda::open(ordinal)?,
            };
            let cuda = if is_judged { judged_once(cuda)? } else { cuda };
            let cuda = cuda.with_cublaslt();
            return match tuned() {
                Some(folder) => boxed(cuda.tuned(&folder)),
                None => boxed(cuda),
            };
        }
        #[cfg(feature = "wgpu")]
        if let Some(index) = name.strip_prefix("wgpu:").and_then(|i| i.parse().ok()) {
            let wgpu = crate::backend::wgpu::Wgpu::open(index)?;
            return match tuned() {
                Some(folder) => boxed(wgpu.tuned(&folder)),
                None => boxed(wgpu),
            };
        }
        let names: Vec<String> = Self::list().into_iter().map(|found| found.name).collect();
        Err(Kind::NoDevice { why: format!("{name:?} asked, there are {}", names.join(", ")) }
            .into())
    }

    /// A device on an engine made elsewhere, and why it was chosen.
    pub fn from_engine(engine: Box<dyn Engine>, why: String) -> Self {
        Self(Arc::new(Inner { engine, why, queues: AtomicU32::new(1) }))
    }

    /// A device on a backend of this process; tests use it with `null`.
    ///
    /// # Errors
    /// `System` when its thread cannot be started.
    pub fn from_backend<B: Backend>(backend: B) -> Result<Self> {
        Ok(Self::from_engine(boxed(backend)?, "given by the caller".into()))
    }

    pub(crate) fn engine(&self) -> &dyn Engine {
        &*self.0.engine
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The device's own name.
    pub fn name(&self) -> &str {
        &self.caps().name
    }

    /// What it is and can do.
    pub fn caps(&self) -> &Caps {
        self.engine().caps()
    }

    /// Why this device was chosen and what was passed over.
    pub fn why(&self) -> &str {
        &self.0.why
    }

    /// Equal id, equal bits.
    pub fn numerics(&self) -> Numerics {
        self.engine().numerics()
    }

    /// Another in-order queue.
    pub fn queue(&self) -> Queue {
        Queue { device: self.clone(), id: QueueId(self.0.queues.fetch_add(1, Relaxed)) }
    }

    pub(crate) fn default_queue(&self) -> Queue {
        Queue { device: self.clone(), id: QueueId(0) }
    }

    /// Waits for everything enqueued so far, at most `timeout`, and takes the first error since the last call.
    ///
    /// # Errors
    /// `Timeout`, or that error.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        self.engine().wait(timeout)
    }
}

#[cfg(feature = "remote")]
fn leased(fd: &std::ffi::OsStr) -> Result<Box<dyn Engine>> {
    Ok(Box::new(crate::remote::Remote::open(LEASEHOLD_FD, fd)?))
}

/// Falling back to a local device would be silent.
#[cfg(not(feature = "remote"))]
fn leased(fd: &std::ffi::OsStr) -> Result<Box<dyn Engine>> {
    let asked = fd.to_string_lossy().into_owned();
    let allowed = "unset, since this build lacks the feature remote";
    Err(Kind::Environment { name: LEASEHOLD_FD, asked, allowed }.into())
}

/// A device whose kernels came out right, now or before: of this very card, driver, kernels and judge.
#[cfg(feature = "cuda")]
fn judged_once(cuda: Cuda) -> Result<Cuda> {
    let verdict = Verdict::of(&cuda, &judge::digest());
    if verdict.as_ref().is_some_and(Verdict::is_passed) {
        return Ok(cuda);
    }
    let cuda = judged(cuda, LIMIT)?;
    verdict.iter().for_each(Verdict::pass);
    Ok(cuda)
}

/// The folder of the tuner, if it is asked for.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn tuned() -> Option<std::path::PathBuf> {
    std::env::var_os(LEASEHOLD_TUNED).filter(|folder| !folder.is_empty()).map(Into::into)
}

fn boxed<B: Backend>(backend: B) -> Result<Box<dyn Engine>> {
    Ok(Box::new(Local::new(backend)?))
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.caps().backend)
    }
}

/// An in-order queue of a device. Ops of one queue run in call order.
#[derive(Clone, Debug)]
pub struct Queue {
    device: Device,
    id: QueueId,
}

impl Queue {
    pub(crate) fn id(&self) -> QueueId {
        self.id
    }

    /// The queue's device.
    pub fn device(&self) -> &Device {
        &self.device
    }
}
