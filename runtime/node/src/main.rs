//! The program `leasehold-node`: a node's control, its executors, and a private node for one job. The front
//! `leasehold` starts it; its arguments are for programs, and every one is needed unless its line says otherwise.

use leasehold::backend::cpu::Cpu;
use leasehold::backend::cuda::{Cuda, Pack};
use leasehold::backend::wgpu::Wgpu;
use leasehold::judge::{LIMIT, judged};
use leasehold::wire::{from_bytes, receive, send};
use leasehold::{DType, Device, Error, Found, Kind, Matmul};
use leasehold_node::control::protocol::ToClient;
use leasehold_node::control::{Config, private, serve};
use leasehold_node::executor::{self, Reach, confine};
use leasehold_node::keys::{PublicKey, SecretKey, read_secret};
use leasehold_node::lease::{KeySet, Name};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

const USAGE: &str = "usage: leasehold-node serve --name NAME --issuers FILE --key FILE --dir DIR [--device NAME] [--kernels FILE] [--pool NAME]
       leasehold-node private --issuer KEY --name NAME [--device NAME]     client on standard input
       leasehold-node executor --device NAME [--kernels FILE]              control on standard input
       leasehold-node judge --device NAME [--kernels FILE]                 whether its kernels come out right
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
            "judge" => open_judged(options.need("device")?, options.path("kernels")).map(drop),
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
            "serve" => &["name", "issuers", "key", "dir", "device", "kernels", "pool"],
            "private" => &["issuer", "name", "device"],
            "executor" | "judge" => &["device", "kernels"],
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

    /// The value, read; the error names the argument.
    fn read<T>(&self, name: &str) -> Result<Option<T>, Failure>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let read = |text: &str| text.parse().map_err(|e| format!("--{name}: {e}").into());
        self.get(name).map(read).transpose()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// The device that is named, if it is there, else the best one with these kernels.
    fn device(&self, kernels: Option<&Path>) -> Result<String, Failure> {
        let Some(name) = self.get("device") else { return best_device(kernels) };
        // The CPU is there without a look at graphics drivers.
        if name == "cpu" {
            return Ok(name.into());
        }
        let names: Vec<String> = Device::list().into_iter().map(|found| found.name).collect();
        if names.iter().any(|found| found == name) {
            return Ok(name.into());
        }
        Err(format!("--device: no device {name:?}, there are: {}", names.join(", ")).into())
    }

    fn need(&self, name: &str) -> Result<&str, Failure> {
        self.get(name).ok_or_else(|| format!("--{name} is needed\n{USAGE}").into())
    }
}

/// A descriptor of its own for standard input, which is a socket here.
fn standard_input() -> Result<OwnedFd, Failure> {
    Ok(std::io::stdin().as_fd().try_clone_to_owned()?)
}

/// The device to own when none is named: the first that is no software adapter and whose kernels come out right, else the CPU.
fn best_device(kernels: Option<&Path>) -> Result<String, Failure> {
    let chosen = choices(kernels).into_iter().find(|(_, why)| why == CHOSEN);
    chosen.map(|(found, _)| found.name).ok_or_else(|| "no device".into())
}

/// What is said of the device that is chosen.
const CHOSEN: &str = "chosen";

/// Every device, and why it is chosen or passed over.
fn choices(kernels: Option<&Path>) -> Vec<(Found, String)> {
    let mut is_chosen = false;
    let judge = |found: Found| {
        let why = match found.caps.backend {
            _ if is_chosen => "passed over for a better one".into(),
            "wgpu" if found.caps.software => "software adapter: only by name".into(),
            "cuda" => judge_apart(&found.name, kernels).map_or_else(|why| why, |()| CHOSEN.into()),
            _ => CHOSEN.into(),
        };
        is_chosen |= why == CHOSEN;
        (found, why)
    };
    Device::list().into_iter().map(judge).collect()
}

/// Has another process judge a device: this one opens none.
fn judge_apart(name: &str, kernels: Option<&Path>) -> Result<(), String> {
    let start = || -> std::io::Result<std::process::Output> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["judge", "--device", name]).stdin(Stdio::null());
        if let Some(file) = kernels {
            command.arg("--kernels").arg(file);
        }
        command.output()
    };
    match start() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().last().unwrap_or_default();
            let why = last.strip_prefix("leasehold-node: ").unwrap_or(last);
            Err(if why.is_empty() { output.status.to_string() } else { why.into() })
        }
        Err(error) => Err(format!("it cannot be judged: {error}")),
    }
}

/// A CUDA device whose kernels came out right just now.
fn open_judged(name: &str, kernels: Option<PathBuf>) -> Result<Cuda, Failure> {
    let Some(Ok(ordinal)) = name.strip_prefix("cuda:").map(str::parse) else {
        return Err(format!("device {name:?}, allowed: cuda:N").into());
    };
    let cuda = match kernels {
        Some(file) => Cuda::open_with(ordinal, &Pack::read(&file)?)?,
        None => Cuda::open(ordinal)?,
    };
    Ok(judged(cuda, LIMIT)?)
}

fn run_serve(options: &Options) -> Result<(), Failure> {
    let dir = PathBuf::from(options.need("dir")?);
    options.need("name")?;
    if !dir.is_dir() {
        return Err(
            format!("--dir: {} is no folder; make one for the node alone", dir.display()).into()
        );
    }
    let kernels = options.path("kernels");
    let device = options.device(kernels.as_deref())?;
    if device.starts_with("cuda:") && kernels.is_none() {
        // Where strangers' ops run, no compiler does.
        return Err(format!("--kernels: {device} serves kernels of a file only; make one with `leasehold kernels build`").into());
    }
    let issuers = KeySet::read(options.need("issuers")?.as_ref())?;
    if issuers.keys.is_empty() {
        return Err("--issuers: the key set is empty, so no lease could be admitted".into());
    }
    let config = Config {
        node: options.read("name")?.ok_or(USAGE)?,
        pools: options.read::<Name>("pool")?.into_iter().collect(),
        issuers,
        key: read_secret(options.need("key")?.as_ref())?,
        old_keys: Vec::new(),
        device,
        kernels,
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

fn kernels_of_environment() -> Option<PathBuf> {
    std::env::var_os(leasehold::LEASEHOLD_KERNELS)
        .filter(|file| !file.is_empty())
        .map(PathBuf::from)
}

/// A node of one's own for one client, who hears why it does not start. Its keys are made in memory and forgotten;
/// its ledger has no name.
fn run_private(options: &Options) -> Result<(), Failure> {
    let name: Name = options.need("name")?.parse()?;
    let issuer: PublicKey = options.need("issuer")?.parse()?;
    let client = standard_input()?;
    let folder = tempfile::tempdir()?;
    let start = || -> Result<(), Failure> {
        let kernels = kernels_of_environment();
        let config = Config {
            node: name.clone(),
            pools: Vec::new(),
            issuers: KeySet::of(name, issuer),
            key: SecretKey::generate(),
            old_keys: Vec::new(),
            device: options.device(kernels.as_deref())?,
            kernels,
            program: std::env::current_exe()?,
            ledger: folder.path().join("ledger"),
        };
        Ok(private(config, folder, &client)?)
    };
    start().or_else(|error| {
        // Its hello is heard first: a socket that is closed with a word unread takes the answer along.
        receive(&client)?;
        let why = error.to_string();
        Ok(send(&client, &ToClient::Refused { why, retryable: false }, &[])?)
    })
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
    if name.starts_with("cuda:") {
        // Tenants' ops run on no card whose kernels are wrong; what judged them is gone before its memory is taken.
        let cuda = open_judged(name, options.path("kernels"))?.taken()?;
        confine(Reach::Driver)?;
        return Ok(executor::serve(cuda, control, entrance)?);
    }
    match name.strip_prefix("wgpu:").map(str::parse) {
        Some(Ok(index)) => {
            let wgpu = Wgpu::open(index)?;
            confine(Reach::Driver)?;
            executor::serve(wgpu, control, entrance)?;
        }
        None if name == "cpu" => {
            let cpu = Cpu::new()?;
            let_libraries_look()?;
            confine(Reach::Processor)?;
            executor::serve(cpu, control, entrance)?;
        }
        _ => return Err(format!("device {name:?}, allowed: cpu, cuda:N, wgpu:N").into()),
    }
    Ok(())
}

/// Libraries beneath the kernels look at the machine when they are first used: now, while they may.
fn let_libraries_look() -> Result<(), Error> {
    let dev = Device::from_backend(Cpu::with_threads(1)?)?;
    let x = dev.empty(DType::F32, &[64, 64])?;
    Matmul::new(&x, &x).run()?;
    dev.wait(None)
}

fn run_devices(options: &Options) -> Result<(), Failure> {
    for (device, why) in choices(kernels_of_environment().as_deref()) {
        let (caps, is_chosen) = (&device.caps, why == CHOSEN);
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
