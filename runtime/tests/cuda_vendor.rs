//! Products by cuBLASLt under `OrderClass::Any`, on the host model with a library that does what it is told, naively: every
//! layout comes out right, nothing else reaches it, and without it our own kernels run.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
mod model;

use common::case::{Case, Fill, Operand, Style};
use common::run::{Outcome, run_on};
use leasehold::backend::Backend;
use leasehold::backend::cuda::{Cuda, LEASEHOLD_NVRTC};
use leasehold::exec::Core;
use leasehold::op::{Activation, Matmul, OrderClass, Precision};
use leasehold::order::Plan;
use leasehold::{DType, Device, bf16};
use model::driver::compiler::{Build, Compiler};
use model::{ARCH, open};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names the file that the library lists its products in.
const TOLD: &str = "LEASEHOLD_TEST_CUBLASLT";
/// What the library has no algorithm for.
const MISSING_K: u64 = 13;

/// A folder like that of Python's wheels, with the library where theirs lies.
fn wheels() -> Option<PathBuf> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cublaslt");
    let unit = ("cublaslt".into(), include_str!("model/cublaslt.cpp").into());
    let flags = ["-shared", "-Wl,-soname,libcublasLt.so.12"];
    let library = Compiler::new(Build::Plain, &above.join("kernels"), made)?.link(
        &[unit],
        "libcublasLt",
        &flags,
    );
    let wheels = library.with_extension("d");
    let folder = wheels.join("nvidia/cublas/lib");
    std::fs::create_dir_all(&folder).unwrap();
    // Another test may have made it.
    let _ = std::os::unix::fs::symlink(&library, folder.join("libcublasLt.so.12"));
    assert!(folder.join("libcublasLt.so.12").exists(), "{}", folder.display());
    Some(wheels)
}

/// Runs this test in a child that finds the library, unless this is that child; then it gives the file that is written.
fn in_child(test: &str, arch: &str) -> Option<PathBuf> {
    if let Some(told) = std::env::var_os(TOLD) {
        return Some(told.into());
    }
    let wheels = wheels()?;
    let told = wheels.join(format!("{test}-{arch}"));
    let _ = std::fs::remove_file(&told);
    let text = |path: &Path| path.to_str().unwrap().to_string();
    let (wheels, told) = (text(&wheels), text(&told));
    model::in_child(test, &[(ARCH, arch), (LEASEHOLD_NVRTC, &wheels), (TOLD, &told)]);
    None
}

/// Products that the library has been told of.
fn told(file: &Path) -> Vec<String> {
    lines(file, "did ")
}

/// Products that it has been asked an algorithm for.
fn asked(file: &Path) -> Vec<String> {
    lines(file, "asked ")
}

fn lines(file: &Path, what: &str) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|line| line.starts_with(what)).map(String::from).collect()
}

/// A product that may run in any order.
fn of_any_order() -> Matmul {
    Matmul { order: OrderClass::Any, ..Matmul::default() }
}

/// A product of `[batch.., m, k]` and `[batch.., k, n]`, with C where beta asks for one.
fn product(
    op: Matmul,
    [dtype, to]: [DType; 2],
    batch: &[u64],
    [m, n, k]: [u64; 3],
    styles: [Style; 3],
) -> Case {
    let with = |tail: [u64; 2]| [batch, &tail].concat();
    let normal = Fill::Normal(1.0);
    let mut operands = vec![
        Operand::new(dtype, &with([m, k]), styles[0], 0, normal),
        Operand::new(dtype, &with([k, n]), styles[1], 4, normal),
    ];
    let of_out = with([m, n]);
    if op.beta != 0.0 {
        operands.push(Operand::new(to, &of_out, styles[2], 1, normal));
    }
    operands.push(Operand::out(to, &of_out, styles[2], 1));
    Case::new(op, operands)
}

/// What the library runs: all types, ways to lie, batches, factors.
fn for_it() -> Vec<Case> {
    use DType::{BF16, F16, F32};
    use Style::{Odd, Repeat, Tight, Turned};
    let mut cases = Vec::new();
    for (i, styles) in
        [[Tight, Tight], [Turned, Tight], [Tight, Turned], [Turned, Turned], [Odd, Odd]]
            .into_iter()
            .enumerate()
    {
        let [a, b] = styles;
        let dtypes = [[F16, F16], [BF16, BF16], [F16, F32], [BF16, F32], [F32, F32]];
        for dtypes in [dtypes[i], dtypes[(i + 2) % 5]] {
            cases.push(product(of_any_order(), dtypes, &[], [9, 24, 40], [a, b, Tight]));
            cases.push(product(of_any_order(), dtypes, &[3], [7, 5, 6], [a, b, Odd]));
            let scaled = Matmul { alpha: -0.5, beta: 2.0, ..of_any_order() };
            cases.push(product(scaled, dtypes, &[1, 2, 1], [5, 8, 11], [a, b, Odd]));
        }
    }
    let tf32 = Matmul { precision: Precision::Tf32, ..of_any_order() };
    cases.push(product(tf32, [F32, F32], &[], [9, 8, 16], [Tight; 3]));
    cases.push(product(of_any_order(), [BF16, BF16], &[4], [6, 5, 8], [Repeat, Tight, Tight]));
    cases.push(product(of_any_order(), [BF16, F32], &[], [1, 5, 8], [Turned, Tight, Tight]));
    cases.push(product(of_any_order(), [F16, F32], &[], [5, 1, 8], [Tight, Turned, Tight]));
    cases.push(product(of_any_order(), [F16, F32], &[], [5, 6, 1], [Tight, Turned, Odd]));
    cases
}

/// What it does not.
fn not_for_it() -> Vec<Case> {
    use DType::{BF16, F16, F32};
    use Style::{Gapped, Row, Tight, Turned};
    let size = [6, 8, 10];
    let of = |op: Matmul| product(op, [BF16, BF16], &[], size, [Tight; 3]);
    let lies = |batch: &[u64], styles| product(of_any_order(), [F16, F16], batch, size, styles);
    let mut cases = vec![
        of(Matmul { order: OrderClass::Fixed, ..of_any_order() }),
        of(Matmul { order: OrderClass::BatchInvariant, ..of_any_order() }),
        of(Matmul { activation: Activation::Relu, ..of_any_order() }),
        lies(&[], [Gapped, Tight, Tight]),
        lies(&[], [Tight, Row, Tight]),
        lies(&[], [Tight, Tight, Turned]),
        lies(&[2, 3], [Tight; 3]),
        product(of_any_order(), [F32, BF16], &[], size, [Tight; 3]),
    ];
    // C of another type or layout than the output's.
    for (to, style) in [(F32, Tight), (BF16, Gapped)] {
        let mut case = of(Matmul { beta: 1.0, ..of_any_order() });
        case.operands[2] = Operand::new(to, &size[..2], style, 0, Fill::Normal(1.0));
        cases.push(case);
    }
    cases
}

/// The plan of the library among all that there are.
fn its_plan(cuda: &Cuda, case: &Case) -> Option<Plan> {
    let plans = cuda.candidates(&case.checked()).unwrap();
    plans.into_iter().find(|plan| plan.kernel == "cublaslt")
}

fn run_all(cuda: &mut Cuda, cases: &[Case]) {
    for case in cases {
        let outcome = run_on(cuda, case);
        assert!(matches!(outcome, Ok(Outcome::Passed)), "{}: {outcome:?}", case.name);
    }
}

fn every_layout_comes_out_right(file: &Path) {
    let mut cuda = open().with_cublaslt();
    let cases = for_it();
    for case in &cases {
        let plan = its_plan(&cuda, case).unwrap_or_else(|| panic!("{}", case.name));
        assert_eq!((plan.tiles, plan.links, plan.order.entry), (1, 1, "cublaslt"));
        assert_eq!(cuda.candidates(&case.checked()).unwrap()[0], plan, "it comes first");
    }
    run_all(&mut cuda, &cases);
    let products = told(file);
    assert_eq!(products.len(), cases.len());
    let of_tf32 = products.iter().filter(|product| product.ends_with("compute 77")).count();
    assert_eq!(of_tf32, 1, "{products:?}");
}

#[test]
fn every_layout_comes_out_right_on_hopper() {
    if let Some(file) = in_child("every_layout_comes_out_right_on_hopper", "sm_90a") {
        every_layout_comes_out_right(&file);
    }
}

#[test]
fn nothing_else_reaches_it() {
    let Some(file) = in_child("nothing_else_reaches_it", "sm_80") else { return };
    let mut cuda = open().with_cublaslt();
    let cases = not_for_it();
    for case in &cases {
        assert_eq!(its_plan(&cuda, case), None, "{}", case.name);
    }
    run_all(&mut cuda, &cases);
    drop(cuda);
    // Nor does anything of a device that was not told to, as executors are not.
    let mut cuda = open();
    let any = &for_it()[0];
    assert_eq!(its_plan(&cuda, any), None);
    run_all(&mut cuda, std::slice::from_ref(any));
    assert_eq!((told(&file), asked(&file)), Default::default());
    // A unit is as long as a turn may be: what is longer is not its own.
    let cuda = cuda.with_cublaslt();
    let long =
        product(of_any_order(), [DType::BF16; 2], &[], [4096, 4096, 4096], [Style::Tight; 3]);
    assert!(its_plan(&cuda, any).is_some());
    assert_eq!(its_plan(&cuda, &long), None);
}

/// The engine takes its plan where it has an algorithm, else ours; Fixed is never its own.
#[test]
fn a_product_without_an_algorithm_is_ours() {
    let Some(file) = in_child("a_product_without_an_algorithm_is_ours", "sm_90a") else { return };
    let mut core = Core::new(open().with_cublaslt());
    let mut kernel = |k| {
        let case = product(of_any_order(), [DType::BF16; 2], &[], [6, 8, k], [Style::Tight; 3]);
        core.plan(&Arc::new(case.checked())).unwrap().kernel
    };
    assert_eq!(kernel(MISSING_K + 1), "cublaslt");
    assert_ne!(kernel(MISSING_K), "cublaslt");
    drop(core);
    assert_eq!(asked(&file).len(), 2, "an op asks once, whatever the answer");
    let dev = Device::from_backend(open().with_cublaslt()).unwrap();
    assert_eq!(dev.numerics(), Device::from_backend(open()).unwrap().numerics());
    for (order, k, calls) in [
        (OrderClass::Fixed, 16, 0),
        (OrderClass::Any, MISSING_K as usize, 0),
        (OrderClass::Any, 16, 1),
    ] {
        let (a, b) = (vec![bf16::ONE; 8 * k], vec![bf16::ONE; k * 4]);
        let (a, b) = (dev.tensor([8, k], &a).unwrap(), dev.tensor([k, 4], &b).unwrap());
        let out = leasehold::Matmul::new(&a, &b).order(order).run().unwrap();
        let out = out.read::<bf16>().unwrap().wait(None).unwrap();
        assert!(out.iter().all(|x| *x == bf16::from_f32(k as f32)), "{order:?} {k}: {out:?}");
        assert_eq!(told(&file).len(), calls, "{order:?} {k}");
    }
    // A program's ops run one by one where one of them is the library's.
    let ones = dev.tensor([16, 16], &[bf16::ONE; 256]).unwrap();
    let program = dev.program(|p| {
        let square = leasehold::Matmul::new(&ones, &ones).run_in(Some(p))?;
        let last = leasehold::Matmul::new(&square, &ones).order(OrderClass::Any).run_in(Some(p))?;
        p.output(&last)
    });
    let program = program.unwrap();
    for calls in 2..5 {
        let out = program.replay().unwrap().read::<bf16>().unwrap().wait(None).unwrap();
        assert!(out.iter().all(|x| *x == bf16::from_f32(256.0)), "{out:?}");
        assert_eq!(told(&file).len(), calls);
    }
}
