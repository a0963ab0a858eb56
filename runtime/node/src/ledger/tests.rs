//! The ledger against edits, drops, reordering, truncation, roll-back, rewriting, and crashes.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::keys::SecretKey;
use crate::time::Timestamp;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1_800_000_000 + secs)
}

fn usage(lease: u128, job: u128, busy_ns: u64) -> Usage {
    Usage {
        lease: Uuid::from_u128(lease),
        job: Uuid::from_u128(job),
        tenant: "acme".into(),
        session: None,
        start: at(job as u64),
        end: at(job as u64 + 1),
        busy_ns,
        zeroing_ns: 1,
        memory_byte_s: 2,
        bytes_up: 3,
        bytes_down: 4,
        ops: 5,
        units: 6,
        queue_wait_ns: 7,
        outcome: Outcome::Exited(0),
        plans: None,
        output: Some(Hash([9; 32])),
        sku: Some("cpu.small".into()),
        trial: false,
    }
}

/// A ledger of six settled jobs with a checkpoint after each third record, as lines without newlines.
fn lines(key: &SecretKey) -> Vec<Vec<u8>> {
    let (mut chain, mut lines) = (Chain::default(), Vec::new());
    let mut push = |chain: &mut Chain, entry| {
        let line = chain.line(at(chain.size), entry).unwrap();
        *chain = line.chain();
        lines.push(line.to_bytes()[..].strip_suffix(b"\n").unwrap().to_vec());
    };
    for job in 0..6 {
        push(&mut chain, Entry::Settle(usage(1, job, 100)));
        if job % 3 == 2 {
            let checkpoint = Checkpoint::sign("node-a", &chain, at(9), key);
            push(&mut chain, Entry::Checkpoint(checkpoint));
        }
    }
    lines
}

fn check(lines: &[Vec<u8>], keys: &[&SecretKey], kept: Vec<Checkpoint>) -> Result<Chain, Broken> {
    let mut verifier = Verifier::new(keys.iter().map(|k| k.public()).collect(), kept)?;
    for line in lines {
        verifier.line(line)?;
    }
    verifier.finish()
}

fn seq(result: Result<Chain, Broken>) -> u64 {
    match result.unwrap_err() {
        Broken::Record { seq, .. } | Broken::Unsigned { seq } | Broken::Truncated { seq, .. } => {
            seq
        }
        Broken::Rewritten { first, .. } => first,
    }
}

/// Makes the chain hold again after `change`, as somebody without the node's key would.
fn rewrite(lines: &[Vec<u8>], change: impl Fn(&mut Record)) -> Vec<Vec<u8>> {
    let mut chain = Chain::default();
    let redo = |line: &Vec<u8>| {
        let mut record: Record = serde_json::from_slice(&line[65..]).unwrap();
        change(&mut record);
        let line = chain.line(record.at, record.entry).unwrap();
        chain = line.chain();
        line.to_bytes()[..].strip_suffix(b"\n").unwrap().to_vec()
    };
    lines.iter().map(redo).collect()
}

#[test]
fn an_untouched_ledger_verifies() {
    let key = SecretKey::generate();
    let lines = lines(&key);
    let chain = check(&lines, &[&key], vec![]).unwrap();
    assert_eq!(chain.size, 8);
    let kept = vec![Checkpoint::sign("node-a", &chain, at(10), &key)];
    assert_eq!(check(&lines, &[&key], kept), Ok(chain));
}

#[test]
fn every_changed_byte_names_its_record() {
    let key = SecretKey::generate();
    let lines = lines(&key);
    for (i, line) in lines.iter().enumerate() {
        for byte in 0..line.len() {
            let mut changed = lines.clone();
            changed[i][byte] ^= 1;
            assert_eq!(
                seq(check(&changed, &[&key], vec![])),
                i as u64,
                "byte {byte} of record {i}"
            );
        }
    }
}

#[test]
fn dropped_doubled_and_reordered_records_are_named() {
    let key = SecretKey::generate();
    let lines = lines(&key);
    for i in 0..lines.len() - 1 {
        let mut dropped = lines.clone();
        dropped.remove(i);
        assert_eq!(seq(check(&dropped, &[&key], vec![])), i as u64);
        let mut doubled = lines.clone();
        doubled.insert(i, lines[i].clone());
        assert_eq!(seq(check(&doubled, &[&key], vec![])), i as u64 + 1);
        let mut swapped = lines.clone();
        swapped.swap(i, i + 1);
        assert_eq!(seq(check(&swapped, &[&key], vec![])), i as u64);
    }
}

#[test]
fn records_of_another_ledger_or_place_are_named() {
    let key = SecretKey::generate();
    let (lines, mut chain) = (lines(&key), Chain::default());
    // The same place in another node's ledger: a good hash and sequence number, another past.
    let mut others = Vec::new();
    for job in 50..53 {
        let line = chain.line(at(1), Entry::Settle(usage(9, job, 1))).unwrap();
        chain = line.chain();
        others.push(line.to_bytes()[..].strip_suffix(b"\n").unwrap().to_vec());
    }
    let spliced = [&lines[..2], &others[2..]].concat();
    assert_eq!(seq(check(&spliced, &[&key], vec![])), 2);
    // The right past, another sequence number: a gap in the numbers that nothing was dropped from.
    let skipped = Chain { size: 5, head: check(&lines[..2], &[&key], vec![]).unwrap().head };
    let line = skipped.line(at(1), Entry::Settle(usage(9, 9, 1))).unwrap();
    let jumped =
        [&lines[..2], &[line.to_bytes()[..].strip_suffix(b"\n").unwrap().to_vec()]].concat();
    assert_eq!(seq(check(&jumped, &[&key], vec![])), 2);
}

#[test]
fn a_cut_tail_is_shown_by_a_checkpoint_kept_elsewhere() {
    let key = SecretKey::generate();
    let lines = lines(&key);
    let chain = check(&lines, &[&key], vec![]).unwrap();
    let kept = vec![Checkpoint::sign("node-a", &chain, at(10), &key)];
    for left in 0..lines.len() {
        assert!(check(&lines[..left], &[&key], vec![]).is_ok(), "the chain alone cannot show it");
        let cut = check(&lines[..left], &[&key], kept.clone());
        assert_eq!(cut, Err(Broken::Truncated { seq: left as u64, size: 8 }));
    }
}

#[test]
fn a_rolled_back_ledger_that_grew_again_is_shown() {
    let key = SecretKey::generate();
    let lines = lines(&key);
    let kept =
        vec![Checkpoint::sign("node-a", &check(&lines, &[&key], vec![]).unwrap(), at(10), &key)];
    let mut rolled = lines[..6].to_vec();
    let mut chain = check(&rolled, &[&key], vec![]).unwrap();
    for job in 10..14 {
        let line = chain.line(at(20), Entry::Settle(usage(1, job, 1))).unwrap();
        chain = line.chain();
        rolled.push(line.to_bytes()[..].strip_suffix(b"\n").unwrap().to_vec());
    }
    // Record 3 is a checkpoint, so it vouches for 0 to 2.
    assert_eq!(check(&rolled, &[&key], kept), Err(Broken::Rewritten { first: 3, last: 7 }));
}

#[test]
fn a_rewritten_history_breaks_at_its_first_checkpoint() {
    let key = SecretKey::generate();
    let forged = rewrite(&lines(&key), |record| {
        if let Entry::Settle(usage) = &mut record.entry {
            usage.busy_ns /= 2;
        }
    });
    assert_eq!(seq(check(&forged, &[&key], vec![])), 3);
    // Re-signed by a key that is not the node's.
    let thief = SecretKey::generate();
    assert_eq!(check(&lines(&thief), &[&key], vec![]), Err(Broken::Unsigned { seq: 3 }));
    let chain = check(&lines(&thief), &[], vec![]).unwrap();
    let kept = vec![Checkpoint::sign("node-a", &chain, at(10), &thief)];
    assert_eq!(check(&lines(&key), &[&key], kept), Err(Broken::Unsigned { seq: 8 }));
}

#[test]
fn checkpoints_and_receipts_hold_for_exactly_what_they_say() {
    let (key, other) = (SecretKey::generate(), SecretKey::generate());
    let line = Chain::default().line(at(1), Entry::Settle(usage(1, 2, 3))).unwrap();
    let checkpoint = Checkpoint::sign("node-a", &line.chain(), at(1), &key);
    assert!(checkpoint.verify(&[other.public(), key.public()]));
    assert!(!checkpoint.verify(&[other.public()]));
    assert!(!Checkpoint { size: 2, ..checkpoint.clone() }.verify(&[key.public()]));
    assert!(!Checkpoint { node: "node-b".into(), ..checkpoint.clone() }.verify(&[key.public()]));

    let receipt = Receipt::sign("node-a", &line, false, &key);
    assert_eq!(receipt.verify(&key.public()), Some(usage(1, 2, 3)));
    assert_eq!(receipt.verify(&other.public()), None);
    assert_eq!(Receipt { durable: true, ..receipt.clone() }.verify(&key.public()), None);
    let cheaper = receipt.record.replace("\"busy_ns\":3", "\"busy_ns\":2");
    assert_eq!(Receipt { record: cheaper, ..receipt.clone() }.verify(&key.public()), None);
}

fn collect(path: &std::path::Path) -> Result<(Opened, Vec<Record>), LedgerError> {
    let mut records = Vec::new();
    let opened = Ledger::open(path, vec![], |record| records.push(record))?;
    Ok((opened, records))
}

fn new_file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    (dir, path)
}

#[test]
fn the_file_goes_on_where_it_ended() {
    let (_dir, path) = new_file();
    let mut ledger = collect(&path).unwrap().0.ledger;
    for job in 0..10 {
        ledger.append(at(0), Entry::Settle(usage(1, job, 1))).unwrap();
    }
    assert_eq!(ledger.durable(), 0, "written, not yet committed");
    assert_eq!(ledger.commit().unwrap(), 10);
    assert!(
        matches!(collect(&path), Err(LedgerError::Locked { .. })),
        "one process appends at a time"
    );
    drop(ledger);
    let (opened, records) = collect(&path).unwrap();
    assert_eq!((records.len(), opened.torn_bytes, opened.ledger.durable()), (10, 0, 10));
    let mut ledger = opened.ledger;
    assert_eq!(ledger.append(at(0), Entry::Revoke { lease: Uuid::nil() }).unwrap().seq, 10);
    assert_eq!(read(&path, vec![], vec![], |_| ()).unwrap().size, 11);
}

#[test]
fn a_crash_at_any_byte_loses_at_most_the_torn_record() {
    let (_dir, path) = new_file();
    let mut ledger = collect(&path).unwrap().0.ledger;
    let mut ends = vec![0];
    for job in 0..3 {
        ledger.append(at(0), Entry::Settle(usage(1, job, 1))).unwrap();
        ends.push(fs::metadata(&path).unwrap().len());
    }
    drop(ledger);
    let bytes = fs::read(&path).unwrap();
    for cut in 0..=bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let (opened, records) = collect(&path).unwrap();
        let whole = ends.iter().rposition(|end| *end <= cut as u64).unwrap();
        assert_eq!((records.len(), opened.torn_bytes), (whole, cut as u64 - ends[whole]));
        let mut ledger = opened.ledger;
        ledger.append(at(1), Entry::Revoke { lease: Uuid::nil() }).unwrap();
        drop(ledger);
        assert_eq!(collect(&path).unwrap().1.len(), whole + 1, "and it goes on from there");
    }
}

#[test]
fn a_broken_file_is_refused_and_left_alone() {
    let (_dir, path) = new_file();
    let key = SecretKey::generate();
    let mut text = lines(&key).join(&b'\n');
    text.push(b'\n');
    text[70] ^= 1;
    let long = [b'x'; 40_000];
    for bytes in [text.as_slice(), b"no ledger\n", &long] {
        fs::write(&path, bytes).unwrap();
        let error = collect(&path).unwrap_err();
        assert!(
            matches!(error, LedgerError::Broken { source: Broken::Record { seq: 0, .. }, .. }),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn a_record_that_fits_no_line_is_refused_and_the_ledger_goes_on() {
    let (_dir, path) = new_file();
    let mut ledger = collect(&path).unwrap().0.ledger;
    let entry = Entry::Settle(Usage { tenant: "x".repeat(20_000), ..usage(1, 1, 1) });
    assert!(matches!(ledger.append(at(0), entry), Err(LedgerError::TooLong { .. })));
    assert_eq!(ledger.append(at(0), Entry::Settle(usage(1, 1, 1))).unwrap().seq, 0);
}

#[test]
fn a_bill_sums_its_lease_or_job_alone() {
    let mut chain = Chain::default();
    let (mut lease, mut job) =
        (Bill::new(Of::Lease(Uuid::from_u128(1))), Bill::new(Of::Job(Uuid::from_u128(21))));
    for (of, id, busy) in [(1, 11, 5), (2, 21, 50), (1, 12, 7), (2, 22, 500)] {
        let line = chain.line(at(0), Entry::Settle(usage(of, id, busy))).unwrap();
        chain = line.chain();
        let record: Record = serde_json::from_str(&line.json).unwrap();
        lease.add(&record);
        job.add(&record);
    }
    assert_eq!((lease.jobs, lease.busy_ns, lease.ops, lease.zeroing_ns), (2, 12, 10, 2));
    assert_eq!((lease.start, lease.end), (Some(at(11)), Some(at(13))));
    assert_eq!(lease.records, [0, 2]);
    assert_eq!((job.jobs, job.busy_ns, job.trial), (1, 50, false));
}

#[test]
fn a_bill_is_a_trial_only_when_all_of_it_is() {
    let bill = |trials: &[bool]| {
        let mut bill = Bill::new(Of::Lease(Uuid::from_u128(1)));
        for (seq, trial) in trials.iter().enumerate() {
            let entry = Entry::Settle(Usage { trial: *trial, ..usage(1, 1, u64::MAX) });
            bill.add(&Record { seq: seq as u64, prev: Hash([0; 32]), at: at(0), entry });
        }
        (bill.trial, bill.busy_ns, bill.jobs)
    };
    assert_eq!(bill(&[]), (false, 0, 0));
    assert_eq!(bill(&[true, true]), (true, u64::MAX, 1), "sums saturate");
    assert!(!bill(&[true, false]).0 && !bill(&[false, true]).0);
}

proptest! {
    #[test]
    fn no_line_panics(line in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Verifier::new(vec![], vec![]).unwrap().line(&line).is_err());
    }

    #[test]
    fn records_are_lossless(busy: u64, code: u8, tenant in "\\PC{0,20}", session: Option<u64>) {
        let outcome = Outcome::Exited(code);
        let entry = Entry::Settle(Usage { tenant, session, outcome, ..usage(1, 1, busy) });
        let line = Chain::default().line(at(3), entry.clone()).unwrap();
        let mut verifier = Verifier::new(vec![], vec![]).unwrap();
        let bytes = line.to_bytes();
        prop_assert_eq!(verifier.line(&bytes[..bytes.len() - 1]).unwrap().entry, entry);
    }
}
