//! One flow's accounts: its deficit, which is its share, and its latency budget. `Sched` alone calls this.

use std::collections::VecDeque;

use super::{Params, SessionId, WEIGHT_MAX};

/// Reserved flows come before spare ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Capacity that the lease paid for.
    Reserved = 0,
    /// The owner's own capacity, lent out and taken back.
    Spare = 1,
}

/// A budget that may be used ahead of everyone: `budget` in each `period`, saved up to one `budget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Nanoseconds in which one budget grows back.
    pub period_ns: u64,
    /// Cost that may run ahead of everyone in a period.
    pub budget: u64,
}

/// What a lease grants a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    /// The share among ready flows of the class, 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// Whether it comes before or after the others.
    pub class: Class,
    /// An optional budget ahead of its share.
    pub latency: Option<Latency>,
}

impl FlowSpec {
    /// Budget / period in millionths, rounded up.
    pub(super) fn latency_ppm(&self) -> u64 {
        self.latency.map_or(0, |l| {
            let ppm = (u128::from(l.budget) * 1_000_000).div_ceil(u128::from(l.period_ns.max(1)));
            u64::try_from(ppm).unwrap_or(u64::MAX)
        })
    }
}

/// What a slice is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Account {
    Share,
    Latency,
}

#[derive(Debug)]
pub(super) struct Flow {
    spec: FlowSpec,
    /// Sessions with work, in turn order.
    pub(super) sessions: VecDeque<SessionId>,
    /// What the flow may still launch in this turn; below zero is debt. Wide enough that no sum overflows.
    deficit: i128,
    /// What a round adds.
    quantum: i128,
    /// A deficit is never above this: a quantum, and refunds for what was in flight.
    most: i128,
    /// Whether the flow got its quantum for the present turn.
    in_turn: bool,
    /// Latency budget left, times the period: growth by elapsed × budget then needs no division.
    tokens: i128,
    accrued_ns: u64,
}

impl Flow {
    pub(super) fn new(spec: FlowSpec, params: &Params, now_ns: u64) -> Self {
        let quantum =
            (i128::from(params.slice) * i128::from(spec.weight) / i128::from(WEIGHT_MAX)).max(1);
        let mut flow = Self {
            spec,
            sessions: VecDeque::new(),
            deficit: 0,
            quantum,
            most: quantum + i128::from(params.window),
            in_turn: false,
            tokens: 0,
            accrued_ns: now_ns,
        };
        flow.tokens = flow.tokens_most();
        flow
    }

    pub(super) fn class(&self) -> Class {
        self.spec.class
    }

    pub(super) fn has_latency(&self) -> bool {
        self.spec.latency.is_some()
    }

    pub(super) fn latency_ppm(&self) -> u64 {
        self.spec.latency_ppm()
    }

    fn tokens_most(&self) -> i128 {
        self.spec.latency.map_or(0, |l| i128::from(l.budget) * i128::from(l.period_ns))
    }

    /// Lets the latency budget grow to `now_ns` and returns what is left of it.
    pub(super) fn accrue(&mut self, now_ns: u64) -> u64 {
        if let Some(Latency { budget, .. }) = self.spec.latency {
            let elapsed = i128::from(now_ns.saturating_sub(self.accrued_ns));
            self.tokens = (self.tokens + elapsed * i128::from(budget)).min(self.tokens_most());
            self.accrued_ns = self.accrued_ns.max(now_ns);
        }
        self.tokens()
    }

    /// Latency budget left, rounded down.
    pub(super) fn tokens(&self) -> u64 {
        let period = self.spec.latency.map_or(1, |l| i128::from(l.period_ns));
        u64::try_from(self.tokens / period).unwrap_or(0)
    }

    /// True while the present turn goes on.
    pub(super) fn in_turn(&self) -> bool {
        self.in_turn && self.deficit > 0
    }

    /// Ends the present turn; false when there was none.
    pub(super) fn end_turn(&mut self) -> bool {
        std::mem::take(&mut self.in_turn)
    }

    /// Rounds until a turn begins with a deficit above zero, at least 1.
    pub(super) fn rounds_to_turn(&self) -> i128 {
        ((1 - self.deficit).max(1) + self.quantum - 1) / self.quantum
    }

    /// Gives the quanta of rounds in which nobody is served.
    pub(super) fn skip_rounds(&mut self, rounds: i128) {
        self.deficit += rounds * self.quantum;
    }

    /// Gives this round's quantum; true when the flow may launch.
    pub(super) fn begin_turn(&mut self) -> bool {
        self.deficit = (self.deficit + self.quantum).min(self.most);
        self.in_turn = self.deficit > 0;
        self.in_turn
    }

    /// The flow has no work: what it did not use is lost, what it owes stays.
    pub(super) fn rest(&mut self) {
        self.deficit = self.deficit.min(0);
        self.in_turn = false;
    }

    pub(super) fn charge(&mut self, account: Account, cost: u64) {
        self.add(account, -i128::from(cost));
    }

    pub(super) fn correct(&mut self, account: Account, predicted: u64, busy: u64) {
        self.add(account, i128::from(predicted) - i128::from(busy));
        // A refund must not bank what an idle flow did not use.
        if self.sessions.is_empty() {
            self.deficit = self.deficit.min(0);
        }
    }

    fn add(&mut self, account: Account, cost: i128) {
        match account {
            Account::Share => self.deficit = (self.deficit + cost).min(self.most),
            Account::Latency => {
                let period = self.spec.latency.map_or(1, |l| i128::from(l.period_ns));
                self.tokens = (self.tokens + cost * period).min(self.tokens_most());
            }
        }
    }
}
