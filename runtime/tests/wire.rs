//! The wire: every op of the list survives the way there and back, frames are the golden ones, hostile bytes are
//! refused by name, and rings hold the other side to what is possible.
#![cfg(feature = "remote")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use leasehold::op::{self, Lens, MapFn, Op, Spec};
use leasehold::wire::{
    Bad, BlockRef, Completion, Consumer, Memfd, Outcome, PAGE, Producer, Record, Wire, awake,
};
use leasehold::{DType, Dims, Error, Kind, Layout, Rule};
use std::os::fd::OwnedFd;

/// One of every op, with options that are not the defaults.
fn every_op() -> Vec<Op> {
    let matmul = op::Matmul {
        alpha: 0.5,
        beta: 2.0,
        bias: true,
        activation: op::Activation::Silu,
        gate: op::Gate::Interleaved,
        residual: true,
        preactivation: true,
        precision: op::Precision::Tf32,
        scales: [op::Scale::Row, op::Scale::Block128x128],
        group: op::Group::K,
        sizes: Lens::Host(vec![7, 9]),
        quantize: op::Scale::Block1x128,
        constant_b: true,
        index_a: false,
        index_b: false,
        order: op::OrderClass::BatchInvariant,
    };
    let attention = op::Attention {
        scores: op::Scores {
            scale: 0.125,
            causal: true,
            window: Some([3, 0]),
            softcap: 30.0,
            mask: op::Mask::Additive,
            alibi: true,
            rows: Lens::Host(vec![1, 2]),
            lens: Lens::Host(vec![3, 5]),
        },
        sinks: true,
        key_value: op::KeyValue::Paged { page: 64 },
        log_sum_exp: true,
        order: op::OrderClass::Any,
    };
    vec![
        matmul.into(),
        attention.into(),
        op::AttentionBackward {
            scores: op::Scores { scale: 0.5, causal: true, ..Default::default() },
        }
        .into(),
        op::Norm { kind: op::NormKind::Rms, epsilon: 1e-6, weight: true, bias: true }.into(),
        op::Softmax { scale: 2.0, axis: 3 }.into(),
        op::Map { function: MapFn::Min, scale: 2.0, shift: -1.0 }.into(),
        op::Rope { base: 1e5, dims: 64, interleaved: true }.into(),
        op::Gather { axis: 1 }.into(),
        op::Scatter { function: op::ScatterFn::Append, axis: 2 }.into(),
        op::Reduce { function: op::ReduceFn::Min, axis: 1 }.into(),
        op::ArgMax { axis: 4 }.into(),
        op::TopK { k: 40, axis: 1 }.into(),
        op::Quantize { format: op::QuantizeFormat::Group32, inverse: true }.into(),
        op::Copy.into(),
        op::NormBackward { kind: op::NormKind::Layer, epsilon: 1e-5, weight: true }.into(),
    ]
}

fn spec() -> Spec {
    let dims = |list| Dims::new(list).unwrap();
    let layout = Layout::new(dims(&[2, 3, 1 << 40]), dims(&[7, 0, 1])).unwrap();
    Spec::new(DType::BF16, layout, 6)
}

fn every_record() -> Vec<Record> {
    let at = BlockRef { block: 7, generation: 9, offset: 256 };
    let defines = every_op().into_iter().map(|op| Record::Define {
        handle: 3,
        op: Wire::of(&op),
        specs: vec![spec(); op.roles().len().min(3)],
        lens: [4096, 2],
    });
    let others = [
        Record::Undefine { handle: 3 },
        Record::Run { handle: 3, bindings: vec![at; 12] },
        Record::Replay { program: 1 },
        Record::Reserve { bytes: 1 << 33 },
        Record::Release { at },
        Record::Write { at, staging: 64, len: 1024 },
        Record::Read { at, staging: 128, len: 4 },
        Record::Record { program: 1, steps: [64, 4096] },
        Record::Erase { program: 1 },
        Record::Plan { handle: 3, staging: 512 },
    ];
    defines.chain(others).collect()
}

/// Indices share a word with the mark of a constant B, so that frames without them are as they were.
#[test]
fn indices_of_products_return_unchanged() {
    for [index_a, index_b] in [[true, false], [false, true], [true, true]] {
        let op: Op = op::Matmul { index_a, index_b, ..op::Matmul::default() }.into();
        assert_eq!(Wire::of(&op).op(Vec::new()).unwrap(), op);
        let mut unknown = Wire::of(&op);
        unknown.words[14] |= 8;
        let error = unknown.op(Vec::new()).unwrap_err();
        assert!(error.to_string().contains("matmul extras"), "{error}");
    }
}

#[test]
fn every_op_and_record_returns_unchanged() {
    assert_eq!(every_op().len(), Op::NAMES.len());
    for op in every_op() {
        assert_eq!(Wire::of(&op).op(op.host_lens().concat()).unwrap(), op);
    }
    for record in every_record() {
        let bytes = record.encode(11, 2).unwrap();
        let (ticket, queue, decoded) = Record::decode(&bytes);
        assert_eq!((ticket, queue, decoded.unwrap()), (11, 2, record));
    }
}

/// The frames as they were first agreed. A change here is a change of the protocol's version.
#[test]
fn frames_are_the_golden_ones() {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let frames = every_record().into_iter().map(|r| hex(&r.encode(11, 2).unwrap()));
    let now: Vec<String> = frames.map(|f| f.trim_end_matches("00").to_string()).collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/frames.hex");
    if std::env::var_os("LEASEHOLD_WRITE_GOLDEN").is_some() {
        std::fs::write(path, now.join("\n") + "\n").unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert_eq!(now, golden.lines().collect::<Vec<_>>());
}

#[test]
fn one_changed_byte_is_refused_or_another_valid_record() {
    for record in every_record() {
        let good = record.encode(11, 2).unwrap();
        for i in 4..good.len() {
            let mut bytes = good.clone();
            bytes[i] ^= 0x81;
            if let (_, _, Err(error)) = Record::decode(&bytes) {
                assert!(matches!(error.kind(), Kind::Protocol { .. }), "{error}");
            }
        }
    }
    let mut unknown = Record::Replay { program: 1 }.encode(1, 0).unwrap();
    unknown[4] = 77;
    let error = Record::decode(&unknown).2.unwrap_err();
    assert!(error.to_string().contains("record kind, asked 77, allowed 11"), "{error}");
}

#[test]
fn completions_keep_kind_rule_and_values() {
    let errors: Vec<Error> = vec![
        Kind::OutOfMemory { asked: 5, free: 3, quota: 4 }.into(),
        Kind::Index { value: u32::MAX, bound: 7 }.into(),
        Kind::Revoked.into(),
        Kind::Time { asked: 9, allowed: 8 }.into(),
    ];
    for error in errors {
        let c = Completion { ticket: 5, outcome: Outcome::Failed(error) };
        assert_eq!(Completion::decode(&c.encode()).unwrap(), c);
    }
    let rejected = Error::rejected(Rule::InnerDim, None, "ü".repeat(40), "k = 3");
    let c = Completion { ticket: 6, outcome: Outcome::Failed(rejected) };
    let Outcome::Failed(back) = Completion::decode(&c.encode()).unwrap().outcome else { panic!() };
    assert_eq!(back.rule(), Some(Rule::InnerDim));
}

#[test]
fn a_ring_carries_records_across_its_end_and_refuses_impossible_positions() {
    let (writer, reader) = (Memfd::new("w", PAGE + 4096).unwrap(), Memfd::new("r", PAGE).unwrap());
    let (writer, reader) = (writer.map(true).unwrap(), reader.map(true).unwrap());
    let (mut producer, mut consumer) = (Producer::new(4096), Consumer::new(4096));
    let mut got = Vec::new();
    for i in 0..500u64 {
        let at = BlockRef { block: i as u32, generation: 0, offset: i };
        let bindings = vec![at; 1 + (i % 12) as usize];
        let bytes = Record::Run { handle: 1, bindings }.encode(i, 0).unwrap();
        assert!(producer.push(&writer, &reader, &bytes).unwrap());
        assert!(consumer.pop(&reader, &writer, &mut got).unwrap());
        assert_eq!(got, bytes);
    }
    assert!(!consumer.pop(&reader, &writer, &mut got).unwrap());
    // The tenant owns its page and may write anything there.
    let tail = writer.position(0);
    for bad in [tail - 64, tail + 8192, tail + 1, u64::MAX, 0] {
        writer.set_position(0, bad);
        let error = consumer.pop(&reader, &writer, &mut got).unwrap_err();
        assert!(matches!(error, Bad::Position { position, .. } if position == bad), "{error}");
    }
    for bad in [0u32, 1, 63, 65, 4160, u32::MAX, 128] {
        writer.write(PAGE + tail % 4096, &bad.to_le_bytes());
        writer.set_position(0, tail + 64);
        let error = consumer.pop(&reader, &writer, &mut got).unwrap_err();
        assert!(matches!(error, Bad::Length { asked, .. } if asked == u64::from(bad)), "{error}");
    }
}

/// Memory of two sides, each its own page and data.
fn two_pages() -> [leasehold::wire::Shared; 2] {
    ["w", "r"].map(|name| Memfd::new(name, PAGE + 4096).unwrap().map(true).unwrap())
}

#[test]
fn a_sleeper_is_woken_once_and_only_for_what_it_sleeps_for() {
    let [writer, reader] = two_pages();
    let (mut producer, mut consumer) = (Producer::new(4096), Consumer::new(4096));
    let record = [64u8; 64];
    // Until three records are there.
    assert!(consumer.sleeps(&reader, &writer, 3 * 64).unwrap());
    for wakes in [false, false, true, false] {
        assert!(producer.push(&writer, &reader, &record).unwrap());
        assert_eq!(producer.wakes(&reader), wakes);
    }
    awake(&reader);
    assert!(!consumer.sleeps(&reader, &writer, 64).unwrap(), "a record is there");
    awake(&reader);
    while consumer.pop_fixed::<64>(&reader, &writer).unwrap().is_some() {}
    // For more than the writer can write before it sleeps too: half a ring is enough.
    assert!(consumer.sleeps(&reader, &writer, 1 << 40).unwrap());
    for i in 1..=64 {
        assert!(producer.push(&writer, &reader, &record).unwrap());
        assert_eq!(producer.wakes(&reader), i == 32, "{i}");
    }
    awake(&reader);
    // For room of two records.
    assert!(!producer.push(&writer, &reader, &record).unwrap());
    assert!(producer.sleeps(&writer, &reader, 2 * 64).unwrap());
    for wakes in [false, true, false] {
        assert!(consumer.pop_fixed::<64>(&reader, &writer).unwrap().is_some());
        assert_eq!(consumer.wakes(&writer), wakes);
    }
    awake(&writer);
    assert!(!producer.sleeps(&writer, &reader, 2 * 64).unwrap(), "room is there");
    awake(&writer);
    // Nobody sleeps: nobody is woken, whatever the words held before.
    assert!(consumer.pop_fixed::<64>(&reader, &writer).unwrap().is_some());
    assert!(!consumer.wakes(&writer) && !producer.wakes(&reader));
    // A sleeper that asks for what never comes, or for the past, costs nothing.
    for word in [u64::MAX, 1, 64] {
        reader.set_position(128, word);
        assert!(producer.push(&writer, &reader, &record).unwrap());
        assert!(!producer.wakes(&reader), "{word}");
    }
}

/// Two threads that push, pop and sleep at random moments: each sleep ends by a byte, in both directions. A lost
/// wake-up would leave both asleep until the limit.
#[test]
fn no_wake_up_is_lost() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::net::{RecvFlags, SendFlags, recv, send};
    const RECORDS: u64 = 100_000;
    let [writer, reader] = two_pages();
    let (ours, theirs) = leasehold::wire::pair().unwrap();
    let wake = |socket: &OwnedFd| {
        let _ = send(socket, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    };
    let sleep = |socket: &OwnedFd| {
        let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&limit)).unwrap(), 1, "a lost wake-up");
        while recv(socket, &mut [0u8; 64], RecvFlags::DONTWAIT).is_ok() {}
    };
    let random = |seed: &mut u64| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *seed >> 33
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut producer, mut seed) = (Producer::new(4096), 1);
            for _ in 0..RECORDS {
                while !producer.push(&writer, &reader, &[64; 64]).unwrap() {
                    if producer.sleeps(&writer, &reader, 64 * (1 + random(&mut seed) % 40)).unwrap()
                    {
                        sleep(&ours);
                    }
                    awake(&writer);
                }
                if producer.wakes(&reader) {
                    wake(&ours);
                }
                (0..random(&mut seed) % 64).for_each(|_| std::hint::spin_loop());
            }
        });
        let (mut consumer, mut seed, mut taken) = (Consumer::new(4096), 2, 0);
        while taken < RECORDS {
            while consumer.pop_fixed::<64>(&reader, &writer).unwrap().is_some() {
                taken += 1;
                if random(&mut seed).is_multiple_of(8) && consumer.wakes(&writer) {
                    wake(&theirs);
                }
            }
            if consumer.wakes(&writer) {
                wake(&theirs);
            }
            let more = (1 + random(&mut seed) % 50).min(RECORDS - taken);
            if more > 0 && consumer.sleeps(&reader, &writer, 64 * more).unwrap() {
                sleep(&theirs);
            }
            awake(&reader);
        }
    });
}

#[test]
fn shared_memory_cannot_be_resized_and_after_sealing_not_mapped_writable_or_punched() {
    use rustix::fs::{FallocateFlags, fallocate, ftruncate};
    let memfd = Memfd::new("sealed", 8192).unwrap();
    let node = memfd.map(true).unwrap();
    assert!(ftruncate(&memfd, 4096).is_err() && ftruncate(&memfd, 16384).is_err());
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&memfd, punch, 0, 4096).unwrap();
    memfd.seal_writes().unwrap();
    assert!(memfd.map(true).is_err());
    assert!(fallocate(&memfd, punch, 0, 4096).is_err());
    assert!(rustix::io::pwrite(&memfd, b"x", 0).is_err());
    assert!(rustix::fs::fcntl_add_seals(&memfd, rustix::fs::SealFlags::WRITE).is_err());
    // A read-only descriptor reopened for writing through /proc: open may succeed, mapping does not.
    use std::os::fd::{AsFd, AsRawFd};
    let path = format!("/proc/self/fd/{}", memfd.as_fd().as_raw_fd());
    if let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open(path) {
        let again = Memfd::received(file.into(), 8192).unwrap();
        assert!(again.map(true).is_err());
    }
    // The mapping made before still writes, and readers see it.
    assert!(node.write(0, b"node"));
    let mut seen = [0; 4];
    assert!(memfd.map(false).unwrap().read(0, &mut seen));
    assert_eq!(&seen, b"node");
    assert!(!memfd.map(false).unwrap().write(0, b"no"));
    assert!(!node.read(8190, &mut seen));
}

/// A peer that goes with a message unread has still said what it said.
#[test]
fn the_last_word_of_a_peer_that_did_not_listen_is_heard() {
    let (ours, theirs) = leasehold::wire::pair().unwrap();
    leasehold::wire::send(&ours, &1u32, &[]).unwrap();
    leasehold::wire::send(&theirs, &2u32, &[]).unwrap();
    drop(theirs);
    let (bytes, _) = leasehold::wire::receive(&ours).unwrap().unwrap();
    assert_eq!(leasehold::wire::from_bytes::<u32>(&bytes).unwrap(), 2);
    assert!(leasehold::wire::receive(&ours).unwrap().is_none());
}
