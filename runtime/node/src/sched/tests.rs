//! The scheduler against a device with a virtual clock: it runs what is launched in order, one slice at a time.

use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;

const S: u64 = 1_000_000_000;

/// A tenant's session in the simulation: how its next unit is predicted and what it really costs.
#[derive(Clone, Copy)]
struct Load {
    flow: u64,
    unit: u64,
    /// Real cost in percent of the prediction.
    real: u64,
}

struct Sim {
    sched: Sched,
    now: u64,
    loads: BTreeMap<SessionId, Load>,
    queue: VecDeque<(SliceId, SessionId, u64)>,
    /// Device time by flow.
    busy: BTreeMap<u64, u64>,
}

impl Sim {
    fn new(params: Params) -> Self {
        Self {
            sched: Sched::new(params),
            now: 0,
            loads: BTreeMap::new(),
            queue: VecDeque::new(),
            busy: BTreeMap::new(),
        }
    }

    fn flow(&mut self, id: u64, weight: u32, class: Class) {
        self.sched
            .add_flow(FlowId(id), FlowSpec { weight, class, latency: None }, self.now)
            .unwrap();
    }

    fn session(&mut self, id: u64, load: Load) {
        self.sched.add_session(SessionId(id), FlowId(load.flow)).unwrap();
        self.sched.ready(SessionId(id), load.unit).unwrap();
        self.loads.insert(SessionId(id), load);
    }

    /// Launches all that may be launched, as the executor does, and returns who was served.
    fn fill(&mut self) -> Vec<SessionId> {
        let mut served = Vec::new();
        while let Some(turn) = self.sched.next(self.now) {
            let (session, load) = (turn.session, self.loads[&turn.session]);
            assert!(turn.budget >= load.unit && turn.budget <= self.sched.params.slice);
            let cost = turn.budget / load.unit * load.unit;
            let slice = self.sched.launched(turn, cost, Some(load.unit));
            assert!(self.sched.in_flight() <= self.sched.params.window);
            self.queue.push_back((slice, session, cost * load.real / 100));
            served.push(session);
        }
        served
    }

    /// Finishes the oldest slice; false when the device was idle.
    fn step(&mut self) -> bool {
        let Some((slice, session, busy)) = self.queue.pop_front() else { return false };
        self.now += busy;
        *self.busy.entry(self.loads[&session].flow).or_default() += busy;
        self.sched.done(slice, busy);
        true
    }

    fn run(&mut self, for_ns: u64) {
        let end = self.now + for_ns;
        while self.now < end {
            self.fill();
            assert!(self.step(), "work is ready and the device idles");
        }
    }

    fn stop(&mut self, id: u64) {
        self.sched.idle(SessionId(id));
    }
}

fn jain(shares: &[f64]) -> f64 {
    let (sum, squares): (f64, f64) = shares.iter().fold((0., 0.), |(a, b), x| (a + x, b + x * x));
    sum * sum / (shares.len() as f64 * squares)
}

#[test]
fn weights_1_2_4_are_exact() {
    for params in [Params::GPU, Params::SLOW] {
        let mut sim = Sim::new(params);
        for (id, weight) in [(1, 100), (2, 200), (3, 400)] {
            sim.flow(id, weight, Class::Reserved);
            // Units that do not divide the budget, and predictions that are wrong by id.
            sim.session(
                id,
                Load { flow: id, unit: params.unit / (id + 1) + 7, real: 60 + 20 * id },
            );
        }
        sim.run(10 * S);
        let total: u64 = sim.busy.values().sum();
        for (id, weight) in [(1, 1), (2, 2), (3, 4)] {
            // The error does not grow with time: two slices and a window, not a fraction of ten seconds.
            let error = sim.busy[&id].abs_diff(total * weight / 7);
            assert!(error <= 2 * params.slice + 2 * params.window, "flow {id} is {error} ns off");
        }
    }
}

#[test]
fn equal_weights_are_fair_over_a_second() {
    let mut sim = Sim::new(Params::GPU);
    for id in 0..32 {
        sim.flow(id, 100, Class::Reserved);
        sim.session(
            id,
            Load { flow: id, unit: 1 + (id * 7919) % 250_000, real: 30 + 10 * (id % 12) },
        );
    }
    sim.run(S);
    let shares: Vec<f64> = sim.busy.values().map(|b| *b as f64).collect();
    assert_eq!(shares.len(), 32);
    assert!(jain(&shares) >= 0.99, "Jain index {}", jain(&shares));
}

#[test]
fn what_the_host_does_for_a_session_is_its_flows_cost() {
    let mut sim = Sim::new(Params::GPU);
    for id in [1, 2] {
        sim.flow(id, 100, Class::Reserved);
        sim.session(id, Load { flow: id, unit: 200_000, real: 100 });
    }
    sim.sched.charge(SessionId(1), 50_000_000);
    sim.sched.charge(SessionId(3), 50_000_000);
    sim.run(S);
    let error = (sim.busy[&2] - sim.busy[&1]).abs_diff(50_000_000);
    assert!(error <= 4_000_000, "{:?}", sim.busy);
}

#[test]
fn more_sessions_do_not_raise_a_share() {
    let mut sim = Sim::new(Params::GPU);
    let load = |flow| Load { flow, unit: 200_000, real: 100 };
    sim.flow(1, 100, Class::Reserved);
    sim.flow(2, 100, Class::Reserved);
    sim.session(1, load(1));
    for id in 2..18 {
        sim.session(id, load(2));
    }
    sim.run(S);
    assert!(sim.busy[&1].abs_diff(sim.busy[&2]) <= 4_000_000, "{:?}", sim.busy);
}

#[test]
fn sessions_of_a_lease_take_turns() {
    let mut sim = Sim::new(Params::GPU);
    sim.flow(1, 100, Class::Reserved);
    for id in 0..3 {
        sim.session(id, Load { flow: 1, unit: 250_000, real: 100 });
    }
    let mut served = Vec::new();
    for _ in 0..9 {
        served.extend(sim.fill());
        sim.step();
    }
    for (i, session) in served.iter().enumerate() {
        assert_eq!(*session, SessionId(i as u64 % 3));
    }
}

#[test]
fn spare_runs_only_when_nothing_reserved_is_ready() {
    let mut sim = Sim::new(Params::GPU);
    sim.flow(1, 1, Class::Reserved);
    sim.flow(2, 1000, Class::Spare);
    sim.session(2, Load { flow: 2, unit: 100_000, real: 100 });
    sim.run(S / 10);
    assert!(sim.busy[&2] >= S / 10, "spare work uses an idle device");
    sim.session(1, Load { flow: 1, unit: 100_000, real: 100 });
    let before = sim.busy[&2];
    sim.run(S / 10);
    assert!(sim.busy[&2] - before <= Params::GPU.window, "only what was in flight");
    sim.stop(1);
    sim.run(S / 10);
    assert!(sim.busy[&2] - before >= S / 10 - Params::GPU.window);
}

#[test]
fn an_idle_share_is_never_banked() {
    let mut sim = Sim::new(Params::GPU);
    for id in [1, 2] {
        sim.flow(id, 100, Class::Reserved);
        sim.session(id, Load { flow: id, unit: 100_000, real: 100 });
    }
    sim.stop(1);
    sim.run(5 * S);
    sim.sched.ready(SessionId(1), 100_000).unwrap();
    let before = sim.busy.clone();
    sim.run(S);
    let gained = |id| sim.busy[&id] - before.get(&id).copied().unwrap_or(0);
    assert!(gained(1).abs_diff(gained(2)) <= 4_000_000, "{} {}", gained(1), gained(2));
}

#[test]
fn a_flow_that_comes_and_goes_saves_nothing_up() {
    let load = Load { flow: 1, unit: 100_000, real: 100 };
    // It leaves most of its turn unused, or gets its charge back after it left.
    for (launched, busy, leaves_first) in [(100_000, 100_000, false), (1_000_000, 0, true)] {
        let mut sim = Sim::new(Params::GPU);
        sim.flow(1, 1000, Class::Reserved);
        sim.session(1, load);
        for _ in 0..10 {
            let turn = sim.sched.next(sim.now).unwrap();
            let slice = sim.sched.launched(turn, launched, (!leaves_first).then_some(load.unit));
            sim.sched.done(slice, busy);
            sim.stop(1);
            sim.sched.ready(SessionId(1), load.unit).unwrap();
        }
        sim.flow(2, 1000, Class::Reserved);
        sim.session(2, Load { flow: 2, ..load });
        assert_eq!(sim.fill(), [SessionId(1), SessionId(2)], "a slice each fills the window");
    }
}

#[test]
fn cancelling_and_resubmitting_dodges_no_charge() {
    // Flow 1 hides its real cost: units predicted at 10 µs take 250. After each launch it cancels and comes
    // back, with a new session each time.
    let mut sim = Sim::new(Params::GPU);
    sim.flow(1, 100, Class::Reserved);
    sim.flow(2, 100, Class::Reserved);
    sim.session(2, Load { flow: 2, unit: 100_000, real: 100 });
    let mut id = 10;
    sim.session(id, Load { flow: 1, unit: 10_000, real: 2500 });
    while sim.now < 10 * S {
        if sim.fill().contains(&SessionId(id)) {
            sim.sched.remove_session(SessionId(id));
            id += 1;
            sim.session(id, Load { flow: 1, unit: 10_000, real: 2500 });
        }
        sim.step();
    }
    // What it can gain is one window of hidden cost, once.
    let gain = sim.busy[&1].saturating_sub(sim.busy[&2]);
    assert!(gain <= 2 * 25 * Params::GPU.window, "{:?}", sim.busy);
}

#[test]
fn a_removed_flow_leaves_the_window_right() {
    let mut sim = Sim::new(Params::GPU);
    sim.flow(1, 100, Class::Reserved);
    sim.session(1, Load { flow: 1, unit: 250_000, real: 100 });
    sim.fill();
    assert_eq!(sim.sched.in_flight(), Params::GPU.window);
    sim.sched.remove_flow(FlowId(1));
    assert_eq!(sim.sched.next(0), None);
    while sim.step() {}
    assert_eq!(sim.sched.in_flight(), 0);
    sim.sched
        .add_flow(FlowId(1), FlowSpec { weight: 1, class: Class::Spare, latency: None }, 0)
        .unwrap();
    assert!(
        sim.sched.add_session(SessionId(1), FlowId(1)).is_ok(),
        "the session went with the flow"
    );
}

#[test]
fn a_latency_lease_waits_for_the_window_alone() {
    let mut sim = Sim::new(Params::GPU);
    for id in 0..8 {
        sim.flow(id, 1000, Class::Reserved);
        sim.session(id, Load { flow: id, unit: 250_000, real: 100 });
    }
    let latency = Some(Latency { period_ns: 10_000_000, budget: 500_000 });
    sim.sched.add_flow(FlowId(9), FlowSpec { weight: 1, class: Class::Spare, latency }, 0).unwrap();
    sim.sched.add_session(SessionId(9), FlowId(9)).unwrap();
    sim.loads.insert(SessionId(9), Load { flow: 9, unit: 250_000, real: 100 });
    for _ in 0..50 {
        sim.run(10_000_000);
        sim.fill();
        let asked = sim.now;
        sim.sched.ready(SessionId(9), 250_000).unwrap();
        while !sim.fill().contains(&SessionId(9)) {
            sim.step();
        }
        sim.sched.idle(SessionId(9));
        assert!(sim.now - asked <= Params::GPU.window, "waited {} ns", sim.now - asked);
    }
}

#[test]
fn a_latency_lease_gets_its_budget_and_its_share_not_more() {
    let mut sim = Sim::new(Params::GPU);
    sim.flow(1, 100, Class::Reserved);
    sim.session(1, Load { flow: 1, unit: 250_000, real: 100 });
    let latency = Some(Latency { period_ns: 10_000_000, budget: 2_000_000 });
    sim.sched
        .add_flow(FlowId(2), FlowSpec { weight: 100, class: Class::Reserved, latency }, 0)
        .unwrap();
    sim.session(2, Load { flow: 2, unit: 250_000, real: 100 });
    sim.run(S);
    // A fifth ahead of everyone, and half of the rest.
    let share = sim.busy[&2] as f64 / sim.now as f64;
    assert!((share - 0.6).abs() < 0.02, "{share}");
}

/// What the host does for it comes out of the budget that it had it done with.
#[test]
fn a_latency_lease_pays_the_host_from_its_budget() {
    let mut sim = Sim::new(Params::GPU);
    sim.flow(1, 100, Class::Reserved);
    let latency = Some(Latency { period_ns: 10_000_000, budget: 2_000_000 });
    let spec = FlowSpec { weight: 100, class: Class::Spare, latency };
    sim.sched.add_flow(FlowId(2), spec, 0).unwrap();
    for id in [1, 2] {
        sim.session(id, Load { flow: id, unit: 200_000, real: 100 });
    }
    let next = |sched: &mut Sched, now| sched.next(now).unwrap().session;
    assert_eq!(next(&mut sim.sched, 0), SessionId(2));
    sim.sched.charge(SessionId(2), 1_900_000);
    assert_eq!(next(&mut sim.sched, 0), SessionId(2));
    sim.sched.charge(SessionId(2), 1_100_000);
    assert_eq!(next(&mut sim.sched, 0), SessionId(1));
    // A millisecond over its budget, which it has again after five.
    assert_eq!(next(&mut sim.sched, 4_900_000), SessionId(1));
    assert_eq!(next(&mut sim.sched, 5_100_000), SessionId(2));
}

#[test]
fn latency_budgets_are_bounded_together() {
    let mut sched = Sched::new(Params::GPU);
    let spec = |budget, period_ns| FlowSpec {
        weight: 1,
        class: Class::Reserved,
        latency: Some(Latency { period_ns, budget }),
    };
    sched.add_flow(FlowId(1), spec(3_000_000, 10_000_000), 0).unwrap();
    let refused = sched.add_flow(FlowId(2), spec(3_000_000, 10_000_000), 0);
    assert_eq!(refused, Err(SchedError::LatencyShare { asked: 300_000, left: 200_000 }));
    sched.add_flow(FlowId(2), spec(2_000_000, 10_000_000), 0).unwrap();
    for (budget, period) in [(1, 10), (20_000_000, 10_000_000), (u64::MAX, u64::MAX)] {
        assert!(matches!(
            sched.add_flow(FlowId(3), spec(budget, period), 0),
            Err(SchedError::Budget { .. })
        ));
    }
}

#[test]
fn malformed_calls_are_named_and_change_nothing() {
    let mut sched = Sched::new(Params::GPU);
    let spec = |weight| FlowSpec { weight, class: Class::Reserved, latency: None };
    assert_eq!(sched.add_flow(FlowId(1), spec(0), 0), Err(SchedError::Weight { asked: 0 }));
    assert_eq!(sched.add_flow(FlowId(1), spec(1001), 0), Err(SchedError::Weight { asked: 1001 }));
    assert_eq!(sched.add_session(SessionId(1), FlowId(1)), Err(SchedError::Unknown(1)));
    sched.add_flow(FlowId(1), spec(1), 0).unwrap();
    assert_eq!(sched.add_flow(FlowId(1), spec(1), 0), Err(SchedError::Duplicate(1)));
    sched.add_session(SessionId(1), FlowId(1)).unwrap();
    assert_eq!(sched.add_session(SessionId(1), FlowId(1)), Err(SchedError::Duplicate(1)));
    let refused = sched.ready(SessionId(1), 250_001);
    assert_eq!(refused, Err(SchedError::Unit { asked: 250_001, allowed: 250_000 }));
    assert_eq!(sched.ready(SessionId(2), 1), Err(SchedError::Unknown(2)));
    assert_eq!(sched.next(0), None);
}

/// A part of a card, to a multiprocessor of a hundred, is handed what the whole would be: as many units in a turn and at once.
#[test]
fn a_part_of_a_card_is_handed_as_many_units_as_the_whole() {
    assert_eq!(Params::gpu(Params::GPU.unit), Params::GPU);
    for slower in [2, 7, 100] {
        let unit = Params::GPU.unit * slower + 1;
        let mut sim = Sim::new(Params::gpu(unit));
        sim.flow(1, WEIGHT_MAX, Class::Reserved);
        sim.session(1, Load { flow: 1, unit, real: 100 });
        assert_eq!(sim.fill().len(), 2);
        assert_eq!(sim.sched.in_flight(), 8 * unit);
        assert_eq!(sim.queue.front().map(|(.., cost)| *cost), Some(4 * unit));
    }
    assert_eq!(Params::gpu(u64::MAX).window, u64::MAX);
}

#[test]
fn asking_twice_gives_the_same_turn() {
    let mut sim = Sim::new(Params::GPU);
    for id in 0..3 {
        sim.flow(id, 100 * (id as u32 + 1), Class::Reserved);
        sim.session(id, Load { flow: id, unit: 250_000, real: 100 });
    }
    for _ in 0..10 {
        let first = sim.sched.next(sim.now);
        assert_eq!(first, sim.sched.next(sim.now));
        sim.fill();
        sim.step();
    }
}

proptest! {
    /// Any flows, weights, units and wrong predictions: shares follow the weights, and nobody starves.
    #[test]
    fn shares_follow_weights(
        loads in prop::collection::vec((50u32..=1000, 1u64..=250_000, 20u64..=300), 2..8),
    ) {
        let mut sim = Sim::new(Params::GPU);
        for (id, (weight, unit, real)) in loads.iter().enumerate() {
            let id = id as u64;
            sim.flow(id, *weight, Class::Reserved);
            sim.session(id, Load { flow: id, unit: *unit, real: *real });
        }
        sim.run(2 * S);
        let total: u64 = sim.busy.values().sum();
        let weights: u64 = loads.iter().map(|l| u64::from(l.0)).sum();
        for (id, (weight, ..)) in loads.iter().enumerate() {
            let fair = (u128::from(total) * u128::from(*weight) / u128::from(weights)) as u64;
            let got = sim.busy.get(&(id as u64)).copied().unwrap_or(0);
            // Overdraft and correction: at most a slice and a window at three times their prediction, of
            // each side, whatever the run's length.
            let slack = 3 * 2 * (Params::GPU.slice + Params::GPU.window) + total / 1000;
            prop_assert!(got.abs_diff(fair) <= slack, "flow {id}: {got} of fair {fair}");
        }
    }

    /// A flow that becomes ready is served within the stated bound, whenever it comes.
    #[test]
    fn the_wait_is_bounded(
        others in prop::collection::vec((1u32..=1000, 1u64..=250_000), 0..12),
        weight in 1u32..=1000,
        after in 0u64..50_000_000,
    ) {
        let mut sim = Sim::new(Params::GPU);
        for (id, (weight, unit)) in others.iter().enumerate() {
            sim.flow(id as u64, *weight, Class::Reserved);
            sim.session(id as u64, Load { flow: id as u64, unit: *unit, real: 100 });
        }
        while sim.now < after && !others.is_empty() {
            sim.fill();
            sim.step();
        }
        sim.fill();
        sim.flow(99, weight, Class::Reserved);
        sim.session(99, Load { flow: 99, unit: 250_000, real: 100 });
        let came = sim.now;
        while !sim.fill().contains(&SessionId(99)) {
            prop_assert!(sim.step());
        }
        let bound = Params::GPU.wait_bound(others.len() as u64);
        prop_assert!(sim.now - came <= bound, "waited {} of {bound}", sim.now - came);
    }

    /// Random calls: the window holds, ready work is never left while the window is empty, and every turn
    /// names a ready session.
    #[test]
    fn it_conserves_work(steps in prop::collection::vec((0u8..6, 0u64..6, 1u64..=250_000), 1..400)) {
        let mut sched = Sched::new(Params::GPU);
        for id in 0..3u64 {
            let class = if id == 2 { Class::Spare } else { Class::Reserved };
            let latency = (id == 1).then_some(Latency { period_ns: 1_000_000, budget: 400_000 });
            sched.add_flow(FlowId(id), FlowSpec { weight: 1 + id as u32, class, latency }, 0).unwrap();
        }
        for id in 0..6u64 {
            sched.add_session(SessionId(id), FlowId(id % 3)).unwrap();
        }
        let (mut ready, mut flying, mut now) = (BTreeMap::new(), VecDeque::new(), 0);
        for (what, id, cost) in steps {
            now += cost;
            match what {
                0 | 1 => {
                    sched.ready(SessionId(id), cost).unwrap();
                    ready.insert(SessionId(id), cost);
                }
                2 => {
                    sched.idle(SessionId(id));
                    ready.remove(&SessionId(id));
                }
                3 | 4 => match sched.next(now) {
                    Some(turn) => {
                        let session = turn.session;
                        prop_assert!(turn.budget >= ready[&session]);
                        let spend = turn.budget;
                        let head = (cost % 2 == 0).then_some(cost);
                        flying.push_back(sched.launched(turn, spend, head));
                        match head {
                            Some(cost) => ready.insert(session, cost),
                            None => ready.remove(&session),
                        };
                    }
                    None => prop_assert!(ready.is_empty() || !flying.is_empty()),
                },
                _ => {
                    if let Some(slice) = flying.pop_front() {
                        sched.done(slice, cost * 2);
                    }
                }
            }
            prop_assert!(sched.in_flight() <= Params::GPU.window);
            prop_assert_eq!(flying.is_empty(), sched.in_flight() == 0);
        }
    }
}
