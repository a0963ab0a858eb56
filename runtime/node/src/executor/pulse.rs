//! The pulse: whose work touches the device. When an executor dies, control reads from it whom to blame, so it is right at
//! every call of the backend that a tenant's record causes, whether it launches, plans, captures or frees.

/// Tells, and knows what it told last.
pub(super) struct Pulse {
    tell: Box<dyn FnMut(u64) + Send>,
    job: u64,
}

impl Pulse {
    /// Nobody's work touches the device yet.
    pub(super) fn new(tell: Box<dyn FnMut(u64) + Send>) -> Self {
        Self { tell, job: 0 }
    }

    /// From now on it is this job's work, 0: none. Whose it was before, to be told again after. An error that loses the device
    /// leaves it as it is.
    pub(super) fn touches(&mut self, job: u64) -> u64 {
        (self.tell)(job);
        std::mem::replace(&mut self.job, job)
    }
}
