//! The program itself: what it prints, its exit codes, and that malformed input names the value, what was
//! allowed, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use leasehold_node::keys::{SecretKey, read_public, write_public};
use leasehold_node::lease::{KeySet, Lease};
use leasehold_node::ledger::{Checkpoint, Entry, Ledger, Outcome, Usage};
use leasehold_node::time::Timestamp;
use uuid::Uuid;

/// A folder with an issuer's and a holder's keys and a key set, in which the program runs.
struct Bench {
    dir: tempfile::TempDir,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        bench.ok(&["keys", "new", "issuer"]);
        bench.ok(&["keys", "new", "holder"]);
        let issuer = read_public(&bench.path("issuer.pub")).unwrap();
        let set = KeySet::of("owner".parse().unwrap(), issuer);
        fs::write(bench.path("set.json"), serde_json::to_string(&set).unwrap()).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_leasehold"))
            .args(args)
            .current_dir(&self.dir)
            .output()
            .unwrap()
    }

    /// Runs what must succeed, silently on stderr; returns its standard output.
    fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success() && out.stderr.is_empty(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }

    /// Runs what must fail with this code, print nothing, name each of `named`, and change no file.
    fn refused(&self, code: i32, args: &[&str], named: &[&str]) {
        let before = self.files();
        let out = self.run(args);
        let message = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {message}");
        assert!(out.stdout.is_empty(), "{args:?} printed {}", text(&out.stdout));
        for word in named {
            assert!(message.contains(word), "{args:?}: `{word}` is not in: {message}");
        }
        assert_eq!(self.files(), before, "{args:?} left something behind");
    }

    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(&self.dir).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> =
            entries.map(|p| (p.clone(), fs::read(&p).unwrap_or_default())).collect();
        files.sort();
        files
    }

    fn issue<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        let mut args =
            vec!["lease", "issue", "--key", "issuer", "--issuer", "owner", "--tenant", "acme"];
        args.extend(["--holder", "holder.pub", "--audience", "node-a"]);
        args.extend(more);
        args
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }
}

const VERIFY: [&str; 7] =
    ["lease", "verify", "lease", "--keys", "set.json", "--audience", "node-a"];

#[test]
fn a_lease_is_issued_shown_and_verified() {
    let bench = Bench::new();
    let mode = |name: &str| fs::metadata(bench.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("issuer"), mode("issuer.pub")), (0o600, 0o644));
    let more = [
        "--cpus",
        "1.5",
        "--memory",
        "4GiB",
        "--op",
        "matmul",
        "--op",
        "copy",
        "--latency",
        "500us/10ms",
    ];
    let mut args = bench.issue(&more);
    args.extend(["--label", "team=search", "--trial", "--out", "lease"]);
    bench.ok(&args);
    assert_eq!(mode("lease"), 0o600);
    let shown = bench.ok(&["lease", "show", "lease"]);
    let verified = bench.ok(&VERIFY);
    for row in [
        "4 GiB",
        "1.500 CPUs",
        "copy, matmul",
        "500 us in each 10000 us",
        "team=search",
        "yes: nobody pays",
    ] {
        assert!(shown.contains(row) && verified.contains(row), "{row}: {shown}");
    }
    assert!(shown.starts_with("NOT VERIFIED") && verified.starts_with("verified"));
    let lease: Lease =
        serde_json::from_str(&bench.ok(&["lease", "show", "lease", "--json"])).unwrap();
    assert_eq!(lease.memory_bytes, 4 << 30);
    // Without --out the lease is the output, and nothing else is.
    let out = bench.ok(&bench.issue(&[]));
    assert!(out.starts_with("v4.public.") && out.lines().count() == 1);
}

#[test]
fn a_holder_may_be_given_as_text() {
    let bench = Bench::new();
    let key = fs::read_to_string(bench.path("holder.pub")).unwrap();
    let mut args = bench.issue(&[]);
    args[9] = key.trim();
    assert!(bench.ok(&args).starts_with("v4.public."));
}

#[test]
fn a_lease_that_no_node_honours_is_refused_for_its_reason() {
    let bench = Bench::new();
    bench.ok(&bench.issue(&[
        "--start",
        "2026-01-01T00:00:00Z",
        "--expires",
        "1h",
        "--out",
        "lease",
    ]));
    let at = |time: &'static str| VERIFY.iter().copied().chain(["--at", time]).collect::<Vec<_>>();
    bench.ok(&at("2026-01-01T00:30:00Z"));
    bench.refused(1, &at("2026-01-01T01:00:00Z"), &["expired at 2026-01-01T01:00:00Z"]);
    bench.refused(1, &at("2025-12-31T23:00:00Z"), &["not good before 2026-01-01T00:00:00Z"]);
    let mut other = at("2026-01-01T00:30:00Z");
    other[6] = "node-b";
    bench.refused(1, &other, &["is for `node-a`", "this node is `node-b`"]);
    // Another issuer's key, changed bytes, and no keys at all.
    bench.ok(&["keys", "new", "stranger"]);
    let stranger = read_public(&bench.path("stranger.pub")).unwrap();
    let set = KeySet::of("owner".parse().unwrap(), stranger);
    bench.write("other.json", serde_json::to_string(&set).unwrap().as_bytes());
    let mut other = at("2026-01-01T00:30:00Z");
    other[4] = "other.json";
    bench.refused(1, &other, &["names key k4.pid.", "none of the 1 known"]);
    bench.write("other.json", b"{\"keys\":[]}");
    bench.refused(1, &other, &["key set is empty"]);
    let good = fs::read(bench.path("lease")).unwrap();
    let mut bad = good.clone();
    bad[100] ^= 1;
    bench.write("lease", &bad);
    bench.refused(1, &at("2026-01-01T00:30:00Z"), &["lease"]);
}

#[test]
fn malformed_arguments_name_the_value_and_what_is_allowed() {
    let bench = Bench::new();
    let cases: [(&str, &str, &str); 16] = [
        ("--tenant", "Acme Corp", "a-z, 0-9"),
        ("--tenant", "../etc", "a-z, 0-9"),
        ("--audience", "", "--audience"),
        ("--start", "tomorrow", "2026-01-31T12:00:00Z"),
        ("--expires", "soon", "24h"),
        ("--memory", "4GB", "512MiB"),
        ("--memory", "-1", "--memory"),
        ("--weight", "1e3", "--weight"),
        ("--weight", "99999999999", "--weight"),
        ("--cpus", "half", "0.5"),
        ("--time", "1.5s", "90m"),
        ("--latency", "500us", "500us/10ms"),
        ("--priority", "first", "reserved"),
        ("--isolation", "none", "own-context"),
        ("--label", "team", "NAME=TEXT"),
        ("--op", "Mat Mul", "a-z, 0-9"),
    ];
    for (option, value, allowed) in cases {
        let mut args = bench.issue(&["--out", "lease"]);
        if option == "--tenant" {
            args.retain(|a| !["--tenant", "acme"].contains(a));
        }
        let given = format!("{option}={value}");
        args.push(&given);
        bench.refused(2, &args, &[option, value, allowed]);
    }
    bench.refused(2, &[], &["Usage"]);
    bench.refused(2, &["fly"], &["fly"]);
    bench.refused(2, &["lease", "issue"], &["--key", "--holder"]);
}

#[test]
fn values_that_no_lease_may_have_are_refused_before_signing() {
    let bench = Bench::new();
    let cases: [(&[&str], &[&str]); 9] = [
        (&["--weight", "0"], &["`weight` is 0", "1 to 1000"]),
        (&["--memory", "0"], &["`memory_bytes` is 0"]),
        (&["--concurrency", "5000"], &["`concurrency` is 5000", "1 to 1024"]),
        (&["--isolation", "own-context"], &["own-context", "shared-context"]),
        (&["--expires", "2020-01-01T00:00:00Z"], &["2020-01-01T00:00:00Z"]),
        (&["--time", "99d"], &["`job.wall_s` is 8553600"]),
        (&["--latency", "9ms/10ms"], &["`latency.budget_us` is 9000", "250 to 5000"]),
        (&["--node", "jobs.sock"], &["jobs.sock", "absolute path"]),
        (&["--label", "a=1", "--label", "a=2"], &["2 labels", "1 name"]),
    ];
    for (more, named) in cases {
        let mut args = bench.issue(more);
        args.extend(["--out", "lease"]);
        bench.refused(1, &args, named);
    }
}

#[test]
fn malformed_files_are_named_and_nothing_is_left_behind() {
    let bench = Bench::new();
    let issue = |key: &'static str, holder: &'static str| {
        let mut args = bench.issue(&["--out", "lease"]);
        (args[3], args[9]) = (key, holder);
        args
    };
    bench.refused(1, &issue("missing", "holder.pub"), &["missing"]);
    bench.refused(1, &issue(".", "holder.pub"), &[".", "regular file"]);
    bench.refused(1, &issue("issuer.pub", "holder.pub"), &["issuer.pub", "mode 644"]);
    bench.refused(1, &issue("issuer", "holder"), &["holder", "k4.public."]);
    fs::set_permissions(bench.path("issuer"), fs::Permissions::from_mode(0o640)).unwrap();
    bench.refused(1, &issue("issuer", "holder.pub"), &["issuer", "mode 640", "0600"]);
    fs::set_permissions(bench.path("issuer"), fs::Permissions::from_mode(0o600)).unwrap();
    bench.write("issuer", b"k4.secret.short\n");
    bench.refused(1, &issue("issuer", "holder.pub"), &["issuer", "k4.secret."]);

    bench.refused(1, &["keys", "new", "holder"], &["holder", "exists"]);
    bench.refused(1, &["keys", "new", "no/such/folder"], &["no/such/folder"]);
    bench.write("half.pub", b"");
    bench.refused(1, &["keys", "new", "half"], &["half.pub", "exists"]);

    for (bytes, named) in [
        (&b""[..], "v4.public."),
        (b"v4.public.", "PASETO"),
        (b"v4.local.AAAA", "v4.local.A"),
        (b"\xff\xfe", "UTF-8"),
        (b"\x1b[31mred", "?[31mred"),
        (&[b'v'; 9000], "8193"),
    ] {
        bench.write("lease", bytes);
        bench.refused(1, &["lease", "show", "lease"], &[named]);
        bench.refused(1, &VERIFY, &[named]);
    }
    bench.refused(1, &["lease", "show", "missing"], &["missing"]);
    bench.refused(1, &["lease", "show", "."], &["regular file"]);
    for set in [
        "",
        "{}",
        "{\"keys\":[{\"issuer\":\"o\",\"key\":\"k4.public.x\"}]}",
        "{\"keys\":[],\"more\":1}",
    ] {
        bench.write("set.json", set.as_bytes());
        bench.write("lease", b"v4.public.AAAA");
        bench.refused(1, &VERIFY, &["set.json"]);
    }
}

fn usage(lease: u128, job: u128) -> Usage {
    Usage {
        lease: Uuid::from_u128(lease),
        job: Uuid::from_u128(job),
        tenant: "acme".into(),
        session: None,
        start: Timestamp::from_secs(1_800_000_000),
        end: Timestamp::from_secs(1_800_000_001),
        busy_ns: 1_500_000,
        zeroing_ns: 0,
        memory_byte_s: 9,
        bytes_up: 1 << 20,
        bytes_down: 0,
        ops: 3,
        units: 4,
        queue_wait_ns: 0,
        outcome: Outcome::Exited(0),
        plans: None,
        output: None,
        sku: None,
        trial: true,
    }
}

fn id(n: u128) -> String {
    Uuid::from_u128(n).to_string()
}

/// Two jobs of lease 1 and a signed checkpoint; returns the latter as JSON.
fn write_ledger(path: &Path, key: &SecretKey) -> String {
    let mut ledger = Ledger::open(path, vec![], |_| ()).unwrap().ledger;
    let now = Timestamp::from_secs(1_800_000_002);
    for job in [11, 12] {
        ledger.append(now, Entry::Settle(usage(1, job))).unwrap();
    }
    let checkpoint = Checkpoint::sign("node-a", &ledger.chain(), now, key);
    ledger.append(now, Entry::Checkpoint(checkpoint.clone())).unwrap();
    ledger.commit().unwrap();
    serde_json::to_string(&checkpoint).unwrap()
}

#[test]
fn a_bill_comes_from_a_verified_ledger() {
    let bench = Bench::new();
    let node = SecretKey::generate();
    write_public(&bench.path("node.pub"), &node.public()).unwrap();
    let checkpoint = write_ledger(&bench.path("ledger"), &node);
    bench.write("kept.json", checkpoint.as_bytes());
    let (lease, job) = (id(1), id(12));
    let of_lease = ["bill", "--ledger", "ledger", "--lease", &lease];
    let bill = bench.ok(&of_lease);
    for row in ["3ms", "2 MiB", "6 in 8 units", "yes: nobody pays", "no --key was given"] {
        assert!(bill.contains(row), "{row}: {bill}");
    }
    let full = [
        "bill",
        "--ledger",
        "ledger",
        "--job",
        &job,
        "--key",
        "node.pub",
        "--checkpoint",
        "kept.json",
    ];
    let bill = bench.ok(&full);
    assert!(
        bill.contains("1ms 500us") && bill.contains("chain and signatures, 3 records"),
        "{bill}"
    );
    let json = bench.ok(&["bill", "--ledger", "ledger", "--lease", &lease, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["busy_ns"], &json["records"][1]), (&3_000_000.into(), &1.into()));

    bench.refused(1, &["bill", "--ledger", "ledger", "--lease", &job], &[&job, "3 records"]);
    bench.refused(2, &["bill", "--ledger", "ledger", "--lease", "one"], &["one", "0199d3c8"]);
    bench.refused(2, &["bill", "--ledger", "ledger"], &["--lease", "--job"]);
    bench.refused(2, &["bill", "--ledger", "ledger", "--lease", &lease, "--job", &job], &["--job"]);
    bench.refused(1, &["bill", "--ledger", "missing", "--lease", &lease], &["missing"]);
    let stranger = ["bill", "--ledger", "ledger", "--lease", &lease, "--key", "issuer.pub"];
    bench.refused(1, &stranger, &["record 2", "not signed"]);

    let good = fs::read(bench.path("ledger")).unwrap();
    bench.write(
        "ledger",
        &good.iter().copied().take_while(|c| *c != b'\n').chain(*b"\n").collect::<Vec<_>>(),
    );
    bench.refused(1, &full, &["record 1", "missing", "2 records"]);
    let changed = text(&good).replacen("\"busy_ns\":1500000", "\"busy_ns\":1500001", 1);
    bench.write("ledger", changed.as_bytes());
    bench.refused(1, &of_lease, &["record 0"]);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let bench = Bench::new();
    let command = format!(
        "{} --help | true; {0} lease issue --help | head -c 1",
        env!("CARGO_BIN_EXE_leasehold")
    );
    let out = Command::new("sh").args(["-c", &command]).current_dir(&bench.dir).output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{}", text(&out.stderr));
}

/// What the loader maps of the program that is shipped, which has a build profile of its own.
#[test]
fn the_front_is_below_2_mib() {
    let Some(front) = std::env::var_os("LEASEHOLD_FRONT") else {
        println!("skip: the size of the front: LEASEHOLD_FRONT names no build of profile front");
        return;
    };
    let program = fs::read(front).unwrap();
    // ELF64: e_phoff at 32, e_phentsize at 54, e_phnum at 56; in a program header p_type at 0, p_filesz at 32.
    let number = |at: usize, bytes: usize| {
        program[at..at + bytes].iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte))
    };
    let headers = (0..number(56, 2)).map(|i| (number(32, 8) + i * number(54, 2)) as usize);
    let loaded: u64 = headers.filter(|at| number(*at, 4) == 1).map(|at| number(at + 32, 8)).sum();
    assert!((1 << 19..2 << 20).contains(&loaded), "{loaded} bytes are loaded");
}
