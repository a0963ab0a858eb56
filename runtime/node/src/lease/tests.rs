//! Leases against the attempts 91 to 99 of the threat list: changed, foreign, early, late, replayed, malformed.

use std::collections::BTreeMap;
use std::time::Duration;

use pasetors::version4::PublicToken;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::keys::{PublicKey, SecretKey};
use crate::time::Timestamp;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs)
}

const START: u64 = 1_800_000_000;

fn lease(holder: PublicKey) -> Lease {
    Lease {
        version: 1,
        id: LeaseId(Uuid::from_u128(7)),
        issuer: name("owner"),
        tenant: name("acme"),
        audience: vec![name("node-a"), name("pool-1")],
        holder,
        not_before: at(START),
        expiry: at(START + 3600),
        isolation: Isolation::SharedContext,
        priority: Priority::Reserved,
        weight: 100,
        latency: None,
        memory_bytes: 1 << 30,
        staging_bytes: 64 << 20,
        sessions: 4,
        queues: 4,
        in_flight: 1024,
        concurrency: 2,
        ops: Ops::All,
        job: JobLimits { cpu_milli: 2000, memory_bytes: 1 << 30, wall_s: 600 },
        sku: Some(name("cpu.small")),
        node: Some("/run/leasehold/jobs.sock".into()),
        trial: false,
        labels: BTreeMap::from([(name("team"), "search".into())]),
    }
}

/// An issuer, the node that trusts it, and a lease between them.
struct World {
    issuer: SecretKey,
    holder: SecretKey,
    keys: KeySet,
    names: Vec<Name>,
}

impl World {
    fn new() -> Self {
        let issuer = SecretKey::generate();
        let keys = KeySet::of(name("owner"), issuer.public());
        Self { issuer, holder: SecretKey::generate(), keys, names: vec![name("node-a")] }
    }

    fn lease(&self) -> Lease {
        lease(self.holder.public())
    }

    fn token(&self) -> String {
        issue(&self.lease(), &self.issuer).unwrap()
    }

    fn verify(&self, token: &str) -> Result<VerifiedLease, LeaseError> {
        verify(token, &self.keys, at(START + 1), &self.names)
    }

    fn verified(&self) -> VerifiedLease {
        self.verify(&self.token()).unwrap()
    }

    /// A token whose payload is any text at all, signed by the issuer.
    fn sign(&self, payload: &str) -> String {
        let footer = format!("{{\"kid\":\"{}\"}}", self.issuer.public().id());
        let context = Some(b"leasehold lease v1".as_slice());
        PublicToken::sign(
            &self.issuer.paseto(),
            payload.as_bytes(),
            Some(footer.as_bytes()),
            context,
        )
        .unwrap()
    }

    fn json(&self) -> String {
        serde_json::to_string(&self.lease()).unwrap()
    }
}

#[test]
fn a_good_lease_verifies() {
    let world = World::new();
    let verified = world.verified();
    assert_eq!(*verified, world.lease());
    assert_eq!(*verified.key(), world.issuer.public().id());
    assert_eq!(Lease::unverified(&world.token()).unwrap().0, world.lease());
    assert!(world.verify(&world.sign(&world.json())).is_ok(), "the tests' own signing is the same");
}

#[test]
fn every_flipped_bit_and_byte_is_refused() {
    let world = World::new();
    let token = world.token().into_bytes();
    for i in 0..token.len() {
        for change in [1, 2, 4, 8, 16, 32, 64] {
            let mut bytes = token.clone();
            bytes[i] ^= change;
            if let Ok(text) = std::str::from_utf8(&bytes) {
                assert!(world.verify(text).is_err(), "byte {i} changed by {change}");
            }
        }
    }
    for cut in 0..token.len() {
        assert!(world.verify(std::str::from_utf8(&token[..cut]).unwrap()).is_err(), "cut to {cut}");
    }
    for more in [".", "A", "\n", " "] {
        let text = format!("{}{more}", std::str::from_utf8(&token).unwrap());
        assert!(world.verify(&text).is_err(), "`{more}` appended");
    }
}

#[test]
fn foreign_tokens_are_refused_each_for_its_reason() {
    let world = World::new();
    let token = world.token();
    let other = World::new();
    assert!(matches!(world.verify(&other.token()), Err(LeaseError::UnknownKey { known: 1, .. })));
    for text in ["", "v4.local.AAAA", "v3.public.AAAA", "eyJhbGciOiJub25lIn0.e30.", "\u{1b}[2J"] {
        assert!(matches!(world.verify(text), Err(LeaseError::Header { .. })), "{text}");
    }
    let none = KeySet::default();
    let refused = verify(&token, &none, at(START + 1), &world.names);
    assert!(matches!(refused, Err(LeaseError::NoKeys)));

    // The right key id over another key's signature: the footer's word alone opens nothing.
    let footer = format!("{{\"kid\":\"{}\"}}", world.issuer.public().id());
    let context = Some(b"leasehold lease v1".as_slice());
    let payload = world.json();
    let sign = |key: &SecretKey, footer: &str, context| {
        PublicToken::sign(&key.paseto(), payload.as_bytes(), Some(footer.as_bytes()), context)
            .unwrap()
    };
    let forged = sign(&other.issuer, &footer, context);
    assert!(matches!(world.verify(&forged), Err(LeaseError::Signature { .. })));
    // Signed by the right key for another purpose.
    let other_purpose = sign(&world.issuer, &footer, Some(b"leasehold checkpoint v1"));
    assert!(matches!(world.verify(&other_purpose), Err(LeaseError::Signature { .. })));
    assert!(matches!(
        world.verify(&sign(&world.issuer, &footer, None)),
        Err(LeaseError::Signature { .. })
    ));
    for footer in ["{}", "[]", "{\"kid\":\"k4.pid.x\"}", "{\"kid\":1}"] {
        assert!(
            matches!(
                world.verify(&sign(&world.issuer, footer, context)),
                Err(LeaseError::Footer(_))
            ),
            "{footer}"
        );
    }
}

#[test]
fn another_node_too_early_and_too_late_are_told_apart() {
    let world = World::new();
    let token = world.token();
    let verify = |secs, names: &[Name]| verify(&token, &world.keys, at(secs), names);
    assert!(matches!(verify(START + 1, &[name("node-b")]), Err(LeaseError::Audience { .. })));
    assert!(matches!(verify(START + 1, &[]), Err(LeaseError::Audience { .. })));
    assert!(verify(START + 1, &[name("node-b"), name("pool-1")]).is_ok(), "a pool that it names");
    assert!(verify(START - 30, &world.names).is_ok(), "the allowed skew");
    assert!(matches!(verify(START - 31, &world.names), Err(LeaseError::NotYetValid { .. })));
    assert!(verify(START + 3599, &world.names).is_ok());
    assert!(matches!(verify(START + 3600, &world.names), Err(LeaseError::Expired { .. })));
}

#[test]
fn keys_rotate_with_an_overlap() {
    let mut world = World::new();
    let old = world.token();
    let successor = SecretKey::generate();
    world.keys.keys[0].until = Some(at(START + 100));
    world.keys.keys.push(IssuerKey {
        issuer: name("owner"),
        key: successor.public(),
        from: Some(at(START + 50)),
        until: None,
    });
    let new = issue(&world.lease(), &successor).unwrap();
    let verify = |token: &str, secs| verify(token, &world.keys, at(START + secs), &world.names);
    assert!(verify(&old, 60).is_ok() && verify(&new, 60).is_ok());
    assert!(matches!(verify(&old, 100), Err(LeaseError::KeyPeriod { .. })));
    assert!(matches!(verify(&new, 49), Err(LeaseError::KeyPeriod { .. })));
}

#[test]
fn an_issuer_cannot_speak_for_another() {
    let mut world = World::new();
    world.keys.keys[0].issuer = name("someone");
    assert!(matches!(world.verify(&world.token()), Err(LeaseError::Issuer { .. })));
}

#[test]
fn unknown_missing_double_and_mistyped_claims_are_refused() {
    let world = World::new();
    let json = world.json();
    let cases = [
        json.replacen('{', "{\"admin\":true,", 1),
        json.replacen('{', "{\"weight\":1000,", 1),
        json.replace("\"weight\":100,", ""),
        json.replace("\"weight\":100", "\"weight\":\"100\""),
        json.replace("\"weight\":100", "\"weight\":-1"),
        json.replace("\"weight\":100", "\"weight\":1e2"),
        json.replace("\"memory_bytes\":1073741824", "\"memory_bytes\":18446744073709551616"),
        json.replace("\"cpu_milli\":2000", "\"cpu_milli\":2000,\"cpu_milli\":2"),
        json.replace("\"cpu_milli\":2000", "\"cpu_milli\":2000,\"gpus\":2"),
        json.replace("\"team\":\"search\"", "\"team\":\"search\",\"team\":\"x\""),
        json.replace("\"team\":\"search\"", "\"Team\":\"search\""),
        json.replace("[\"*\"]", "[]"),
        json.replace("[\"*\"]", "[\"copy\",\"copy\"]"),
        json.replace("[\"*\"]", "[\"*\",\"copy\"]"),
        json.replace("shared-context", "bare-metal"),
        json.replace("\"sub\":\"acme\"", "\"sub\":\"../acme\""),
        json.replace("2027-", "1027-"),
        format!("{json} x"),
        "[".repeat(3000),
        "{\"v\":1,\"labels\":".to_string() + &"{\"a\":".repeat(500),
        "null".into(),
    ];
    for payload in cases {
        assert_ne!(payload, json, "the case changes nothing");
        match world.verify(&world.sign(&payload)) {
            Err(LeaseError::Json(_)) => {}
            other => panic!("{payload}: {other:?}"),
        }
    }
    let version = world.verify(&world.sign(&json.replace("\"v\":1", "\"v\":2,\"more\":0")));
    assert!(matches!(version, Err(LeaseError::Version { asked: 2 })));
    let long = world.sign(&json.replace("search", &"s".repeat(9000)));
    assert!(matches!(world.verify(&long), Err(LeaseError::TooLong { .. })));
}

#[test]
fn values_out_of_range_name_the_claim_when_issued_and_when_verified() {
    let world = World::new();
    type Change = fn(&mut Lease);
    let cases: [(&str, Change); 18] = [
        ("aud", |l| l.audience.clear()),
        ("aud", |l| l.audience = vec![name("a"), name("a")]),
        ("weight", |l| l.weight = 0),
        ("weight", |l| l.weight = 1001),
        ("memory_bytes", |l| l.memory_bytes = 0),
        ("staging_bytes", |l| l.staging_bytes = u64::MAX),
        ("sessions", |l| l.sessions = 0),
        ("queues", |l| l.queues = 257),
        ("in_flight", |l| l.in_flight = 0),
        ("concurrency", |l| l.concurrency = 0),
        ("job.cpu_milli", |l| l.job.cpu_milli = 9),
        ("job.memory_bytes", |l| l.job.memory_bytes = 1),
        ("job.wall_s", |l| l.job.wall_s = 0),
        ("latency.period_us", |l| l.latency = Some(Latency { period_us: 1, budget_us: 1 })),
        ("latency.budget_us", |l| l.latency = Some(Latency { period_us: 1000, budget_us: 501 })),
        ("node", |l| l.node = Some("relative".into())),
        ("isolation", |l| l.isolation = Isolation::OwnContext),
        ("ends at", |l| l.expiry = l.not_before),
    ];
    for (claim, change) in cases {
        let mut lease = world.lease();
        change(&mut lease);
        let issued = issue(&lease, &world.issuer).unwrap_err().to_string();
        assert!(issued.contains(claim), "{claim}: {issued}");
        let signed = world.sign(&serde_json::to_string(&lease).unwrap());
        let refused = world.verify(&signed).unwrap_err().to_string();
        assert_eq!(refused, issued);
    }
}

#[test]
fn a_proof_holds_for_one_holder_node_nonce_lease_and_job() {
    let world = World::new();
    let challenge = Challenge {
        node: name("node-a"),
        nonce: nonce().unwrap(),
        lease: LeaseId(Uuid::from_u128(7)),
        job: JobId(Uuid::from_u128(8)),
    };
    let proof = challenge.prove(&world.holder);
    let holder = world.holder.public();
    assert!(challenge.verify(&holder, &proof));
    let others = [
        Challenge { node: name("node-b"), ..challenge.clone() },
        Challenge { nonce: nonce().unwrap(), ..challenge.clone() },
        Challenge { lease: LeaseId(Uuid::from_u128(8)), ..challenge.clone() },
        Challenge { job: JobId(Uuid::from_u128(7)), ..challenge.clone() },
    ];
    for other in others {
        assert!(!other.verify(&holder, &proof), "{other:?}");
    }
    assert!(!challenge.verify(&world.issuer.public(), &proof));
}

fn job(id: u128) -> JobId {
    JobId(Uuid::from_u128(id))
}

const NOW: Moment = Moment { wall: Timestamp::from_secs(START + 10), boot_ns: 1_000 };

#[test]
fn concurrency_is_counted_until_release() {
    let (lease, mut admission) = (World::new().verified(), Admission::default());
    admission.admit(&lease, job(1), None, NOW).unwrap();
    admission.admit(&lease, job(2), None, NOW).unwrap();
    let third = admission.admit(&lease, job(3), None, NOW);
    assert_eq!(third, Err(AdmitError::Concurrency { lease: lease.id, running: 2, allowed: 2 }));
    assert!(admission.release(lease.id, job(1)));
    assert!(!admission.release(lease.id, job(1)), "once");
    assert!(admission.admit(&lease, job(3), None, NOW).is_ok(), "a refused id is not used up");
}

#[test]
fn a_job_id_is_used_once_also_after_a_restart() {
    let (lease, mut admission) = (World::new().verified(), Admission::default());
    admission.admit(&lease, job(1), None, NOW).unwrap();
    admission.release(lease.id, job(1));
    assert_eq!(
        admission.admit(&lease, job(1), None, NOW),
        Err(AdmitError::Replayed { job: job(1) })
    );

    let mut restarted = Admission::new(admission.mark());
    restarted.restore(lease.id, lease.expiry, job(1), JobState::Released);
    restarted.restore(lease.id, lease.expiry, job(2), JobState::Running { deadline_ns: 5_000 });
    assert_eq!(
        restarted.admit(&lease, job(1), None, NOW),
        Err(AdmitError::Replayed { job: job(1) })
    );
    assert_eq!(
        restarted.admit(&lease, job(2), None, NOW),
        Err(AdmitError::Replayed { job: job(2) })
    );
    restarted.admit(&lease, job(3), None, NOW).unwrap();
    assert!(matches!(
        restarted.admit(&lease, job(4), None, NOW),
        Err(AdmitError::Concurrency { .. })
    ));
    assert_eq!(restarted.overdue(5_000).collect::<Vec<_>>(), [(lease.id, job(2))]);
}

#[test]
fn a_lease_uses_up_a_bounded_number_of_job_ids() {
    let (lease, mut admission) = (World::new().verified(), Admission::default());
    for id in 0..JOB_IDS_MAX as u128 {
        admission.admit(&lease, job(id), None, NOW).unwrap();
        admission.release(lease.id, job(id));
    }
    let refused = admission.admit(&lease, job(u128::MAX), None, NOW);
    assert_eq!(refused, Err(AdmitError::JobIds { lease: lease.id }));
}

#[test]
fn a_deadline_is_the_run_time_or_the_expiry() {
    let (lease, mut admission) = (World::new().verified(), Admission::default());
    let second = Duration::from_secs(1);
    let admitted = admission.admit(&lease, job(1), Some(30 * second), NOW).unwrap();
    assert_eq!(admitted, Admitted { deadline_ns: 30_000_001_000, limit: Limit::Wall });
    let late = Moment { wall: at(START + 3595), boot_ns: 0 };
    let admitted = admission.admit(&lease, job(2), Some(30 * second), late).unwrap();
    assert_eq!(admitted, Admitted { deadline_ns: 5_000_000_000, limit: Limit::Expiry });
    assert_eq!(admission.next_deadline_ns(), Some(5_000_000_000));
    admission.release(lease.id, job(1));
    for asked in [601 * second, Duration::ZERO] {
        let refused = admission.admit(&lease, job(3), Some(asked), late);
        assert_eq!(refused, Err(AdmitError::Wall { asked, allowed_s: 600 }));
    }
}

#[test]
fn setting_the_wall_clock_moves_no_deadline_and_revives_no_lease() {
    let (lease, mut admission) = (World::new().verified(), Admission::default());
    let admitted = admission.admit(&lease, job(1), None, NOW).unwrap();
    // Back an hour: noticed.
    let back = Moment { wall: at(START + 10 - 3600), boot_ns: 2_000 };
    assert!(matches!(
        admission.admit(&lease, job(2), None, back),
        Err(AdmitError::ClockBack { .. })
    ));
    // Back a little: the latest time seen counts.
    let little = Moment { wall: at(START - 20), boot_ns: 2_000 };
    admission.admit(&lease, job(2), None, little).unwrap();
    assert_eq!(admission.mark(), NOW.wall);
    admission.release(lease.id, job(2));
    // Forward a year: no new job, and running ones keep their boot-time deadline.
    let forward = Moment { wall: at(START + 365 * 86_400), boot_ns: 3_000 };
    assert!(matches!(
        admission.admit(&lease, job(3), None, forward),
        Err(AdmitError::Expired { .. })
    ));
    assert!(admission.overdue(admitted.deadline_ns - 1).next().is_none());
    assert_eq!(admission.overdue(admitted.deadline_ns).count(), 1);
    // And back again: the mark stays.
    assert!(matches!(
        admission.admit(&lease, job(3), None, NOW),
        Err(AdmitError::ClockBack { .. })
    ));
}

#[test]
fn a_lease_that_expires_between_verification_and_admission_is_refused() {
    let (lease, mut admission) = (World::new().verified(), Admission::default());
    let late = Moment { wall: lease.expiry, boot_ns: 0 };
    assert!(matches!(admission.admit(&lease, job(1), None, late), Err(AdmitError::Expired { .. })));
}

#[test]
fn two_strikes_suspend_and_a_revoked_lease_is_told_apart() {
    let (lease, mut admission) = (World::new().verified(), Admission::default());
    admission.admit(&lease, job(1), None, NOW).unwrap();
    assert_eq!(admission.strike(lease.id), 1);
    assert!(!admission.suspended(lease.id));
    admission.admit(&lease, job(2), None, NOW).unwrap();
    admission.release(lease.id, job(2));
    assert_eq!(admission.strike(lease.id), 2);
    assert!(admission.suspended(lease.id));
    let refused = admission.admit(&lease, job(3), None, NOW);
    assert_eq!(refused, Err(AdmitError::Suspended { lease: lease.id, strikes: 2 }));
    assert_eq!(admission.revoke(lease.id), [job(1)]);
    assert_eq!(
        admission.admit(&lease, job(3), None, NOW),
        Err(AdmitError::Revoked { lease: lease.id })
    );
}

#[test]
fn what_is_no_key_set_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    assert!(matches!(KeySet::read(&path), Err(KeySetError::Io { .. })));
    std::fs::write(&path, "{\"keys\":[{\"issuer\":\"o\",\"key\":\"k4.public.x\"}]}").unwrap();
    let error = KeySet::read(&path).unwrap_err().to_string();
    assert!(error.contains("k4.public.x"), "{error}");
    std::fs::write(&path, " ".repeat(70_000)).unwrap();
    assert!(matches!(KeySet::read(&path), Err(KeySetError::TooLong { .. })));
    let world = World::new();
    std::fs::write(&path, serde_json::to_string(&world.keys).unwrap()).unwrap();
    assert_eq!(KeySet::read(&path).unwrap(), world.keys);
}

prop_compose! {
    fn any_name()(text in "[a-z0-9][a-z0-9._-]{0,63}") -> Name {
        name(&text)
    }
}

prop_compose! {
    fn any_lease()(
        (id, tenant, audience) in (any::<u128>(), any_name(), prop::collection::btree_set(any_name(), 1..8)),
        (start, length) in (0u64..4_000_000_000, 1u64..1_000_000),
        (spare, trial, weight) in (any::<bool>(), any::<bool>(), 1u32..=1000),
        latency in prop::option::of((1000u64..=3_600_000_000).prop_flat_map(|period_us| {
            (250..=period_us / 2).prop_map(move |budget_us| Latency { period_us, budget_us })
        })),
        (memory_bytes, staging_bytes) in (1u64..=1 << 48, 1u64..=1 << 48),
        (sessions, queues, in_flight, concurrency) in (1u32..=256, 1u32..=256, 1u32..=65_536, 1u32..=1024),
        ops in prop::option::of(prop::collection::btree_set(any_name(), 1..16)),
        (cpu_milli, job_memory, wall_s) in (10u32..=1_024_000, 1u64 << 20..=1 << 48, 1u64..=31 * 86_400),
        sku in prop::option::of(any_name()),
        labels in prop::collection::btree_map(any_name(), "\\PC{0,40}", 0..8),
    ) -> Lease {
        Lease {
            id: LeaseId(Uuid::from_u128(id)),
            tenant,
            audience: audience.into_iter().collect(),
            not_before: at(start),
            expiry: at(start + length),
            priority: if spare { Priority::Spare } else { Priority::Reserved },
            trial, weight, latency, memory_bytes, staging_bytes, sessions, queues, in_flight, concurrency,
            ops: ops.map_or(Ops::All, Ops::Only),
            job: JobLimits { cpu_milli, memory_bytes: job_memory, wall_s },
            sku,
            labels,
            ..lease(SecretKey::generate().public())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_issued_verifies_as_the_same_lease(lease in any_lease()) {
        let world = World::new();
        match issue(&lease, &world.issuer) {
            Ok(token) => {
                let verified = verify(&token, &world.keys, lease.not_before, &lease.audience).unwrap();
                prop_assert_eq!(&*verified, &lease);
            }
            Err(error) => prop_assert!(matches!(error, LeaseError::TooLong { .. }), "{error}"),
        }
    }

    #[test]
    fn no_text_panics(text in "(v4\\.public\\.)?[A-Za-z0-9_.{}\":-]{0,300}") {
        let world = World::new();
        prop_assert!(world.verify(&text).is_err());
    }

    #[test]
    fn no_signed_payload_panics(payload in "\\PC{1,200}") {
        let world = World::new();
        prop_assert!(world.verify(&world.sign(&payload)).is_err());
    }

    /// Random admissions and releases: never more than the lease's concurrency, never an id twice.
    #[test]
    fn admission_keeps_its_counts(steps in prop::collection::vec((any::<bool>(), 0u128..12), 1..200)) {
        let (lease, mut admission) = (World::new().verified(), Admission::default());
        let (mut running, mut used) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        for (admit, id) in steps {
            if admit {
                let may = !used.contains(&id) && running.len() < 2;
                prop_assert_eq!(admission.admit(&lease, job(id), None, NOW).is_ok(), may);
                if may {
                    running.insert(id);
                    used.insert(id);
                }
            } else {
                prop_assert_eq!(admission.release(lease.id, job(id)), running.remove(&id));
            }
            prop_assert_eq!(admission.running().count(), running.len());
        }
    }
}
