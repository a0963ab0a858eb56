//! The probe's sections, how they are run through a driver, the dump that comes of it, and how the model's answers are held
//! against a card's. The program `probe` (through `ask`) and the tests of the host model call it.

// Each of them uses a part.
#![allow(dead_code)]

use crate::cuda::{Cuda, Encoded, Failure, Grid, Handle};
use leasehold_kernels::BoxMap;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Sources by the names that they include each other by; the kernels' own lie beside them.
pub(crate) const SOURCES: &[(&str, &str)] = &[
    ("probe.h", include_str!("probe.h")),
    ("ampere.cu", include_str!("ampere.cu")),
    ("hopper.cu", include_str!("hopper.cu")),
];

/// When the model's answer is the card's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Claim {
    /// Every bit.
    Exact,
    /// Numbers that lie so many of their last places apart at most, as the manual bounds the instruction.
    Places(u32),
    /// Numbers that lie so far apart at most, relative to those above 1.
    Near(f32),
    /// One lane of each warp says 1, whichever.
    OneLane,
    /// The model says nothing of the last bits yet.
    Unclaimed,
}

/// A section: a kernel of that name and what it writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) hopper: bool,
    pub(crate) blocks: u32,
    /// Blocks of a cluster.
    pub(crate) cluster: u32,
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
    pub(crate) words: usize,
    pub(crate) claim: Claim,
}

const fn section(name: &'static str, words: usize, claim: Claim) -> Section {
    let (hopper, blocks, cluster, threads, shared_bytes) = (false, 1, 1, 32, 1024);
    Section { name, hopper, blocks, cluster, threads, shared_bytes, words, claim }
}

/// One of Hopper's.
const fn hopper(name: &'static str, threads: u32, words: usize, claim: Claim) -> Section {
    Section { hopper: true, threads, shared_bytes: 40 << 10, ..section(name, words, claim) }
}

/// One of two clusters of two.
const fn cluster(name: &'static str, words: usize, claim: Claim) -> Section {
    Section { blocks: 4, cluster: 2, ..hopper(name, 32, words, claim) }
}

const FINITE: usize = 240;
const ALL: usize = FINITE + 6;

use Claim::{Exact, Near, OneLane, Places, Unclaimed};

/// Every section, in the order of the dump.
pub(crate) const SECTIONS: &[Section] = &[
    Section { blocks: 3, threads: 64, ..section("identity", 192, Exact) },
    section("shuffles", 35 * 32, Exact),
    section("shared_window", 1, Exact),
    section("global_loads", 10 * 32, Exact),
    section("global_stores", 280, Exact),
    section("single_steps", 35, Exact),
    section("shared_memory", 384, Exact),
    section("conversions", 4 * FINITE, Exact),
    section("roundings", FINITE, Exact),
    section("widenings", 0x10000 / 67, Exact),
    section("fused", FINITE, Exact),
    section("maxima", ALL, Exact),
    section("quotients", 2 * FINITE, Exact),
    section("reciprocals", FINITE, Places(1)),
    section("exponentials", 2 * FINITE, Places(2)),
    section("logarithms", 2 * FINITE, Near(2.4e-7)),
    section("not_numbers", 8 * (ALL - FINITE), Unclaimed),
    section("matrices", 256, Exact),
    section("products", 256, Exact),
    section("word_products", 128, Exact),
    section("byte_products", 128, Exact),
    section("pair_products", FINITE - 3, Exact),
    section("product_rounding", 128, Unclaimed),
    section("copies", 128, Exact),
    hopper("elections", 64, 64, OneLane),
    hopper("phases", 128, 512, Exact),
    hopper("register_shares", 384, 384, Exact),
    hopper("box_inside", 32, 512, Exact),
    hopper("box_before", 32, 512, Exact),
    hopper("box_behind", 32, 512, Exact),
    hopper("box_64", 32, 256, Exact),
    hopper("box_32", 32, 128, Exact),
    hopper("box_unswizzled", 32, 320, Exact),
    hopper("matrices_out", 32, 256, Exact),
    hopper("box_out", 32, TENSOR_WORDS, Exact),
    hopper("box_out_before", 32, TENSOR_WORDS, Exact),
    cluster("cluster_signals", 4 * 32, Exact),
    cluster("boxes_to_all", 4 * 1024, Exact),
    hopper("right_dense_64", 128, 8 * 128, Exact),
    hopper("right_dense_128", 128, 16 * 128, Exact),
    hopper("right_outer_64", 128, 8 * 128, Exact),
    hopper("right_outer_128", 128, 16 * 128, Exact),
    hopper("right_bf16_64", 128, 8 * 128, Exact),
    hopper("right_bf16_128", 128, 16 * 128, Exact),
    hopper("left_dense_64", 128, 8 * 128, Exact),
    hopper("left_outer_64", 128, 8 * 128, Exact),
    hopper("left_dense_128", 128, 16 * 128, Exact),
    hopper("left_outer_256", 128, 32 * 128, Exact),
    hopper("warpgroup_rounding", 128, 8 * 128, Unclaimed),
    hopper("bytes_left_64", 128, 8 * 128, Exact),
    hopper("bytes_left_128", 128, 16 * 128, Exact),
    hopper("bytes_right_64", 128, 8 * 128, Exact),
    hopper("bytes_right_128", 128, 16 * 128, Exact),
    hopper("float_byte_products", 32, 4 * 128, Exact),
    hopper("byte_rounding", 128, 8 * 128, Unclaimed),
];

/// The numbers that sections are given: where formats end and where roundings tie, then drawn ones, then those that are
/// infinite or none.
fn numbers() -> Vec<u32> {
    let mut bits: Vec<u32> = vec![0, 1, 0x7f_ffff, 0x80_0000, 0x7f7f_ffff];
    let named = [
        1.0f32,
        0.5,
        1.5,
        2.5,
        3.5,
        65504.0,
        65519.996,
        65520.0,
        65536.0,
        5.9604645e-8,
        2.980_232_2e-8,
        2.980_233e-8,
        6.097_555e-5,
        6.103_515_6e-5,
        1.003_906_3,
        1.011_718_8,
        1.000_488_3,
        1.001_464_8,
        8_388_607.5,
        8_388_609.0,
        16_777_216.0,
        126.0,
        127.99,
        149.5,
        3.389_531_4e38,
        3.0,
        10.0,
        0.1,
    ];
    bits.extend(named.map(f32::to_bits));
    bits.extend(bits.clone().into_iter().map(|x| x | 1 << 31));
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    while bits.len() < FINITE {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let drawn = (seed >> 20) as u32;
        // Every second one is of a size that sixteen bits hold.
        let near = drawn & 0x80ff_ffff | (112 + (drawn >> 24 & 15)) << 23;
        let x = if bits.len().is_multiple_of(2) { drawn } else { near };
        if f32::from_bits(x).is_finite() {
            bits.push(x);
        }
    }
    bits.extend([0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0x7f80_0001, 0xffc1_2345, 0x7fff_ffff]);
    assert_eq!(bits.len(), ALL);
    bits
}

/// The tensor whose boxes are brought: 40 by 6 by 3 by 2 by 2 numbers of 16 bits, each its place; between rows lie others.
const SIZES: [u64; 5] = [40, 6, 3, 2, 2];
const STRIDES: [u64; 4] = [96, 576, 1728, 3456];
const TENSOR_WORDS: usize = 1728;

fn tensor() -> Vec<u8> {
    (0..3456u16).flat_map(|i| (if i % 48 < 40 { i } else { 0xeeee }).to_le_bytes()).collect()
}

/// Boxes of it: elements along the dense axis, and the number of the swizzle in cuda.h.
const BOXES: [(u32, u32); 4] = [(64, 3), (32, 2), (16, 1), (40, 0)];

fn tensor_at(at: u64, inner: u32) -> BoxMap {
    let boxed = [inner, 8, 2, 1, 1];
    BoxMap { at, sizes: SIZES, strides: STRIDES, boxed, element: 2, padding: [0; 6] }
}

/// What a kernel is given: `ProbeArgs` of `probe.h`.
fn args(maps: &[Encoded], answer: Encoded, input: u64, output: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = maps.iter().chain([&answer]).flat_map(|map| map.0).collect();
    bytes.extend(input.to_le_bytes());
    bytes.extend(output.to_le_bytes());
    bytes.extend((FINITE as u32).to_le_bytes());
    bytes.extend((ALL as u32).to_le_bytes());
    bytes.resize(704, 0);
    bytes
}

/// A device with the probe's image and what its kernels are given.
pub(crate) struct Asked<'a> {
    cuda: &'a Cuda,
    /// Its name and driver.
    pub(crate) device: String,
    is_hopper: bool,
    stream: Handle,
    module: Handle,
    maps: Vec<Encoded>,
    input: u64,
}

impl<'a> Asked<'a> {
    pub(crate) fn open(cuda: &'a Cuda, image: &[u8]) -> Result<Self, String> {
        let device = format!("{}, driver {}", cuda.name()?, cuda.version()?);
        let (is_hopper, stream, module) =
            (cuda.attribute(75)? == 9, cuda.stream()?, cuda.module(image)?);
        let inputs: Vec<u8> = numbers().into_iter().flat_map(u32::to_le_bytes).collect();
        let (input, at) = (put(cuda, &inputs, stream)?, put(cuda, &tensor(), stream)?);
        let mut maps = vec![Encoded([0; 128]); BOXES.len()];
        if is_hopper {
            for (map, (inner, swizzle)) in maps.iter_mut().zip(BOXES) {
                *map = cuda.encode(&tensor_at(at, inner), swizzle)?;
            }
        }
        Ok(Self { cuda, device, is_hopper, stream, module, maps, input })
    }

    /// The sections that the device has.
    pub(crate) fn sections(&self) -> impl Iterator<Item = &'static Section> + use<> {
        let is_hopper = self.is_hopper;
        SECTIONS.iter().filter(move |section| is_hopper || !section.hopper)
    }

    pub(crate) fn answer(&self, section: &Section) -> Result<Vec<u32>, Failure> {
        run(self.cuda, self.module, section, (&self.maps, self.input), self.stream)
    }
}

/// What a device answered: its name and driver, the sections that it was asked for, the words of each that it answered,
/// and why it did not answer another, where that is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Dump {
    pub(crate) device: String,
    pub(crate) asked: Vec<String>,
    pub(crate) sections: BTreeMap<String, Vec<u32>>,
    pub(crate) missing: BTreeMap<String, String>,
}

/// Where the file ends before a section does.
const CUT: &str = "cut off";

/// How a dump begins: the device, and all that it is asked for, so that what is not there is known.
pub(crate) fn head<'a>(device: &str, asked: impl Iterator<Item = &'a str>) -> String {
    let asked: Vec<&str> = asked.collect();
    format!("{MAGIC}\ndevice {device}\nasked {}\n", asked.join(" "))
}

const MAGIC: &str = "probe 2";
/// Words of a section to a line.
pub(crate) const LINE: usize = 8;

/// A section: its name, how many words it has, and they.
pub(crate) fn part(name: &str, words: &[u32]) -> String {
    let mut text = format!("section {name} {}\n", words.len());
    for line in words.chunks(LINE) {
        let line: Vec<String> = line.iter().map(|word| format!("{word:08x}")).collect();
        let _ = writeln!(text, "{}", line.join(" "));
    }
    text
}

/// A section that is not there.
pub(crate) fn not_there(name: &str, why: &str) -> String {
    format!("missing {name} {}\n", why.replace('\n', " "))
}

impl Dump {
    /// Every section that the device has, of a compiled image.
    ///
    /// # Errors
    /// The driver's first, with its section.
    pub(crate) fn of(cuda: &Cuda, image: &[u8]) -> Result<Self, String> {
        let asked = Asked::open(cuda, image)?;
        let mut dump = Self { device: asked.device.clone(), ..Self::default() };
        for section in asked.sections() {
            let words = asked.answer(section);
            let words = words.map_err(|failure| format!("{}: {failure}", section.name))?;
            dump.asked.push(section.name.into());
            dump.sections.insert(section.name.into(), words);
        }
        Ok(dump)
    }

    /// As text, which `read` reads.
    pub(crate) fn write(&self) -> String {
        let mut text = head(&self.device, self.asked.iter().map(String::as_str));
        for name in &self.asked {
            match (self.sections.get(name), self.missing.get(name)) {
                (Some(words), _) => text += &part(name, words),
                (None, Some(why)) => text += &not_there(name, why),
                (None, None) => {}
            }
        }
        text
    }

    /// What `write` or `ask` wrote, as far as it came.
    ///
    /// # Errors
    /// The first line that they did not.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        // What a line's end does not follow was cut off.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.lines();
        if lines.next() != Some(MAGIC) {
            return Err("no dump of this probe".into());
        }
        let (mut dump, mut section) = (Self::default(), None);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for line in lines {
            let wrong = || format!("{line:?}: no line of a dump");
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            match kind {
                "device" => dump.device = rest.into(),
                "asked" => dump.asked = rest.split(' ').map(String::from).collect(),
                "section" => {
                    let (name, count) = rest.split_once(' ').ok_or_else(wrong)?;
                    counts.insert(name.to_owned(), count.parse().map_err(|_| wrong())?);
                    section = Some(dump.sections.entry(name.to_owned()).or_default());
                }
                "missing" => {
                    let (name, why) = rest.split_once(' ').ok_or_else(wrong)?;
                    dump.missing.insert(name.into(), why.into());
                }
                _ => {
                    let words = line.split(' ').map(|word| u32::from_str_radix(word, 16));
                    let words: Result<Vec<u32>, _> = words.collect();
                    section.as_mut().ok_or_else(wrong)?.extend(words.map_err(|_| wrong())?);
                }
            }
        }
        dump.sections.retain(|name, words| counts[name] == words.len());
        for name in dump.asked.iter().filter(|name| !dump.sections.contains_key(*name)) {
            dump.missing.entry(name.clone()).or_insert_with(|| CUT.into());
        }
        Ok(dump)
    }

    /// Where this dump of the model is not what it claims to be of a card's, a line each.
    pub(crate) fn against(&self, card: &Self) -> Vec<String> {
        let mut wrong = Vec::new();
        for section in SECTIONS {
            let name = section.name;
            let (Some(ours), Some(theirs)) = (self.sections.get(name), card.sections.get(name))
            else {
                continue;
            };
            if ours.len() != theirs.len() {
                wrong.push(format!("{name}: {} words, not {}", ours.len(), theirs.len()));
            } else if section.claim == OneLane {
                let mut warps = ours.chunks(32).chain(theirs.chunks(32));
                if warps.any(|warp| warp.iter().sum::<u32>() != 1) {
                    wrong.push(format!("{name}: not one lane of a warp"));
                }
            } else {
                let differs = |(a, b): (&u32, &u32)| !is_claimed(section.claim, *a, *b);
                let found = ours.iter().zip(theirs).position(differs);
                wrong.extend(
                    found.map(|at| {
                        format!("{name}[{at}]: {:08x}, not {:08x}", ours[at], theirs[at])
                    }),
                );
            }
        }
        wrong
    }
}

/// Whether the model may say `ours` where a card says `theirs`.
fn is_claimed(claim: Claim, ours: u32, theirs: u32) -> bool {
    let (x, y) = (f32::from_bits(ours), f32::from_bits(theirs));
    let alike = ours == theirs || x.is_nan() && y.is_nan();
    match claim {
        Exact => ours == theirs,
        // Neighbours are neighbours as whole numbers, but for the sign.
        Places(n) => {
            alike || (ours ^ theirs) >> 31 == 0 && ours.abs_diff(theirs) <= n && !x.is_nan()
        }
        Near(bound) => alike || (x - y).abs() <= bound * y.abs().max(1.0),
        OneLane | Unclaimed => true,
    }
}

/// Device memory with these bytes.
fn put(cuda: &Cuda, bytes: &[u8], stream: Handle) -> Result<u64, Failure> {
    let at = cuda.alloc(bytes.len())?;
    cuda.write(at, bytes, stream)?;
    Ok(at)
}

fn run(
    cuda: &Cuda,
    module: Handle,
    section: &Section,
    (maps, input): (&[Encoded], u64),
    stream: Handle,
) -> Result<Vec<u32>, Failure> {
    let Section { blocks, threads, shared_bytes, words, .. } = *section;
    let output = cuda.alloc(4 * words)?;
    cuda.fill(output, 0, 4 * words, stream)?;
    let function = cuda.function(module, section.name)?;
    let grid = Grid { blocks, threads, shared_bytes };
    let (inner, swizzle) = BOXES[0];
    let answer = if section.hopper && words >= TENSOR_WORDS {
        cuda.encode(&tensor_at(output, inner), swizzle)?
    } else {
        Encoded([0; 128])
    };
    cuda.launch(function, grid, &args(maps, answer, input, output), stream)?;
    let bytes = cuda.read(output, 4 * words, stream)?;
    cuda.free(output)?;
    Ok(bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
}
