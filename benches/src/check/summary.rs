//! Reports as Markdown for people: each table's geometric mean, worst row and share of rows won beside the target, and what
//! was not run. `leasehold-bench check-summary` prints it.

use super::report::{Number, Report, Row, Table};
use super::tables::{ALL, Target};
use std::fmt::Write;

/// A summary of reports; those of one device, commit and seed share a table. A rehearsal says so first: its numbers judge
/// nobody.
pub fn markdown(reports: &[Report]) -> String {
    let mut out = String::new();
    let mut last = None;
    for report in reports {
        let head = head(report);
        if last.as_ref() != Some(&head) {
            let gap = if last.is_some() { "\n" } else { "" };
            let _ = writeln!(out, "{gap}{head}\n{COLUMNS}");
            last = Some(head);
        }
        for table in &report.tables {
            out += &line(table, report.rehearsal);
        }
    }
    for fault in reports.iter().flat_map(Report::faults) {
        let _ = writeln!(out, "\n- {fault}");
    }
    out
}

const COLUMNS: &str = "| table | rows | right | geometric mean | worst | won | aim | |\n|---|---|---|---|---|---|---|---|";

fn head(report: &Report) -> String {
    let Report { device, commit, seed, .. } = report;
    let mut out = String::new();
    if report.rehearsal {
        out += "**A rehearsal with tiny shapes: the numbers judge nobody.**\n\n";
    }
    let _ = writeln!(
        out,
        "{} ({}), numerics {}, commit {commit}, seed {seed}.",
        device.name, device.asked, device.numerics
    );
    let _ = match report.card.known() {
        Some(card) => {
            let (driver, watts, clock) = (&card.driver, card.limit_w, card.most_sm_mhz);
            writeln!(out, "Driver {driver}, {watts} W, {clock} MHz at most.")
        }
        None => writeln!(out, "Card: not asked: {}.", report.card.why_not().unwrap_or("")),
    };
    let _ = match report.peers.known() {
        Some(peers) => {
            let libraries: String =
                peers.libraries.iter().map(|name| format!(", {name}")).collect();
            writeln!(out, "Peers: PyTorch {} on {}{libraries}.", peers.torch, peers.device)
        }
        None => writeln!(out, "Peers: not run: {}.", report.peers.why_not().unwrap_or("")),
    };
    let _ = writeln!(out, "Data: {}.", report.data);
    out
}

fn line(table: &Table, is_rehearsal: bool) -> String {
    let target =
        ALL.iter().find(|kind| kind.name == table.name).and_then(|kind| kind.target.as_ref());
    let ran: Vec<_> = table.rows.iter().filter_map(|row| row.ours.known()).collect();
    let right = ran.iter().filter(|number| number.is_right() && number.is_whole()).count();
    let mut line = format!("| {} | {} of {} | {right} |", table.name, ran.len(), table.rows.len());
    // Ratios of a rehearsal would be read as more than they are.
    let ratios = if is_rehearsal { None } else { Ratios::of_table(table, target) };
    let _ = match &ratios {
        Some(r) => write!(
            line,
            " {:.2} of {} | {:.2} ({}) | {:.0} % |",
            r.mean,
            r.count,
            r.worst,
            r.worst_row,
            100.0 * r.won
        ),
        None => write!(line, " – | – | – |"),
    };
    let _ = match target {
        Some(Target { to, mean, worst, best, .. }) => {
            let mean = mean.map_or_else(String::new, |mean| format!("{mean:.2} of "));
            let worst = worst.map_or_else(String::new, |worst| format!(", worst {worst:.2}"));
            let best = best.map_or_else(String::new, |best| format!("{best:.0} by our best row: "));
            write!(line, " {best}{mean}{to}{worst} |")
        }
        None => write!(line, " – |"),
    };
    let verdict = match target {
        Some(_) if is_rehearsal => "a rehearsal".into(),
        Some(target) => verdict(table, target) + &beside_each(table, target),
        None => String::new(),
    };
    let peers = if is_rehearsal { String::new() } else { missed(table) };
    let first = table.rows.iter().find_map(|row| row.ours.why_not());
    let first = first
        .map_or_else(String::new, |why| format!(" not run: {}", why.replace(['|', '\n'], "/")));
    let _ = writeln!(line, " {verdict}{peers}{}{first} |", incomplete(&ran));
    line
}

/// How many numbers are right as far as they came and came less far than their rows ask.
fn incomplete(ran: &[&Number]) -> String {
    let parts = ran.iter().filter(|number| number.is_right() && !number.is_whole());
    let lefts: Vec<&str> =
        parts.filter_map(|number| Some(number.check.known()?.left.as_str())).collect();
    lefts.first().map_or_else(String::new, |first| {
        format!(" {} incomplete ({});", lefts.len(), first.replace(['|', '\n'], "/"))
    })
}

/// Whether a row says something of a target: ours is right and whole, and beside the peers that the target is to.
fn is_measured(row: &Row, target: &Target) -> bool {
    let Some(ours) = row.ours.known().filter(|ours| ours.is_right() && ours.is_whole()) else {
        return false;
    };
    if target.mean.is_none() || target.most.is_some_and(|(unit, _)| unit == ours.unit) {
        return true;
    }
    let is_there = |name: &&str| row.ratio_to(&[*name]).is_some();
    // A packed batch is asked of others than one of equal entries: who is not offered is not needed.
    let is_offered = |name: &&&str| row.peers.iter().any(|peer| peer.is_named(&[**name]));
    row.ratio_to(target.peers).is_some() && target.needs.iter().filter(is_offered).all(is_there)
}

/// Whether what is aimed at is reached by the rows that it is of: met only where every one of them was measured.
fn verdict(table: &Table, target: &Target) -> String {
    let rows: Vec<&Row> = table.rows.iter().filter(|row| (target.of)(row)).collect();
    let measured: Vec<&Row> = rows.iter().copied().filter(|row| is_measured(row, target)).collect();
    let numbers = || measured.iter().filter_map(|row| row.ours.known());
    let ratios = Ratios::of(&measured, target.peers);
    let is_kept = |asked: Option<f64>, found: Option<f64>| match (asked, found) {
        (Some(asked), found) => found.map(|found| found >= asked),
        (None, _) => Some(true),
    };
    let best = numbers().map(|number| number.value).max_by(f64::total_cmp);
    let mut kept = vec![
        is_kept(target.mean, ratios.as_ref().map(|r| r.mean)),
        is_kept(target.worst, ratios.as_ref().map(|r| r.worst)),
        is_kept(target.best, best),
    ];
    if let Some((unit, most)) = target.most {
        let those = numbers().filter(|number| number.unit == unit).map(|number| number.value);
        kept.push(those.max_by(f64::total_cmp).map(|found| found <= most));
    }
    let so_far = match kept.contains(&Some(false)) {
        true => "not yet",
        false if measured.is_empty() || kept.contains(&None) => return "not measured".into(),
        false => "met",
    };
    match measured.len() == rows.len() {
        true => so_far.into(),
        false => {
            let (n, m) = (measured.len(), rows.len());
            format!("partly measured ({n} of {m} rows), {so_far} by these")
        }
    }
}

/// The geometric mean beside each peer that is named on its own.
fn beside_each(table: &Table, target: &Target) -> String {
    let rows: Vec<&Row> = table.rows.iter().filter(|row| is_measured(row, target)).collect();
    let each = target.also.iter().filter_map(|name| {
        Ratios::of(&rows, &[name]).map(|ratios| format!(" {:.2} of {name};", ratios.mean))
    });
    each.collect()
}

/// How many of the peers' numbers are no part of ratios though they should be.
fn missed(table: &Table) -> String {
    let peers = || table.rows.iter().flat_map(|row| &row.peers).filter(|peer| !peer.beside);
    let wrong = peers().filter(|peer| peer.number.known().is_some_and(|n| !n.is_right())).count();
    let absent = peers().filter(|peer| peer.number.known().is_none()).count();
    match (wrong, absent) {
        (0, 0) => String::new(),
        _ => format!(" of {} peers' numbers {wrong} wrong, {absent} absent;", peers().count()),
    }
}

/// The ratios of some rows.
struct Ratios {
    count: usize,
    mean: f64,
    worst: f64,
    worst_row: String,
    won: f64,
}

impl Ratios {
    fn of(rows: &[&Row], peers: &[&str]) -> Option<Self> {
        let rows = rows.iter().filter_map(|row| Some((row.ratio_to(peers)?, &row.what)));
        let rows: Vec<(f64, &String)> = rows.collect();
        let (worst, worst_row) = *rows.iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
        let count = rows.len();
        let mean = (rows.iter().map(|(ratio, _)| ratio.ln()).sum::<f64>() / count as f64).exp();
        let won = rows.iter().filter(|(ratio, _)| *ratio >= 1.0).count() as f64 / count as f64;
        Some(Self { count, mean, worst, worst_row: worst_row.clone(), won })
    }

    /// Of a table: of those rows that its target is of and that say something of it, of all where it has none.
    fn of_table(table: &Table, target: Option<&Target>) -> Option<Self> {
        let is_of = |row: &&Row| target.is_none_or(|t| (t.of)(row) && is_measured(row, t));
        let rows: Vec<&Row> = table.rows.iter().filter(is_of).collect();
        Self::of(&rows, target.map_or(&[], |target| target.peers))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::report::{Checked, Maybe, Peer};
    use super::*;
    use serde_json::json;

    fn number(value: f64, unit: &str) -> Number {
        let check = Maybe::Is(Checked::all(1));
        Number { value, unit: unit.into(), more: true, timing: None, check }
    }

    fn row(what: &str, ours: f64, theirs: &[(&str, f64)]) -> Row {
        let peers = theirs.iter().map(|(name, x)| Peer::new(*name, Maybe::Is(number(*x, "GB/s"))));
        Row::new(what, None, Maybe::Is(number(ours, "GB/s")), peers.collect())
    }

    fn table(name: &str, rows: Vec<Row>) -> Table {
        Table { name: name.into(), about: "x".into(), seconds: 1.0, rows }
    }

    fn says(name: &str, rows: &[Row]) -> String {
        line(&table(name, rows.to_vec()), false)
    }

    #[test]
    fn a_table_is_summed_by_the_geometric_mean() {
        let mut rows = [("a", 1.0), ("b", 4.0), ("c", 2.0)]
            .map(|(what, ours)| row(what, ours, &[("cuBLASLt", 2.0)]))
            .to_vec();
        let gone = Peer::new("cuBLASLt", Maybe::not("gone"));
        rows.push(Row::new("d", None, Maybe::not("a test"), vec![gone]));
        let text = says("dense", &rows);
        assert!(text.starts_with("| dense | 3 of 4 | 3 | 1.00 of 3 | 0.50 (a) | 67 % |"), "{text}");
        let said = "partly measured (3 of 4 rows), not yet by these of 4 peers' numbers 0 wrong, 1 absent; not run: a test";
        assert!(text.contains(said), "{text}");
    }

    /// What is wrong of ours, was not run, was not looked at whole or lacks the peer that is aimed at meets no target.
    #[test]
    fn only_rows_that_were_measured_meet_a_target() {
        let good = || row("x", 2.0, &[("cuBLASLt", 1.0), ("torch.mm", 1.0)]);
        let with = |checked: Checked| {
            let Maybe::Is(ours) = good().ours else { return good() };
            Row::new(
                "x",
                None,
                Maybe::Is(Number { check: Maybe::Is(checked), ..ours }),
                good().peers,
            )
        };
        assert!(says("dense", &[good(), good()]).contains("| met"));
        let wrong = with(Checked { wrong: "element 3".into(), ..Checked::all(8) });
        let part = with(Checked { left: "1 of 2".into(), ..Checked::all(8) });
        let not = Row::new("x", None, Maybe::not("no time"), Vec::new());
        let without = row("x", 2.0, &[("torch.mm", 1.0)]);
        let absent = Row {
            peers: vec![Peer::new("cuBLASLt", Maybe::not("gone")), without.peers[0].clone()],
            ..without
        };
        for bad in [wrong, part, not, absent] {
            let text = says("dense", &[bad.clone(), good()]);
            assert!(text.contains("| partly measured (1 of 2 rows), met by these"), "{text}");
            assert!(
                says("dense", std::slice::from_ref(&bad)).contains("| not measured"),
                "{bad:?}"
            );
        }
        // The best of our rows is one that is right.
        let fast = |wrong: &str| {
            let check = Maybe::Is(Checked { wrong: wrong.into(), ..Checked::all(8) });
            let ours = Number { check, ..number(1480.0, "TFLOP/s") };
            says("fp8", &[Row::new("x", None, Maybe::Is(ours), Vec::new())])
        };
        assert!(fast("").contains("| met") && fast("element 3").contains("| not measured"));
        // cuDNN is who the gradients of batches are held against, and packed ones are not.
        let heads = |packed: &[[u32; 2]], peers: &[(&str, f64)]| {
            let problem = json!({ "op": "backward", "packed": packed });
            Row { problem: Some(problem), ..row("x", 1.0, peers) }
        };
        let packed = heads(&[[5, 5]], &[("torch varlen_attn", 2.0)]);
        let cudnn = heads(&[], &[("torch sdpa cuDNN", 1.0), ("flash-attn 3", 2.0)]);
        let flash = heads(&[], &[("flash-attn 3", 1.0)]);
        assert!(says("backward", &[packed.clone(), cudnn.clone()]).contains("| met"));
        assert!(says("backward", &[packed, flash.clone()]).contains("| not measured"));
        assert!(says("backward", &[flash, cudnn]).contains("| partly measured (1 of 2 rows), met"));
    }

    /// The yardstick of a decode step is whichever of two plain ways to move its bytes is faster.
    #[test]
    fn a_decode_step_is_held_against_the_faster_read() {
        let of = |sum, copy| {
            let peers = [("torch.sum of the same bytes", sum), ("a copy of as many bytes", copy)];
            says("decode", &[row("x", 0.93, &peers)])
        };
        let text = of(1.0, 0.5);
        assert!(text.contains("| met 0.93 of torch.sum; 1.86 of a copy;"), "{text}");
        assert!(of(0.5, 1.0).contains("| met"));
        assert!(of(0.5, 1.1).contains("| not yet") && of(1.1, 0.5).contains("| not yet"));
        let one = row("x", 0.93, &[("torch.sum of the same bytes", 1.0)]);
        let gone = Peer::new("a copy of as many bytes", Maybe::not("no memory"));
        let peers = vec![one.peers[0].clone(), gone];
        assert!(says("decode", &[Row { peers, ..one }]).contains("| not measured"));
    }

    /// A row that is right as far as it came is neither right nor wrong.
    #[test]
    fn what_is_incomplete_is_said() {
        let left = "143 of 1000 runs, equal so far".to_string();
        let count =
            |values, left| Number::count(1.0, "x", Checked { left, ..Checked::all(values) });
        let rows = [count(1000, String::new()), count(143, left)];
        let rows = rows.map(|number| Row::new("x", None, Maybe::Is(number), Vec::new()));
        let text = line(&table("repeats", rows.to_vec()), false);
        assert!(text.starts_with("| repeats | 2 of 2 | 1 |"), "{text}");
        assert!(text.contains("1 incomplete (143 of 1000 runs, equal so far);"), "{text}");
    }

    /// A target is of its rows and beside its peers: what others do is neither for it nor against it.
    #[test]
    fn targets_are_held_against_their_rows_and_peers() {
        let sized = |op: &str, size: [u64; 3], ours: f64| {
            let problem = json!({ "op": op, "batch": 64, "size": size, "between": false });
            Row { problem: Some(problem), ..row("x", ours, &[("cuBLASLt", 1.0)]) }
        };
        let small = sized("matmul", [64, 128, 256], 1.4);
        let large = [sized("grouped", [64; 3], 0.1), sized("matmul", [257, 8, 8], 0.1)];
        assert!(says("batched", &[vec![small], large.to_vec()].concat()).contains("| met"));
        assert!(says("batched", &large).contains("| not measured"));
        assert!(says("batched", &[sized("matmul", [64; 3], 1.2)]).contains("| not yet"));

        let read = [("torch.sum", 1.0), ("a copy", 1.0), ("flash-attn 3", 9.0)];
        assert!(says("decode", &[row("x", 0.95, &read)]).contains("| met"));
        let rows = [row("x", 1.0, &[("torch sdpa cuDNN", 1.0), ("flash-attn 3", 2.0)])];
        assert!(says("attention", &rows).contains("| not yet"));

        let added = |us: f64, what: &str| {
            let ours = Number { more: false, ..number(us, "us added") };
            Row::new(what, None, Maybe::Is(ours), Vec::new())
        };
        let leased = |us| {
            let rows = [
                row("x", 1.0, &[("local", 1.0)]),
                added(us, "hot, at most 10 us"),
                added(90.0, "no aim"),
            ];
            says("leased", &rows)
        };
        assert!(
            leased(9.0).contains("| met") && leased(11.0).contains("| not yet"),
            "{}",
            leased(9.0)
        );
        let fp8 = |ours| says("fp8", &[row("x", ours, &[("torch", 2000.0)])]);
        assert!(fp8(1480.0).contains("| met") && fp8(1400.0).contains("| not yet"));
    }
}
