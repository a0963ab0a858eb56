//! Ten million frames of a hostile tenant against a real executor on the `null` backend: a seeded generator that knows
//! the frames' structure, a model that says of each frame whether it must be accepted, and no panic. Rings that lie
//! about their positions end the session and nothing else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use leasehold::backend::null::Null;
use leasehold::op::{self, Op, Spec, check};
use leasehold::wire::{
    BlockRef, COMPLETE_BYTES, COPY_MAX, Completion, Consumer, Ends, Outcome, PLAN_TEXT_BYTES,
    Producer, Record, STAGING_BYTES, STEPS_BYTES_MAX, SUBMIT_BYTES, Shared, Step, TenantEnd, Wire,
};
use leasehold::{DType, Dims, Kind, Layout, MapFn};
use leasehold_node::executor::Executor;
use leasehold_node::executor::protocol::Terms;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

#[path = "frames/programs.rs"]
mod programs;

const MIB: u64 = 1 << 20;
const QUOTA: u64 = 64 * MIB;
const FRAMES: u64 = 10_000_000;

/// SplitMix64: the seed is the whole story of a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A number as attackers choose them: small, round, or at an edge of its type.
    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(16),
            1 => 1 << self.below(64),
            2 => (1 << self.below(64)) - 1,
            3 => u64::MAX - self.below(4),
            4 => i64::MAX as u64 + self.below(3),
            _ => self.next(),
        }
    }
}

/// The tenant's end, driven by hand.
struct Tenant {
    submit: Shared,
    staging: Shared,
    complete: Shared,
    producer: Producer,
    consumer: Consumer,
    _socket: OwnedFd,
}

fn terms(lease: u64) -> Terms {
    Terms {
        lease,
        weight: 1,
        spare: false,
        latency: None,
        memory: QUOTA,
        op_cap_ns: 1_000_000_000,
        ops: None,
        in_flight: 64,
        sessions: 8,
        deadline_ns: u64::MAX,
    }
}

fn session(executor: &mut Executor<Null>, job: u64, number: u64) -> Tenant {
    let ends = Ends::new().unwrap();
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
    let [_, submit, staging, complete] = ends.tenant.fds();
    let theirs = TenantEnd::received(vec![
        own(ends.socket.as_fd()),
        own(submit),
        own(staging),
        own(complete),
    ]);
    executor.add_session(job, number, theirs.unwrap()).unwrap();
    Tenant {
        submit: ends.tenant.submit.map(true).unwrap(),
        staging: ends.tenant.staging.map(true).unwrap(),
        complete: ends.tenant.complete.map(false).unwrap(),
        producer: Producer::new(SUBMIT_BYTES),
        consumer: Consumer::new(COMPLETE_BYTES),
        _socket: ends.tenant.socket,
    }
}

impl Tenant {
    /// Sends one frame and waits for its answer.
    fn ask(&mut self, executor: &mut Executor<Null>, frame: &[u8], now: &mut u64) -> Completion {
        assert!(self.producer.push(&self.submit, &self.complete, frame).unwrap());
        for _ in 0..10_000 {
            *now += 1000;
            executor.turn(*now).unwrap();
            if let Some(bytes) = self.consumer.pop_fixed(&self.submit, &self.complete).unwrap() {
                return Completion::decode(&bytes).unwrap();
            }
        }
        panic!("a frame without an answer: {:?}", Record::decode(frame));
    }
}

/// A step of a program: the op as it was defined then, its operands, and where they lie.
type Kept = (Op, Vec<Spec>, Vec<BlockRef>);

/// What an executor must know of a session, written again from the specification.
#[derive(Default)]
struct Model {
    blocks: HashMap<(u32, u32), u64>,
    handles: HashMap<u32, (Op, Vec<Spec>)>,
    programs: HashMap<u32, Vec<Kept>>,
}

impl Model {
    fn held(&self) -> u64 {
        self.blocks.values().sum()
    }

    fn range(&self, at: BlockRef, len: u128) -> bool {
        let end = u128::from(at.offset) + len;
        self.blocks.get(&(at.block, at.generation)).is_some_and(|have| end <= u128::from(*have))
    }

    /// The steps that a record names, if each could run now.
    fn steps(&self, staging: &Shared, [at, len]: [u64; 2]) -> Option<Vec<Kept>> {
        if len > STEPS_BYTES_MAX {
            return None;
        }
        let mut bytes = vec![0; len as usize];
        staging.read(at, &mut bytes).then_some(())?;
        let known = |step: Step| {
            let (op, specs) = self.handles.get(&step.handle)?.clone();
            self.runs(&op, &specs, &step.bindings).then_some((op, specs, step.bindings))
        };
        Step::decode(&bytes).ok()?.into_iter().map(known).collect()
    }

    /// Whether the record must be accepted.
    fn accepts(&self, record: &Record, staging: &Shared) -> bool {
        match record {
            Record::Define { op, specs, lens, .. } => {
                let [at, count] = *lens;
                let inside = count <= 1 << 18
                    && u128::from(at) + 4 * u128::from(count) <= u128::from(STAGING_BYTES);
                let list = vec![0; if inside { count as usize } else { 0 }];
                let checked = op.op(list).and_then(|op| check(op, specs));
                // The null device does 100 operations and moves 10 bytes a nanosecond; a lease allows 1 s an op.
                let in_time = |op: &op::CheckedOp| {
                    let ns = (op.cost().flops / 100).max(op.cost().bytes / 10).max(1);
                    let units = ns.div_ceil(250_000);
                    units * ns.div_ceil(units) <= 1_000_000_000
                };
                let binds = specs.iter().all(|s| s.span_bytes() <= 1 << 40);
                inside && binds && checked.is_ok_and(|op| in_time(&op))
            }
            Record::Undefine { handle } => self.handles.contains_key(handle),
            Record::Run { handle, bindings } => {
                let known = self.handles.get(handle);
                known.is_some_and(|(op, specs)| self.runs(op, specs, bindings))
            }
            Record::Record { steps, .. } => self.steps(staging, *steps).is_some(),
            Record::Erase { program } => self.programs.contains_key(program),
            Record::Replay { program } => self.programs.get(program).is_some_and(|steps| {
                steps.iter().all(|(op, specs, bindings)| self.runs(op, specs, bindings))
            }),
            Record::Plan { handle, staging } => {
                let end = u128::from(*staging) + u128::from(PLAN_TEXT_BYTES);
                self.handles.contains_key(handle) && end <= u128::from(STAGING_BYTES)
            }
            Record::Reserve { bytes } => {
                let len = (*bytes).max(1).div_ceil(2 * MIB).saturating_mul(2 * MIB);
                len <= QUOTA - self.held()
            }
            Record::Release { at } => self.blocks.contains_key(&(at.block, at.generation)),
            Record::Write { at, staging, len } | Record::Read { at, staging, len } => {
                *len <= COPY_MAX
                    && u128::from(*staging) + u128::from(*len) <= u128::from(STAGING_BYTES)
                    && self.range(*at, u128::from(*len))
            }
        }
    }

    /// Whether a defined op runs on these bindings.
    fn runs(&self, op: &Op, specs: &[Spec], bindings: &[BlockRef]) -> bool {
        let last = specs.len() - 1;
        // One output, the last operand: apart from every input, or a map's very own input.
        let good = specs.len() == bindings.len()
            && specs.iter().zip(bindings).all(|(s, at)| {
                self.range(*at, s.span_bytes())
                    && at.offset % 256 == u64::from(s.offset_class)
                    && at.offset.is_multiple_of(s.dtype.size())
            });
        let apart = |i: usize| {
            let (a, b) = (&bindings[i], &bindings[bindings.len() - 1]);
            let end = |i: usize| u128::from(bindings[i].offset) + specs[i].span_bytes();
            let same_view =
                matches!(op, Op::Map(_)) && a.offset == b.offset && specs[i] == specs[last];
            same_view
                || a.block != b.block
                || end(i) <= b.offset.into()
                || end(bindings.len() - 1) <= a.offset.into()
                || specs[i].span_bytes() == 0
                || specs[last].span_bytes() == 0
        };
        good && (0..bindings.len() - 1).all(apart)
    }

    fn accepted(&mut self, record: Record, values: [u64; 3], staging: &Shared) {
        match record {
            Record::Record { program, steps } => {
                let steps = self.steps(staging, steps).unwrap();
                self.programs.insert(program, steps);
            }
            Record::Erase { program } => drop(self.programs.remove(&program)),
            Record::Define { handle, op, specs, .. } => {
                let op = op.op(Vec::new()).unwrap();
                self.handles.insert(handle, (op, specs));
            }
            Record::Undefine { handle } => drop(self.handles.remove(&handle)),
            Record::Reserve { bytes } => {
                assert!(values[2] >= bytes);
                let key = (values[0] as u32, values[1] as u32);
                assert!(self.blocks.insert(key, values[2]).is_none(), "a live block given twice");
            }
            Record::Release { at } => drop(self.blocks.remove(&(at.block, at.generation))),
            _ => {}
        }
    }

    fn some_block(&self, random: &mut Random) -> BlockRef {
        let known = self.blocks.iter().nth(random.below(self.blocks.len() as u64) as usize);
        let ((block, generation), len) = known.map_or(((0, 0), 0), |(k, len)| (*k, *len));
        let offset = match random.below(4) {
            0 => 0,
            1 => random.number(),
            _ => random.below(len.max(1)) / 256 * 256,
        };
        let lie = random.one_in(8);
        let (block, generation) = if lie {
            (random.number() as u32, random.number() as u32)
        } else {
            (block, generation)
        };
        BlockRef { block, generation, offset }
    }
}

fn some_spec(random: &mut Random) -> Spec {
    let rank = random.below(4) as usize;
    let dims: Vec<u64> = (0..rank)
        .map(|_| if random.one_in(12) { random.number() } else { random.below(40) })
        .collect();
    let layout = Layout::contiguous(Dims::new(&dims).unwrap());
    let strides =
        Dims::from_fn(
            rank,
            |i| {
                if random.one_in(12) { random.number() } else { layout.strides()[i] }
            },
        );
    let layout = Layout::new(*layout.shape(), strides).unwrap();
    let dtype = DType::ALL[if random.one_in(6) { random.below(8) } else { 0 } as usize];
    let class = if random.one_in(8) { random.next() as u8 } else { 0 };
    Spec { dtype, layout, offset_class: class }
}

/// Where the tenant puts its steps.
const STEPS_AT: u64 = STAGING_BYTES - STEPS_BYTES_MAX;

/// Writes a few steps, some of them wrong, into staging; their bytes.
fn some_steps(random: &mut Random, model: &Model, staging: &Shared) -> u64 {
    let steps: Vec<Step> = (0..random.below(4)).map(|_| some_step(random, model)).collect();
    let bytes = Step::encode(&steps);
    assert!(staging.write(STEPS_AT, &bytes));
    bytes.len() as u64
}

fn some_step(random: &mut Random, model: &Model) -> Step {
    let known = model.handles.iter().nth(random.below(model.handles.len() as u64) as usize);
    let unknown = (random.below(32) as u32, 2);
    let (handle, n) = known.map_or(unknown, |(h, (_, specs))| (*h, specs.len()));
    let n = if random.one_in(10) { random.below(12) as usize } else { n };
    Step { handle, bindings: (0..n).map(|_| model.some_block(random)).collect() }
}

fn some_record(random: &mut Random, model: &Model, staging: &Shared) -> Record {
    let handle = random.below(32) as u32;
    match random.below(17) {
        0..3 => {
            let spec = some_spec(random);
            let (op, n): (Op, usize) = match random.below(4) {
                0 => (op::Copy.into(), 2),
                1 => (op::Map { function: MapFn::Add, scale: 1.0, shift: 0.0 }.into(), 3),
                2 => (op::Matmul::default().into(), 3),
                _ => (op::Map { function: MapFn::Exp, scale: 2.0, shift: 0.5 }.into(), 2),
            };
            let mut specs = vec![spec; n];
            if random.one_in(4) {
                specs[0] = some_spec(random);
            }
            let lens = if random.one_in(8) { [random.number(), random.number()] } else { [0, 0] };
            Record::Define { handle, op: Wire::of(&op), specs, lens }
        }
        3 => Record::Undefine { handle },
        4..9 => {
            let Step { handle, bindings } = some_step(random, model);
            Record::Run { handle, bindings }
        }
        9 => match random.below(4) {
            0 => Record::Erase { program: handle },
            1 => {
                let (mut at, len) =
                    (random.below(STAGING_BYTES), some_steps(random, model, staging));
                if random.one_in(8) {
                    at = random.number();
                }
                let lie = random.one_in(8);
                let steps = if lie { [at, random.number()] } else { [STEPS_AT, len] };
                Record::Record { program: handle, steps }
            }
            _ => Record::Replay { program: handle },
        },
        10..12 => {
            let bytes = if random.one_in(4) { random.number() } else { random.below(4 * MIB) };
            Record::Reserve { bytes }
        }
        12 => Record::Release { at: model.some_block(random) },
        13 | 14 => {
            let at = model.some_block(random);
            let big = random.one_in(6);
            let staging = if big { random.number() } else { random.below(STAGING_BYTES) };
            let len = if big { random.number() } else { random.below(4096) };
            if random.one_in(2) {
                Record::Write { at, staging, len }
            } else {
                Record::Read { at, staging, len }
            }
        }
        15 => Record::Plan {
            handle,
            staging: if random.one_in(4) { random.number() } else { random.below(STAGING_BYTES) },
        },
        _ => Record::Release {
            at: BlockRef { block: random.number() as u32, generation: 1, offset: 0 },
        },
    }
}

#[test]
fn ten_million_hostile_frames_are_judged_as_the_model_judges() {
    let (null, _log) = Null::new(1 << 40);
    let mut executor = Executor::new(null, Box::new(|_| {}));
    executor.add_job(1, terms(1), 0);
    let mut tenant = session(&mut executor, 1, 1);
    let (mut model, mut random) = (Model::default(), Random(0x1ea5_e401));
    let (mut now, mut accepted, mut garbled) = (0, 0u64, 0u64);
    for ticket in 1..=FRAMES {
        let record = some_record(&mut random, &model, &tenant.staging);
        let mut frame = record.encode(ticket, 0).unwrap();
        if random.one_in(10) {
            // Any bytes behind the length: a length that lies is the ring's business, tested below.
            let i = 4 + random.below(frame.len() as u64 - 4) as usize;
            frame[i] ^= 1 << random.below(8);
        }
        let completion = tenant.ask(&mut executor, &frame, &mut now);
        let (sent_ticket, _, decoded) = Record::decode(&frame);
        assert_eq!(completion.ticket, sent_ticket);
        match (decoded, completion.outcome) {
            (Err(_), Outcome::Failed(_)) => garbled += 1,
            (Ok(record), Outcome::Done(values)) => {
                assert!(
                    model.accepts(&record, &tenant.staging),
                    "frame {ticket} was accepted: {record:?}"
                );
                accepted += 1;
                model.accepted(record, values, &tenant.staging);
            }
            (Ok(record), Outcome::Failed(error)) => {
                assert!(
                    !model.accepts(&record, &tenant.staging),
                    "frame {ticket}: {error}: {record:?}"
                );
            }
            (Err(error), Outcome::Done(_)) => panic!("frame {ticket} was accepted: {error}"),
        }
    }
    println!("{accepted} of {FRAMES} accepted, {garbled} garbled");
    assert!(accepted * 10 >= FRAMES * 3, "{accepted} accepted");
    assert!(garbled > FRAMES / 100);
}

#[test]
fn a_ring_that_lies_ends_its_session_and_no_other() {
    let (null, _log) = Null::new(1 << 40);
    let mut executor = Executor::new(null, Box::new(|_| {}));
    executor.add_job(1, terms(1), 0);
    executor.add_job(2, terms(2), 0);
    let mut honest = session(&mut executor, 2, 100);
    let reserve = Record::Reserve { bytes: 1 };
    let mut now = 0;
    for (i, lie) in [64 * 3, SUBMIT_BYTES + 64, 1, u64::MAX, u64::MAX - 63].into_iter().enumerate()
    {
        let liar = session(&mut executor, 1, i as u64 + 1);
        // A zero length, then a tail that promises bytes that were never written.
        liar.submit.set_position(0, lie);
        for _ in 0..3 {
            executor.turn(now).unwrap();
        }
        let done = honest.ask(&mut executor, &reserve.encode(i as u64 + 1, 0).unwrap(), &mut now);
        assert!(matches!(done.outcome, Outcome::Done(_)));
        // The liar's session is gone: nothing it sends is answered any more.
        liar.submit.set_position(0, 64);
        executor.turn(now).unwrap();
        assert_eq!(liar.complete.position(0), 0);
    }
}

#[test]
fn a_tenant_that_stops_reading_replies_stalls_only_itself() {
    let (null, _log) = Null::new(1 << 40);
    let mut executor = Executor::new(null, Box::new(|_| {}));
    executor.add_job(1, terms(1), 0);
    executor.add_job(2, terms(2), 0);
    let mut deaf = session(&mut executor, 1, 1);
    let mut other = session(&mut executor, 2, 2);
    let undefine = |ticket| Record::Undefine { handle: 1 }.encode(ticket, 0).unwrap();
    let (mut sent, mut now) = (0, 0);
    for _ in 0..200 {
        while deaf.producer.push(&deaf.submit, &deaf.complete, &undefine(sent + 1)).unwrap() {
            sent += 1;
        }
        executor.turn(now).unwrap();
    }
    let capacity = (COMPLETE_BYTES + SUBMIT_BYTES) / 64 + 64;
    assert!(sent <= capacity, "{sent} records were taken without a reply being read");
    for ticket in 1..100 {
        let done = other.ask(&mut executor, &undefine(ticket), &mut now);
        assert!(matches!(done.outcome, Outcome::Failed(_)));
    }
    // Once it reads again, every record is answered, in order.
    for ticket in 1..=sent {
        let answer = loop {
            match deaf.consumer.pop_fixed(&deaf.submit, &deaf.complete).unwrap() {
                Some(bytes) => break Completion::decode(&bytes).unwrap(),
                None => drop(executor.turn(now).unwrap()),
            }
        };
        assert_eq!(answer.ticket, ticket);
    }
}

#[test]
fn what_is_checked_is_what_was_copied() {
    // The frame changes in the ring while the executor looks at it: each answer fits one of the two versions.
    let (null, _log) = Null::new(1 << 40);
    let mut executor = Executor::new(null, Box::new(|_| {}));
    executor.add_job(1, terms(1), 0);
    let mut tenant = session(&mut executor, 1, 1);
    let ends = std::sync::atomic::AtomicBool::new(false);
    let (a, b) = (Record::Reserve { bytes: 1 }, Record::Reserve { bytes: u64::MAX });
    let (a, b) = (a.encode(1, 0).unwrap(), b.encode(1, 0).unwrap());
    let submit = &tenant.submit;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(std::sync::atomic::Ordering::Relaxed) {
                for i in 0..64 {
                    submit.write(leasehold::wire::PAGE + i * 64, &b);
                    submit.write(leasehold::wire::PAGE + i * 64, &a);
                }
            }
        });
        let mut seen = [0u64; 2];
        for _ in 0..64 {
            let pushed = tenant.producer.push(&tenant.submit, &tenant.complete, &a).unwrap();
            assert!(pushed);
            executor.turn(0).unwrap();
            let bytes =
                tenant.consumer.pop_fixed(&tenant.submit, &tenant.complete).unwrap().unwrap();
            match Completion::decode(&bytes).unwrap().outcome {
                Outcome::Done(values) => {
                    assert_eq!(values[2], 2 * MIB);
                    seen[0] += 1;
                }
                Outcome::Failed(error) => {
                    assert!(matches!(
                        error.kind(),
                        Kind::OutOfMemory { .. } | Kind::Protocol { .. }
                    ));
                    seen[1] += 1;
                }
            }
        }
        ends.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(seen[0] + seen[1], 64);
    });
}

/// A program is launched as one while it has the blocks that it was recorded with, and never with those of somebody else.
#[test]
fn a_segment_is_not_used_once_a_block_of_it_was_given_back() {
    let (null, log) = Null::new(1 << 40);
    let mut executor = Executor::new(null, Box::new(|_| {}));
    executor.add_job(1, terms(1), 0);
    let (mut tenant, mut now) = (session(&mut executor, 1, 1), 0);
    let mut ask = |tenant: &mut Tenant, record: Record| {
        let frame = record.encode(1, 0).unwrap();
        tenant.ask(&mut executor, &frame, &mut now).outcome
    };
    let reserve = |tenant: &mut Tenant, ask: &mut dyn FnMut(&mut Tenant, Record) -> Outcome| {
        let Outcome::Done(at) = ask(tenant, Record::Reserve { bytes: 256 }) else { panic!() };
        BlockRef { block: at[0] as u32, generation: at[1] as u32, offset: 0 }
    };
    let spec = Spec::new(DType::F32, Layout::contiguous(Dims::new(&[64]).unwrap()), 0);
    let map: Op = op::Map { function: MapFn::Exp, scale: 1.0, shift: 0.0 }.into();
    let define =
        Record::Define { handle: 1, op: Wire::of(&map), specs: vec![spec; 2], lens: [0; 2] };
    assert!(matches!(ask(&mut tenant, define), Outcome::Done(_)));
    let [a, b, c] = [0; 3].map(|_| reserve(&mut tenant, &mut ask));
    let record = |tenant: &mut Tenant, c| {
        let steps = [vec![a, b], vec![b, c]];
        let steps = Step::encode(&steps.map(|bindings| Step { handle: 1, bindings }));
        tenant.staging.write(0, &steps);
        Record::Record { program: 7, steps: [0, steps.len() as u64] }
    };
    let recorded = record(&mut tenant, c);
    assert!(matches!(ask(&mut tenant, recorded), Outcome::Done(_)));
    let replay = |tenant: &mut Tenant, ask: &mut dyn FnMut(&mut Tenant, Record) -> Outcome| {
        let before = log.launches().len();
        let outcome = ask(tenant, Record::Replay { program: 7 });
        let names = log.launches()[before..].iter().map(|launch| launch.op).collect::<Vec<_>>();
        (matches!(outcome, Outcome::Done(_)), names)
    };
    assert_eq!(replay(&mut tenant, &mut ask), (true, vec!["map"; 2]));
    for _ in 0..2 {
        assert_eq!(replay(&mut tenant, &mut ask), (true, vec!["segment"]));
    }
    // An op of its own is no step, whatever its number.
    let run = Record::Run { handle: 1, bindings: vec![a, b] };
    assert!(matches!(ask(&mut tenant, run), Outcome::Done(_)));
    assert_eq!(replay(&mut tenant, &mut ask), (true, vec!["segment"]));
    // Without the block the second step fails, with its memory under another name too.
    assert!(matches!(ask(&mut tenant, Record::Release { at: c }), Outcome::Done(_)));
    assert_eq!(replay(&mut tenant, &mut ask), (false, vec!["map"]));
    let again = reserve(&mut tenant, &mut ask);
    assert!(again.block == c.block && again.generation != c.generation);
    assert_eq!(replay(&mut tenant, &mut ask), (false, vec!["map"]));
    let recorded = record(&mut tenant, again);
    assert!(matches!(ask(&mut tenant, recorded), Outcome::Done(_)));
    assert_eq!(replay(&mut tenant, &mut ask), (true, vec!["map"; 2]));
    assert_eq!(replay(&mut tenant, &mut ask), (true, vec!["segment"]));
    assert!(matches!(ask(&mut tenant, Record::Erase { program: 7 }), Outcome::Done(_)));
    assert_eq!(replay(&mut tenant, &mut ask), (false, vec![]));
}

/// Two tenants that always have work, on a device whose clock is virtual: weights 1:2:4 are kept exactly.
#[test]
fn weights_are_kept_exactly_on_the_virtual_clock() {
    let (null, log) = Null::new(1 << 40);
    let mut executor = Executor::new(null, Box::new(|_| {}));
    let weights = [100, 200, 400];
    let mut tenants = Vec::new();
    let mut now = 0;
    for (i, weight) in weights.into_iter().enumerate() {
        let job = i as u64 + 1;
        executor.add_job(job, Terms { weight, ..terms(job) }, 0);
        let mut tenant = session(&mut executor, job, job);
        let values = match tenant
            .ask(&mut executor, &Record::Reserve { bytes: 8 * MIB }.encode(1, 0).unwrap(), &mut now)
            .outcome
        {
            Outcome::Done(values) => values,
            other => panic!("{other:?}"),
        };
        // Each tenant has an op of its own name, so that the log tells whose launch it was.
        let spec = Spec::new(DType::F32, Layout::contiguous(Dims::new(&[1 << 20]).unwrap()), 0);
        let op: Op = match i {
            0 => op::Copy.into(),
            1 => op::Map { function: MapFn::Exp, scale: 1.0, shift: 0.0 }.into(),
            _ => op::Softmax { scale: 1.0, axis: 0 }.into(),
        };
        let define =
            Record::Define { handle: 1, op: Wire::of(&op), specs: vec![spec; 2], lens: [0, 0] };
        let done = tenant.ask(&mut executor, &define.encode(2, 0).unwrap(), &mut now);
        assert!(matches!(done.outcome, Outcome::Done(_)), "{done:?}");
        let at =
            |offset| BlockRef { block: values[0] as u32, generation: values[1] as u32, offset };
        let run = Record::Run { handle: 1, bindings: vec![at(0), at(4 * MIB)] };
        tenants.push((tenant, run, 2u64));
    }
    let names = ["copy", "map", "softmax"];
    let busy = || {
        let mut sums = [0u64; 3];
        let launches = log.launches();
        for pair in launches.windows(2) {
            let i = names.iter().position(|n| *n == pair[0].op).unwrap();
            sums[i] += pair[1].at_ns - pair[0].at_ns;
        }
        sums
    };
    while log.now_ns() < 2_000_000_000 {
        for (tenant, run, ticket) in &mut tenants {
            // Queues are kept full.
            for _ in 0..4 {
                *ticket += 1;
                let frame = run.encode(*ticket, 0).unwrap();
                if !tenant.producer.push(&tenant.submit, &tenant.complete, &frame).unwrap() {
                    *ticket -= 1;
                }
            }
            while tenant
                .consumer
                .pop_fixed::<64>(&tenant.submit, &tenant.complete)
                .unwrap()
                .is_some()
            {}
        }
        executor.turn(log.now_ns()).unwrap();
    }
    let sums = busy();
    let total: u64 = sums.iter().sum();
    for (sum, weight) in sums.iter().zip(weights) {
        let share = *sum as f64 / total as f64;
        let fair = f64::from(weight) / 700.0;
        assert!((share / fair - 1.0).abs() < 0.02, "{share} of {fair}: {sums:?}");
    }
}
