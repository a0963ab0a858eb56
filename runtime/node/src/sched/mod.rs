//! Who runs next on a device. Weighted deficit round robin over flows (a flow is a lease), round robin over the
//! sessions inside a flow. Pure: time comes in as nanoseconds, nothing waits, nothing is locked. The executor's
//! loop calls it:
//!
//! ```text
//! ready(session, cost of its next unit)         when a queue gets work
//! next(now) → turn {session, budget}            the executor cuts units of that session's op to the budget
//! launched(turn, predicted cost, next unit) → slice
//! done(slice, busy cost)                        when the device says so
//! idle(session)                                 when work is cancelled or its queue is drained
//! charge(session, cost)                         when it had the host busy beside that
//! ```
//!
//! Cost is in nanoseconds for compute and in bytes for copies: a device has two schedulers, so that copies are
//! scheduled apart. After Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round Robin" (1996), in
//! the form that serves a flow while its deficit is above zero and lets it end below: a slice may be larger
//! than what is left, and a wrong prediction is made good later.

use leasehold::order::{
    SLICE_GPU_NS, SLICE_SLOW_NS, UNIT_CAP_GPU_NS, UNIT_CAP_SLOW_NS, WINDOW_GPU_NS, WINDOW_SLOW_NS,
};
use std::collections::{BTreeMap, VecDeque};

mod flow;
use flow::{Account, Flow};
pub use flow::{Class, FlowSpec, Latency};

/// Weights are 1 to this. A turn's quantum is a slice times weight / this, so no turn takes over two slices.
pub const WEIGHT_MAX: u32 = 1000;

/// Latency budgets of all flows together are at most this part of the device, in millionths.
pub const LATENCY_SHARE_MAX_PPM: u64 = 500_000;

/// The longest latency period: an hour.
pub const LATENCY_PERIOD_MAX_NS: u64 = 3600 * 1_000_000_000;

/// A flow's id; the executor uses the lease's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u64);

/// A session's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A launched slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceId(u64);

/// The cost limits of a device class: U, S and W of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// U: a unit costs at most this.
    pub unit: u64,
    /// S: a turn's budget is at most this.
    pub slice: u64,
    /// W: predicted cost in flight is at most this.
    pub window: u64,
}

impl Params {
    /// Whole GPUs, in nanoseconds.
    pub const GPU: Self =
        Self { unit: UNIT_CAP_GPU_NS, slice: SLICE_GPU_NS, window: WINDOW_GPU_NS };
    /// CPU and software adapters, in nanoseconds; no part of a card, however small.
    pub const SLOW: Self =
        Self { unit: UNIT_CAP_SLOW_NS, slice: SLICE_SLOW_NS, window: WINDOW_SLOW_NS };
    /// Copies, in bytes: a slice of 4 MiB is 0.2 ms at 20 GB/s.
    pub const COPY: Self = Self { unit: 1 << 20, slice: 4 << 20, window: 8 << 20 };

    /// A GPU whose units cost up to `unit`: those of a part of a card cost more than a whole one's, and it is handed as many
    /// of them at once.
    pub fn gpu(unit: u64) -> Self {
        let as_many = |cost: u64| {
            let cost = u128::from(cost) * u128::from(unit) / u128::from(Self::GPU.unit);
            u64::try_from(cost).unwrap_or(u64::MAX)
        };
        Self { unit, slice: as_many(Self::GPU.slice), window: as_many(Self::GPU.window) }
    }

    /// The most that is launched before a flow that just became ready gets its first turn, if it has no debt
    /// and no latency lease runs: what is in flight, and two slices of each other ready flow of its class.
    pub fn wait_bound(&self, others: u64) -> u64 {
        self.window.saturating_add(others.saturating_mul(2 * self.slice))
    }
}

/// Why a call changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchedError {
    /// A weight outside its range.
    #[error("weight {asked} is not 1 to {WEIGHT_MAX}")]
    Weight {
        /// The weight.
        asked: u32,
    },
    /// A latency budget that is smaller than a unit or larger than its period, or a period over an hour.
    #[error(
        "a latency budget of {asked} in {period} ns: budgets are {least} to their period, periods at most {LATENCY_PERIOD_MAX_NS} ns"
    )]
    Budget {
        /// The budget.
        asked: u64,
        /// The cost cap of a unit.
        least: u64,
        /// The period.
        period: u64,
    },
    /// Latency budgets over their part of the device.
    #[error("a latency share of {asked} millionths: {left} of {LATENCY_SHARE_MAX_PPM} are left")]
    LatencyShare {
        /// Budget / period of the new flow.
        asked: u64,
        /// What others left.
        left: u64,
    },
    /// A unit over the cap, which its plan should have kept.
    #[error("a unit costs {asked}, at most {allowed} is allowed")]
    Unit {
        /// The unit's predicted cost.
        asked: u64,
        /// U.
        allowed: u64,
    },
    /// The id is in use.
    #[error("the id {0} is in use")]
    Duplicate(u64),
    /// No flow or session has the id.
    #[error("no flow or session has the id {0}")]
    Unknown(u64),
}

/// The answer to "what next?". It is not `Clone`: one turn, one launch.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whose next op to launch from.
    pub session: SessionId,
    /// The most that the launched units may cost together; always enough for the session's next unit.
    pub budget: u64,
    flow: FlowId,
    account: Account,
}

#[derive(Debug)]
struct Session {
    flow: FlowId,
    /// Cost of the next unit; none when the session has no work.
    head: Option<u64>,
}

#[derive(Debug)]
struct Slice {
    flow: FlowId,
    account: Account,
    predicted: u64,
}

/// The scheduler of one resource of one device.
#[derive(Debug)]
pub struct Sched {
    params: Params,
    flows: BTreeMap<FlowId, Flow>,
    sessions: BTreeMap<SessionId, Session>,
    /// Ready flows in turn order, reserved and spare.
    rings: [VecDeque<FlowId>; 2],
    /// Ready flows that have a latency budget, in turn order.
    urgent: VecDeque<FlowId>,
    slices: BTreeMap<SliceId, Slice>,
    in_flight: u64,
    next_slice: u64,
}

impl Sched {
    /// A scheduler without flows.
    pub fn new(params: Params) -> Self {
        Self {
            params,
            flows: BTreeMap::new(),
            sessions: BTreeMap::new(),
            rings: Default::default(),
            urgent: VecDeque::new(),
            slices: BTreeMap::new(),
            in_flight: 0,
            next_slice: 0,
        }
    }

    /// Adds a flow. Remove it only when its lease ends: its debt goes with it.
    pub fn add_flow(&mut self, id: FlowId, spec: FlowSpec, now_ns: u64) -> Result<(), SchedError> {
        if spec.weight == 0 || spec.weight > WEIGHT_MAX {
            return Err(SchedError::Weight { asked: spec.weight });
        }
        if self.flows.contains_key(&id) {
            return Err(SchedError::Duplicate(id.0));
        }
        if let Some(Latency { period_ns: period, budget: asked }) = spec.latency {
            if asked < self.params.unit || asked > period || period > LATENCY_PERIOD_MAX_NS {
                return Err(SchedError::Budget { asked, least: self.params.unit, period });
            }
            let used: u64 = self.flows.values().map(Flow::latency_ppm).sum();
            let (asked, left) = (spec.latency_ppm(), LATENCY_SHARE_MAX_PPM.saturating_sub(used));
            if asked > left {
                return Err(SchedError::LatencyShare { asked, left });
            }
        }
        self.flows.insert(id, Flow::new(spec, &self.params, now_ns));
        Ok(())
    }

    /// Adds a session without work to a flow.
    pub fn add_session(&mut self, id: SessionId, flow: FlowId) -> Result<(), SchedError> {
        if self.sessions.contains_key(&id) {
            return Err(SchedError::Duplicate(id.0));
        }
        if !self.flows.contains_key(&flow) {
            return Err(SchedError::Unknown(flow.0));
        }
        self.sessions.insert(id, Session { flow, head: None });
        Ok(())
    }

    /// The session has work, and its next unit is predicted to cost `head`.
    pub fn ready(&mut self, id: SessionId, head: u64) -> Result<(), SchedError> {
        if head > self.params.unit {
            return Err(SchedError::Unit { asked: head, allowed: self.params.unit });
        }
        let session = self.sessions.get_mut(&id).ok_or(SchedError::Unknown(id.0))?;
        let id_of_flow = session.flow;
        let flow = self.flows.get_mut(&id_of_flow).ok_or(SchedError::Unknown(id_of_flow.0))?;
        if session.head.replace(head).is_none() {
            if flow.sessions.is_empty() {
                self.rings[flow.class() as usize].push_back(id_of_flow);
                if flow.has_latency() {
                    self.urgent.push_back(id_of_flow);
                }
            }
            flow.sessions.push_back(id);
        }
        Ok(())
    }

    /// The session has no more work to launch: drained, cancelled or revoked. What it launched stays charged.
    pub fn idle(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let id_of_flow = session.flow;
        if session.head.take().is_none() {
            return;
        }
        let Some(flow) = self.flows.get_mut(&id_of_flow) else { return };
        flow.sessions.retain(|s| *s != id);
        if flow.sessions.is_empty() {
            self.rings[flow.class() as usize].retain(|f| *f != id_of_flow);
            self.urgent.retain(|f| *f != id_of_flow);
            flow.rest();
        }
    }

    /// Forgets a session; its flow keeps what the session was charged.
    pub fn remove_session(&mut self, id: SessionId) {
        self.idle(id);
        self.sessions.remove(&id);
    }

    /// Forgets a flow, its sessions and its debt. Its slices in flight still count until they are done.
    pub fn remove_flow(&mut self, id: FlowId) {
        let of_flow = self.sessions.iter().filter(|(_, s)| s.flow == id);
        for session in of_flow.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.remove_session(session);
        }
        self.flows.remove(&id);
    }

    /// Whose turn it is and how much it may launch; none when nothing is ready or the window has no room for
    /// the next unit. Latency leases within their budget come first, then reserved flows, then spare ones.
    /// Asking again without a launch gives the same answer.
    pub fn next(&mut self, now_ns: u64) -> Option<Turn> {
        let (id, account) = match self.most_urgent(now_ns) {
            Some(id) => (id, Account::Latency),
            None => (
                self.turn_of(Class::Reserved).or_else(|| self.turn_of(Class::Spare))?,
                Account::Share,
            ),
        };
        let flow = self.flows.get(&id)?;
        let session = *flow.sessions.front()?;
        let head = self.sessions.get(&session)?.head?;
        let room = self.params.window.saturating_sub(self.in_flight);
        // Nobody smaller overtakes: that would let small units starve large ones.
        if head > room {
            return None;
        }
        let budget = match account {
            Account::Share => self.params.slice,
            Account::Latency => flow.tokens().min(self.params.slice),
        };
        Some(Turn { session, budget: budget.min(room).max(head), flow: id, account })
    }

    /// The executor launched units of this predicted cost in its turn; `head` is the cost of the session's next
    /// unit, none when it has no more work now.
    pub fn launched(&mut self, turn: Turn, predicted: u64, head: Option<u64>) -> SliceId {
        let Turn { session, flow: id, account, .. } = turn;
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.charge(account, predicted);
            // The session goes behind its siblings, and the flow behind its peers when its turn is over.
            if flow.sessions.front() == Some(&session) {
                flow.sessions.rotate_left(1);
            }
            if account == Account::Latency && self.urgent.front() == Some(&id) {
                self.urgent.rotate_left(1);
            }
        }
        match head {
            Some(cost) => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.head = Some(cost.min(self.params.unit));
                }
            }
            None => self.idle(session),
        }
        self.in_flight = self.in_flight.saturating_add(predicted);
        let slice = SliceId(self.next_slice);
        self.next_slice += 1;
        self.slices.insert(slice, Slice { flow: id, account, predicted });
        slice
    }

    /// The device finished a slice that kept it busy for `busy`: the prediction is corrected. A slice that was
    /// dropped unlaunched was busy for 0.
    pub fn done(&mut self, slice: SliceId, busy: u64) {
        let Some(Slice { flow, account, predicted }) = self.slices.remove(&slice) else { return };
        self.in_flight -= predicted;
        if let Some(flow) = self.flows.get_mut(&flow) {
            flow.correct(account, predicted, busy);
        }
    }

    /// A session had the host busy for so long beside its launches: its flow owes it like what it launched, ahead of everyone
    /// while it has budget for that, and no window waits for it.
    pub fn charge(&mut self, id: SessionId, cost: u64) {
        let session = self.sessions.get(&id);
        if let Some(flow) = session.and_then(|session| self.flows.get_mut(&session.flow)) {
            let account = if flow.tokens() > 0 { Account::Latency } else { Account::Share };
            flow.charge(account, cost);
        }
    }

    /// Predicted cost launched and not done.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// The first ready flow that has latency budget left.
    fn most_urgent(&mut self, now_ns: u64) -> Option<FlowId> {
        for _ in 0..self.urgent.len() {
            let id = *self.urgent.front()?;
            if self.flows.get_mut(&id)?.accrue(now_ns) > 0 {
                return Some(id);
            }
            self.urgent.rotate_left(1);
        }
        None
    }

    /// The flow of a class whose turn it is, after giving out quanta until somebody's deficit is above zero.
    fn turn_of(&mut self, class: Class) -> Option<FlowId> {
        let ring = &mut self.rings[class as usize];
        let first = *ring.front()?;
        if self.flows.get_mut(&first)?.in_turn() {
            return Some(first);
        }
        if self.flows.get_mut(&first)?.end_turn() {
            ring.rotate_left(1);
        }
        if let Some(id) = self.round(class) {
            return Some(id);
        }
        // Everybody owes. Rounds in which nobody would be served are given out at once.
        let ring = &self.rings[class as usize];
        let rounds =
            ring.iter().filter_map(|id| self.flows.get(id)).map(Flow::rounds_to_turn).min()?;
        for id in ring {
            self.flows.get_mut(id)?.skip_rounds(rounds - 1);
        }
        self.round(class)
    }

    /// One round: each flow gets its quantum, up to the first that may launch.
    fn round(&mut self, class: Class) -> Option<FlowId> {
        let ring = &mut self.rings[class as usize];
        for _ in 0..ring.len() {
            let id = *ring.front()?;
            if self.flows.get_mut(&id)?.begin_turn() {
                return Some(id);
            }
            ring.rotate_left(1);
        }
        None
    }
}

#[cfg(test)]
mod tests;
