//! What clients ask of a node: a starter from hello to receipt, an operator's order. One thread each.

use super::node::{Job, Node};
use super::protocol::{FromClient, ToClient, VERSION};
use super::sockets::hear;
use super::spawn;
use crate::executor::protocol::Why;
use crate::lease::{JobId, Moment, NONCE_BYTES, nonce};
use crate::ledger::Outcome;
use crate::time::{Timestamp, boot_ns};
use leasehold::wire::{pair, send};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Both clocks.
fn moment() -> Moment {
    Moment { wall: Timestamp::now(), boot_ns: boot_ns() }
}

fn refuse(client: &OwnedFd, why: String, retryable: bool) -> leasehold::Result<()> {
    send(client, &ToClient::Refused { why, retryable }, &[])
}

impl Node {
    /// Serves a client of the jobs socket.
    pub(super) fn welcome(self: &Arc<Self>, client: OwnedFd) {
        let node = Arc::clone(self);
        // A client whose thread cannot be started, or who breaks off, sees its socket close.
        let _ = spawn("client", move || drop(node.attend(&client)));
    }

    /// One client of the jobs socket, from hello to receipt.
    pub(super) fn attend(self: &Arc<Self>, client: &OwnedFd) -> leasehold::Result<()> {
        let Some(FromClient::Hello { version }) = hear(client)? else { return Ok(()) };
        if version != VERSION {
            return refuse(client, format!("version {version} asked, allowed {VERSION}"), false);
        }
        let nonce =
            nonce().map_err(|e| leasehold::Error::system("getrandom", std::io::Error::other(e)))?;
        let (node, device) = (self.state().book.node().to_string(), self.device.clone());
        send(client, &ToClient::Hello { version: VERSION, node, nonce, device }, &[])?;
        let job = match hear(client)? {
            Some(FromClient::Admit { token, job, proof, wall_s }) => {
                let wall = wall_s.map(Duration::from_secs);
                self.admit(client, &token, nonce, job, &proof, wall)?
            }
            Some(FromClient::Attach { token, job, proof }) => {
                self.attach(client, &token, nonce, job, &proof)?
            }
            _ => None,
        };
        let Some(number) = job else { return Ok(()) };
        // Whatever comes next is the job's end: the starter's word, or its silence.
        let outcome = match hear(client) {
            Ok(Some(FromClient::Ended { outcome })) => outcome,
            _ => Outcome::Signalled(9),
        };
        self.end(number, outcome, Why::Exited);
        Ok(())
    }

    /// Admits a job, tells the executor of it, opens its door, and hands the starter the other side of it.
    fn admit(
        self: &Arc<Self>,
        client: &OwnedFd,
        token: &str,
        nonce: [u8; NONCE_BYTES],
        job: JobId,
        proof: &[u8],
        wall: Option<Duration>,
    ) -> leasehold::Result<Option<u64>> {
        let (inside, outside) = pair()?;
        let to_tell = client.try_clone().map_err(|e| leasehold::Error::system("dup", e))?;
        let mut state = self.state();
        let Some(executor) = state.executor.clone() else {
            return refuse(client, state.no_executor(), true).map(|()| None);
        };
        let (running, terms) = match state.book.admit(token, nonce, job, proof, wall, moment()) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let (why, retryable) = (refusal.to_string(), refusal.retryable());
                return refuse(client, why, retryable).map(|()| None);
            }
        };
        let number = running.number;
        state.jobs.insert(number, Job { running, client: Some(to_tell), outcome: None });
        // One that has just died is buried with this job, too; that it is admitted is heard before that.
        let _ = executor.job(number, terms.clone(), &inside);
        let admitted = ToClient::Admitted { deadline_ns: terms.deadline_ns };
        send(client, &admitted, &[outside.as_fd()])?;
        drop(state);
        self.open_door(number, &terms, inside, executor)?;
        Ok(Some(number))
    }

    /// Gives a job back to its starter after a restart of control, or its receipt if it has ended meanwhile.
    fn attach(
        &self,
        client: &OwnedFd,
        token: &str,
        nonce: [u8; NONCE_BYTES],
        job: JobId,
        proof: &[u8],
    ) -> leasehold::Result<Option<u64>> {
        let mut state = self.state();
        let lease = match state.book.held(token, nonce, job, proof, moment()) {
            Ok(lease) => lease.id,
            Err(refusal) => return refuse(client, refusal.to_string(), false).map(|()| None),
        };
        if let Some(receipt) = state.unclaimed.remove(&(lease, job)) {
            send(client, &ToClient::Attached, &[])?;
            return send(client, &ToClient::Settled { receipt }, &[]).map(|()| None);
        }
        let found = state.jobs.iter_mut().find(|(_, known)| {
            known.running.job == job && known.running.lease == lease && known.client.is_none()
        });
        let Some((number, known)) = found else {
            let why = format!("no job {job} waits for its starter here");
            return refuse(client, why, false).map(|()| None);
        };
        known.client = Some(client.try_clone().map_err(|e| leasehold::Error::system("dup", e))?);
        send(client, &ToClient::Attached, &[])?;
        Ok(Some(*number))
    }

    /// Serves a client of the admin socket.
    pub(super) fn obey(self: &Arc<Self>, client: OwnedFd) {
        let node = Arc::clone(self);
        let _ = spawn("admin", move || drop(node.attend_admin(&client)));
    }

    fn attend_admin(&self, client: &OwnedFd) -> leasehold::Result<()> {
        match hear(client)? {
            Some(FromClient::Revoke { lease }) => match self.revoke(lease) {
                Ok(jobs) => send(client, &ToClient::Done { jobs }, &[]),
                Err(error) => refuse(client, error.to_string(), true),
            },
            Some(FromClient::Idle) => {
                let state = self.state();
                let Some(executor) = &state.executor else {
                    return refuse(client, state.no_executor(), true);
                };
                send(client, &ToClient::Idle { idle_ns: executor.idle_ns() }, &[])
            }
            _ => Ok(()),
        }
    }
}
