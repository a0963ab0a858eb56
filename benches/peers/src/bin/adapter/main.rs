//! `adapter`: our products and attention beside cubek's on one graphics adapter, in one process: the first GPU, or the
//! software adapter where there is none. Each of cubek's routines must compute what we do before it is timed; one that
//! does not run here, or computes something else, says so. On a software adapter the ratios judge nobody.
//!
//! ```console
//! $ cargo run --release --manifest-path benches/peers/Cargo.toml --bin adapter
//! ```
//!
//! f32 stays f32: cubek turns it into tf32 in its routines for matrix units alone, so in f32 only those of units run,
//! which is `allow_tf32 = false` whatever the device can.

mod attention;
mod products;

use clap::Parser;
use cubecl::client::Client;
use cubecl::device::{Device as Cube, WgpuDevice, WgpuDeviceKind};
use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;
use half::f16;
use leasehold::{DType, Device, Tensor};
use leasehold_bench::measure::normal;
use leasehold_peers::{Peer, Result, beside};
use std::process::ExitCode;
use std::time::Duration;

/// Measures products and attention on a graphics adapter beside cubek.
#[derive(Parser)]
struct Args {
    /// Sides of square products; what a software adapter does in seconds unless given.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256])]
    sides: Vec<usize>,
    /// Sequences of attention, of 8 heads of 64, full and causal.
    #[arg(long, value_delimiter = ',', default_values_t = [128])]
    sequences: Vec<usize>,
    /// Seconds to spend on each shape, all sides together.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("adapter: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let both = Both::open()?;
    for dtype in [DType::F32, DType::F16] {
        for &side in &args.sides {
            both.measure(&products::case(&both, dtype, side)?, args)?;
        }
        for (&sequence, causal) in args.sequences.iter().flat_map(|s| [(s, false), (s, true)]) {
            both.measure(&attention::case(&both, dtype, sequence, causal)?, args)?;
        }
    }
    Ok(())
}

/// The adapter as we hold it, and as cubek does.
struct Both {
    ours: Device,
    client: Client,
}

/// One row: what we run, and cubek's routines for the same.
struct Case {
    what: String,
    ours: Box<dyn Fn() -> Result<Tensor>>,
    theirs: Vec<Cubek>,
}

impl Both {
    fn open() -> Result<Self> {
        let mut adapters = Device::list();
        adapters.retain(|found| found.caps.backend == "wgpu");
        adapters.sort_by_key(|found| found.caps.software);
        let found = adapters.first().ok_or("no graphics adapter")?;
        let kind = match found.caps.software {
            true => WgpuDeviceKind::Cpu,
            false => WgpuDeviceKind::DefaultDevice,
        };
        let ours = Device::open_named(&found.name)?;
        let client = Cube::Wgpu(WgpuDevice::new(kind)).client();
        eprintln!("ours on {}, cubek on {}", found.caps.name, client.name());
        Ok(Self { ours, client })
    }

    /// Equal numbers on both sides.
    fn operand<const N: usize>(
        &self,
        dtype: DType,
        shape: [usize; N],
        seed: u64,
    ) -> Result<(Tensor, TensorHandle)> {
        let values = normal(seed, shape.iter().product());
        let halves: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
        let (ours, bytes): (_, &[u8]) = match dtype {
            DType::F16 => (self.ours.tensor(shape, &halves)?, bytemuck::cast_slice(&halves)),
            _ => (self.ours.tensor(shape, &values)?, bytemuck::cast_slice(&values)),
        };
        let handle = self.client.create_from_slice(bytes);
        Ok((ours, TensorHandle::new_contiguous(shape.to_vec(), handle, elem(dtype))))
    }

    /// An output of cubek's.
    fn output(&self, dtype: DType, shape: &[usize]) -> TensorHandle {
        let bytes = shape.iter().product::<usize>() * dtype.size() as usize;
        TensorHandle::new_contiguous(shape.to_vec(), self.client.empty(bytes), elem(dtype))
    }

    fn measure(&self, case: &Case, args: &Args) -> Result<()> {
        let output = (case.ours)()?;
        let dtype = output.dtype();
        let expected: Vec<f32> = match dtype {
            DType::F16 => output.read::<f16>()?.wait(None)?.iter().map(|x| x.to_f32()).collect(),
            _ => output.read::<f32>()?.wait(None)?,
        };
        let mut ours = || {
            (case.ours)()?;
            Ok(self.ours.wait(None)?)
        };
        for peer in &case.theirs {
            // A routine at a time, since one that fails must not take the others with it.
            let mut peers: Vec<Box<dyn Peer>> = vec![Box::new(peer.clone())];
            let budget = Duration::from_secs_f64(args.seconds);
            match beside(&case.what, dtype, budget, &mut ours, &expected, &mut peers) {
                Ok((_, rows)) => rows.iter().try_for_each(|row| row.print(args.json))?,
                Err(why) => eprintln!("{}: cubek {}: {why}", case.what, peer.how),
            }
        }
        Ok(())
    }
}

fn elem(dtype: DType) -> ElemType {
    match dtype {
        DType::F16 => f16::elem_type_native(),
        _ => f32::elem_type_native(),
    }
}

/// One of cubek's routines, launched on operands of its own.
#[derive(Clone)]
struct Cubek {
    package: &'static str,
    how: &'static str,
    client: Client,
    out: TensorHandle,
    launch: std::rc::Rc<dyn Fn(&Client) -> std::result::Result<(), String>>,
}

impl Peer for Cubek {
    fn package(&self) -> &'static str {
        self.package
    }

    fn how(&self) -> &'static str {
        self.how
    }

    fn run(&mut self) -> Result<()> {
        (self.launch)(&self.client)?;
        Ok(cubecl::future::block_on(self.client.sync()).map_err(|why| format!("{why:?}"))?)
    }

    fn output(&self) -> Result<Vec<f32>> {
        let bytes = self.client.read_one(self.out.handle.clone());
        let bytes = bytes.map_err(|why| format!("{why:?}"))?;
        Ok(match self.out.dtype == elem(DType::F16) {
            true => {
                let halves: Vec<f16> = bytemuck::pod_collect_to_vec(&bytes[..]);
                halves.iter().map(|x| x.to_f32()).collect()
            }
            false => bytemuck::pod_collect_to_vec(&bytes[..]),
        })
    }
}
