//! Which jobs run under which lease: concurrency, single-use job ids, strikes, revocation, deadlines. Pure;
//! control holds one, reads the clocks for it, and rebuilds it from the ledger when it starts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::name::{JobId, LeaseId};
use super::token::VerifiedLease;
use crate::time::{Timestamp, saturating_ns};

/// Strikes that suspend a lease: an op of it took the executor down this often.
pub const STRIKES_MAX: u32 = 2;

/// Job ids that a lease may use up; it bounds what a node remembers of a lease until it expires.
pub const JOB_IDS_MAX: usize = 65_536;

/// How far the wall clock may fall behind the latest time seen; time service corrections are smaller.
pub const CLOCK_BACK_MAX: Duration = Duration::from_secs(60);

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock; it can be set.
    pub wall: Timestamp,
    /// The boot-time clock in nanoseconds; it counts through suspend, and nobody can set it.
    pub boot_ns: u64,
}

/// What ends a job that does not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The run time that was asked for or that the lease allows.
    Wall,
    /// The lease's expiry.
    Expiry,
}

/// An admitted job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// When the job ends at the latest, on the boot-time clock.
    pub deadline_ns: u64,
    /// What sets that deadline.
    pub limit: Limit,
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It counts against its lease's concurrency until it is released.
    Running {
        /// Its end on the boot-time clock.
        deadline_ns: u64,
    },
    /// Its id is used up.
    Released,
}

/// Why a job was not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// The wall clock was set back, so that expired leases would be good again.
    #[error("the clock says {now}, over {} s before the latest time seen, {mark}", CLOCK_BACK_MAX.as_secs())]
    ClockBack {
        /// The wall clock.
        now: Timestamp,
        /// The latest time seen.
        mark: Timestamp,
    },
    /// It was verified in time, but not now.
    #[error("lease {lease} expired at {expiry}, now is {now}")]
    Expired {
        /// The lease.
        lease: LeaseId,
        /// Its end.
        expiry: Timestamp,
        /// Now, or the latest time seen.
        now: Timestamp,
    },
    /// Taken back by the operator.
    #[error("lease {lease} is revoked")]
    Revoked {
        /// The lease.
        lease: LeaseId,
    },
    /// Its ops took the executor down too often.
    #[error("lease {lease} is suspended after {strikes} strikes")]
    Suspended {
        /// The lease.
        lease: LeaseId,
        /// Its strikes.
        strikes: u32,
    },
    /// A job of this id was admitted before.
    #[error("job {job} was admitted before; a job id is used once")]
    Replayed {
        /// The job.
        job: JobId,
    },
    /// Too many jobs at a time.
    #[error("lease {lease} runs {running} jobs, at most {allowed} at a time are allowed")]
    Concurrency {
        /// The lease.
        lease: LeaseId,
        /// Jobs that run.
        running: usize,
        /// What the lease allows.
        allowed: u32,
    },
    /// Too many jobs in all.
    #[error("lease {lease} used {JOB_IDS_MAX} job ids, no more are allowed")]
    JobIds {
        /// The lease.
        lease: LeaseId,
    },
    /// More run time than the lease allows.
    #[error("a run time of {} s is asked, 1 to {allowed_s} s are allowed", asked.as_secs_f64())]
    Wall {
        /// What was asked.
        asked: Duration,
        /// What the lease allows, in seconds.
        allowed_s: u64,
    },
}

#[derive(Debug, Default)]
struct Standing {
    /// When the record can be forgotten.
    expiry: Option<Timestamp>,
    jobs: BTreeMap<JobId, JobState>,
    running: usize,
    strikes: u32,
    revoked: bool,
}

/// The standing of every lease that this node has seen and that has not expired.
#[derive(Debug, Default)]
pub struct Admission {
    leases: BTreeMap<LeaseId, Standing>,
    mark: Timestamp,
}

impl Admission {
    /// Nothing admitted yet; `mark` is the latest wall time that this node has seen, 1970 when it is new.
    pub fn new(mark: Timestamp) -> Self {
        Self { leases: BTreeMap::new(), mark }
    }

    /// The latest wall time seen; kept in the ledger, so that a restart does not forget it.
    pub fn mark(&self) -> Timestamp {
        self.mark
    }

    /// The time to verify leases at: the wall clock, but never before what was seen already.
    pub fn time(&mut self, wall: Timestamp) -> Result<Timestamp, AdmitError> {
        if wall.after(CLOCK_BACK_MAX) < self.mark {
            return Err(AdmitError::ClockBack { now: wall, mark: self.mark });
        }
        self.mark = self.mark.max(wall);
        Ok(self.mark)
    }

    /// Admits a job, which then counts against its lease until it is released. `wall` is the run time that the
    /// caller asks for; none means all that the lease allows. The deadline is fixed here, on a clock that
    /// nobody can set.
    pub fn admit(
        &mut self,
        lease: &VerifiedLease,
        job: JobId,
        wall: Option<Duration>,
        now: Moment,
    ) -> Result<Admitted, AdmitError> {
        let time = self.time(now.wall)?;
        let (id, allowed_s, expiry) = (lease.id, lease.job.wall_s, lease.expiry);
        if time >= expiry {
            return Err(AdmitError::Expired { lease: id, expiry, now: time });
        }
        let allowed = Duration::from_secs(allowed_s);
        let asked = wall.unwrap_or(allowed);
        if asked > allowed || asked.is_zero() {
            return Err(AdmitError::Wall { asked, allowed_s });
        }
        self.forget_expired();
        let standing = self.leases.entry(id).or_default();
        standing.expiry = Some(expiry);
        standing.may_start(id, job, lease.concurrency)?;

        let (asked_ns, left_ns) = (saturating_ns(asked), expiry.since_ns(time));
        let limit = if asked_ns <= left_ns { Limit::Wall } else { Limit::Expiry };
        let deadline_ns = now.boot_ns.saturating_add(asked_ns.min(left_ns));
        standing.put(job, JobState::Running { deadline_ns });
        Ok(Admitted { deadline_ns, limit })
    }

    /// The job's memory is zeroed and its record is settled: its place is free, its id stays used.
    /// False when no such job runs.
    pub fn release(&mut self, lease: LeaseId, job: JobId) -> bool {
        let Some(standing) = self.leases.get_mut(&lease) else { return false };
        let running = matches!(standing.jobs.get(&job), Some(JobState::Running { .. }));
        if running {
            standing.put(job, JobState::Released);
        }
        running
    }

    /// Running jobs whose deadline has passed. They keep their place until they are released.
    pub fn overdue(&self, boot_ns: u64) -> impl Iterator<Item = (LeaseId, JobId)> + '_ {
        self.running()
            .filter(move |(.., deadline_ns)| *deadline_ns <= boot_ns)
            .map(|(lease, job, _)| (lease, job))
    }

    /// The next deadline of a running job, on the boot-time clock.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.running().map(|(.., deadline_ns)| deadline_ns).min()
    }

    /// Running jobs with their deadlines.
    pub fn running(&self) -> impl Iterator<Item = (LeaseId, JobId, u64)> + '_ {
        self.leases.iter().flat_map(|(lease, standing)| {
            standing.jobs.iter().filter_map(|(job, state)| match state {
                JobState::Running { deadline_ns } => Some((*lease, *job, *deadline_ns)),
                JobState::Released => None,
            })
        })
    }

    /// An op of the lease took the executor down. Returns its strikes; [`STRIKES_MAX`] suspend it.
    pub fn strike(&mut self, lease: LeaseId) -> u32 {
        let strikes = &mut self.leases.entry(lease).or_default().strikes;
        *strikes += 1;
        *strikes
    }

    /// True when the lease's strikes suspend it.
    pub fn suspended(&self, lease: LeaseId) -> bool {
        self.leases.get(&lease).is_some_and(|s| s.strikes >= STRIKES_MAX)
    }

    /// Admits no more jobs of the lease. Returns those that run, for the caller to end.
    pub fn revoke(&mut self, lease: LeaseId) -> Vec<JobId> {
        self.leases.entry(lease).or_default().revoked = true;
        self.running().filter(|(of, ..)| *of == lease).map(|(_, job, _)| job).collect()
    }

    /// Puts back a job that the ledger or an executor that went on remembers, whatever the limits.
    pub fn restore(&mut self, lease: LeaseId, expiry: Timestamp, job: JobId, state: JobState) {
        let standing = self.leases.entry(lease).or_default();
        standing.expiry = Some(expiry);
        standing.put(job, state);
    }

    /// A lease that expired cannot be verified again, so its ids need not be kept: the mark never goes back.
    fn forget_expired(&mut self) {
        let mark = self.mark;
        self.leases.retain(|_, s| s.running > 0 || s.expiry.is_none_or(|expiry| mark < expiry));
    }
}

impl Standing {
    fn may_start(&self, lease: LeaseId, job: JobId, allowed: u32) -> Result<(), AdmitError> {
        if self.revoked {
            return Err(AdmitError::Revoked { lease });
        }
        if self.strikes >= STRIKES_MAX {
            return Err(AdmitError::Suspended { lease, strikes: self.strikes });
        }
        if self.jobs.contains_key(&job) {
            return Err(AdmitError::Replayed { job });
        }
        if self.running >= allowed as usize {
            return Err(AdmitError::Concurrency { lease, running: self.running, allowed });
        }
        if self.jobs.len() >= JOB_IDS_MAX {
            return Err(AdmitError::JobIds { lease });
        }
        Ok(())
    }

    fn put(&mut self, job: JobId, state: JobState) {
        let runs = |s: &JobState| matches!(s, JobState::Running { .. });
        self.running += usize::from(runs(&state));
        if self.jobs.insert(job, state).is_some_and(|before| runs(&before)) {
            self.running -= 1;
        }
    }
}
