//! The host side of the CUDA backend where things run short or break, on the host model as its driver: memory, failed calls,
//! lost devices, and the time that work takes.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../kernels/tests/cuda/mod.rs"]
mod cuda;
mod model;

use leasehold::backend::cuda::Cuda;
use leasehold::backend::{Backend, BlockId, Progress};
use leasehold::exec::Core;
use leasehold::judge::{LIMIT, judged};
use leasehold::op::{Attention, Binding, BufferId, Lens, Matmul, Scores, Spec, check};
use leasehold::order::{Plan, UNIT_CAP_GPU_NS};
use leasehold::{
    DType, Device, Dims, Error, Kind, LEASEHOLD_KERNELS, LEASEHOLD_TUNED, Layout, bf16,
};
use model::{FAIL, IDLE, ORDER, folder, in_child, open, pack, pack_file};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Tells a child what its device will say.
const WHY: &str = "LEASEHOLD_TEST_WHY";

const MIB: u64 = 1 << 20;
/// What the model has, and its granule.
const TOTAL: u64 = 256 * MIB;
const GRANULE: u64 = 2 * MIB;
/// Granules that are taken of it where pieces of memory may be larger than one.
const ALL: u64 = 80;

fn is_out_of_memory(error: &Error) -> bool {
    matches!(error.kind(), Kind::OutOfMemory { .. })
}

fn wait(cuda: &mut Cuda) {
    let mark = cuda.mark().unwrap();
    assert!(matches!(cuda.poll(mark, None).unwrap(), Progress::Done { .. }));
}

/// Blocks of a size, as many as there is room for.
fn fill(cuda: &mut Cuda, bytes: u64) -> Vec<BlockId> {
    let mut blocks = Vec::new();
    loop {
        match cuda.alloc(bytes) {
            Ok(block) => blocks.push(block),
            Err(error) if is_out_of_memory(&error) => return blocks,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn memory_is_what_was_free() {
    if !in_child("memory_is_what_was_free", &[]) {
        return;
    }
    let first = open();
    let memory = first.caps().memory;
    assert!(memory > TOTAL / 2 && memory < TOTAL, "{memory}");
    // Another process's memory is not promised twice.
    let mut first = first.with_memory(100 * MIB).taken().unwrap();
    let second = open();
    assert!(second.caps().memory < memory - 90 * MIB, "{}", second.caps().memory);
    // What was taken is there, and zeros.
    let block = first.alloc(100 * MIB).unwrap();
    let mut bytes = vec![1; 100 << 20];
    first.download(block, 0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    drop((first, second));
    assert_eq!(open().caps().memory, memory);
}

/// Memory of the model's device in this process that may be touched: where each range begins and ends, and how many bytes
/// before and behind it nobody may touch that are not those of another range.
fn ranges() -> Vec<([u64; 2], [u64; 2])> {
    #[derive(Clone, Copy, PartialEq)]
    enum Part {
        Closed,
        Device,
        Other,
    }
    let text = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut parts: Vec<(Part, u64, u64)> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (from, to) = words.next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).unwrap());
        let part = match words.next().unwrap() {
            access if access.starts_with("---") => Part::Closed,
            _ if line.contains("memfd:leasehold-model") => Part::Device,
            _ => Part::Other,
        };
        match parts.last_mut() {
            Some((last, _, end)) if (*last, *end) == (part, from) => *end = to,
            _ => parts.push((part, from, to)),
        }
    }
    let beside = |at: usize, next: usize, touches: &dyn Fn(u64, u64) -> bool| {
        let (_, from, to) = parts[at];
        let is_shared = parts.get(next).is_some_and(|(part, ..)| *part == Part::Device);
        let bytes = if is_shared { (to - from) / 2 } else { to - from };
        if parts[at].0 == Part::Closed && touches(from, to) { bytes } else { 0 }
    };
    let device = (1..parts.len() - 1).filter(|&i| parts[i].0 == Part::Device);
    let range = |i: usize| {
        let (_, from, to) = parts[i];
        let before = beside(i - 1, i.wrapping_sub(2), &|_, end| end == from);
        ([from, to], [before, beside(i + 1, i + 2, &|start, _| start == to)])
    };
    device.map(range).collect()
}

/// Whatever memory is made of: a block is a range of its own between addresses that nobody has, and an access beside it is
/// refused.
#[test]
fn ranges_have_gaps_on_both_sides() {
    if !in_child("ranges_have_gaps_on_both_sides", &[]) {
        return;
    }
    const BLOCKS: [u64; 4] = [3, 1, 7, 4];
    for is_taken in [false, true] {
        let mut cuda = open().with_memory(ALL * GRANULE);
        if is_taken {
            cuda = cuda.taken().unwrap();
        }
        for granules in BLOCKS {
            cuda.alloc(granules * GRANULE).unwrap();
        }
        let driver = cuda::Cuda::open(Path::new("libcuda.so.1")).unwrap();
        let stream = driver.stream().unwrap();
        let is_refused =
            |at| driver.fill(at, 0, 1, stream).err().map(|failure| failure.0) == Some(1);
        let found = ranges();
        for ([from, to], gaps) in &found {
            assert!(gaps.iter().all(|gap| *gap >= GRANULE), "{gaps:?} around {}", to - from);
            let inside = [*from, to - 1].map(is_refused);
            let beside = [from - 1, from - GRANULE, *to, to + GRANULE - 1].map(is_refused);
            assert_eq!((inside, beside), ([false; 2], [true; 4]));
        }
        // The backend has one of its own.
        let mut granules: Vec<u64> =
            found.iter().map(|([from, to], _)| (to - from) / GRANULE).collect();
        granules.sort_unstable();
        assert_eq!(granules, [1, 1, 3, 4, 7]);
        driver.synchronize(stream).unwrap();
    }
}

/// A device that was taken whole needs nothing of the driver any more.
#[test]
fn taken_memory_makes_blocks_of_any_size() {
    if !in_child("taken_memory_makes_blocks_of_any_size", &[]) {
        return;
    }
    let mut cuda = open().with_memory(ALL * GRANULE).taken().unwrap();
    // Nobody else leaves anything, while pieces are made into smaller ones too.
    let mut other = open();
    let rest = fill(&mut other, GRANULE);
    assert!(rest.len() > 30, "{}", rest.len());
    for granules in [3, 1, 7, 30, 6] {
        let blocks = fill(&mut cuda, granules * GRANULE);
        assert!(blocks.len() as u64 >= ALL / granules, "{} of {granules}", blocks.len());
        for (i, block) in blocks.iter().enumerate() {
            cuda.upload(*block, granules * GRANULE - 5, &[i as u8; 5]).unwrap();
        }
        for (i, block) in blocks.iter().enumerate() {
            let mut back = [0xff; 5];
            cuda.download(*block, granules * GRANULE - 5, &mut back).unwrap();
            assert_eq!(back, [i as u8; 5], "block {i} of {granules}");
        }
        // Every other one, and a block of as many bytes: no place is too small for it.
        let half = blocks.len() / 2;
        blocks.iter().step_by(2).for_each(|block| cuda.free(*block));
        let large = cuda.alloc(half as u64 * granules * GRANULE).unwrap();
        cuda.free(large);
        blocks.into_iter().skip(1).step_by(2).for_each(|block| cuda.free(block));
    }
}

/// Pieces are large. One is made into smaller ones when those are asked for: of what the driver has left, and where that
/// has no room, of its own.
#[test]
fn taking_a_device_makes_few_calls() {
    const TEST: &str = "taking_a_device_makes_few_calls";
    let told = Path::new(env!("CARGO_TARGET_TMPDIR")).join("taken-calls");
    for fail in ["", "cuMemCreate:2:24:1"] {
        let _ = std::fs::remove_file(&told);
        if in_child(TEST, &[(model::CALLS, told.to_str().unwrap()), (FAIL, fail)]) {
            let mut cuda = open().with_memory(ALL * GRANULE).taken().unwrap();
            let large = cuda.alloc((ALL - 2) * GRANULE).unwrap();
            for block in [large, cuda.alloc(GRANULE).unwrap(), cuda.alloc(GRANULE).unwrap()] {
                cuda.zero(block, 0, GRANULE).unwrap();
            }
            return wait(&mut cuda);
        }
        if folder().is_none() {
            return;
        }
        let [made, mapped] = ["cuMemCreate", "cuMemMap"].map(|name| model::calls(&told, name));
        println!("cases: {made} pieces made, {mapped} mapped");
        assert!(made < ALL / 2 && mapped < ALL, "{made} pieces made, {mapped} mapped");
    }
}

/// Granules that were given back are large pieces again.
#[test]
fn pieces_grow_back() {
    const TEST: &str = "pieces_grow_back";
    let told = Path::new(env!("CARGO_TARGET_TMPDIR")).join("grown-calls");
    let _ = std::fs::remove_file(&told);
    if in_child(TEST, &[(model::CALLS, told.to_str().unwrap())]) {
        let mut cuda = open().with_memory(ALL * GRANULE).taken().unwrap();
        for _ in 0..4 {
            let small = fill(&mut cuda, GRANULE);
            assert!(small.len() as u64 >= ALL);
            small.into_iter().for_each(|block| cuda.free(block));
            let large = cuda.alloc(ALL * GRANULE).unwrap();
            cuda.zero(large, 0, ALL * GRANULE).unwrap();
            cuda.free(large);
        }
        return wait(&mut cuda);
    }
    if folder().is_none() {
        return;
    }
    let mapped = model::calls(&told, "cuMemMap");
    println!("cases: {mapped} mapped");
    assert!((4 * ALL..6 * ALL).contains(&mapped), "{mapped} mapped");
}

/// What another process got while a piece was made into smaller ones is not promised, until it has left that.
#[test]
fn what_another_process_got_is_not_promised() {
    const TEST: &str = "what_another_process_got_is_not_promised";
    // What is made when a device is taken; then the parts of a piece, before and after it is released.
    for fail in ["cuMemCreate:2:23:2", "cuMemCreate:2:23:100"] {
        if !in_child(TEST, &[(FAIL, fail)]) {
            continue;
        }
        let mut cuda = open().with_memory(ALL * GRANULE).taken().unwrap();
        let _large = cuda.alloc(76 * GRANULE).unwrap();
        cuda.alloc(GRANULE).unwrap();
        let error = cuda.alloc(GRANULE).unwrap_err();
        let Kind::OutOfMemory { free, quota, .. } = *error.kind() else { panic!("{error}") };
        assert_eq!((free, quota), (0, (ALL - 4) * GRANULE));
        let is_back = std::env::var(FAIL).unwrap().ends_with(":2");
        assert_eq!(cuda.alloc(8 * GRANULE).is_ok(), is_back);
        // What is there still serves.
        assert_eq!(cuda.alloc(4 * GRANULE).is_ok(), !is_back);
        return;
    }
}

#[test]
fn slabs_of_small_blocks_come_back() {
    if !in_child("slabs_of_small_blocks_come_back", &[]) {
        return;
    }
    let mut cuda = open().with_memory(32 * MIB);
    for round in 0..3 {
        // Sizes in turn, each of which takes nearly everything.
        for size in [400 * 1024, 256, 512 * 1024, 3000] {
            let count = if size < 4096 { 2000 } else { 60 };
            let blocks: Vec<_> = (0..count).map(|_| cuda.alloc(size).unwrap()).collect();
            cuda.upload(blocks[count - 1], 0, &[7; 256]).unwrap();
            blocks.into_iter().for_each(|block| cuda.free(block));
        }
        let large = cuda.alloc(30 * MIB).unwrap_or_else(|error| panic!("round {round}: {error}"));
        cuda.zero(large, 0, 30 * MIB).unwrap();
        cuda.free(large);
    }
    wait(&mut cuda);
}

/// Ops with long lists, each different, more of them than the device has room for.
#[test]
fn lists_of_ops_take_a_bounded_part_of_memory() {
    if !in_child("lists_of_ops_take_a_bounded_part_of_memory", &[]) {
        return;
    }
    // Tenants may have all that they were promised.
    let mut core = Core::new(open().with_memory(48 * MIB).taken().unwrap());
    let all = fill(core.backend(), 48 * MIB);
    assert_eq!(all.len(), 1);
    plan_many(&mut core);
    // With room for all of the lists, few are kept.
    drop(core);
    let before = open().caps().memory;
    let mut core = Core::new(open());
    plan_many(&mut core);
    let kept = before - open().caps().memory;
    assert!(kept > MIB && kept < 24 * MIB, "{kept}");
}

/// Plans a thousand attentions, each with a list of lengths of its own.
fn plan_many(core: &mut Core<Cuda>) {
    const BATCH: u64 = 4000;
    let dense = |shape: [u64; 4]| Layout::contiguous(Dims::new(&shape).unwrap());
    let spec = |shape| Spec::new(DType::F16, dense(shape), 0);
    let specs = [[BATCH, 1, 1, 64], [BATCH, 1, 2, 64], [BATCH, 1, 2, 64], [BATCH, 1, 1, 64]];
    let specs = specs.map(spec);
    for i in 0..1000 {
        let mut lens = vec![1; BATCH as usize];
        lens[i % 1000] = 2;
        let op = Attention {
            scores: Scores { lens: Lens::Host(lens), scale: 1.0, ..Scores::default() },
            ..Attention::default()
        };
        let op = Arc::new(check(op.into(), &specs).unwrap());
        core.plan(&op).unwrap_or_else(|error| panic!("op {i}: {error}"));
    }
}

/// A product whose result is known, through the engine.
fn product(dev: &Device) -> Result<(), Error> {
    let ones = dev.tensor([64, 64], &vec![bf16::ONE; 64 * 64])?;
    let sums = leasehold::Matmul::new(&ones, &ones).run()?.read::<bf16>()?.wait(None)?;
    assert!(sums.iter().all(|sum| *sum == bf16::from_f32(64.0)), "{sums:?}");
    Ok(())
}

/// Calls a function until it fails, and then until it no longer does; how often it did, each time for want of memory.
fn failures(mut call: impl FnMut() -> Result<(), Error>) -> usize {
    let failed: Vec<Option<Error>> = (0..40).map(|_| call().err()).collect();
    assert!(failed.last().unwrap().is_none(), "{failed:?}");
    let errors: Vec<&Error> = failed.iter().flatten().collect();
    assert!(errors.iter().all(|error| is_out_of_memory(error)), "{errors:?}");
    errors.len()
}

#[test]
fn a_device_short_of_memory_is_used_on() {
    let fail = "cuMemCreate:2:2:3,cuMemMap:2:4:1,cuMemAddressReserve:2:4:1,cuMemSetAccess:2:4:1";
    if !in_child("a_device_short_of_memory_is_used_on", &[(FAIL, fail)]) {
        return;
    }
    let mut cuda = open();
    let failed = failures(|| {
        let block = cuda.alloc(6 * MIB)?;
        cuda.upload(block, 6 * MIB - 1, &[1])
    });
    assert_eq!(failed, 6);
    // What failed half-way holds nothing.
    drop(cuda);
    let memory = open().caps().memory;
    assert!(memory > TOTAL * 3 / 4, "{memory}");
}

#[test]
fn a_driver_short_of_memory_is_used_on() {
    let fail = "cuStreamCreate:2:0:1,cuMemHostAlloc:2:0:1,cuEventCreate:2:1:1,\
                cuEventCreate:2:5:2,cuModuleLoadData:2:3:1,cuLaunchKernel:2:3:2";
    if !in_child("a_driver_short_of_memory_is_used_on", &[(FAIL, fail)]) {
        return;
    }
    // Until there is a device.
    let mut opened = None;
    let failed = failures(|| {
        if opened.is_none() {
            let devices = Cuda::enumerate().unwrap();
            opened = Some(Cuda::open_with(devices[0].0, &pack("sm_90a"))?);
        }
        Ok(())
    });
    assert_eq!(failed, 4);
    let dev = Device::from_backend(opened.unwrap()).unwrap();
    let failed = failures(|| product(&dev));
    assert_eq!(failed, 4);
}

/// A fault of the device, at a launch or found later: whoever uses it hears the first cause, again and again.
#[test]
fn a_lost_device_stays_lost_and_says_why() {
    const TEST: &str = "a_lost_device_stays_lost_and_says_why";
    for (fail, why) in [
        ("cuLaunchKernel:719:2:1", "cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED"),
        ("cuEventQuery:700:9:1", "cuEventQuery: CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("cuMemcpyDtoHAsync_v2:716:1:1", "cuMemcpyDtoHAsync: CUDA_ERROR_MISALIGNED_ADDRESS"),
    ] {
        if in_child(TEST, &[(FAIL, fail), (WHY, why)]) {
            break;
        }
    }
    let Ok(why) = std::env::var(WHY) else { return };
    let says_why = |error: Error| {
        let is = matches!(error.kind(), Kind::DeviceLost { why: said } if *said == why);
        assert!(is, "{error} instead of {why}");
    };
    let dev = Device::from_backend(open()).unwrap();
    let kept = dev.tensor([4], &[1u32; 4]).unwrap();
    let first = (0..40).find_map(|_| product(&dev).err()).unwrap();
    says_why(first);
    for _ in 0..3 {
        says_why(product(&dev).unwrap_err());
        says_why(kept.read::<u32>().and_then(|mut read| read.wait(None)).unwrap_err());
    }
    // The process goes on, but not with this device.
    drop((kept, dev));
    let error = Cuda::open_with(0, &pack("sm_90a")).err().unwrap();
    assert!(matches!(error.kind(), Kind::NoDevice { why: said } if said.contains(&why)), "{error}");
    let cpu = Device::open_named("cpu").unwrap();
    assert_eq!(product(&cpu), Ok(()));
}

#[test]
fn a_driver_that_does_not_take_the_code_is_no_device() {
    const TEST: &str = "a_driver_that_does_not_take_the_code_is_no_device";
    for (status, why) in
        [("222", "UNSUPPORTED_PTX_VERSION"), ("209", "NO_BINARY"), ("200", "IMAGE")]
    {
        if in_child(TEST, &[(FAIL, &format!("cuModuleLoadData:{status}:0:1")), (WHY, why)]) {
            break;
        }
    }
    let Ok(why) = std::env::var(WHY) else { return };
    let error = Cuda::open_with(0, &pack("sm_90a")).err().unwrap();
    assert!(matches!(error.kind(), Kind::NoDevice { why: said } if said.contains(&why)), "{error}");
    // It says nothing of the device.
    assert!(Cuda::open_with(0, &pack("sm_90a")).is_ok());
}

/// The variable makes the device tuned; what runs is what the file says, as long as it is whole.
#[test]
fn the_tuner_changes_no_bit_and_remembers() {
    const TEST: &str = "the_tuner_changes_no_bit_and_remembers";
    let tuned = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-tuned");
    if std::env::var_os(LEASEHOLD_TUNED).is_none() {
        let Some(_) = folder() else { return };
        let _ = std::fs::remove_dir_all(&tuned);
        let (file, tuned) = (pack_file(), tuned.to_str().unwrap());
        in_child(TEST, &[(LEASEHOLD_KERNELS, file.to_str().unwrap()), (LEASEHOLD_TUNED, tuned)]);
        return;
    }
    let [m, n, k] = [9, 11, 13usize];
    let values = |len: usize| (0..len).map(|i| 1.0 / (i + 3) as f32).collect::<Vec<f32>>();
    let bits = |dev: &Device| {
        let (a, b) = (dev.tensor([m, k], &values(m * k)), dev.tensor([k, n], &values(k * n)));
        let out = leasehold::Matmul::new(&a.unwrap(), &b.unwrap()).run().unwrap();
        let out = out.read::<f32>().unwrap().wait(None).unwrap();
        out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let want = bits(&Device::from_backend(open()).unwrap());
    assert!(!tuned.exists(), "nobody asked");
    assert_eq!(bits(&Device::open_named("cuda:0").unwrap()), want);
    let files = || std::fs::read_dir(&tuned).unwrap().map(|entry| entry.unwrap().path());
    let (file, 1) = (files().next().unwrap(), files().count()) else { panic!("one file") };
    let text = std::fs::read_to_string(&file).unwrap();
    let dense =
        |shape: [usize; 2]| Layout::contiguous(Dims::new(&shape.map(|n| n as u64)).unwrap());
    let specs = [[m, k], [k, n], [m, n]].map(|shape| Spec::new(DType::F32, dense(shape), 0));
    let op = Arc::new(check(Matmul::default().into(), &specs).unwrap());
    let plans = open().candidates(&op).unwrap();
    let line = text.lines().nth(1).unwrap();
    let best = plans.iter().find(|plan| line.ends_with(plan.kernel)).unwrap();
    let other = plans.iter().find(|plan| plan.kernel != best.kernel).unwrap();
    let line = line.replace(best.kernel, other.kernel) + "\n";
    let hash = blake3::hash(line.as_bytes()).to_hex();
    for (written, is_whole) in
        [(format!("{hash}\n{line}"), true), (format!("{hash}\n{line} "), false)]
    {
        std::fs::write(&file, &written).unwrap();
        let mut core = Core::new(open().tuned(&tuned));
        let plan = core.plan(&op).unwrap();
        // The whole plan is the other's, not its name alone.
        assert!(!is_whole || plan == *other, "{plan} instead of {other}");
        let after = std::fs::read_to_string(&file).unwrap();
        assert_eq!(after == written, is_whole, "timed again where the file was not whole");
        assert_eq!(bits(&Device::from_backend(open().tuned(&tuned)).unwrap()), want);
    }
}

/// What the host does between two pieces of work is not the device's time.
#[test]
fn busy_time_has_no_pauses_of_the_host() {
    if !in_child("busy_time_has_no_pauses_of_the_host", &[(ORDER, "early")]) {
        return;
    }
    const PAUSE: Duration = Duration::from_millis(300);
    let mut cuda = open();
    let block = cuda.alloc(MIB).unwrap();
    let busy = |cuda: &mut Cuda| {
        let mark = cuda.mark().unwrap();
        match cuda.poll(mark, None).unwrap() {
            Progress::Done { busy_ns, .. } => Duration::from_nanos(busy_ns),
            Progress::Pending => panic!("waited for"),
        }
    };
    for _ in 0..2 {
        for pause in [Duration::ZERO, PAUSE, PAUSE] {
            std::thread::sleep(pause);
            cuda.zero(block, 0, MIB).unwrap();
        }
        let time = busy(&mut cuda);
        assert!(time > Duration::ZERO && time < PAUSE, "{time:?}");
        // Copies do not count, nor does nothing.
        cuda.upload(block, 0, &[1; 4096]).unwrap();
        assert_eq!(busy(&mut cuda), Duration::ZERO);
        assert_eq!(busy(&mut cuda), Duration::ZERO);
    }
}

/// Work behind other work counts as it was predicted where the stream runs dry before an event ends it, and not the pause.
#[test]
fn work_that_no_event_ends_counts_as_predicted() {
    if !in_child("work_that_no_event_ends_counts_as_predicted", &[]) {
        return;
    }
    const PAUSE: Duration = Duration::from_millis(300);
    const QUEUED: u32 = 5;
    // Of a launch, on so small a device.
    const PREDICTED: Duration = Duration::from_micros(142);
    let mut cuda = open().with_memory(64 * MIB);
    let block = cuda.alloc(256).unwrap();
    let large = cuda.alloc(40 * MIB).unwrap();
    cuda.free(large);
    // The first has its own events: nothing is before it.
    for _ in 0..=QUEUED {
        cuda.zero(block, 0, 256).unwrap();
    }
    // What was freed has another size: all work is waited for before it goes.
    cuda.alloc(48 * MIB).unwrap();
    std::thread::sleep(PAUSE);
    cuda.zero(block, 0, 256).unwrap();
    let mark = cuda.mark().unwrap();
    let Progress::Done { busy_ns, .. } = cuda.poll(mark, None).unwrap() else { panic!("waited") };
    let time = Duration::from_nanos(busy_ns);
    assert!(time >= QUEUED * PREDICTED && time < PAUSE, "{time:?}");
}

/// An op behind others is launched and no more: an event of its own takes the device as long as a small kernel.
#[test]
fn queued_ops_have_no_events_of_their_own() {
    const TEST: &str = "queued_ops_have_no_events_of_their_own";
    const OPS: u64 = 200;
    let told = Path::new(env!("CARGO_TARGET_TMPDIR")).join("queued-calls");
    let mut counts = Vec::new();
    for ops in [OPS, 2 * OPS] {
        let _ = std::fs::remove_file(&told);
        if in_child(TEST, &[(model::CALLS, told.to_str().unwrap()), (WHY, &ops.to_string())]) {
            return queue(std::env::var(WHY).unwrap().parse().unwrap());
        }
        if folder().is_none() {
            return;
        }
        counts.push(["cuLaunchKernel", "cuEventRecord", ""].map(|name| model::calls(&told, name)));
    }
    let [launches, events, all] = [0, 1, 2].map(|i| counts[1][i] - counts[0][i]);
    println!("cases: {launches} ops queued by {all} calls, {events} events recorded");
    assert_eq!(launches, OPS);
    assert!(events * 4 <= OPS && all < 6 * OPS, "{events} events, {all} calls");
}

/// Enqueues so many small ops, one behind the other, and waits for them.
fn queue(ops: u64) {
    let mut core = Core::new(open());
    let layout = Layout::contiguous(Dims::new(&[1, 1]).unwrap());
    let spec = Spec::new(DType::F32, layout, 0);
    let op = Arc::new(check(Matmul::default().into(), &[spec; 3]).unwrap());
    let buffers = [1, 2, 3].map(BufferId);
    buffers.iter().for_each(|buffer| core.alloc(*buffer, 256).unwrap());
    let bindings = buffers.map(|buffer| Binding { buffer, offset: 0, len: 256 });
    let bound = op.bind(&bindings).unwrap();
    for buffer in &buffers[..2] {
        let place = core.place(*buffer, 0, 4).unwrap();
        core.backend().upload(place.block, 0, &[0; 4]).unwrap();
    }
    for _ in 0..ops {
        let mut run = core.begin(bound.clone()).unwrap();
        core.step(&mut run, u64::MAX).unwrap();
        core.end(&run);
    }
    // The stream is waited for, not asked again and again.
    let out = core.place(buffers[2], 0, 4).unwrap();
    core.backend().download(out.block, 0, &mut [0; 4]).unwrap();
    let mark = core.mark().unwrap();
    let progress = core.poll(mark, None).unwrap();
    assert!(matches!(progress, Progress::Done { busy_ns: 1.., .. }), "{progress:?}");
}

/// A device is chosen once its kernels came out right on it; by its name it is opened as it is.
#[test]
fn a_device_whose_kernels_are_wrong_is_passed_over() {
    const TEST: &str = "a_device_whose_kernels_are_wrong_is_passed_over";
    let lost = "cuLaunchKernel:719:20:1";
    for (variable, value, why) in [
        (IDLE, "nothing", "cuda:0: chosen"),
        (IDLE, "matmul_sm90_bf16", "judged, matmul by matmul_sm90_bf16"),
        (IDLE, "gather", "judged, gather by gather"),
        (IDLE, "attention_combine", "judged, attention by attention_paged"),
        (FAIL, lost, "cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED"),
    ] {
        let kernels = pack_file();
        let kernels = (leasehold::LEASEHOLD_KERNELS, kernels.to_str().unwrap());
        if in_child(TEST, &[(variable, value), (WHY, why), kernels]) {
            break;
        }
    }
    let Ok(why) = std::env::var(WHY) else { return };
    let start = std::time::Instant::now();
    let dev = Device::open().unwrap();
    println!("cases judged in {:?}: {}", start.elapsed(), dev.why());
    assert!(dev.why().contains(&why), "{} lacks {why}", dev.why());
    let is_right = why.ends_with("chosen");
    assert_eq!(dev.caps().backend == "cuda", is_right, "{}", dev.why());
    if std::env::var_os(FAIL).is_none() {
        let named = Device::open_named("cuda:0").unwrap();
        assert_eq!(named.why(), "cuda:0: asked for by name");
    }
    assert_eq!(product(&dev), Ok(()));
}

/// That a device passed is remembered, not that it failed; and what anybody could have written is not believed.
#[test]
fn a_device_is_judged_once() {
    const TEST: &str = "a_device_is_judged_once";
    if std::env::var_os(LEASEHOLD_KERNELS).is_some() {
        println!("cases: {}", Device::open().unwrap().why());
        return;
    }
    if folder().is_none() {
        return;
    }
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("judged");
    let _ = std::fs::remove_dir_all(&base);
    let (kernels, told) = (pack_file(), base.with_extension("calls"));
    let text = |path: &Path| path.to_str().unwrap().to_string();
    let (cache, kernels, told) = (text(&base), text(&kernels), text(&told));
    // Launches of a device that is opened, with a variable of the model's.
    let launches = |variable| {
        let cache = (model::CACHE, &*cache);
        let variables = [cache, (LEASEHOLD_KERNELS, &*kernels), (model::CALLS, &*told), variable];
        in_child(TEST, &variables);
        model::calls(Path::new(&told), "cuLaunchKernel")
    };
    let none = (ORDER, "early");
    let folder = base.join("leasehold/judged");
    let files = || std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let judged = launches((IDLE, "softmax"));
    assert!(judged > 0 && files().count() == 0);
    let judged = launches(none);
    let file = files().next().unwrap();
    assert!(judged > 0 && files().count() == 1);
    assert_eq!(launches(none), 0);
    assert_eq!(launches((FAIL, "cuDeviceGetUuid_v2:1:0:9")), judged, "a card without a name");
    let whole = std::fs::read(&file).unwrap();
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    let wrongs: [(&str, &dyn Fn()); 3] = [
        ("another word", &|| std::fs::write(&file, [&whole[..], b"."].concat()).unwrap()),
        ("others may write it", &|| set(&file, 0o622)),
        ("others may write beside it", &|| set(&folder, 0o777)),
    ];
    for (what, wrong) in wrongs {
        wrong();
        assert_eq!(launches(none), judged, "{what}");
    }
    // It was written anew each time that it could be.
    set(&folder, 0o700);
    assert_eq!((launches(none), std::fs::read(&file).unwrap()), (0, whole));
}

#[test]
fn the_kernels_for_other_cards_are_judged_too() {
    let arch = [(model::ARCH, "sm_80"), (ORDER, "early")];
    if in_child("the_kernels_for_other_cards_are_judged_too", &arch) {
        judged(open(), LIMIT).unwrap();
    }
}

/// What does not end in time is left alone, and what is not enough is told.
#[test]
fn a_device_that_does_not_answer_is_passed_over() {
    if in_child("a_device_that_does_not_answer_is_passed_over", &[]) {
        let error = judged(open(), Duration::ZERO).err().unwrap();
        assert!(matches!(error.kind(), Kind::Timeout { waited_ms: 0 }), "{error}");
    }
}

/// The model has four multiprocessors, fewer than any card: what it is predicted is as much longer, and so is its unit.
#[test]
fn a_small_device_is_predicted_its_own_times() {
    if !in_child("a_small_device_is_predicted_its_own_times", &[]) {
        return;
    }
    let cuda = open();
    let [slower, units] = [114, 4];
    assert_eq!(cuda.caps().unit_cap_ns, UNIT_CAP_GPU_NS * slower / units);
    let dense = |shape: [u64; 2]| Layout::contiguous(Dims::new(&shape).unwrap());
    let spec = |shape| Spec::new(DType::BF16, dense(shape), 0);
    let specs = [spec([512, 512]), spec([512, 512]), spec([512, 512])];
    let op = check(Matmul::default().into(), &specs).unwrap();
    let of_class = leasehold::backend::cuda::candidates(&op, "sm_90a").unwrap();
    let here = cuda.candidates(&op).unwrap();
    assert_eq!(here.len(), of_class.len());
    for (here, of_class) in here.iter().zip(of_class) {
        let longer = |ns: u64| (ns * slower).div_ceil(units);
        let (unit_ns, wave_ns) = (longer(of_class.unit_ns), longer(of_class.wave_ns));
        assert_eq!(*here, Plan { unit_ns, wave_ns, ..of_class });
    }
}
