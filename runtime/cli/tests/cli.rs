//! The program itself: what it prints, its exit codes, and that malformed input names the value, what was
//! allowed, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use leasehold_node::keys::{SecretKey, read_public, write_public};
use leasehold_node::lease::{KeySet, Lease};
use leasehold_node::ledger::{Checkpoint, Entry, Ledger, Outcome, Usage};
use leasehold_node::time::Timestamp;
use uuid::Uuid;

/// A folder with an issuer's and a holder's keys and a key set, in which the program runs.
struct Bench {
    dir: tempfile::TempDir,
}

/// What a file holds; nothing of what is no file.
fn bytes(path: &Path) -> Vec<u8> {
    if path.is_file() { fs::read(path).unwrap_or_default() } else { Vec::new() }
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
        let mut files: Vec<_> = entries.map(|p| (p.clone(), bytes(&p))).collect();
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

/// A lease whose node is nowhere, so that whatever is refused for another reason was refused before it was asked.
fn run_on<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let lease = ["run", "--lease", "lease", "--holder-key", "holder", "--node", "nowhere"];
    lease.into_iter().chain(more.iter().copied()).collect()
}

#[test]
fn a_run_that_cannot_be_is_refused_before_a_node_is_asked() {
    let bench = Bench::new();
    bench.ok(&bench.issue(&["--memory", "1GiB", "--out", "lease"]));
    bench.write("text", b"no program");
    fs::create_dir(bench.path("folder")).unwrap();
    fifo(&bench.path("pipe"));
    let cases: [(i32, &[&str], &[&str]); 25] = [
        (125, &["--in", "data=missing", "--", "true"], &["--in data=missing", "No such file"]),
        (125, &["--in", "data=text/x", "--", "true"], &["--in data=text/x", "Not a directory"]),
        (125, &["--in", "data=pipe", "--", "true"], &["data=pipe", "neither a file nor a folder"]),
        (2, &["--in", "data", "--", "true"], &["data", "NAME=PATH"]),
        (2, &["--in", "=text", "--", "true"], &["=text", "NAME=PATH"]),
        (125, &["--in", "../x=text", "--", "true"], &["../x", "[A-Za-z0-9_]"]),
        (125, &["--in", "a=text", "--in", "a=text", "--", "true"], &["\"a\"", "twice"]),
        (
            125,
            &["--out", "y=no/such/y", "--", "true"],
            &["--out y=no/such/y", "folder that is there"],
        ),
        (125, &["--out", "y=folder", "--", "true"], &["--out y=folder", "is a folder"]),
        (125, &["--out", "y=new", "--out", "z=new", "--", "true"], &["z=new", "output y"]),
        (125, &["--out", "a/b=new", "--", "true"], &["a/b", "[A-Za-z0-9_]"]),
        (2, &["-e", "PATH", "--", "true"], &["PATH", "KEY=VALUE"]),
        (125, &["-e", "LD_PRELOAD=/x.so", "--", "true"], &["LD_PRELOAD", "/x.so"]),
        (125, &["-e", "1A=x", "--", "true"], &["1A", "[A-Za-z_]"]),
        (2, &["--mem", "lots", "--", "true"], &["lots", "512MiB"]),
        (125, &["--mem", "5", "--", "true"], &["memory is 5", "1048576"]),
        (2, &["--cpus", "two", "--", "true"], &["two", "0.5"]),
        (2, &["--time", "soon", "--", "true"], &["soon", "90m"]),
        (125, &["--time", "0s", "--", "true"], &["wall time", "0", "1"]),
        (2, &["--profile", "general", "--", "true"], &["general", "compute", "python"]),
        (127, &["--", "no-such-program"], &["no-such-program", "PATH"]),
        (127, &["--", "./no-such-program"], &["./no-such-program", "No such file"]),
        (126, &["--", "./text"], &["./text", "no executable file"]),
        (126, &["--", "./folder"], &["./folder", "no executable file"]),
        (2, &["--"], &["PROGRAM"]),
    ];
    for (code, more, named) in cases {
        bench.refused(code, &run_on(more), named);
    }
    bench.write("record", b"{}");
    bench.refused(125, &run_on(&["--json", "record", "--", "true"]), &["record", "exists"]);
    bench.refused(125, &run_on(&["--json", "no/such/record", "--", "true"]), &["no/such/record"]);
    for device in ["gpu", "wgpu:x", "cuda:0"] {
        let args = ["run", "--private", "--device", device, "--", "true"];
        bench.refused(2, &args, &[device, "wgpu:N"]);
    }
    bench.refused(2, &["run", "--", "true"], &["--lease"]);
    bench.refused(2, &["run", "--private", "--lease", "lease", "--", "true"], &["--lease"]);
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// What only a node, a lease or the launcher can say; the record's file does not stay.
#[test]
fn a_run_without_a_node_leaves_nothing() {
    let bench = Bench::new();
    bench.ok(&bench.issue(&["--memory", "1GiB", "--out", "lease"]));
    // What hears a policy and then to end stands for the launcher: its jail is built while the node is asked.
    let launcher = bench.dir.path().join("launcher");
    let hears = "#!/bin/sh\nexec dd bs=1M count=2 of=/dev/null status=none\n";
    std::fs::write(&launcher, hears).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&launcher, executable).unwrap();
    let refused = |code: i32, args: &[&str], named: &[&str]| {
        let before = bench.files();
        let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        command.args(args).current_dir(&bench.dir).env("LEASEHOLD_LAUNCHER", &launcher);
        let out = command.output().unwrap();
        let message = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {message}");
        for word in named {
            assert!(message.contains(word), "{args:?}: `{word}` is not in: {message}");
        }
        assert_eq!(bench.files(), before, "{args:?} left something behind");
    };
    refused(75, &run_on(&["--json", "record", "--", "true"]), &["nowhere", "No such file"]);
    let mut other = run_on(&["--json", "record", "--", "true"]);
    for (at, value, named) in [
        (2, "missing", "missing: No such file"),
        (2, "holder", "holder: the lease begins with"),
        (4, "missing", "missing: No such file"),
        (4, "holder.pub", "holder.pub: has mode 644"),
        (4, "lease", "lease: "),
    ] {
        let good = std::mem::replace(&mut other[at], value);
        let code = 125;
        refused(code, &other, &[named]);
        other[at] = good;
    }
    // The lease names no node, and none is given.
    let args = ["run", "--lease", "lease", "--holder-key", "holder", "--", "true"];
    refused(125, &args, &["lease", "names no node", "--node PATH"]);
    // A private node says why it does not start.
    let args = ["run", "--private", "--device", "wgpu:77", "--", "true"];
    refused(125, &args, &["no device \"wgpu:77\"", "cpu"]);
}

/// Arguments of `node serve` that are good, in the folder of `bench`.
fn serve(at: usize, value: &str) -> Vec<&str> {
    let mut args = vec!["node", "serve", "--name", "node-a", "--issuers", "set.json"];
    args.extend(["--key", "node", "--dir", "served", "--device", "cpu"]);
    args[at] = value;
    args
}

#[test]
fn a_node_that_cannot_serve_names_the_value_and_leaves_nothing() {
    let bench = Bench::new();
    bench.ok(&["keys", "new", "node"]);
    fs::create_dir(bench.path("served")).unwrap();
    bench.write("text", b"no key set");
    bench.write("none.json", b"{\"keys\":[]}");
    bench.write("other.json", b"{\"issuers\":[]}");
    let cases: [(i32, usize, &str, &[&str]); 16] = [
        (1, 3, "Node A", &["--name", "Node A", "a-z"]),
        (1, 3, "", &["--name", "a-z"]),
        (1, 5, "missing", &["missing", "No such file"]),
        (1, 5, "served", &["served", "directory"]),
        (1, 5, "text", &["text", "\"keys\""]),
        (1, 5, "other.json", &["other.json", "issuers", "\"keys\""]),
        (1, 5, "node", &["node", "\"keys\""]),
        (1, 5, "none.json", &["--issuers", "empty"]),
        (1, 7, "missing", &["missing", "No such file"]),
        (1, 7, "node.pub", &["node.pub", "mode 644", "0600"]),
        (1, 7, "served", &["served", "regular file"]),
        (1, 9, "missing", &["--dir", "missing", "no folder"]),
        (1, 9, "text", &["--dir", "text", "no folder"]),
        (2, 11, "gpu", &["gpu", "wgpu:N"]),
        (1, 11, "wgpu:77", &["wgpu:77", "cpu"]),
        (2, 10, "--speed", &["--speed"]),
    ];
    for (code, at, value, named) in cases {
        bench.refused(code, &serve(at, value), named);
        assert_eq!(fs::read_dir(bench.path("served")).unwrap().count(), 0, "{value}");
    }
    let mut pool = serve(0, "node");
    pool.extend(["--pool", "No Pool"]);
    bench.refused(1, &pool, &["--pool", "No Pool", "a-z"]);
    let mut twice = serve(0, "node");
    twice.extend(["--device", "cpu"]);
    bench.refused(2, &twice, &["--device"]);
    bench.refused(2, &["node", "serve"], &["--name", "--issuers", "--key", "--dir"]);
    bench.refused(2, &["node"], &["serve", "revoke"]);
    let lease = id(1);
    let revoke = ["node", "revoke", "--dir", "served", "--lease", &lease];
    bench.refused(1, &revoke, &["served/admin.sock", "No such file"]);
    bench.refused(
        2,
        &["node", "revoke", "--dir", "served", "--lease", "one"],
        &["one", "0199d3c8"],
    );
    // A ledger that was changed: nothing starts on it.
    let folder = bench.path("served");
    fs::write(folder.join("ledger"), b"no ledger\n").unwrap();
    bench.refused(1, &serve(0, "node"), &["served/ledger", "record 0"]);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
}

/// Ctrl-C at the terminal of a node: it drains, exits with 0, and leaves its ledger alone.
#[test]
fn an_interrupt_ends_a_served_node() {
    let bench = Bench::new();
    bench.ok(&["keys", "new", "node"]);
    fs::create_dir(bench.path("served")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .args(serve(0, "node"))
        .current_dir(&bench.dir)
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert_eq!(line, "leasehold-node: serving in served\n");
    // A terminal signals the whole group.
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), rest.as_str()), (Some(0), ""));
    let left = fs::read_dir(bench.path("served")).unwrap().map(|e| e.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["ledger"]);
}

/// A served node, which does not outlive its test.
struct Serving(Child);

impl Serving {
    /// Starts it and waits until it serves.
    fn start(bench: &Bench) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_leasehold"))
            .args(serve(0, "node"))
            .current_dir(&bench.dir)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "leasehold-node: serving in served\n");
        Self(child)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Its executor ends in order with it, and only then.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// The node's control is killed while a job runs: the job goes on, and the control that starts next settles it.
#[test]
fn a_job_outlives_its_nodes_control() {
    if std::env::var_os("LEASEHOLD_LAUNCHER").is_none() {
        println!("skip: a job on a node that is killed: LEASEHOLD_LAUNCHER names no launcher");
        return;
    }
    let bench = Bench::new();
    bench.ok(&["keys", "new", "node"]);
    bench.ok(&bench.issue(&["--memory", "1GiB", "--out", "lease"]));
    fs::create_dir(bench.path("served")).unwrap();
    fs::create_dir(bench.path("signs")).unwrap();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(bench.path("signs"), open.clone()).unwrap();
    fs::set_permissions(bench.dir.path(), open).unwrap();
    let mut node = Serving::start(&bench);
    let job =
        "echo begun | tee /out/begun; while [ ! -e /in/signs/end ]; do sleep 0.05; done; exit 7";
    let args = ["run", "--lease", "lease", "--holder-key", "holder", "--node", "served/jobs.sock"];
    let mut run = Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .args(args)
        .args(["--in", "signs=signs", "--out", "begun=begun", "--", "/bin/sh", "-c", job])
        .current_dir(&bench.dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(run.stdout.take().unwrap());
    let mut bill = String::new();
    stdout.read_line(&mut bill).unwrap();
    assert_eq!(bill, "begun\n");
    node.0.kill().unwrap();
    node.0.wait().unwrap();
    let _node = Serving::start(&bench);
    fs::write(bench.path("signs/end"), "").unwrap();
    stdout.read_to_string(&mut bill).unwrap();
    let out = run.wait_with_output().unwrap();
    assert_eq!((out.status.code(), text(&out.stderr).as_str()), (Some(7), ""));
    assert!(
        bill.contains("jobs") && fs::read(bench.path("begun")).unwrap() == b"begun\n",
        "{bill}"
    );
    let records = fs::read_to_string(bench.path("served/ledger")).unwrap();
    assert_eq!(records.matches("\"settle\"").count(), 1, "{records}");
}

#[test]
fn devices_and_benchmarks_name_what_is_wrong() {
    let bench = Bench::new();
    bench.refused(2, &["devices", "all"], &["all"]);
    bench.refused(2, &["devices", "--xml"], &["--xml"]);
    let json = bench.run(&["devices", "--json"]);
    let lines: Vec<serde_json::Value> =
        text(&json.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().filter(|line| line["chosen"] == true).count(), 1);
    assert!(lines.iter().any(|line| line["name"] == "cpu"));
    let cases: [(i32, &[&str], &[&str]); 11] = [
        (2, &[], &["matmul", "attention"]),
        (2, &["fly"], &["fly"]),
        (2, &["matmul", "-m", "0"], &["0", "1 to 1048576"]),
        (2, &["matmul", "-m", "-5"], &["-5"]),
        (2, &["matmul", "-n", "many"], &["many", "1 to 1048576"]),
        (2, &["matmul", "--dtype", "f64"], &["f64", "f32, f16, bf16"]),
        (2, &["attention", "--dtype", "i32"], &["i32", "f32"]),
        (2, &["attention", "--dim", "1.5"], &["1.5", "1 to 1048576"]),
        (2, &["matmul", "--seconds", "0"], &["0", "0.01 to 600"]),
        (2, &["matmul", "--seconds", "NaN"], &["NaN", "0.01 to 600"]),
        (1, &["matmul", "--device", "abacus"], &["abacus", "cpu"]),
    ];
    for (code, args, named) in cases {
        let args: Vec<&str> = ["bench"].into_iter().chain(args.iter().copied()).collect();
        bench.refused(code, &args, named);
    }
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
