//! The model driver behind the CUDA driver API: products of both kernel families from memory to memory, work that is late
//! or early, and what a card answers to mistakes.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../cuda/mod.rs"]
mod cuda;
#[path = "../driver/mod.rs"]
mod driver;
mod far;

use cuda::{Cuda, Failure, Grid, Handle};
use half::f16;
use leasehold_kernels::{
    BoxMap, Form, Major, MatmulArgs, MatmulSm80, MatmulSm90, MatmulSm90Args, Matrices, Row, Side,
    Values, rows,
};
use std::path::{Path, PathBuf};
use std::process::Command;

const SM80: MatmulSm80 =
    MatmulSm80 { values: Values::F16, a: Major::K, b: Major::K, tile: [64, 64] };
const SM90: MatmulSm90 = MatmulSm90 {
    form: Form::Cooperative,
    bf16: false,
    a_outer: false,
    b_outer: false,
    rows: 128,
    columns: 64,
    cluster: 1,
};
const ORDER: &str = "LEASEHOLD_MODEL_ORDER";
/// As in cuda.h.
const SWIZZLE_128: u32 = 3;
const M: usize = 70;
const N: usize = 66;
const K: usize = 72;

/// The library, built once; `None` where there is no compiler.
fn library() -> Option<PathBuf> {
    // Of all rows, whose objects other tests make too.
    Some(driver::folder(&rows())?.join("libcuda.so.1"))
}

fn open() -> Option<Cuda> {
    Some(Cuda::open(&library()?).expect("the model driver"))
}

/// A driver whose faults are nobody else's: another file is another library.
fn open_alone(name: &str) -> Option<Cuda> {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("libcuda-{name}.so.1"));
    std::fs::copy(library()?, &copy).expect("a copy of the library");
    Some(Cuda::open(&copy).expect("the model driver"))
}

/// A product of small whole numbers, whose sums are exact.
struct Product {
    a: u64,
    b: u64,
    out: u64,
}

fn element(seed: usize, i: usize, k: usize) -> i32 {
    ((i * 7 + k * 5 + seed) % 7) as i32 - 3
}

impl Product {
    fn new(cuda: &Cuda, stream: Handle) -> Self {
        let side = |seed, outer: usize| {
            let elements = (0..outer).flat_map(|i| (0..K).map(move |k| element(seed, i, k)));
            let bytes: Vec<u8> =
                elements.flat_map(|x| f16::from_f32(x as f32).to_le_bytes()).collect();
            let at = cuda.alloc(bytes.len()).expect("memory");
            cuda.write(at, &bytes, stream).expect("a write");
            at
        };
        let (a, b) = (side(1, M), side(2, N));
        Self { a, b, out: cuda.alloc(M * N * 4).expect("memory") }
    }

    fn args(&self, tile: [u32; 2]) -> MatmulArgs {
        let [tiles_m, tiles_n] = [(M as u32).div_ceil(tile[0]), (N as u32).div_ceil(tile[1])];
        let matrices = |at, row: usize, column: usize, dtype| Matrices {
            at,
            row: row as i64,
            column: column as i64,
            dtype,
            present: 1,
            ..Matrices::default()
        };
        MatmulArgs {
            a: matrices(self.a, K, 1, 1),
            b: matrices(self.b, 1, K, 1),
            out: matrices(self.out, N, 1, 0),
            batch: [1; 4],
            m: M as u32,
            n: N as u32,
            k: K as u32,
            tiles: u64::from(tiles_m * tiles_n),
            tiles_m,
            tiles_n,
            k_to: K as u32,
            alpha: 1.0,
            ..MatmulArgs::default()
        }
    }

    fn launch_sm80(&self, cuda: &Cuda, stream: Handle) -> Result<(), Failure> {
        let row = Row::MatmulSm80(SM80);
        let args = self.args(SM80.tile);
        launch(cuda, &row, args.tiles as u32, bytemuck::bytes_of(&args), stream)
    }

    fn launch_sm90(&self, cuda: &Cuda, stream: Handle) -> Result<(), Failure> {
        let map = |side, at, outer: usize| {
            let [outer, k] = [outer, K].map(|n| n as u64);
            let map = SM90.map(side, at, [outer, k], [k, 1], [[1, 8]; 3]);
            bytemuck::cast(cuda.encode(&map, SWIZZLE_128).expect("a map").0)
        };
        let args = MatmulSm90Args {
            a: map(Side::A, self.a, M),
            b: map(Side::B, self.b, N),
            matmul: self.args([MatmulSm90::ROWS, SM90.columns]),
            ..MatmulSm90Args::default()
        };
        launch(cuda, &Row::MatmulSm90(SM90), 2, bytemuck::bytes_of(&args), stream)
    }

    fn check(&self, cuda: &Cuda, stream: Handle) {
        let bytes = cuda.read(self.out, M * N * 4, stream).expect("the output");
        let words: &[[u8; 4]] = bytes.as_chunks().0;
        for (at, word) in words.iter().enumerate() {
            let (i, j) = (at / N, at % N);
            let sum: i32 = (0..K).map(|k| element(1, i, k) * element(2, j, k)).sum();
            assert_eq!(f32::from_le_bytes(*word), sum as f32, "[{i}, {j}]");
        }
    }
}

fn loaded(cuda: &Cuda, row: &Row, blocks: u32) -> Result<(Handle, Grid), Failure> {
    let function = cuda.function(cuda.module(b"any image")?, &row.key())?;
    cuda.allow_shared(function, row.shared_bytes())?;
    Ok((function, Grid { blocks, threads: row.threads(), shared_bytes: row.shared_bytes() }))
}

fn launch(cuda: &Cuda, row: &Row, blocks: u32, args: &[u8], stream: Handle) -> Result<(), Failure> {
    let (function, grid) = loaded(cuda, row, blocks)?;
    cuda.launch(function, grid, args, stream)
}

/// This test program again, one test of it, with a variable set.
fn again(test: &str, name: &str, value: &str) {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    let output = command.args(["--exact", test]).env(name, value).output().expect("a child");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{name}={value}: {said}");
}

#[test]
fn products_run_from_memory_to_memory() {
    let Some(cuda) = open() else { return };
    let stream = cuda.stream().expect("a stream");
    let product = Product::new(&cuda, stream);
    product.launch_sm80(&cuda, stream).expect("a launch");
    product.check(&cuda, stream);
    cuda.fill(product.out, 0xff, M * N * 4, stream).expect("a fill");
    if cuda.name().expect("a name") == "Host model sm_80" {
        let failure = product.launch_sm90(&cuda, stream).expect_err("no such card");
        assert_eq!(failure.1, "CUDA_ERROR_NOT_FOUND");
    } else {
        product.launch_sm90(&cuda, stream).expect("a launch");
        product.check(&cuda, stream);
    }
}

/// Whoever asks for the driver by its name gets the one that is loaded. In a process of its own: the copies that other
/// tests load have that name too.
#[test]
fn the_loaded_driver_is_found_by_its_name() {
    const ALONE: &str = "LEASEHOLD_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        return again("the_loaded_driver_is_found_by_its_name", ALONE, "1");
    }
    let Some(loaded) = open() else { return };
    let cuda = Cuda::open(Path::new("libcuda.so.1")).expect("the same driver");
    assert_eq!(cuda.name(), loaded.name());
}

#[test]
fn work_is_also_done_at_once_and_on_an_older_card() {
    if library().is_some() {
        again("products_run_from_memory_to_memory", ORDER, "early");
        again("a_pinned_source_is_read_when_its_turn_comes", ORDER, "early");
        again("products_run_from_memory_to_memory", "LEASEHOLD_MODEL_ARCH", "sm_80");
    }
}

#[test]
fn work_is_done_when_it_is_waited_for() {
    let Some(cuda) = open() else { return };
    let [first, second] = [0; 2].map(|_| cuda.stream().expect("a stream"));
    let [began, ended] = [0; 2].map(|_| cuda.event().expect("an event"));
    let product = Product::new(&cuda, first);
    cuda.record(began, first).expect("a record");
    product.launch_sm80(&cuda, first).expect("a launch");
    cuda.record(ended, first).expect("a record");
    let not_ready = || Err(Failure(600, "CUDA_ERROR_NOT_READY".into()));
    assert_eq!(cuda.event_query(ended), not_ready());
    assert_eq!(cuda.stream_query(first), not_ready());
    // The second stream's read waits for the first stream's product.
    cuda.stream_waits(second, ended).expect("a wait");
    product.check(&cuda, second);
    assert_eq!(cuda.event_query(ended), Ok(()));
    assert!(cuda.elapsed(began, ended).expect("a time") > 0.0);
}

#[test]
fn a_pinned_source_is_read_when_its_turn_comes() {
    let Some(cuda) = open() else { return };
    let stream = cuda.stream().expect("a stream");
    let at = cuda.alloc(4).expect("memory");
    cuda.write_while_changing(at, [b"soon", b"late"], stream).expect("a copy");
    let early = std::env::var(ORDER).is_ok_and(|order| order == "early");
    assert_eq!(cuda.read(at, 4, stream).expect("bytes"), if early { b"soon" } else { b"late" });
    // Other memory is staged when the copy is asked for.
    cuda.write(at, b"once", stream).expect("a copy");
    assert_eq!(cuda.read(at, 4, stream).expect("bytes"), b"once");
}

#[test]
fn a_captured_stream_is_launched_again_and_again() {
    let Some(cuda) = open_alone("graph") else { return };
    let stream = cuda.stream().expect("a stream");
    let product = Product::new(&cuda, stream);
    let args = product.args(SM80.tile);
    let (function, grid) =
        loaded(&cuda, &Row::MatmulSm80(SM80), args.tiles as u32).expect("a function");
    let launch = || cuda.launch(function, grid, bytemuck::bytes_of(&args), stream);
    cuda.begin_capture(stream, 1).expect("a capture");
    cuda.fill(product.out, 0xff, M * N * 4, stream).expect("a fill");
    launch().expect("a launch");
    let graph = cuda.end_capture(stream).expect("a graph");
    for _ in 0..2 {
        // Nothing was done at the capture, and all is at each launch.
        cuda.fill(product.out, 0x5a, M * N * 4, stream).expect("a fill");
        assert_eq!(cuda.read(product.out, 2, stream).expect("bytes"), [0x5a; 2]);
        cuda.launch_graph(graph, stream).expect("a launch");
        product.check(&cuda, stream);
    }
    assert_eq!(cuda.calls("cuLaunchKernel"), Ok(1));
    assert_eq!(cuda.calls("cuGraphLaunch"), Ok(2));
    // What is launched and late outlives its graph.
    cuda.fill(product.out, 0x5a, M * N * 4, stream).expect("a fill");
    cuda.launch_graph(graph, stream).expect("a launch");
    cuda.end_graph(graph).expect("no graph");
    product.check(&cuda, stream);
    assert_eq!(cuda.launch_graph(graph, stream).err().map(|failure| failure.0), Some(400));
    // Addresses are those of the capture, whoever has them now.
    cuda.begin_capture(stream, 1).expect("a capture");
    launch().expect("a launch");
    let stale = cuda.end_capture(stream).expect("a graph");
    cuda.free(product.a).expect("no memory");
    cuda.launch_graph(stale, stream).expect("a launch");
    assert_eq!(cuda.synchronize(stream).err().map(|failure| failure.0), Some(700));
}

#[test]
fn what_a_capture_forbids_ends_it() {
    const UNSUPPORTED: u32 = 900;
    const INVALIDATED: u32 = 901;
    let Some(cuda) = open_alone("capture") else { return };
    let stream = cuda.stream().expect("a stream");
    let at = cuda.alloc(4).expect("memory");
    let number = |answer: Result<(), Failure>| answer.err().map(|failure| failure.0);
    assert_eq!(number(cuda.end_capture(stream).map(drop)), Some(401), "none began");
    let forbidden: [&dyn Fn() -> Result<(), Failure>; 5] = [
        &|| cuda.synchronize(stream),
        &|| cuda.stream_query(stream),
        &|| cuda.alloc(4).map(drop),
        &|| cuda.module(b"any image").map(drop),
        &|| cuda.read(at, 4, stream).map(drop),
    ];
    for (i, ask) in forbidden.into_iter().enumerate() {
        cuda.begin_capture(stream, 1).expect("a capture");
        assert_eq!(number(ask()), Some(UNSUPPORTED), "{i}");
        assert_eq!(number(cuda.end_capture(stream).map(drop)), Some(INVALIDATED), "{i}");
        // The stream is as before.
        cuda.synchronize(stream).expect("no capture");
    }
    // A relaxed one lets its thread allocate; an event of it is no event of the stream.
    let event = cuda.event().expect("an event");
    cuda.begin_capture(stream, 2).expect("a capture");
    assert_eq!(number(cuda.begin_capture(stream, 2)), Some(401));
    cuda.alloc(4).expect("memory");
    cuda.record(event, stream).expect("a record");
    let graph = cuda.end_capture(stream).expect("a graph");
    let failure = cuda.event_query(event).expect_err("an event of a graph");
    assert_eq!(failure.1, "CUDA_ERROR_CAPTURED_EVENT");
    cuda.end_graph(graph).expect("no graph");
}

#[test]
fn an_access_outside_every_allocation_is_the_fault_of_all_that_follows() {
    let Some(cuda) = open_alone("fault") else { return };
    let stream = cuda.stream().expect("a stream");
    let mut product = Product::new(&cuda, stream);
    // The last row of A ends after its allocation does.
    product.a += 2 * K as u64;
    product.launch_sm80(&cuda, stream).expect("a launch");
    let fault = Failure(700, "CUDA_ERROR_ILLEGAL_ADDRESS".into());
    assert_eq!(cuda.synchronize(stream), Err(fault.clone()));
    assert_eq!(cuda.alloc(1), Err(fault.clone()));
    assert_eq!(cuda.module(b"any image").err(), Some(fault));
}

#[test]
fn memory_that_was_unmapped_is_no_longer_there() {
    const BYTES: usize = 4 << 20;
    let Some(cuda) = open_alone("unmapped") else { return };
    let stream = cuda.stream().expect("a stream");
    let [free, total] = cuda.memory().expect("sizes");
    let at = cuda.reserve(2 * BYTES).expect("addresses");
    assert_eq!(cuda.fill(at, 0, 1, stream).err().map(|failure| failure.0), Some(1));
    cuda.map(at, BYTES).expect("memory");
    assert_eq!(cuda.memory(), Ok([free - BYTES, total]));
    // Nobody leans on zeros.
    assert_ne!(cuda.read(at, 4, stream), Ok(vec![0; 4]));
    assert_eq!(cuda.map(at + BYTES as u64, 2 * total).err().map(|failure| failure.0), Some(2));
    assert_eq!(cuda.unreserve(at, 2 * BYTES).err().map(|failure| failure.0), Some(1));
    cuda.fill(at, 0, BYTES, stream).expect("a fill");
    cuda.unmap(at, BYTES).expect("no memory");
    assert_eq!(cuda.memory(), Ok([free, total]));
    // The fill was not waited for.
    assert_eq!(cuda.synchronize(stream).err().map(|failure| failure.0), Some(700));
}

#[test]
fn maps_are_refused_as_the_driver_refuses_them() {
    let Some(cuda) = open() else { return };
    let good = BoxMap {
        at: 0x10000,
        sizes: [72, 70, 1, 1, 1],
        strides: [144; 4],
        boxed: [64, 64, 1, 1, 1],
        element: 2,
        padding: [0; 6],
    };
    assert!(cuda.encode(&good, SWIZZLE_128).is_ok() && good.is_valid());
    // Of what a card makes of it nothing is said.
    assert!(!BoxMap { strides: [144, 144, 0, 144], ..good }.is_valid());
    let wrong: [fn(&mut BoxMap); 7] = [
        |map| map.at += 8,
        |map| map.sizes[1] = 0,
        |map| map.sizes[0] = (1 << 32) + 1,
        |map| map.strides[0] += 8,
        |map| map.strides[1] = 1 << 40,
        |map| map.boxed[1] = 257,
        |map| map.boxed[0] = 128,
    ];
    for (i, change) in wrong.into_iter().enumerate() {
        let mut map = good;
        change(&mut map);
        let failure = cuda.encode(&map, SWIZZLE_128).err().map(|failure| failure.1);
        assert_eq!(failure.as_deref(), Some("CUDA_ERROR_INVALID_VALUE"), "change {i}");
        assert!(!map.is_valid(), "change {i}");
    }
}

#[test]
fn what_a_launch_asks_in_vain_is_refused() {
    let Some(cuda) = open() else { return };
    let stream = cuda.stream().expect("a stream");
    let module = cuda.module(b"any image").expect("a module");
    assert_eq!(cuda.function(module, "nobody").err().map(|failure| failure.0), Some(500));
    let function = cuda.function(module, &Row::MatmulSm90(SM90).key()).expect("a function");
    let row = Row::MatmulSm90(SM90);
    let args = vec![0; size_of::<MatmulSm90Args>()];
    let launch = |blocks, threads, shared_bytes| {
        let grid = Grid { blocks, threads, shared_bytes };
        cuda.launch(function, grid, &args, stream).err().map(|failure| failure.0)
    };
    assert_eq!(launch(1, row.threads(), row.shared_bytes()), Some(1), "more than was allowed");
    assert_eq!(launch(0, row.threads(), 0), Some(1));
    assert_eq!(launch(1, row.threads() + 32, 0), Some(701));
    let by_two = MatmulSm90 { rows: 256, columns: 256, cluster: 2, ..SM90 };
    let by_two = cuda.function(module, &Row::MatmulSm90(by_two).key()).expect("a function");
    let grid = Grid { blocks: 3, threads: row.threads(), shared_bytes: 0 };
    let failure = cuda.launch(by_two, grid, &args, stream).err().map(|failure| failure.0);
    assert_eq!(failure, Some(912), "a part of a cluster");
    let most = cuda.attribute(97).expect("the largest shared memory") as u32;
    assert!(cuda.allow_shared(function, most).is_ok());
    assert_eq!(cuda.allow_shared(function, most + 1).err().map(|failure| failure.0), Some(1));
}

#[test]
fn freed_memory_is_free() {
    let Some(cuda) = open_alone("freed") else { return };
    let [free, total] = cuda.memory().expect("sizes");
    let at = cuda.alloc(free / 2).expect("memory");
    assert_eq!(
        cuda.alloc(free).err().map(|failure| failure.1).as_deref(),
        Some("CUDA_ERROR_OUT_OF_MEMORY")
    );
    cuda.free(at).expect("no memory");
    assert_eq!(cuda.memory(), Ok([free, total]));
    assert!(cuda.free(at).is_err());
}
