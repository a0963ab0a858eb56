//! What needs the inside: the GPU class, which no machine of the CI has, planned and run on whatever adapter there is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attention;

use super::plan::{EMULATED, GPU, GPU_COOP8, GPU_COOP16, SOFTWARE, TILED};
use super::*;
use crate::backend::common;
use crate::op::{
    Attention, AttentionBackward, Binding, BufferId, Lens, Matmul, OrderClass, Scale, Scores,
    Softmax, TopK, check,
};
use crate::{DType, Dims, Layout};
use common::case::Case;
use common::hostile::{changing, lied_to};
use proptest::prelude::*;

fn spec(dtype: DType, shape: &[u64]) -> Spec {
    Spec::new(dtype, Layout::contiguous(Dims::new(shape).unwrap()), 0)
}

fn matmul(m: u64, n: u64, k: u64) -> CheckedOp {
    let specs = [[m, k], [k, n], [m, n]].map(|shape| spec(DType::BF16, &shape));
    check(Matmul::default().into(), &specs).unwrap()
}

fn attention(rows: u64, keys: u64, d: u64) -> CheckedOp {
    let specs = [rows, keys, keys, rows].map(|rows| spec(DType::F16, &[1, 2, rows, d]));
    check(
        Attention { scores: Scores { causal: true, ..Scores::default() }, ..Attention::default() }
            .into(),
        &specs,
    )
    .unwrap()
}

/// A product of fp8 that finds the scales of its output.
fn quantised_product(m: u64, n: u64, k: u64) -> CheckedOp {
    let [a, b, out] = [[m, k], [k, n], [m, n]].map(|shape| spec(DType::F8E4M3, &shape));
    let scale = spec(DType::F32, &[m, n.div_ceil(128)]);
    let op = Matmul { quantize: Scale::Block1x128, ..Matmul::default() };
    check(op.into(), &[a, b, out, scale]).unwrap()
}

fn gradients(rows: u64, keys: u64, d: u64) -> CheckedOp {
    let [q, k] = [rows, keys].map(|n| spec(DType::BF16, &[1, 2, n, d]));
    let lse = spec(DType::F32, &[1, 2, rows]);
    let op = AttentionBackward { scores: Scores { scale: 0.1, causal: true, ..Scores::default() } };
    check(op.into(), &[q, k, k, q, lse, q, q, k, k]).unwrap()
}

/// Gradients of packed rows and keys of four entries, which tiles do not divide; the last keys none owns.
fn packed_gradients() -> CheckedOp {
    let list = [[37, 0, 1, 70], [50, 3, 0, 141]].map(|list| Lens::Host(list.to_vec()));
    let [rows, lens] = list;
    let [q, k] = [[1, 6, 110, 24], [1, 2, 200, 24]].map(|shape| spec(DType::BF16, &shape));
    let (lse, slopes) = (spec(DType::F32, &[1, 6, 110]), spec(DType::F32, &[6]));
    let window = Some([40, 9]);
    let scores =
        Scores { scale: 0.1, window, softcap: 2.0, alibi: true, rows, lens, ..Scores::default() };
    let op = AttentionBackward { scores };
    check(op.into(), &[q, k, k, q, lse, q, slopes, q, k, k]).unwrap()
}

fn top_k(rows: u64, n: u64, k: u32) -> CheckedOp {
    let found = [rows, k.into()];
    let specs =
        [spec(DType::BF16, &[rows, n]), spec(DType::BF16, &found), spec(DType::I32, &found)];
    check(TopK { k, axis: 1 }.into(), &specs).unwrap()
}

fn softmax(rows: u64, n: u64) -> CheckedOp {
    let specs = [spec(DType::F32, &[rows, n]); 2];
    check(Softmax { scale: 1.0, axis: 1 }.into(), &specs).unwrap()
}

#[test]
fn one_changed_byte_changes_the_numerics_id() {
    let digest = |parts: &[Vec<u8>]| {
        crate::backend::digest(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    let parts = ingredients("Vulkan adapter, driver 1");
    let id = digest(&parts);
    // Shaders, host sources, order table, compiler, adapter: each takes part, and is not empty.
    assert_eq!(parts.len(), SHADERS.len() + VARIANTS.len() + HOST.len() + 1 + 2);
    for i in 0..parts.len() {
        let mut changed = parts.clone();
        changed[i][0] ^= 1;
        assert_ne!(id, digest(&changed), "part {i}");
    }
    assert_ne!(id, digest(&ingredients("Vulkan adapter, driver 2")));
    let table = plan::order_table();
    assert!([&SOFTWARE, &GPU].iter().all(|class| table.contains(class.name)));
    // Where a matrix unit rounds weights, the order says so.
    assert!(["16", "8"].iter().all(|e| table.contains(&format!("attention_coop{e}/weights-f16"))));
    if let Some(backend) = open() {
        assert_eq!(backend.digest(), digest(&ingredients(&backend.identity)));
    }
}

#[test]
fn every_shader_source_is_in_the_numerics_id() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../shaders/src/wgsl");
    let parts = ingredients("");
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        // What many ops share speaks of `OUT`, their main output.
        let within = |part: &Vec<u8>| {
            let outputs = ["out", "value", "d_x", "index"];
            let source = String::from_utf8_lossy(part);
            outputs.iter().any(|name| {
                // Lines that repeat are what their module makes of them.
                let text = text.replace("OUT", name);
                let mut lines = text.lines().filter(|line| !line.contains('$'));
                lines.all(|line| source.contains(line))
            })
        };
        assert!(parts.iter().any(within), "{}", &text[..40]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_accepted_size_predicts_a_unit_over_the_cap(op in common::grow::resized()) {
        for class in [&SOFTWARE, &GPU] {
            if let Some(op) = &op {
                let planned = plan::plan(op, class, 1 << 31).map(|plan| vec![plan]);
                common::grow::within_cap(op, planned, class.unit_cap_ns);
            }
        }
    }
}

#[test]
fn no_class_plans_a_unit_over_its_cap() {
    let sizes = [1, 3, 64, 257, 4096, 100_000];
    for class in [&SOFTWARE, &GPU] {
        for (x, y) in sizes.into_iter().flat_map(|x| sizes.map(|y| (x, y))) {
            let ops = [
                matmul(x, y, 777),
                matmul(x, 9, y),
                quantised_product(x, y, 777),
                attention(x, y, 256),
                gradients(x, y, 256),
                softmax(x, y),
                top_k(x, y.max(256), 256),
            ];
            for op in ops {
                let plan = plan::plan(&op, class, u64::MAX).unwrap();
                assert!(plan.unit_ns <= class.unit_cap_ns, "{op:?}: {plan}");
                assert!(plan::link_loops(&op, class) <= class.loops, "{op:?}: {plan}");
                assert_eq!(plan.links == 1, plan.state_bytes == 0, "{op:?}: {plan}");
            }
        }
    }
}

/// What a launch would count too much of is named: the operand that is there.
#[test]
fn more_counts_than_a_launch_reads_are_refused_by_their_name() {
    let (device, q) = (Lens::Device { max: 8 }, spec(DType::F16, &[1, 2, 64, 16]));
    for (rows, lens, counted) in [(&device, &Lens::Full, "rows"), (&device, &device, "lens")] {
        let scores = Scores { rows: rows.clone(), lens: lens.clone(), ..Scores::default() };
        let counts = [rows, lens].into_iter().filter(|counts| counts.on_device());
        let mut specs = vec![q; 3];
        specs.extend(counts.map(|_| spec(DType::U32, &[1025])));
        specs.push(q);
        let op = check(Attention { scores, ..Attention::default() }.into(), &specs).unwrap();
        let error = plan::plan(&op, &SOFTWARE, u64::MAX).unwrap_err().to_string();
        let expected = format!("attention: {counted}: unsupported: 1025 counts in device memory");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn merges_of_attention_keep_to_the_scratch_and_cover_every_chunk() {
    for (class, keys) in [(&SOFTWARE, 70_000), (&GPU, 70_000), (&GPU, 50_000_000)] {
        let op = attention(40, keys, 256);
        let plan = plan::plan(&op, class, u64::MAX).unwrap();
        let Plan { tiles, links, .. } = plan;
        let span = |tiles, from, to| Span { first: 0, tiles, from, to };
        let spans = [span(tiles, 0, links), span(1, 0, links / 2), span(1, links / 2, links)];
        let mut covered = 0;
        for span in spans {
            let (mut tile_before, mut chunk_before) = (u32::MAX, 0);
            for dispatch in encode::dispatches(&op, class, plan.kernel, span) {
                let words: &[u32] = bytemuck::cast_slice(dispatch.params.bytes());
                let [dv, tile, first, from, to] = [4, 7, 9, 11, 12].map(|i| words[i]);
                if leasehold_shaders::SHADERS[1].entries[dispatch.entry] != "combine" {
                    continue;
                }
                let partial = dispatch.workgroups * u64::from(to - from);
                assert!(partial * u64::from(dv + 2) <= class.scratch, "{plan}");
                assert!(first != tile_before || from == chunk_before, "{plan}");
                (tile_before, chunk_before) = (first, to);
                covered += partial / u64::from(tile);
            }
        }
        assert_eq!(covered, (tiles + 1) * keys.div_ceil(256), "{plan}");
    }
}

#[test]
fn pieces_cover_a_range_and_keep_to_the_loops() {
    let plan = plan::plan(&matmul(100, 100, 1_000_000), &SOFTWARE, u64::MAX).unwrap();
    let loops = plan::link_loops(&matmul(100, 100, 1_000_000), &SOFTWARE);
    let mut at = 3;
    for piece in Wgpu::pieces(&plan, 3..plan.units() as u64, loops, &SOFTWARE) {
        assert_eq!(piece.start, at);
        at = piece.end;
        assert!((piece.end - piece.start) * loops <= SOFTWARE.loops);
        assert_eq!(piece.start / plan.links, (piece.end - 1) / plan.links);
    }
    assert_eq!(u128::from(at), plan.units());
}

/// The first adapter. `None` after saying so where there is no driver, which is a failure where CI could have
/// installed one.
fn open() -> Option<Wgpu> {
    if adapter::all().is_empty() {
        let ci = std::env::var_os("CI").is_some_and(|v| v == "true");
        assert!(!ci, "no wgpu adapter, and mesa-vulkan-drivers could have been installed");
        println!("skip: no wgpu adapter (install mesa-vulkan-drivers)");
        return None;
    }
    Some(Wgpu::open(0).unwrap())
}

/// The last operand after the op, its units launched in ranges of `step`.
fn run(backend: &mut Wgpu, op: CheckedOp, step: u64) -> Vec<u8> {
    let op = Arc::new(op);
    let plan = backend.candidates(&op).unwrap()[0];
    let plan = backend.settle(&op, plan);
    let mut prepared = backend.prepare(&op, &plan).unwrap();
    let mut places = Vec::new();
    for spec in op.specs() {
        let len = spec.span_bytes() as usize;
        let block = backend.alloc(len as u64).unwrap();
        // Finite in every float type: exponents stay in the middle.
        let bytes: Vec<u8> =
            (0..len).map(|i| if i % 2 == 1 { 0x3c } else { (i * 37) as u8 }).collect();
        backend.upload(block, 0, &bytes).unwrap();
        places.push(Place { block, offset: 0 });
    }
    let bindings = places.iter().zip(op.specs()).map(|(place, spec)| Binding {
        buffer: BufferId(place.block.0),
        offset: 0,
        len: spec.span_bytes() as u64,
    });
    let bound = op.bind(&bindings.collect::<Vec<_>>()).unwrap();
    let block = backend.alloc(plan.state_bytes.max(4)).unwrap();
    let state = (plan.state_bytes > 0).then_some(Place { block, offset: 0 });
    let units = plan.units() as u64;
    for start in (0..units).step_by(step as usize) {
        let range = start..(start + step).min(units);
        backend.launch(&mut prepared, range, &bound, &places, state).unwrap();
    }
    let last = places.len() - 1;
    let mut out = vec![0; op.specs()[last].span_bytes() as usize];
    backend.download(places[last].block, 0, &mut out).unwrap();
    out
}

#[test]
fn the_gpu_class_gives_the_bits_of_the_software_class() {
    let Some(mut backend) = open() else { return };
    // Tiles differ, but each element adds in one sequence in both classes.
    let make: [fn() -> CheckedOp; 7] = [
        || matmul(300, 270, 500),
        || attention(150, 190, 40),
        || attention(70, 900, 40),
        || quantised_product(70, 300, 300),
        || gradients(70, 150, 24),
        packed_gradients,
        || top_k(3, 20_000, 130),
    ];
    for make in make {
        backend.class = &SOFTWARE;
        let want = run(&mut backend, make(), u64::MAX / 2);
        backend.class = &GPU;
        for step in [u64::MAX / 2, 1] {
            assert!(run(&mut backend, make(), step) == want, "{:?} by {step}", make());
        }
    }
}

/// Ops that the tables' cases reach on the GPU class, which cuts them otherwise.
#[test]
fn the_gpu_class_passes_cases_of_every_op() {
    let Some(mut backend) = open() else { return };
    backend.class = &GPU;
    backend.caps.unit_cap_ns = GPU.unit_cap_ns;
    use common::tables;
    let all = [
        tables::matmul(),
        tables::attention(),
        tables::attention_backward(),
        tables::norm(),
        tables::norm_backward(),
        tables::softmax(),
        tables::map(),
        tables::rope(),
        tables::gather(),
        tables::scatter(),
        tables::reduce(),
        tables::arg_max(),
        tables::top_k(),
        tables::quantize(),
        tables::copy(),
    ];
    for cases in all {
        let small = cases.iter().filter(|case| case.flops() < 20_000_000).step_by(9);
        for case in small {
            let outcome = common::run::run_on(&mut backend, case);
            assert!(
                matches!(outcome, Ok(common::run::Outcome::Passed)),
                "{}: {outcome:?}",
                case.name
            );
        }
    }
}

fn halves(m: u64, n: u64, k: u64, order: OrderClass) -> CheckedOp {
    let specs = [[m, k], [k, n], [m, n]].map(|shape| spec(DType::F16, &shape));
    check(Matmul { order, ..Matmul::default() }.into(), &specs).unwrap()
}

#[test]
fn candidates_follow_from_what_a_class_can() {
    let kernels = |op: &CheckedOp, class| {
        let plans = plan::candidates(op, class, u64::MAX).unwrap();
        assert!(plans.iter().all(|p| Plan { kernel: plans[0].kernel, ..*p } == plans[0]));
        assert_eq!(plan::plan(op, class, u64::MAX).unwrap(), plans[0]);
        (plans[0].order.entry, plans.iter().map(|plan| plan.kernel).collect::<Vec<_>>())
    };
    let [large, small, wide] = TILED;
    let unit = halves(4096, 4096, 4096, OrderClass::Fixed);
    assert_eq!(kernels(&unit, &SOFTWARE), ("matmul", vec!["matmul"]));
    assert_eq!(kernels(&unit, &GPU), ("matmul", vec![large, small, wide, "matmul"]));
    let tiles = ["matmul_coop16_128x128", "matmul_coop16_64x64"];
    assert_eq!(kernels(&unit, &GPU_COOP16), ("matmul_coop16", tiles.to_vec()));
    let few = halves(300, 300, 4096, OrderClass::Fixed);
    assert_eq!(kernels(&few, &GPU), ("matmul", vec![wide, small, large, "matmul"]));
    assert_eq!(kernels(&few, &GPU_COOP16), ("matmul_coop16", vec![tiles[1], tiles[0]]));
    assert_eq!(kernels(&few, &GPU_COOP8), ("matmul_coop8", vec!["matmul_coop8_64x64"]));
    // A row is less than a tile, and an order that ignores the rows is that of one.
    let row = halves(1, 300, 4096, OrderClass::Fixed);
    assert_eq!(kernels(&row, &GPU_COOP16), ("matmul", vec!["matmul", wide, small, large]));
    let invariant = halves(300, 300, 4096, OrderClass::BatchInvariant);
    assert_eq!(kernels(&invariant, &GPU_COOP16).0, "matmul");
    // Attention likewise; weights that are rounded to f16 show in an output of f32.
    let of_f16 = |rows, d| kernels(&attention(rows, 300, d), &GPU_COOP16);
    let (entry, rows) =
        ("attention_coop16/weights-f16", ["attention_coop16_64", "attention_coop16_32"]);
    assert_eq!(of_f16(70, 64), (entry, rows.to_vec()));
    assert_eq!(of_f16(20, 64), (entry, vec![rows[1], rows[0]]));
    assert_eq!(of_f16(1, 64).0, "attention");
    assert_eq!(of_f16(70, 8).0, "attention");
    let [q, out] = [DType::F16, DType::F32].map(|dtype| spec(dtype, &[1, 2, 70, 64]));
    let wide = check(Attention::default().into(), &[q, q, q, out]).unwrap();
    assert_eq!(kernels(&wide, &GPU_COOP16).0, "attention");
    let alone = Attention { order: OrderClass::BatchInvariant, ..Attention::default() };
    let alone = check(alone.into(), &[q; 4]).unwrap();
    assert_eq!(kernels(&alone, &GPU_COOP16).0, "attention");
    // Conversions from bf16 would not be exact, and 8 bits have scales.
    assert_eq!(kernels(&matmul(300, 300, 300), &GPU_COOP16).0, "matmul");
    assert_eq!(kernels(&quantised_product(70, 300, 300), &GPU), ("matmul", vec!["matmul"]));
}

#[test]
fn kernels_of_a_matrix_unit_pass_products_of_f16() {
    let Some(mut backend) = open() else { return };
    backend.caps.unit_cap_ns = GPU.unit_cap_ns;
    for class in &EMULATED {
        backend.class = class;
        // Three links: sums go out and come in between two of them.
        let links = || halves(140, 256, 300, OrderClass::Fixed);
        assert!(backend.candidates(&links()).unwrap()[0].links > 1);
        let want = run(&mut backend, links(), u64::MAX / 2);
        assert!(run(&mut backend, links(), 1) == want);
        let cases = common::tables::matmul();
        let on_unit = cases.iter().filter(|case| {
            let small = case.flops() < 4_000_000 && case.operands[0].dtype == DType::F16;
            let plans = || backend.candidates(&case.checked());
            small && plans().is_ok_and(|p| p[0].kernel == class.unit.unwrap().matmul.kernels[0])
        });
        let on_unit: Vec<_> = on_unit.collect();
        assert!(on_unit.len() > 5, "{} cases", on_unit.len());
        for case in on_unit {
            let outcome = common::run::run_on(&mut backend, case);
            let passed = matches!(outcome, Ok(common::run::Outcome::Passed));
            assert!(passed, "{}: {outcome:?}", case.name);
        }
    }
}

/// Half of the indices bad, then changing between slices.
#[test]
fn kernels_that_stage_tiles_take_matrices_by_index() {
    let Some(mut backend) = open() else { return };
    backend.caps.unit_cap_ns = GPU.unit_cap_ns;
    let of = |cases: Vec<Case>, dtype| cases.into_iter().find(|c| c.operands[0].dtype == dtype);
    let chain = of(common::products::chains_by_index(), DType::BF16).unwrap();
    let unit = common::products::indexed().pop().unwrap();
    let mut ran = Vec::new();
    for (class, case) in [(&GPU, &chain), (&EMULATED[0], &unit)] {
        backend.class = class;
        for plan in backend.candidates(&case.checked()).unwrap() {
            assert!(lied_to(&mut backend, case, &plan), "{plan}");
            assert!(class.unit.is_some() || changing(&mut backend, case, &plan), "{plan}");
            ran.push(plan.kernel);
        }
    }
    ran.sort_unstable();
    let [large, small, wide] = TILED;
    assert_eq!(ran, ["matmul", "matmul_coop16_emulated", large, small, wide]);
}

#[test]
fn the_tuner_changes_no_bit_and_remembers() {
    let Some(mut backend) = open() else { return };
    backend.class = &GPU;
    let folder = std::env::temp_dir().join(format!("leasehold-tuner-{}", std::process::id()));
    let want = run(&mut backend, matmul(70, 90, 100), u64::MAX / 2);
    let mut backend = backend.tuned(&folder);
    assert!(run(&mut backend, matmul(70, 90, 100), u64::MAX / 2) == want);
    let files = || std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let file = files().next().unwrap();
    assert_eq!(files().count(), 1);
    let text = std::fs::read_to_string(&file).unwrap();
    let op = matmul(70, 90, 100);
    let plans = backend.candidates(&op).unwrap();
    let best = backend.settle(&op, plans[0]);
    assert!(text.lines().nth(1).unwrap().ends_with(best.kernel), "{text}: {best}");
    // What the file says is what runs, as long as the file is whole.
    let other = plans.iter().find(|plan| plan.kernel != best.kernel).unwrap();
    let line = text.lines().nth(1).unwrap().replace(best.kernel, other.kernel) + "\n";
    let hash = blake3::hash(line.as_bytes()).to_hex();
    for (written, known) in [(format!("{hash}\n{line}"), true), (format!("{hash}\n{line} "), false)]
    {
        std::fs::write(&file, &written).unwrap();
        backend = backend.tuned(&folder);
        let known_now = backend.settle(&op, plans[0]).kernel == other.kernel;
        assert!(!known || known_now, "{written}");
        let after = std::fs::read_to_string(&file).unwrap();
        assert_eq!(after == written, known, "timed again where the file was not whole");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
