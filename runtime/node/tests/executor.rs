//! The leased data path end to end in one process: a stand-in for control, an executor thread, and tenants that
//! link the library. Whatever a local device answers, a leased one answers too, bit for bit.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use leasehold::backend::Backend;
use leasehold::backend::cpu::Cpu;
use leasehold::backend::null::Null;
use leasehold::order::UNIT_CAP_GPU_NS;
use leasehold::remote::Remote;
use leasehold::wire::{Ends, Mapped, Open, Opened, from_bytes, pair, receive, send};
use leasehold::{
    ArgMax, Attention, Copy, DType, Device, Error, Gather, Kind, Map, MapFn, Matmul, Norm, Scatter,
    Softmax, Tensor,
};
use leasehold_node::executor::protocol::{FromExecutor, Terms, ToExecutor, Usage, Why};
use leasehold_node::executor::serve;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Control as these tests need it: jobs and sessions, nothing verified.
struct Node {
    executor: OwnedFd,
    device: leasehold_node::executor::protocol::Device,
    next: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

fn terms(lease: u64) -> Terms {
    Terms {
        lease,
        weight: 1,
        spare: false,
        latency: None,
        memory: 256 * MIB,
        op_cap_ns: 60_000_000_000,
        ops: None,
        in_flight: 4096,
        sessions: 4,
        deadline_ns: u64::MAX,
    }
}

impl Node {
    fn start<B: Backend>(backend: B, entrance: Option<OwnedFd>) -> Self {
        let (executor, theirs) = pair().unwrap();
        let thread = std::thread::spawn(move || {
            let _ = serve(backend, theirs, entrance);
        });
        let hear = || from_bytes(&receive(&executor).unwrap().unwrap().0).unwrap();
        let FromExecutor::Device(device) = hear() else { panic!() };
        let FromExecutor::Ready { .. } = hear() else { panic!() };
        Self { executor, device, next: AtomicU64::new(1), thread: Some(thread) }
    }

    fn tell(&self, message: &ToExecutor) {
        send(&self.executor, message, &[]).unwrap();
    }

    fn hear(&self) -> FromExecutor {
        from_bytes(&receive(&self.executor).unwrap().unwrap().0).unwrap()
    }

    fn job(&self, terms: Terms) -> u64 {
        let job = self.next.fetch_add(1, Ordering::Relaxed);
        self.tell(&ToExecutor::Job { job, terms });
        job
    }

    fn open(&self, job: u64, memory: u64) -> Device {
        self.try_open(job, memory).unwrap()
    }

    /// Opens a session as control does: memory, executor first, seals, tenant. `None` when the job is over.
    fn try_open(&self, job: u64, memory: u64) -> Option<Device> {
        let (control, tenant) = pair().unwrap();
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| Remote::on(tenant.as_fd()));
            let open: Open = from_bytes(&receive(&control).unwrap().unwrap().0).unwrap();
            let ends = Ends::new().unwrap();
            let session = self.next.fetch_add(1, Ordering::Relaxed);
            let [_, submit, staging, complete] = ends.tenant.fds();
            let fds = [ends.socket.as_fd(), submit, staging, complete];
            send(&self.executor, &ToExecutor::Session { job, session }, &fds).unwrap();
            match self.hear() {
                FromExecutor::Mapped { session: mapped } if mapped == session => {}
                FromExecutor::Settled { job: settled, .. } if settled == job => {
                    assert!(matches!(self.hear(), FromExecutor::Refused { .. }));
                    let why = "the job is over".into();
                    send(&control, &Opened::Refused { why, retryable: true }, &[]).unwrap();
                    assert!(opening.join().unwrap().is_err());
                    return None;
                }
                other => panic!("{other:?}"),
            }
            ends.tenant.complete.seal_writes().unwrap();
            let d = &self.device;
            let opened = Opened::Session {
                version: open.version,
                name: d.name.clone(),
                backend: d.backend.clone(),
                arch: d.arch.clone(),
                numerics: d.numerics,
                memory,
                max_alloc: d.max_alloc,
                max_binding: d.max_binding,
                unit_cap_ns: d.unit_cap_ns,
                op_cap_ns: 0,
            };
            send(&control, &opened, &ends.tenant.fds()).unwrap();
            let _: Mapped = from_bytes(&receive(&control).unwrap().unwrap().0).unwrap();
            ends.tenant.submit.seal_writes().unwrap();
            ends.tenant.staging.seal_writes().unwrap();
            let remote = opening.join().unwrap().unwrap();
            Some(Device::from_engine(Box::new(remote), "test".into()))
        })
    }

    fn tenant(&self) -> (u64, Device) {
        let job = self.job(terms(self.next.fetch_add(1, Ordering::Relaxed)));
        (job, self.open(job, 256 * MIB))
    }

    fn end(&self, job: u64, why: Why) -> Usage {
        self.tell(&ToExecutor::End { job, why });
        match self.hear() {
            FromExecutor::Settled { job: settled, usage } if settled == job => usage,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = send(&self.executor, &ToExecutor::Shutdown, &[]);
        // A process that exits while a thread still closes a GPU dies of it.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn cpu() -> Cpu {
    Cpu::new().unwrap().with_memory(1 << 30)
}

fn ramp(dev: &Device, shape: &[usize], step: f32) -> Tensor {
    let n: usize = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|i| ((i % 97) as f32 - 48.0) * step).collect();
    dev.tensor_of(shape, &data).unwrap()
}

/// A little of everything, with views, casts, lengths and epilogues.
fn program(dev: &Device) -> Vec<f32> {
    let x = ramp(dev, &[2, 70, 64], 0.01);
    let w = ramp(dev, &[96, 64], 0.02);
    let bias = ramp(dev, &[96], 0.1);
    let h = Matmul::new(&x, &w.t()).bias(&bias).gelu().run().unwrap();
    let h = Norm::layer(&h, 1e-5).into(&h).run().unwrap();
    let heads = h.reshape(&[2, 70, 3, 32]).unwrap().permute(&[0, 2, 1, 3]).unwrap();
    let o = Attention::new(&heads, &heads, &heads).causal().lens(&[70, 33]).run().unwrap();
    let low = Map::cast(&o, DType::BF16).run().unwrap();
    let p = Softmax::new(&low).dtype(DType::F32).run().unwrap();
    let rows = dev.tensor([3], &[2u32, 0, 5]).unwrap();
    let picked = Gather::new(&p.reshape(&[420, 32]).unwrap(), &rows).run().unwrap();
    let mut out = p.read::<f32>().unwrap().wait(None).unwrap();
    out.extend(picked.t().read::<f32>().unwrap().wait(None).unwrap());
    out
}

#[test]
fn leased_bits_are_local_bits() {
    let node = Node::start(cpu(), None);
    let local = Device::from_backend(cpu()).unwrap();
    let (job, leased) = node.tenant();
    assert_eq!(leased.numerics(), local.numerics());
    let (a, b) = (program(&local), program(&leased));
    assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert!(a.len() == b.len() && a.iter().all(|v| v.is_finite()));
    drop(leased);
    let usage = node.end(job, Why::Exited);
    assert!(usage.ops >= 7 && usage.busy_ns > 0 && usage.bytes_up > 0 && usage.bytes_down > 0);
    assert!(usage.memory_byte_ns > 0);
}

/// A decode step, nearly: appends a key to pages, attends over them, and picks what comes next on the device.
fn decode(dev: &Device) -> Vec<f32> {
    let table = ramp(dev, &[40, 32], 0.03);
    let pages = dev.tensor([1, 2], &[1u32, 0]).unwrap();
    let cache = ramp(dev, &[2, 1, 16, 32], 0.0);
    let (len, one) = (dev.tensor([1], &[0i32]).unwrap(), dev.tensor([1], &[1i32]).unwrap());
    let token = dev.empty(DType::I32, &[1]).unwrap();
    let step = dev
        .program(|p| {
            let x = Gather::new(&table, &token).record(p)?;
            Map::add(&len, &one).into(&len).record(p)?;
            let heads = x.reshape(&[1, 1, 1, 32])?;
            Scatter::append(&heads, &pages, &len, &cache).record(p)?;
            let logits = Matmul::new(&x, &table.t()).record(p)?;
            ArgMax::new(&logits).into(&token).record(p)?;
            p.output(&logits)?;
            p.output(&cache)
        })
        .unwrap();
    step.write(&token, &[7i32]).unwrap();
    let mut reads: Vec<_> =
        (0..20).map(|_| step.replay().unwrap().read::<f32>().unwrap()).collect();
    let mut out: Vec<f32> = reads.iter_mut().flat_map(|read| read.wait(None).unwrap()).collect();
    out.extend(step.outputs()[1].read::<f32>().unwrap().wait(None).unwrap());
    // More replays than a ring holds records.
    for _ in 0..2000 {
        step.write(&len, &[3i32]).unwrap();
        step.replay().unwrap();
    }
    out.extend(step.outputs()[1].read::<f32>().unwrap().wait(None).unwrap());
    out
}

#[test]
fn leased_replays_give_local_bits() {
    let node = Node::start(cpu(), None);
    let local = Device::from_backend(cpu()).unwrap();
    let (job, leased) = node.tenant();
    let (a, b) = (decode(&local), decode(&leased));
    assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert!(a.len() == b.len() && a.iter().all(|v| v.is_finite()));
    // A bad index in a step is the replay's failure, here as there.
    for dev in [&local, &leased] {
        let table = ramp(dev, &[4, 2], 1.0);
        let index = dev.tensor([1], &[9u32]).unwrap();
        let program = dev.program(|p| p.output(&Gather::new(&table, &index).record(p)?)).unwrap();
        let error = program.replay().unwrap().read::<f32>().unwrap().wait(None).unwrap_err();
        assert_eq!(*error.kind(), Kind::Index { value: 9, bound: 4 });
    }
    drop(leased);
    assert!(node.end(job, Why::Exited).ops >= 2020 * 5);
}

/// A device that launches several ops as one does so for a program's from its second replay on, as far as a unit reaches; what
/// is longer is cut. The bill is of ops and units all the same.
#[test]
fn a_leased_replay_is_of_segments_and_of_slices_of_longer_ops() {
    let (null, log) = Null::new(1 << 30);
    let node = Node::start(null, None);
    let (job, dev) = node.tenant();
    let x = dev.empty(DType::F32, &[64]).unwrap();
    let wide = dev.empty(DType::F32, &[512, 512]).unwrap();
    let of = |maps: usize, long: bool| {
        dev.program(|p| {
            let mut y = x.clone();
            for i in 0..maps {
                y = Map::unary(MapFn::Exp, &y).record(p)?;
                if i == 4 && long {
                    p.output(&Matmul::new(&wide, &wide).record(p)?)?;
                }
            }
            p.output(&y)
        })
        .unwrap()
    };
    let names = |from: usize| {
        let mut names: Vec<&str> = log.launches()[from..].iter().map(|launch| launch.op).collect();
        names.dedup();
        names
    };
    let program = of(8, true);
    program.replay().unwrap();
    dev.wait(None).unwrap();
    assert_eq!(names(0), ["map", "matmul", "map"]);
    let (once, began) = (log.launches().len(), log.now_ns());
    program.replay().unwrap();
    dev.wait(None).unwrap();
    assert_eq!((names(once), log.now_ns()), (vec!["segment", "matmul", "segment"], 2 * began));
    let twice = log.launches().len();
    // An op of its own after a program is no part of it; nor is a program of one.
    Map::unary(MapFn::Exp, &x).run().unwrap();
    of(1, false).replay().unwrap();
    program.replay().unwrap();
    drop(program);
    // The next program has the blocks of the one before, and segments of its own.
    let next = of(3, false);
    next.replay().unwrap();
    next.replay().unwrap();
    dev.wait(None).unwrap();
    let rest = ["map", "segment", "matmul", "segment", "map", "segment"];
    assert_eq!(names(twice), rest);
    let launches = log.launches();
    let units: u64 = launches.iter().map(|launch| launch.units.end - launch.units.start).sum();
    drop(next);
    drop((x, wide, dev));
    let usage = node.end(job, Why::Exited);
    assert_eq!((usage.ops, usage.units), (3 * 9 + 2 + 2 * 3, units));
    assert_eq!(usage.busy_ns, log.now_ns());
}

/// A small part of a card has units that are longer than a CPU's, and turns of as many as the whole.
#[test]
fn a_part_of_a_card_takes_turns_of_its_own_units() {
    const UNIT_NS: u64 = 10 * UNIT_CAP_GPU_NS;
    let (null, log) = Null::new(1 << 40);
    let node = Node::start(null.with_unit_cap(UNIT_NS), None);
    let (_, dev) = node.tenant();
    let x = dev.empty(DType::F32, &[1024, 1024]).unwrap();
    Matmul::new(&x, &x).run().unwrap();
    dev.wait(None).unwrap();
    let units = log.launches().into_iter().map(|launch| launch.units.end - launch.units.start);
    assert_eq!(units.collect::<Vec<_>>(), [4, 4, 1]);
}

/// A leased device has its node's plans: they are told as a local device of the same kind tells its own.
#[test]
fn a_leased_program_says_what_a_local_one_says() {
    let node = Node::start(cpu(), None);
    let local = Device::from_backend(cpu()).unwrap();
    let leased = node.open(node.job(terms(1)), 256 * MIB);
    let step = |dev: &Device| {
        let x = ramp(dev, &[2, 8, 64], 0.1);
        let heads = x.reshape(&[2, 8, 2, 32]).unwrap().permute(&[0, 2, 1, 3]).unwrap();
        dev.program(|p| {
            let h = Matmul::new(&x, &x.t()).record(p)?;
            p.output(&Softmax::new(&h).record(p)?)?;
            p.output(&Attention::new(&heads, &heads, &heads).lens(&[8, 3]).record(p)?)
        })
        .unwrap()
    };
    let (here, there) = (step(&local), step(&leased));
    for _ in 0..2 {
        assert_eq!(here.quote().unwrap(), there.quote().unwrap());
        assert_eq!(here.explain().unwrap(), there.explain().unwrap());
        there.replay().unwrap();
    }
    leased.wait(None).unwrap();
    // What a lease does not allow has no quote, for the reason that refuses it.
    let narrow = node.open(node.job(Terms { ops: Some(vec!["softmax".into()]), ..terms(2) }), MIB);
    let x = narrow.empty(DType::F32, &[4]).unwrap();
    let step = narrow.program(|p| p.output(&Map::add(&x, &x).record(p)?)).unwrap();
    let error = step.quote().unwrap_err();
    assert!(matches!(error.kind(), Kind::Unsupported { .. }), "{error}");
}

/// The same on a GPU backend, whose work is done long after it is launched. A software adapter will do.
#[test]
fn leased_bits_are_local_bits_on_any_gpu() {
    use leasehold::backend::wgpu::Wgpu;
    if Wgpu::enumerate().is_empty() {
        assert!(std::env::var_os("CI").is_none(), "CI has a software adapter");
        println!("skip: leased wgpu: no Vulkan adapter; install mesa-vulkan-drivers");
        return;
    }
    let wgpu = || Wgpu::open(0).unwrap().with_memory(1 << 30);
    let node = Node::start(wgpu(), None);
    let local = Device::from_backend(wgpu()).unwrap();
    let (job, leased) = node.tenant();
    assert_eq!(leased.numerics(), local.numerics());
    let (a, b) = (program(&local), program(&leased));
    assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
    drop(leased);
    assert!(node.end(job, Why::Exited).ops >= 7);
}

#[test]
fn uploads_and_reads_larger_than_staging_return_unchanged() {
    let node = Node::start(cpu(), None);
    let (_, dev) = node.tenant();
    let data: Vec<f32> = (0..12_000_000).map(|i| i as f32).collect();
    let x = dev.tensor([12_000_000], &data).unwrap();
    assert!(x.read::<f32>().unwrap().wait(None).unwrap() == data);
}

/// What arrived and is not fetched yet waits in staging; more of it than staging holds makes room.
#[test]
fn reads_that_nobody_fetched_yet_make_room() {
    const LEN: usize = 1_500_000;
    let node = Node::start(cpu(), None);
    let (_, dev) = node.tenant();
    let filled = |value: f32| dev.tensor([LEN], &vec![value; LEN]).unwrap();
    let tensors: Vec<Tensor> = (0..10).map(|i| filled(i as f32)).collect();
    let mut reads: Vec<_> = tensors.iter().map(|x| x.read::<f32>().unwrap()).collect();
    dev.wait(None).unwrap();
    tensors[0].write(&vec![-1f32; LEN]).unwrap();
    drop(reads.remove(3));
    for i in [9, 8, 7, 6, 5, 4, 2, 1, 0] {
        let data = reads.pop().unwrap().wait(None).unwrap();
        assert!(data.len() == LEN && data.iter().all(|v| *v == i as f32), "tensor {i}");
    }
    assert_eq!(tensors[0].read::<f32>().unwrap().wait(None).unwrap()[LEN - 1], -1.0);
}

#[test]
fn ten_thousand_tiny_ops_queue_and_finish() {
    let node = Node::start(cpu(), None);
    let (job, dev) = node.tenant();
    let x = dev.tensor([16], &[1f32; 16]).unwrap();
    for _ in 0..10_000 {
        Map::unary(leasehold::MapFn::Identity, &x).shift(1.0).into(&x).run().unwrap();
    }
    assert_eq!(x.read::<f32>().unwrap().wait(None).unwrap(), [10_001f32; 16]);
    assert_eq!(node.end(job, Why::Exited).ops, 10_000);
}

#[test]
fn errors_come_back_with_kind_rule_and_cause() {
    let node = Node::start(cpu(), None);
    let (_, dev) = node.tenant();
    let table = dev.tensor([3, 2], &[1f32; 6]).unwrap();
    let index = dev.tensor([3], &[0i32, -1, 2]).unwrap();
    let picked = Gather::new(&table, &index).run().unwrap();
    let later = Map::add(&picked, &picked).run().unwrap();
    for tensor in [&picked, &later] {
        let error = tensor.read::<f32>().unwrap().wait(None).unwrap_err();
        assert_eq!(*error.kind(), Kind::Index { value: u32::MAX, bound: 3 });
        assert_eq!(error.op(), Some("gather"));
    }
    assert!(table.read::<f32>().unwrap().wait(None).is_ok(), "everything else lives on");
    let error = dev.empty(DType::F32, &[65 << 20]).unwrap_err();
    assert!(matches!(error.kind(), Kind::OutOfMemory { .. }), "{error}");
    assert!(dev.empty(DType::F32, &[50 << 20]).is_ok(), "refusing leaves the rest usable");
}

#[test]
fn an_op_over_the_leases_time_is_refused_with_both_numbers() {
    let node = Node::start(cpu(), None);
    let job = node.job(Terms { op_cap_ns: 1_000_000, ..terms(5) });
    let dev = node.open(job, 256 * MIB);
    let x = ramp(&dev, &[1024, 1024], 0.1);
    let y = Matmul::new(&x, &x).run().unwrap();
    let error = y.read::<f32>().unwrap().wait(None).unwrap_err();
    let Kind::Time { asked, allowed: 1_000_000 } = *error.kind() else { panic!("{error}") };
    assert!(asked > 1_000_000);
    let job = node.job(Terms { ops: Some(vec!["copy".into()]), ..terms(6) });
    let dev = node.open(job, 256 * MIB);
    let y = Map::unary(leasehold::MapFn::Exp, &ramp(&dev, &[4], 1.0)).run().unwrap();
    let error = y.read::<f32>().unwrap().wait(None).unwrap_err();
    assert!(matches!(error.kind(), Kind::Unsupported { .. }), "{error}");
}

#[test]
fn a_new_lease_reads_zeros_whatever_the_last_one_left() {
    let node = Node::start(Cpu::new().unwrap().with_memory(64 * MIB), None);
    // The budget has room for one such block only, so the next lease gets the very same memory.
    let mut lease = 0;
    let mut block = || {
        lease += 1;
        let job = node.job(Terms { memory: 64 * MIB, ..terms(lease) });
        let dev = node.open(job, 64 * MIB);
        let x = dev.empty(DType::U32, &[12 << 20]).unwrap();
        (job, dev, x)
    };
    // Everything by a copy, and by an op the last words alone: zeroing goes as far as was written.
    let leave: [fn(&Device, &Tensor); 2] = [
        |_, x| x.write(&vec![0x5eu32; 12 << 20]).unwrap(),
        |dev, x| {
            let words = dev.tensor([5], &[0x5eu32; 5]).unwrap();
            let end = x.narrow(0, (12 << 20) - 5, 5).unwrap();
            Copy::new(&words).into(&end).run().unwrap();
        },
    ];
    for leave in leave {
        let (job, dev, x) = block();
        leave(&dev, &x);
        dev.wait(None).unwrap();
        let seen = x.read::<u32>().unwrap().wait(None).unwrap();
        assert_eq!(seen.last(), Some(&0x5e), "it was written");
        drop((x, dev));
        node.end(job, Why::Exited);
        let (job, dev, y) = block();
        let seen = y.read::<u32>().unwrap().wait(None).unwrap();
        assert!(seen.iter().all(|&word| word == 0));
        drop((y, dev));
        node.end(job, Why::Exited);
    }
}

#[test]
fn revoked_and_expired_jobs_say_so_to_the_tenant() {
    let node = Node::start(cpu(), None);
    let (job, dev) = node.tenant();
    let x = ramp(&dev, &[64], 1.0);
    dev.wait(None).unwrap();
    node.end(job, Why::Revoked);
    let error = x.read::<f32>().and_then(|mut read| read.wait(None)).unwrap_err();
    assert_eq!(*error.kind(), Kind::Revoked);
    assert!(error.retryable());
    // The executor enforces the deadline itself. On a busy machine a tenant may come too late for a close one.
    let expired = (0..8).find_map(|power| expired(&node, Duration::from_millis(200 << power)));
    assert_eq!(expired, Some(Kind::Expired));
}

/// What a tenant hears whose job ends after `time`; none if the job was over before the tenant had begun.
fn expired(node: &Node, time: Duration) -> Option<Kind> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    let deadline_ns = now_ns + time.as_nanos() as u64;
    let job = node.job(Terms { deadline_ns, ..terms(77) });
    let dev = node.try_open(job, 256 * MIB)?;
    let x = dev.tensor([64], &[1f32; 64]).ok();
    let began = dev.wait(None).is_ok();
    assert!(matches!(node.hear(), FromExecutor::Settled { job: settled, .. } if settled == job));
    let read = x.filter(|_| began)?.read::<f32>().and_then(|mut read| read.wait(None));
    Some(read.unwrap_err().kind().clone())
}

#[test]
fn a_dead_executor_is_device_lost_and_waits_end() {
    let node = Node::start(cpu(), None);
    let (_, dev) = node.tenant();
    let x = ramp(&dev, &[64], 1.0);
    dev.wait(None).unwrap();
    node.tell(&ToExecutor::Shutdown);
    // It says what its job used, and closes its socket last.
    while receive(&node.executor).unwrap().is_some() {}
    let read =
        || -> Result<Vec<f32>, Error> { x.read::<f32>()?.wait(Some(Duration::from_secs(5))) };
    let error = read().unwrap_err();
    assert!(matches!(error.kind(), Kind::DeviceLost { .. } | Kind::Revoked), "{error}");
}

/// What an executor says to a control that is new to it: its jobs, whether they run, and the highest session.
fn greeting(control: &OwnedFd) -> (Vec<(u64, bool, usize)>, u64) {
    let mut jobs = Vec::new();
    loop {
        let (bytes, fds) = receive(control).unwrap().unwrap();
        match from_bytes(&bytes).unwrap() {
            FromExecutor::Device(_) => assert_eq!(fds.len(), 1, "the pulse"),
            FromExecutor::Kept { job, terms } => jobs.push((job, terms.is_some(), fds.len())),
            FromExecutor::Ready { sessions, .. } => return (jobs, sessions),
            other => panic!("{other:?}"),
        }
    }
}

/// Control comes and goes: jobs stay, and what an ended one used is said until it is written down.
#[test]
fn each_control_hears_what_the_one_before_it_left() {
    let (folder, entrance) = (tempfile::tempdir().unwrap(), socket());
    let address = SocketAddrUnix::new(folder.path().join("entrance")).unwrap();
    rustix::net::bind(&entrance, &address).unwrap();
    rustix::net::listen(&entrance, 8).unwrap();
    let node = Node::start(cpu(), Some(entrance));
    let (ended, goes_on) = (node.job(terms(1)), node.job(terms(2)));
    let (door, _jail) = pair().unwrap();
    let parked = node.next.fetch_add(1, Ordering::Relaxed);
    let message = ToExecutor::Job { job: parked, terms: terms(3) };
    send(&node.executor, &message, &[door.as_fd()]).unwrap();
    let dev = node.open(ended, 256 * MIB);
    let x = ramp(&dev, &[64], 1.0);
    Map::add(&x, &x).into(&x).run().unwrap();
    dev.wait(None).unwrap();
    node.tell(&ToExecutor::End { job: ended, why: Why::Exited });
    let Node { executor: first, .. } = &node;
    // The first control goes without a word about what it heard.
    rustix::net::shutdown(first, rustix::net::Shutdown::Both).unwrap();
    let next = || {
        let control = socket();
        rustix::net::connect(&control, &address).unwrap();
        let (jobs, sessions) = greeting(&control);
        assert!(sessions > parked);
        (control, jobs)
    };
    for _ in 0..2 {
        let (control, mut jobs) = next();
        jobs.sort_unstable();
        assert_eq!(jobs, [(ended, false, 0), (goes_on, true, 0), (parked, true, 1)]);
        let settled = from_bytes(&receive(&control).unwrap().unwrap().0).unwrap();
        let FromExecutor::Settled { job, usage } = settled else { panic!("{settled:?}") };
        assert_eq!((job, usage.ops), (ended, 1));
    }
    let (control, _) = next();
    assert!(receive(&control).unwrap().is_some(), "a third time");
    send(&control, &ToExecutor::Written { job: ended }, &[]).unwrap();
    drop(control);
    let (control, jobs) = next();
    assert_eq!(jobs.len(), 2);
    send(&control, &ToExecutor::Shutdown, &[]).unwrap();
    while receive(&control).unwrap().is_some() {}
}

fn socket() -> OwnedFd {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap()
}

#[test]
fn threads_of_one_tenant_share_a_session() {
    let node = Node::start(cpu(), None);
    let (_, dev) = node.tenant();
    std::thread::scope(|scope| {
        for t in 0..4 {
            let dev = &dev;
            scope.spawn(move || {
                let x = dev.tensor([64], &[t as f32; 64]).unwrap();
                for _ in 0..200 {
                    let y = Map::add(&x, &x).run().unwrap();
                    assert_eq!(y.read::<f32>().unwrap().wait(None).unwrap(), [2.0 * t as f32; 64]);
                }
            });
        }
    });
}

/// The parent's session is not the child's: it may not even look at the ring.
#[test]
fn a_forked_child_gets_an_error() {
    use std::os::unix::process::CommandExt;
    let node = Node::start(cpu(), None);
    let (_, dev) = node.tenant();
    let x = ramp(&dev, &[8], 1.0);
    let reading = std::sync::Mutex::new(x.read::<f32>().unwrap());
    let theirs = x.clone();
    let is_forked = |result: Result<(), Error>| {
        let child = std::process::id();
        result.is_err_and(|error| *error.kind() == Kind::Forked { pid: child })
    };
    let child = move || {
        let dev = theirs.device();
        let all = is_forked(dev.wait(None))
            && is_forked(dev.empty(DType::F32, &[3]).map(drop))
            && is_forked(theirs.write(&[0f32; 8]))
            && is_forked(theirs.read::<f32>().map(drop))
            && is_forked(Map::add(&theirs, &theirs).into(&theirs).run().map(drop))
            && is_forked(reading.lock().unwrap().wait(None).map(drop));
        if all { Ok(()) } else { Err(std::io::Error::other("not Forked")) }
    };
    let mut command = std::process::Command::new("true");
    // SAFETY: runs between fork and exec; it answers without a lock of the parent's, which is what is tested.
    unsafe { command.pre_exec(child) };
    assert!(command.status().unwrap().success());
    let expected: Vec<f32> = ramp(&dev, &[8], 1.0).read().unwrap().wait(None).unwrap();
    assert_eq!(x.read::<f32>().unwrap().wait(None).unwrap(), expected);
}

/// What a cut product hands from slice to slice is its lease's memory, beside its tensors.
#[test]
fn what_slices_hand_on_counts_against_the_leases_memory() {
    let node = Node::start(cpu(), None);
    let local = Device::from_backend(cpu()).unwrap();
    let tensors = |dev: &Device| -> Result<[Tensor; 3], Error> {
        let numbers: Vec<f32> = (0..256 * 8192).map(|i| (i % 101) as f32 / 50.0 - 1.0).collect();
        let a = dev.tensor([256, 8192], &numbers)?;
        let b = dev.tensor([8192, 256], &numbers)?;
        let out = dev.empty(DType::F32, &[256, 256])?;
        dev.wait(None)?;
        Ok([a, b, out])
    };
    let product = |[a, b, out]: &[Tensor; 3]| -> Result<Vec<f32>, Error> {
        Matmul::new(a, b).into(out).run()?.read::<f32>()?.wait(None)
    };
    let expected = product(&tensors(&local).unwrap()).unwrap();
    let mut refused = 0;
    for quota in (1..40).map(|granules| granules * 2 * MIB) {
        let job = node.job(Terms { memory: quota, ..terms(quota) });
        let dev = node.open(job, 256 * MIB);
        if let Ok(tensors) = tensors(&dev) {
            match product(&tensors) {
                Ok(got) => {
                    assert_eq!(got, expected);
                    assert!(refused > 0, "{quota}: the product takes no memory of its own");
                    assert!(node.end(job, Why::Exited).zeroing_ns > 0);
                    return;
                }
                Err(error) => {
                    let kind = error.kind();
                    assert!(
                        matches!(kind, Kind::OutOfMemory { quota: told, .. } if *told == quota),
                        "{error}"
                    );
                    refused += 1;
                }
            }
        }
        drop(dev);
        node.end(job, Why::Exited);
    }
    panic!("no quota is enough");
}
