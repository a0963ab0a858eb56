//! Attention of 8 heads, full and causal: f32 beside burn-flex and candle; bf16 beside burn-flex, which casts to f32.

use burn_backend::TensorData;
use burn_backend::ops::{AttentionModuleOptions, ModuleOps};
use burn_flex::{Flex, FlexTensor};
use candle_nn::attention::{AttnMask, cpu_flash};
use leasehold::{Attention, DType, Device, Map};
use leasehold_bench::measure::{Timing, normal};
use leasehold_bench::ops::random;
use leasehold_peers::{Peer, Result, Row, beside};
use std::time::Duration;

/// One batch of 8 heads.
#[derive(Clone, Copy)]
pub struct Case {
    dtype: DType,
    sequence: usize,
    dim: usize,
    causal: bool,
}

const HEADS: usize = 8;

/// Those of `attention_torch.py`, in f32 and in bf16.
pub const CASES: [Case; 8] = [
    Case { dtype: DType::F32, sequence: 1024, dim: 64, causal: false },
    Case { dtype: DType::F32, sequence: 1024, dim: 64, causal: true },
    Case { dtype: DType::F32, sequence: 2048, dim: 128, causal: false },
    Case { dtype: DType::F32, sequence: 2048, dim: 128, causal: true },
    Case { dtype: DType::BF16, sequence: 1024, dim: 64, causal: false },
    Case { dtype: DType::BF16, sequence: 1024, dim: 64, causal: true },
    Case { dtype: DType::BF16, sequence: 2048, dim: 128, causal: false },
    Case { dtype: DType::BF16, sequence: 2048, dim: 128, causal: true },
];

impl Case {
    /// As the table calls it.
    pub fn name(&self) -> String {
        let Self { dtype, sequence, dim, causal } = self;
        let mask = if *causal { "causal" } else { "full" };
        format!("attention {dtype} {HEADS}x{sequence}x{dim} {mask}")
    }

    fn shape(&self) -> [usize; 4] {
        [1, HEADS, self.sequence, self.dim]
    }

    /// The numbers that [`random`] puts on the device for these seeds.
    fn operands(&self) -> [Vec<f32>; 3] {
        [1, 2, 3].map(|seed| normal(seed, HEADS * self.sequence * self.dim))
    }
}

/// Our timing, and rows beside the peers that run this type.
///
/// # Errors
/// What a side fails with.
pub fn measure(device: &Device, case: &Case, budget: Duration) -> Result<(Timing, Vec<Row>)> {
    let [q, k, v] = [1, 2, 3].map(|seed| random(device, case.dtype, &case.shape(), seed));
    let (q, k, v) = (q?, k?, v?);
    let attend = || {
        let op = Attention::new(&q, &k, &v);
        if case.causal { op.causal().run() } else { op.run() }
    };
    let expected = Map::cast(&attend()?, DType::F32).run()?.read::<f32>()?.wait(None)?;
    let mut ours = || {
        attend()?;
        Ok(device.wait(None)?)
    };
    let mut peers: Vec<Box<dyn Peer>> = vec![Box::new(Burn::of(case))];
    if case.dtype == DType::F32 {
        peers.push(Box::new(Candle::of(case)?));
    }
    beside(&case.name(), case.dtype, budget, &mut ours, &expected, &mut peers)
}

/// burn's CPU backend: its operands, and its last output.
struct Burn {
    operands: [FlexTensor; 3],
    causal: bool,
    output: Option<FlexTensor>,
}

impl Burn {
    fn of(case: &Case) -> Self {
        let operands = case.operands().map(|data| {
            let data = TensorData::new(data, case.shape());
            FlexTensor::from_data(match case.dtype {
                DType::BF16 => data.convert::<burn_backend::bf16>(),
                _ => data,
            })
        });
        Self { operands, causal: case.causal, output: None }
    }
}

impl Peer for Burn {
    fn package(&self) -> &'static str {
        "burn-flex"
    }

    fn run(&mut self) -> Result<()> {
        let [q, k, v] = self.operands.clone();
        let how = AttentionModuleOptions { scale: None, softcap: None, is_causal: self.causal };
        self.output = Some(Flex::attention(q, k, v, None, None, how));
        Ok(())
    }

    fn output(&self) -> Result<Vec<f32>> {
        let output = self.output.clone().ok_or("it has not run")?;
        let data = output.into_data().convert::<f32>();
        Ok(data.try_into_vec::<f32>().map_err(|error| format!("{error:?}"))?)
    }
}

/// candle's attention on the CPU. It takes [batch, sequence, head, dim] and gives [batch, head, sequence, dim].
struct Candle {
    operands: [candle_core::Tensor; 3],
    scale: f32,
    causal: bool,
    output: Option<candle_core::Tensor>,
}

impl Candle {
    fn of(case: &Case) -> Result<Self> {
        let tensor = |data: Vec<f32>| {
            let heads_outside =
                candle_core::Tensor::from_vec(data, &case.shape(), &candle_core::Device::Cpu)?;
            heads_outside.transpose(1, 2)?.contiguous()
        };
        let [q, k, v] = case.operands().map(tensor);
        let scale = (case.dim as f32).sqrt().recip();
        Ok(Self { operands: [q?, k?, v?], scale, causal: case.causal, output: None })
    }
}

impl Peer for Candle {
    fn package(&self) -> &'static str {
        "candle-nn"
    }

    fn run(&mut self) -> Result<()> {
        let [q, k, v] = &self.operands;
        let mask = if self.causal { AttnMask::causal() } else { AttnMask::None };
        let output = cpu_flash::flash_attn::<f32>(q, k, v, self.scale, mask, None, None)?;
        self.output = Some(output);
        Ok(())
    }

    fn output(&self) -> Result<Vec<f32>> {
        let output = self.output.as_ref().ok_or("it has not run")?;
        Ok(output.flatten_all()?.to_vec1()?)
    }
}
