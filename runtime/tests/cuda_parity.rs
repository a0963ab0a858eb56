//! The parity suite on the CUDA backend, whose driver is the host model: our kernels on the CPU, launched as on a card. Each
//! test runs again in a child that finds the model's `libcuda.so.1` first. Small cases only; the kernels' own tests and a
//! card do the rest.
#![cfg(feature = "cuda")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;
#[path = "../../kernels/tests/driver/mod.rs"]
mod driver;

use common::case::{Case, Fill, Operand, Style};
use common::run::{Outcome, run_on};
use leasehold::backend::cuda::{Cuda, Pack};
use leasehold::backend::{Backend, Place, Progress};
use leasehold::op::{
    ArgMax, Attention, Lens, Matmul, Norm, NormBackward, NormKind, OrderClass, Quantize,
    QuantizeFormat, Reduce, ReduceFn, Softmax, TopK,
};
use leasehold::{DType, Device, Kind};
use leasehold_kernels::rows;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// Set in the child.
const IN_CHILD: &str = "LEASEHOLD_TEST_MODEL";
/// Floating-point operations of a case of the tables: the model does about a million a second.
const CASE_FLOPS: u128 = 400_000;

/// Runs this test in a child on the model of an architecture, unless this is that child; then it says so. A machine
/// without a C++ compiler skips.
fn in_child(test: &str, arch: &str, order: &str) -> bool {
    if std::env::var_os(IN_CHILD).is_some() {
        return true;
    }
    static FOLDER: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
    let Some(folder) = FOLDER.get_or_init(|| driver::folder(&rows())) else { return false };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("LD_LIBRARY_PATH", folder)
        .env(IN_CHILD, "1")
        .env("LEASEHOLD_MODEL_ARCH", arch)
        .env("LEASEHOLD_MODEL_ORDER", order)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{arch}: {said}{errors}");
    said.lines().filter(|line| line.contains("cases")).for_each(|line| println!("{arch}: {line}"));
    false
}

/// A pack of names: the model knows its rows by them.
fn pack(arch: &str) -> Pack {
    Pack::made("the host model", &[arch], |row, _| Ok([row.key().as_bytes(), &[0]].concat()))
        .unwrap()
}

fn open() -> Cuda {
    let devices = Cuda::enumerate().unwrap();
    let (ordinal, caps) = &devices[0];
    assert!(caps.name.starts_with("Host model"), "{caps:?}");
    Cuda::open_with(*ordinal, &pack(caps.arch)).unwrap()
}

/// Runs cases under every plan and cut, and says how many the backend runs.
fn run_all(cases: &[Case]) -> usize {
    let mut cuda = open();
    let (mut passed, mut failed) = (0, Vec::new());
    for case in cases {
        match run_on(&mut cuda, case) {
            Ok(Outcome::Passed) => passed += 1,
            Ok(Outcome::Unsupported(_)) => {}
            Err(why) => failed.push(format!("{}: {why}", case.name)),
        }
    }
    println!("{passed} cases passed");
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
    passed
}

/// The small cases of a table.
fn small(mut cases: Vec<Case>) -> Vec<Case> {
    cases.retain(|case| case.flops() <= CASE_FLOPS);
    cases
}

/// A product of 16-bit values, dense but for what `styles` say of A and B.
fn product(dtype: DType, batch: &[u64], [m, n, k]: [u64; 3], styles: [Style; 2]) -> Case {
    let with = |tail: [u64; 2]| [batch, &tail].concat();
    let normal = Fill::Normal(1.0);
    let operands = vec![
        Operand::new(dtype, &with([m, k]), styles[0], 0, normal),
        Operand::new(dtype, &with([k, n]), styles[1], 0, normal),
        Operand::out(DType::F32, &with([m, n]), Style::Tight, 0),
    ];
    Case::new(Matmul::default(), operands)
}

/// Products whose rows copies of 16 bytes bring, which few of the tables' are.
fn aligned() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::F16, DType::BF16] {
        let of = |batch: &[u64], size, styles| product(dtype, batch, size, styles);
        // Three more elements make rows of 13 and 21 whole.
        cases.push(of(&[], [9, 24, 40], [Style::Tight; 2]));
        cases.push(of(&[3], [130, 72, 16], [Style::Tight; 2]));
        cases.push(of(&[2, 2], [13, 16, 72], [Style::Turned, Style::Tight]));
        cases.push(of(&[], [16, 9, 21], [Style::Odd, Style::Turned]));
        cases.push(of(&[2], [21, 16, 13], [Style::Turned; 2]));
    }
    for order in [OrderClass::BatchInvariant, OrderClass::Any] {
        let mut case = product(DType::BF16, &[2], [16, 24, 40], [Style::Tight; 2]);
        case.op = Matmul { order, alpha: 0.5, ..Matmul::default() }.into();
        cases.push(case);
    }
    cases
}

#[test]
fn matmul() {
    if in_child("matmul", "sm_90a", "late") {
        let passed = run_all(&small(common::tables::matmul()));
        assert!(passed > 20, "{passed} of the table");
        assert_eq!(run_all(&aligned()), aligned().len());
    }
}

#[test]
fn matmul_on_ampere() {
    if in_child("matmul_on_ampere", "sm_80", "early") {
        assert_eq!(run_all(&aligned()), aligned().len());
    }
}

/// Attention of 16-bit values in the head dims of the rows.
fn heads() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, dtype) in [DType::F16, DType::BF16].into_iter().enumerate() {
        for (d, dv) in [(64, 64), (64, 128), (128, 64)] {
            let (rows, keys, group) = (20 + 13 * i as u64, 70 + d, 2);
            let lens = [Lens::Full, Lens::Host(vec![keys as u32 - 60, 0])][i].clone();
            let normal = Fill::Normal(1.0);
            let tight = |shape: &[u64]| Operand::new(dtype, shape, Style::Tight, 0, normal);
            let op = Attention {
                scale: 0.125,
                causal: d == dv,
                lens,
                log_sum_exp: true,
                ..Attention::default()
            };
            let operands = vec![
                tight(&[2, group, rows, d]),
                tight(&[2, 1, keys, d]),
                tight(&[2, 1, keys, dv]),
                Operand::out(dtype, &[2, group, rows, dv], Style::Tight, 0),
                Operand::out(DType::F32, &[2, group, rows], Style::Tight, 0),
            ];
            cases.push(Case::new(op, operands));
        }
    }
    cases
}

#[test]
fn attention() {
    if in_child("attention", "sm_90a", "late") {
        run_all(&small(common::tables::attention()));
        assert_eq!(run_all(&heads()), heads().len());
    }
}

/// Two rows of several pieces, which most tables have too long ones of, and the terms of sums side by side.
fn long_rows() -> Vec<Case> {
    let (shape, n) = ([2, 20_000], 20_000);
    let x = || Operand::new(DType::F32, &shape, Style::Odd, 1, Fill::Normal(1.0));
    let out = |dtype, shape: &[u64]| Operand::out(dtype, shape, Style::Gapped, 3);
    let like = |dtype| out(dtype, &shape);
    let weight = || Operand::new(DType::F16, &[n], Style::Tight, 0, Fill::Normal(1.0));
    let mut cases = Vec::new();
    for kind in [NormKind::Layer, NormKind::Rms] {
        let norm = Norm { kind, epsilon: 1e-5, weight: true, bias: false };
        cases.push(Case::new(norm, vec![x(), weight(), like(DType::BF16)]));
        let back = NormBackward { kind, epsilon: 1e-5, weight: true };
        let outs = [like(DType::F16), like(DType::F32)];
        cases.push(Case::new(back, [x(), weight(), x()].into_iter().chain(outs).collect()));
    }
    cases.push(Case::new(Softmax { scale: 2.0, axis: 1 }, vec![x(), like(DType::F16)]));
    cases.push(Case::new(ArgMax { axis: 1 }, vec![x(), out(DType::I32, &[2])]));
    let found = [DType::F32, DType::U32].map(|dtype| out(dtype, &[2, 40]));
    cases.push(Case::new(TopK { k: 40, axis: 1 }, [x()].into_iter().chain(found).collect()));
    for (format, scales) in [(QuantizeFormat::Row, 2), (QuantizeFormat::Tensor, 1)] {
        let outs = [like(DType::F8E4M3), out(DType::F32, &[scales])];
        let op = Quantize { format, inverse: false };
        cases.push(Case::new(op, [x()].into_iter().chain(outs).collect()));
    }
    let reduce = Reduce { function: ReduceFn::Mean, axis: 1 };
    cases.push(Case::new(reduce.clone(), vec![x(), out(DType::F32, &[2])]));
    let beside = Operand::new(DType::BF16, &[300, 70], Style::Tight, 0, Fill::Normal(1.0));
    let reduce = Reduce { axis: 0, ..reduce };
    cases.push(Case::new(reduce, vec![beside, out(DType::F32, &[70])]));
    cases
}

/// One test per op that streams: the cases of its table up to so many operations, for each of which there is a plan.
macro_rules! streams {
    ($($op:ident: $flops:literal,)*) => {$(
        #[test]
        fn $op() {
            if in_child(stringify!($op), "sm_90a", "late") {
                let mut cases = common::tables::$op();
                cases.retain(|case| case.flops() <= $flops);
                assert!(cases.len() > 20, "{} cases", cases.len());
                assert_eq!(run_all(&cases), cases.len());
            }
        }
    )*};
}

streams! {
    copy: 70_001,
    map: 600_000,
    gather: 50_000,
    rope: 1_000_000,
    scatter: 400_000,
    quantize: 200_000,
    norm: 500_000,
    softmax: 350_000,
    reduce: 132_000,
    arg_max: 132_000,
    top_k: 35_000,
    norm_backward: 2_000_000,
}

#[test]
fn rows_in_pieces() {
    if in_child("rows_in_pieces", "sm_80", "early") {
        assert_eq!(run_all(&long_rows()), long_rows().len());
    }
}

/// Whatever indices say, the result is the reference's, nothing else changes and the fault is told.
#[test]
fn gathers_and_scatters_that_lie() {
    if !in_child("gathers_and_scatters_that_lie", "sm_90a", "late") {
        return;
    }
    let mut cuda = open();
    for cases in [common::tables::gather(), common::tables::scatter()] {
        let (mut run, mut faults) = (0, 0);
        for case in cases.iter().filter(|case| case.flops() <= 20_000) {
            run += 1;
            let plan = cuda.candidates(&case.checked()).unwrap()[0];
            faults += usize::from(common::hostile::lied_to(&mut cuda, case, &plan));
        }
        println!("{run} cases lied");
        assert!(run > 20 && faults * 3 > run, "{faults} faults of {run}");
    }
}

#[test]
fn memory_is_what_it_should_be() {
    if !in_child("memory_is_what_it_should_be", "sm_90a", "late") {
        return;
    }
    let mut cuda = open().with_memory(64 << 20);
    let bytes: Vec<u8> = (0..10 << 20).map(|i| (i % 251) as u8).collect();
    let (large, small) = (cuda.alloc(10 << 20).unwrap(), cuda.alloc(100).unwrap());
    cuda.upload(large, 0, &bytes).unwrap();
    cuda.upload(small, 0, &[9; 100]).unwrap();
    cuda.copy(Place { block: large, offset: 5 }, Place { block: small, offset: 1 }, 50).unwrap();
    cuda.zero(large, 100, 1000).unwrap();
    let mark = cuda.mark().unwrap();
    assert!(matches!(cuda.poll(mark, None).unwrap(), Progress::Done { fault: None, .. }));
    let mut back = vec![1; 10 << 20];
    cuda.download(large, 0, &mut back).unwrap();
    let mut expected = bytes.clone();
    expected[100..1100].fill(0);
    assert!(back == expected);
    let mut back = [0; 100];
    cuda.download(small, 0, &mut back).unwrap();
    assert_eq!((back[0], &back[1..51], &back[51..]), (9, &bytes[5..55], &[9; 49][..]));
    // Nothing beyond a block is reached, and unknown blocks are none.
    assert!(matches!(cuda.zero(small, 0, 1 << 20).unwrap_err().kind(), Kind::Bounds { .. }));
    assert!(cuda.upload(small, u64::MAX, &[1]).is_err());
    // Out of memory leaves the device usable, and what is freed makes room for another size.
    let error = cuda.alloc(60 << 20).unwrap_err();
    assert!(
        matches!(error.kind(), Kind::OutOfMemory { quota, .. } if *quota == 64 << 20),
        "{error}"
    );
    assert!(cuda.alloc(u64::MAX).is_err());
    cuda.free(large);
    assert!(cuda.upload(large, 0, &[1]).is_err());
    let other = cuda.alloc(40 << 20).unwrap();
    cuda.zero(other, 0, 40 << 20).unwrap();
    let many: Vec<_> = (0..50).map(|i| cuda.alloc(1 << (i % 16)).unwrap()).collect();
    many.into_iter().for_each(|block| cuda.free(block));
}

/// A driver and a pack and no compiler: the device is opened by name and by default, and the pack is the only source.
#[test]
fn a_served_machine_needs_a_driver_and_a_pack() {
    if !in_child("a_served_machine_needs_a_driver_and_a_pack", "sm_90a", "late") {
        return;
    }
    let found = Device::list();
    assert_eq!(found[0].name, "cuda:0");
    assert_eq!((found[0].caps.backend, found[0].caps.arch), ("cuda", "sm_90a"));
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pack-{}", std::process::id()));
    std::fs::write(&file, pack("sm_90a").to_bytes()).unwrap();
    let read = Pack::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let dev = Device::from_backend(Cuda::open_with(0, &read).unwrap()).unwrap();
    let again = Device::from_backend(open()).unwrap();
    assert_eq!(dev.numerics(), again.numerics());
    let error = Cuda::open_with(0, &pack("sm_80")).err().unwrap();
    assert!(matches!(error.kind(), Kind::NoDevice { .. }), "{error}");
    assert!(Cuda::open_with(7, &read).is_err());
    // Tensors and queues on it, through the engine.
    let x: Vec<leasehold::bf16> =
        (0..64 * 64).map(|i| leasehold::bf16::from_f32((i % 7) as f32)).collect();
    let a = dev.tensor([64, 64], &x).unwrap();
    let y = leasehold::Matmul::new(&a, &a).run().unwrap();
    let read = y.read::<leasehold::bf16>().unwrap().wait(None).unwrap();
    let exact: f32 = (0..64).map(|k| ((k % 7) * (64 * k % 7)) as f32).sum();
    assert_eq!(read[0], leasehold::bf16::from_f32(exact));
}

/// No driver, as on most machines: a reason, and the next device.
#[test]
fn a_machine_without_a_driver_says_so() {
    if let Err(why) = Cuda::enumerate() {
        assert!(!why.is_empty());
        let error = Device::open_named("cuda:0").unwrap_err();
        assert!(matches!(error.kind(), Kind::NoDevice { .. }), "{error}");
        let dev = Device::open_named("cpu").unwrap();
        assert_eq!(dev.caps().backend, "cpu");
    }
    assert!(Device::open_named("cuda:x").is_err());
}
