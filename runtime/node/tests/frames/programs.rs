//! Programs of tenants, frame by frame on a clock of the test's: when their steps go as one, who pays for that and who does
//! not wait for it, and what a bill says of waiting.

use super::*;
use leasehold::backend::null::Log;
use leasehold_node::executor::protocol::Why;
use std::sync::{Arc, Mutex};

/// A tenant with maps from a block to itself.
struct Mapper {
    tenant: Tenant,
    at: BlockRef,
}

impl Mapper {
    /// Job and session have one number.
    fn new(executor: &mut Executor<Null>, number: u64, now: &mut u64) -> Self {
        executor.add_job(number, terms(number), *now);
        let tenant = session(executor, number, number);
        let mut mapper = Self { tenant, at: BlockRef { block: 0, generation: 0, offset: 0 } };
        let [block, generation, _] = mapper.does(executor, &Record::Reserve { bytes: 256 }, now);
        mapper.at = BlockRef { block: block as u32, generation: generation as u32, offset: 0 };
        mapper.does(executor, &map(1.0), now);
        mapper
    }

    fn does(&mut self, executor: &mut Executor<Null>, record: &Record, now: &mut u64) -> [u64; 3] {
        match self.tenant.ask(executor, &record.encode(1, 0).unwrap(), now).outcome {
            Outcome::Done(values) => values,
            other => panic!("{record:?}: {other:?}"),
        }
    }

    /// Puts so many maps into staging; the record that keeps them.
    fn program(&self, program: u32, steps: usize) -> Record {
        self.steps(program, vec![1; steps])
    }

    /// The same of ops from the block to itself.
    fn steps(&self, program: u32, handles: impl IntoIterator<Item = u32>) -> Record {
        let step = |handle| Step { handle, bindings: vec![self.at; 2] };
        let steps = Step::encode(&handles.into_iter().map(step).collect::<Vec<_>>());
        assert!(self.tenant.staging.write(0, &steps));
        Record::Record { program, steps: [0, steps.len() as u64] }
    }

    /// Sends a record that the next turn will take.
    fn sends(&mut self, record: &Record) {
        let frame = record.encode(1, 0).unwrap();
        assert!(
            self.tenant.producer.push(&self.tenant.submit, &self.tenant.complete, &frame).unwrap()
        );
    }

    fn has_answer(&mut self) -> bool {
        let Tenant { submit, complete, consumer, .. } = &mut self.tenant;
        consumer.pop_fixed::<64>(submit, complete).unwrap().is_some()
    }
}

fn map(scale: f32) -> Record {
    let spec = Spec::new(DType::F32, Layout::contiguous(Dims::new(&[64]).unwrap()), 0);
    let map: Op = op::Map { function: MapFn::Exp, scale, shift: 0.0 }.into();
    Record::Define { handle: 1, op: Wire::of(&map), specs: vec![spec; 2], lens: [0; 2] }
}

/// An op that launches nothing.
fn nothing() -> Record {
    let spec = Spec::new(DType::F32, Layout::contiguous(Dims::new(&[0]).unwrap()), 0);
    let op = Wire::of(&op::Copy.into());
    Record::Define { handle: 2, op, specs: vec![spec; 2], lens: [0; 2] }
}

const REPLAY: Record = Record::Replay { program: 7 };

/// What one replay of a tenant's was launched in.
fn replayed(
    mapper: &mut Mapper,
    executor: &mut Executor<Null>,
    log: &Log,
    now: &mut u64,
) -> Vec<&'static str> {
    let before = log.launches().len();
    mapper.does(executor, &REPLAY, now);
    log.launches()[before..].iter().map(|launch| launch.op).collect()
}

#[test]
fn a_bill_counts_each_wait_of_a_programs_steps_once() {
    let (mut executor, mut now) = (Executor::new(Null::new(1 << 40).0, Box::new(|_| {})), 0);
    let mut mapper = Mapper::new(&mut executor, 1, &mut now);
    let program = mapper.program(7, 5);
    mapper.does(&mut executor, &program, &mut now);
    let began = now;
    mapper.does(&mut executor, &REPLAY, &mut now);
    // A step a turn: the first in the turn that took the record.
    assert_eq!(now - began, 5 * 1000);
    let usage = executor.end_job(1, Why::Exited, now).unwrap().unwrap();
    assert_eq!((usage.ops, usage.queue_wait_ns), (5, 4 * 1000));
}

/// Steps that launch nothing are host work, and take turns too.
#[test]
fn nobody_waits_for_all_of_anothers_steps_that_launch_nothing() {
    let (null, log) = Null::new(1 << 40);
    let (mut executor, mut now) = (Executor::new(null, Box::new(|_| {})), 0);
    let [mut first, mut second] = [1, 2].map(|number| Mapper::new(&mut executor, number, &mut now));
    first.does(&mut executor, &nothing(), &mut now);
    let program = first.steps(7, (0..10_000).map(|i| if i < 9_999 { 2 } else { 1 }));
    first.does(&mut executor, &program, &mut now);
    for replays in 1..4 {
        first.sends(&REPLAY);
        second.sends(&Record::Run { handle: 1, bindings: vec![second.at; 2] });
        let (mut turns, mut own) = (0, 0);
        while !first.has_answer() {
            (turns, now) = (turns + 1, now + 1000);
            executor.turn(now).unwrap();
            own = if second.has_answer() { turns } else { own };
        }
        assert!((1..8).contains(&own) && turns > 100, "after {own} of {turns} turns");
        assert_eq!(log.launches().len(), 2 * replays);
    }
    let usage = executor.end_job(1, Why::Exited, now).unwrap().unwrap();
    assert_eq!((usage.ops, usage.units), (3 * 10_000, 3));
}

/// A replay takes a turn for those, and pays then: records that wait are not all done in one go.
#[test]
fn a_replay_that_launches_nothing_takes_a_turn() {
    let (mut executor, mut now) = (Executor::new(Null::new(1 << 40).0, Box::new(|_| {})), 0);
    let mut mapper = Mapper::new(&mut executor, 1, &mut now);
    mapper.does(&mut executor, &nothing(), &mut now);
    let program = mapper.steps(7, [2; 63]);
    mapper.does(&mut executor, &program, &mut now);
    (0..60).for_each(|_| mapper.sends(&REPLAY));
    for turns in 1..=60 {
        now += 1000;
        executor.turn(now).unwrap();
        assert_eq!([(); 2].map(|()| mapper.has_answer()), [true, false], "{turns}");
    }
    let usage = executor.end_job(1, Why::Exited, now).unwrap().unwrap();
    assert_eq!((usage.ops, usage.units), (60 * 63, 0));
}

/// If the executor dies, it is whoever's work made it call the backend last: at planning and capturing too.
#[test]
fn the_pulse_names_whoever_plans_captures_and_launches() {
    let (null, log) = Null::new(1 << 40);
    let seen = Arc::new(Mutex::new(HashMap::<u64, [u64; 3]>::new()));
    let (mut owner, mut before, sums) = (0, [0; 3], Arc::clone(&seen));
    let counts = move |log: &Log| [log.prepared(), log.segments(), log.launches().len() as u64];
    let pulse = {
        let log = log.clone();
        move |job| {
            let (now, mut sums) = (counts(&log), sums.lock().unwrap());
            let of = sums.entry(owner).or_default();
            (0..3).for_each(|i| of[i] += now[i] - before[i]);
            (owner, before) = (job, now);
        }
    };
    let (mut executor, mut now) = (Executor::new(null, Box::new(pulse)), 0);
    let mut mappers = [4, 9].map(|number| Mapper::new(&mut executor, number, &mut now));
    for (mapper, steps) in mappers.iter_mut().zip([2, 3]) {
        let program = mapper.program(7, steps);
        mapper.does(&mut executor, &program, &mut now);
        for _ in 0..2 {
            mapper.does(&mut executor, &REPLAY, &mut now);
        }
    }
    executor.turn(now).unwrap();
    let seen = seen.lock().unwrap();
    // The second finds the plan of the first.
    assert_eq!([seen[&0], seen[&4], seen[&9]], [[0; 3], [1, 1, 2 + 1], [0, 1, 3 + 1]]);
    assert_eq!(counts(&log), [1, 2, 7]);
}

#[test]
fn a_turn_makes_one_segment_and_a_program_that_runs_once_none() {
    let (null, log) = Null::new(1 << 40);
    let (mut executor, mut now) = (Executor::new(null, Box::new(|_| {})), 0);
    let mut mappers = [1, 2, 3].map(|number| Mapper::new(&mut executor, number, &mut now));
    for mapper in &mut mappers {
        let program = mapper.program(7, 2);
        mapper.does(&mut executor, &program, &mut now);
        assert_eq!(replayed(mapper, &mut executor, &log, &mut now), ["map"; 2]);
    }
    assert_eq!(log.segments(), 0);
    // All are replayed again in one turn. Nobody waits for another's segment: what has none goes op by op, and has one at a
    // later replay.
    for made in 1..=3 {
        mappers.iter_mut().for_each(|mapper| mapper.sends(&REPLAY));
        executor.turn(now).unwrap();
        assert_eq!(log.segments(), made);
        for mapper in &mut mappers {
            while !mapper.has_answer() {
                now += 1000;
                executor.turn(now).unwrap();
            }
        }
        assert_eq!(log.segments(), made);
    }
    for mapper in &mut mappers {
        assert_eq!(replayed(mapper, &mut executor, &log, &mut now), ["segment"]);
    }
    assert_eq!(log.segments(), 3);
}

/// A program that goes, or is not there, takes no segment of another of its session.
#[test]
fn a_program_takes_its_own_segments_with_it() {
    let (null, log) = Null::new(1 << 40);
    let (mut executor, mut now) = (Executor::new(null, Box::new(|_| {})), 0);
    let mut mapper = Mapper::new(&mut executor, 1, &mut now);
    let names = |mapper: &mut Mapper, executor: &mut Executor<Null>, program, now: &mut u64| {
        let before = log.launches().len();
        mapper.does(executor, &Record::Replay { program }, now);
        log.launches()[before..].iter().map(|launch| launch.op).collect::<Vec<_>>()
    };
    for program in [0, 7, 8, u32::MAX] {
        let record = mapper.program(program, 3);
        mapper.does(&mut executor, &record, &mut now);
        assert_eq!(names(&mut mapper, &mut executor, program, &mut now), ["map"; 3]);
        assert_eq!(names(&mut mapper, &mut executor, program, &mut now), ["segment"]);
    }
    let frame = Record::Erase { program: 6 }.encode(1, 0).unwrap();
    let unknown = mapper.tenant.ask(&mut executor, &frame, &mut now).outcome;
    assert!(matches!(unknown, Outcome::Failed(_)), "{unknown:?}");
    let record = mapper.program(7, 3);
    for changed in [&record, &Record::Erase { program: 7 }, &record] {
        mapper.does(&mut executor, changed, &mut now);
        for program in [0, 8, u32::MAX] {
            assert_eq!(names(&mut mapper, &mut executor, program, &mut now), ["segment"]);
        }
    }
    assert_eq!(log.segments(), 4);
    assert_eq!(names(&mut mapper, &mut executor, 7, &mut now), ["map"; 3]);
    assert_eq!(names(&mut mapper, &mut executor, 7, &mut now), ["segment"]);
    assert_eq!(log.segments(), 5);
}

/// Whoever has the turn may have a segment made, whatever the others' records have tried in it.
#[test]
fn records_of_others_cost_nobody_the_segment_of_its_turn() {
    let (null, log) = Null::new(1 << 40);
    let (mut executor, mut now) = (Executor::new(null, Box::new(|_| {})), 0);
    let mut mappers = [1, 2].map(|number| Mapper::new(&mut executor, number, &mut now));
    for (mapper, steps) in mappers.iter_mut().zip([2, 4]) {
        let program = mapper.program(7, steps);
        mapper.does(&mut executor, &program, &mut now);
        mapper.does(&mut executor, &REPLAY, &mut now);
    }
    let before = log.launches().len();
    mappers.iter_mut().for_each(|mapper| mapper.sends(&REPLAY));
    // The first owes for its segment, so it is the second's turn: its first step, and what comes then is one.
    executor.turn(now).unwrap();
    assert_eq!(log.segments(), 2);
    for mapper in &mut mappers {
        while !mapper.has_answer() {
            now += 1000;
            executor.turn(now).unwrap();
        }
    }
    let names = log.launches()[before..].iter().map(|launch| launch.op).collect::<Vec<_>>();
    assert_eq!((names[0], names.len(), log.segments()), ("map", 3, 2));
}

/// Two tenants of one weight, both ready in one turn: it is the first one's turn, unless it owes for its segment.
#[test]
fn who_makes_a_segment_owes_for_it() {
    let (null, log) = Null::new(1 << 40);
    let (mut executor, mut now) = (Executor::new(null, Box::new(|_| {})), 0);
    let [mut first, mut second] = [1, 2].map(|number| Mapper::new(&mut executor, number, &mut now));
    for program in [first.program(7, 2), first.program(8, 2)] {
        first.does(&mut executor, &program, &mut now);
    }
    let mut launched = |first: &mut Mapper, program: u32| {
        let before = log.launches().len();
        first.sends(&Record::Replay { program });
        second.sends(&Record::Run { handle: 1, bindings: vec![second.at; 2] });
        executor.turn(now).unwrap();
        let first_op = log.launches()[before].op;
        for mapper in [first, &mut second] {
            while !mapper.has_answer() {
                now += 1000;
                executor.turn(now).unwrap();
            }
        }
        (first_op, log.segments())
    };
    assert_eq!(launched(&mut first, 7), ("map", 0));
    assert_eq!(launched(&mut first, 7), ("map", 1));
    assert_eq!(launched(&mut first, 7), ("segment", 1));
}

/// As many leases as there are, so large a part of what a device keeps of segments has each: who came first gives back.
#[test]
fn each_lease_has_its_part_of_what_a_device_keeps() {
    let (null, log) = Null::new(1 << 40);
    let (mut executor, mut now) = (Executor::new(null, Box::new(|_| {})), 0);
    // Programs of a segment each; how many of them are replayed as one.
    let record = |mapper: &mut Mapper, executor: &mut Executor<Null>, now: &mut u64| {
        for number in 0..65 {
            let record = mapper.program(number, 256);
            mapper.does(executor, &record, now);
            mapper.does(executor, &Record::Replay { program: number }, now);
        }
    };
    let segments = |mapper: &mut Mapper, executor: &mut Executor<Null>, now: &mut u64| {
        let before = log.launches().len();
        for program in 0..65 {
            mapper.does(executor, &Record::Replay { program }, now);
        }
        let launches = log.launches();
        let (one, all) = launches[before..].iter().partition::<Vec<_>, _>(|it| it.op == "segment");
        assert_eq!(one.len() * 256 + all.len(), 65 * 256);
        one.len()
    };
    let mut first = Mapper::new(&mut executor, 1, &mut now);
    record(&mut first, &mut executor, &mut now);
    assert_eq!(segments(&mut first, &mut executor, &mut now), 64);
    let mut second = Mapper::new(&mut executor, 2, &mut now);
    record(&mut second, &mut executor, &mut now);
    for _ in 0..2 {
        assert_eq!(segments(&mut second, &mut executor, &mut now), 32);
        assert_eq!(segments(&mut first, &mut executor, &mut now), 32);
    }
    assert_eq!(log.segments(), 64 + 32);
    // Another job of a lease, and its sessions, have the same part with it.
    executor.add_job(3, terms(2), now);
    assert_eq!(segments(&mut first, &mut executor, &mut now), 32);
    // Two parts of three are not taken by whoever asks first.
    executor.add_job(4, terms(4), now);
    assert_eq!(segments(&mut first, &mut executor, &mut now), 21);
    assert_eq!(segments(&mut second, &mut executor, &mut now), 21);
    for job in [2, 3, 4] {
        executor.end_job(job, Why::Exited, now).unwrap();
    }
    assert_eq!(segments(&mut first, &mut executor, &mut now), 64);
}

/// Where a lease's part is less than one segment may be, segments are shorter: those that there were as well as new ones.
#[test]
fn a_segment_is_no_longer_than_a_leases_part() {
    let (null, log) = Null::new(1 << 40);
    let (mut executor, mut now) = (Executor::new(null, Box::new(|_| {})), 0);
    let mut mapper = Mapper::new(&mut executor, 1, &mut now);
    let replays = |mapper: &mut Mapper, executor: &mut Executor<Null>, now: &mut u64| {
        let program = mapper.program(7, 256);
        mapper.does(executor, &program, now);
        assert_eq!(replayed(mapper, executor, &log, now), ["map"; 256]);
        [(); 2].map(|()| replayed(mapper, executor, &log, now))
    };
    assert_eq!(replays(&mut mapper, &mut executor, &mut now), [["segment"]; 2]);
    (2..=66).for_each(|job| executor.add_job(job, terms(job), now));
    // 248 ops of 16384 are a part of 66.
    let cut: Vec<_> = ["segment"].into_iter().chain(["map"; 8]).collect();
    assert_eq!(replayed(&mut mapper, &mut executor, &log, &mut now), cut);
    assert_eq!(replays(&mut mapper, &mut executor, &mut now), [cut.clone(), cut]);
}

/// Bytes that plans hold are shared as ops are.
#[test]
fn each_lease_has_its_part_of_what_plans_of_segments_hold() {
    let (null, log) = Null::new(1 << 40);
    let null = null.preparing(4 << 20);
    let (mut executor, mut now) = (Executor::new(null, Box::new(|_| {})), 0);
    let mut mappers = [1, 2].map(|number| Mapper::new(&mut executor, number, &mut now));
    // 64 MiB for all. The second's ops are none of the first's.
    for (mapper, own) in mappers.iter_mut().zip([100, 200]) {
        for handle in own..own + 9 {
            let Record::Define { op, specs, lens, .. } = map(handle as f32) else { panic!() };
            mapper.does(&mut executor, &Record::Define { handle, op, specs, lens }, &mut now);
        }
    }
    let names = |mapper: &mut Mapper,
                 executor: &mut Executor<Null>,
                 handles: std::ops::Range<u32>,
                 now: &mut u64| {
        let record = mapper.steps(7, handles);
        mapper.does(executor, &record, now);
        mapper.does(executor, &REPLAY, now);
        replayed(mapper, executor, &log, now)
    };
    let [first, second] = &mut mappers;
    assert_eq!(names(first, &mut executor, 100..109, &mut now), ["segment", "map"]);
    assert_eq!(names(first, &mut executor, 100..108, &mut now), ["segment"]);
    assert_eq!(names(second, &mut executor, 200..209, &mut now), ["segment", "map"]);
    assert_eq!(names(second, &mut executor, 200..208, &mut now), ["segment"]);
    executor.end_job(2, Why::Exited, now).unwrap();
    assert_eq!(names(first, &mut executor, 100..109, &mut now), ["segment"]);
}

#[test]
fn a_tenant_that_fills_the_cache_of_plans_costs_no_other_its_segments() {
    let (null, log) = Null::new(1 << 40);
    let (mut executor, mut now) = (Executor::new(null, Box::new(|_| {})), 0);
    let mut filler = Mapper::new(&mut executor, 1, &mut now);
    let mut mapper = Mapper::new(&mut executor, 2, &mut now);
    let program = mapper.program(7, 2);
    mapper.does(&mut executor, &program, &mut now);
    (0..2).for_each(|_| drop(replayed(&mut mapper, &mut executor, &log, &mut now)));
    for round in 1..4 {
        let planned = log.prepared();
        for i in 0..5000 {
            filler.does(&mut executor, &map((round * 5000 + i) as f32), &mut now);
        }
        assert_eq!(log.prepared(), planned + 5000);
        assert_eq!(replayed(&mut mapper, &mut executor, &log, &mut now), ["segment"]);
        // Its op is planned still.
        mapper.does(&mut executor, &map(1.0), &mut now);
        assert_eq!((log.segments(), log.prepared()), (1, planned + 5000));
    }
}
