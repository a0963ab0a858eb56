//! The program `leasehold-node`: a node's control, its executors, and a private node for one job. The front
//! `leasehold` starts it; its arguments are for programs, and every one is needed unless its line says otherwise.

use leasehold::backend::cpu::Cpu;
use leasehold::backend::wgpu::Wgpu;
use leasehold::wire::{from_bytes, receive};
use leasehold::{Device, Error, Kind};
use leasehold_node::control::{Config, private, serve};
use leasehold_node::executor;
use leasehold_node::keys::{PublicKey, SecretKey, read_secret};
use leasehold_node::lease::{KeySet, Name};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: leasehold-node serve --name NAME --issuers FILE --key FILE --dir DIR [--device NAME] [--pool NAME]
       leasehold-node private --issuer KEY --name NAME [--device NAME]     client on standard input
       leasehold-node executor --device NAME                               control on standard input
       leasehold-node devices [--json]";

/// Why the program ends with an error, in words.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let run = || -> Result<(), Failure> {
        let options = Options::parse(&command, args.collect())?;
        match command.as_str() {
            "serve" => run_serve(&options),
            "private" => run_private(&options),
            "executor" => run_executor(&options),
            "devices" => run_devices(&options),
            _ => Err(USAGE.into()),
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leasehold-node: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `--name value` pairs; `--json` stands alone.
struct Options(HashMap<String, String>);

impl Options {
    fn parse(command: &str, args: Vec<String>) -> Result<Self, Failure> {
        let allowed: &[&str] = match command {
            "serve" => &["name", "issuers", "key", "dir", "device", "pool"],
            "private" => &["issuer", "name", "device"],
            "executor" => &["device"],
            "devices" => &["json"],
            _ => return Err(USAGE.into()),
        };
        let mut found = HashMap::new();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let name = arg.strip_prefix("--").filter(|name| allowed.contains(name));
            let name = name.ok_or_else(|| {
                format!("unknown argument {arg:?}, allowed: --{}", allowed.join(", --"))
            })?;
            let value = match name {
                "json" => String::new(),
                _ => args.next().ok_or_else(|| format!("--{name} needs a value"))?,
            };
            if found.insert(name.to_string(), value).is_some() {
                return Err(format!("--{name} is given twice").into());
            }
        }
        Ok(Self(found))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn need(&self, name: &str) -> Result<&str, Failure> {
        self.get(name).ok_or_else(|| format!("--{name} is needed\n{USAGE}").into())
    }
}

/// A descriptor of its own for standard input, which is a socket here.
fn standard_input() -> Result<OwnedFd, Failure> {
    Ok(std::io::stdin().as_fd().try_clone_to_owned()?)
}

/// The device to own when none is named: the first that is no software adapter, else the CPU.
fn best_device() -> Result<String, Failure> {
    let found = Device::list();
    let hardware = found.iter().find(|found| !found.caps.software || found.caps.backend == "cpu");
    hardware.map(|found| found.name.clone()).ok_or_else(|| "no device".into())
}

fn run_serve(options: &Options) -> Result<(), Failure> {
    let dir = PathBuf::from(options.need("dir")?);
    let config = Config {
        node: options.need("name")?.parse()?,
        pools: options.get("pool").map(str::parse::<Name>).transpose()?.into_iter().collect(),
        issuers: KeySet::read(options.need("issuers")?.as_ref())?,
        key: read_secret(options.need("key")?.as_ref())?,
        old_keys: Vec::new(),
        device: options.get("device").map_or_else(best_device, |name| Ok(name.to_string()))?,
        program: std::env::current_exe()?,
        ledger: dir.join("ledger"),
    };
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
    ])?;
    serve(config, &dir, || {
        eprintln!("leasehold-node: serving in {}", dir.display());
        signals.forever().next();
    })?;
    Ok(())
}

/// A node of one's own for one client. Its keys are made in memory and forgotten; its ledger has no name.
fn run_private(options: &Options) -> Result<(), Failure> {
    let name: Name = options.need("name")?.parse()?;
    let issuer: PublicKey = options.need("issuer")?.parse()?;
    let client = standard_input()?;
    let folder = tempfile::tempdir()?;
    let config = Config {
        node: name.clone(),
        pools: Vec::new(),
        issuers: KeySet::of(name, issuer),
        key: SecretKey::generate(),
        old_keys: Vec::new(),
        device: options.get("device").map_or_else(best_device, |name| Ok(name.to_string()))?,
        program: std::env::current_exe()?,
        ledger: folder.path().join("ledger"),
    };
    private(config, folder, &client)?;
    Ok(())
}

fn run_executor(options: &Options) -> Result<(), Failure> {
    let control = standard_input()?;
    let bad = |asked: usize| -> Error {
        Kind::Protocol { what: "descriptors", asked: asked as u64, allowed: 1 }.into()
    };
    let (bytes, fds) = receive(&control)?.ok_or_else(|| bad(0))?;
    let protocol: u32 = from_bytes(&bytes)?;
    if protocol != executor::protocol::PROTOCOL {
        return Err(format!("protocol {protocol}, allowed {}", executor::protocol::PROTOCOL).into());
    }
    let (count, mut fds) = (fds.len(), fds.into_iter());
    let (entrance, None) = (fds.next(), fds.next()) else { return Err(bad(count).into()) };
    let name = options.need("device")?;
    match name.strip_prefix("wgpu:").map(str::parse) {
        Some(Ok(index)) => executor::serve(Wgpu::open(index)?, control, entrance)?,
        None if name == "cpu" => executor::serve(Cpu::new()?, control, entrance)?,
        _ => return Err(format!("device {name:?}, allowed: cpu, wgpu:N").into()),
    }
    Ok(())
}

fn run_devices(options: &Options) -> Result<(), Failure> {
    let found = Device::list();
    let chosen = best_device().unwrap_or_default();
    for device in &found {
        let (caps, is_chosen) = (&device.caps, device.name == chosen);
        let why = match (is_chosen, caps.software && caps.backend != "cpu") {
            (true, _) => "chosen",
            (false, true) => "software adapter: only by name",
            (false, false) => "passed over for a better one",
        };
        if options.get("json").is_some() {
            let line = serde_json::json!({
                "name": device.name, "device": caps.name, "backend": caps.backend,
                "arch": caps.arch, "memory": caps.memory, "software": caps.software,
                "clock": caps.clock, "chosen": is_chosen, "why": why,
            });
            println!("{line}");
        } else {
            let gib = caps.memory as f64 / f64::from(1 << 30);
            println!("{:8} {} ({}, {gib:.1} GiB): {why}", device.name, caps.name, caps.arch);
        }
    }
    Ok(())
}
