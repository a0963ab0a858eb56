//! Reports as Markdown for people: each table's geometric mean, worst row and share of rows won beside the target, and what
//! was not run. `leasehold-bench check-summary` prints it.

use super::report::{Report, Table};
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
    let right = ran.iter().filter(|number| number.is_right()).count();
    let mut line = format!("| {} | {} of {} | {right} |", table.name, ran.len(), table.rows.len());
    // Ratios of a rehearsal would be read as more than they are.
    let ratios = if is_rehearsal { None } else { Ratios::of(table) };
    let _ = match &ratios {
        Some(r) => write!(
            line,
            " {:.2} | {:.2} ({}) | {:.0} % |",
            r.mean,
            r.worst,
            r.worst_row,
            100.0 * r.won
        ),
        None => write!(line, " – | – | – |"),
    };
    let _ = match target {
        Some(Target { to, mean, worst, .. }) => {
            let worst = worst.map_or_else(String::new, |worst| format!(", worst {worst:.2}"));
            write!(line, " {mean:.2}{worst} of {to} |")
        }
        None => write!(line, " – |"),
    };
    let verdict = match (target, &ratios) {
        (Some(_), _) if is_rehearsal => "a rehearsal",
        (Some(target), Some(r)) => {
            let most = ran.iter().map(|number| number.value).fold(0.0, f64::max);
            let kept = r.mean >= target.mean
                && target.worst.is_none_or(|worst| r.worst >= worst)
                && target.best.is_none_or(|best| most >= best);
            if kept { "met" } else { "not yet" }
        }
        (Some(_), None) => "not measured",
        (None, _) => "",
    };
    let first = table.rows.iter().find_map(|row| row.ours.why_not());
    let first = first
        .map_or_else(String::new, |why| format!(" not run: {}", why.replace(['|', '\n'], "/")));
    let _ = writeln!(line, " {verdict}{first} |");
    line
}

/// The ratios of a table's rows.
struct Ratios {
    mean: f64,
    worst: f64,
    worst_row: String,
    won: f64,
}

impl Ratios {
    fn of(table: &Table) -> Option<Self> {
        let rows = table.rows.iter().filter_map(|row| Some((row.ratio?, &row.what)));
        let rows: Vec<(f64, &String)> = rows.collect();
        let (worst, worst_row) = *rows.iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
        let count = rows.len() as f64;
        let mean = (rows.iter().map(|(ratio, _)| ratio.ln()).sum::<f64>() / count).exp();
        let won = rows.iter().filter(|(ratio, _)| *ratio >= 1.0).count() as f64 / count;
        Some(Self { mean, worst, worst_row: worst_row.clone(), won })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::report::{Maybe, Row};
    use super::*;

    #[test]
    fn a_table_is_summed_by_the_geometric_mean() {
        let row = |what: &str, ratio| {
            let row = Row::new(what, None, Maybe::not("a test"), Vec::new());
            Row { ratio, ..row }
        };
        let rows =
            vec![row("a", Some(0.5)), row("b", Some(2.0)), row("c", Some(1.0)), row("d", None)];
        let table = Table { name: "dense".into(), about: "x".into(), seconds: 1.0, rows };
        let text = line(&table, false);
        assert!(text.starts_with("| dense | 0 of 4 | 0 | 1.00 | 0.50 (a) | 67 % |"), "{text}");
        assert!(text.contains("not yet not run: a test"), "{text}");
    }
}
