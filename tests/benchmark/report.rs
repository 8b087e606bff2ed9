//! Tables for people, and JSON for programs.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::Effort;
use crate::machine::Machine;
use crate::parts::Fact;
use crate::plan::{Load, Peer, Row};
use crate::promises::Promise;
use crate::rows::{DesignSamples, Sample, Samples};
use oarlock_tests::statistics::median;

/// All that was measured.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    seconds: f64,
    rounds: u32,
    rows: Vec<Samples>,
    parts: Vec<Fact>,
    threads: Vec<DesignSamples>,
    promises: Vec<Promise>,
}

impl Report {
    pub(crate) fn new(machine: Machine, effort: Effort) -> Self {
        Self {
            machine,
            seconds: effort.window.as_secs_f64(),
            rounds: effort.rounds,
            rows: Vec::new(),
            parts: Vec::new(),
            threads: Vec::new(),
            promises: Vec::new(),
        }
    }

    pub(crate) fn rows(&mut self, samples: Vec<Samples>) {
        self.rows.extend(samples);
    }

    pub(crate) fn part(&mut self, facts: Vec<Fact>) {
        self.parts.extend(facts);
    }

    pub(crate) fn threads(&mut self, samples: impl IntoIterator<Item = DesignSamples>) {
        self.threads.extend(samples);
    }

    pub(crate) fn promises(&mut self, promises: Vec<Promise>) {
        self.promises.extend(promises);
    }

    pub(crate) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    pub(crate) fn print(&self, markdown: bool) {
        println!("\n{}", self.machine);
        println!(
            "{} rounds of {} s a server; medians of rounds, and of the ratios within a round.",
            self.rounds, self.seconds
        );
        for table in [
            self.row_table(),
            self.ratio_table(),
            self.part_table(),
            self.thread_table(),
            self.promise_table(),
        ]
        .into_iter()
        .flatten()
        {
            println!("\n{}", Self::drawn(table, markdown));
        }
    }

    fn drawn(mut table: Table, markdown: bool) -> Table {
        table.load_style(if markdown {
            presets::ASCII_MARKDOWN
        } else {
            presets::UTF8_HORIZONTAL_ONLY
        });
        table
    }

    fn row_table(&self) -> Option<Table> {
        let mut table = table(&[
            "row",
            "load",
            "server",
            "requests/s",
            "p50",
            "p99",
            "CPU user + system",
            "memory",
            "failed",
        ]);
        for samples in &self.rows {
            let mut cells = vec![
                samples.row.name().to_owned(),
                samples.load.name().to_owned(),
                samples.server.name().to_owned(),
            ];
            cells.extend(figures(&samples.rounds));
            table.add_row(cells);
        }
        (!self.rows.is_empty()).then_some(table)
    }

    /// Ours beside the others, in the same rounds.
    fn ratio_table(&self) -> Option<Table> {
        let mut table = table(&[
            "row",
            "load",
            "of wasmtime serve",
            "p99 of its",
            "of bare ProxyHandler",
            "of hyper",
            "asked of us",
        ]);
        let mut by: BTreeMap<(Row, Load), BTreeMap<Peer, &[Sample]>> = BTreeMap::new();
        for samples in &self.rows {
            let servers = by.entry((samples.row, samples.load)).or_default();
            servers.insert(samples.server, &samples.rounds);
        }
        for ((row, load), servers) in &by {
            let Some(ours) = servers.get(&Peer::Oarlock) else {
                continue;
            };
            let ratio = |peer: Peer, value: fn(&Sample) -> f64| {
                let theirs = servers.get(&peer)?;
                median(
                    ours.iter()
                        .zip(*theirs)
                        .map(|(ours, theirs)| value(ours) / value(theirs)),
                )
            };
            let per_second = |sample: &Sample| sample.per_second;
            let (of_wasmtime, of_hyper) = row.targets();
            let asked = match (load, of_hyper) {
                (Load::Hello | Load::Bare, None) => format!("≥ {of_wasmtime} of serve, p99 ≤ 1.1"),
                (Load::Hello | Load::Bare, Some(hyper)) => {
                    format!("≥ {of_wasmtime} of serve, ≥ {hyper} of hyper, p99 ≤ 1.1")
                }
                _ => String::new(),
            };
            table.add_row(vec![
                row.name().to_owned(),
                load.name().to_owned(),
                times(ratio(Peer::Wasmtime, per_second)),
                times(ratio(Peer::Wasmtime, |sample| sample.p99_us)),
                times(ratio(Peer::Proxy, per_second)),
                times(ratio(Peer::Hyper, per_second)),
                asked,
            ]);
        }
        (!self.rows.is_empty()).then_some(table)
    }

    fn part_table(&self) -> Option<Table> {
        let mut table = table(&["inside the host, and its start", "p50", "p99", "times", ""]);
        for fact in &self.parts {
            table.add_row(vec![
                fact.what.clone(),
                fact.p50_us.map_or_else(String::new, duration),
                fact.p99_us.map_or_else(String::new, duration),
                fact.times.to_string(),
                fact.note.clone().unwrap_or_default(),
            ]);
        }
        (!self.parts.is_empty()).then_some(table)
    }

    fn promise_table(&self) -> Option<Table> {
        let mut table = table(&["what the host costs", "asked", "measured", ""]);
        for promise in &self.promises {
            table.add_row(vec![
                promise.what.clone(),
                promise.asked.clone(),
                promise.measured.clone(),
                promise.verdict(),
            ]);
        }
        (!self.promises.is_empty()).then_some(table)
    }

    fn thread_table(&self) -> Option<Table> {
        let mut table = table(&[
            "threads",
            "row",
            "spinning",
            "requests/s",
            "p50",
            "p99",
            "CPU user + system",
            "memory",
            "failed",
        ]);
        for samples in &self.threads {
            let mut cells = vec![
                samples.design.name().to_owned(),
                samples.row.name().to_owned(),
                samples.spinners.to_string(),
            ];
            cells.extend(figures(&samples.rounds));
            table.add_row(cells);
        }
        (!self.threads.is_empty()).then_some(table)
    }
}

/// A table whose columns after the names are numbers.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.set_header(header.to_vec());
    for (index, name) in header.iter().enumerate() {
        let number = matches!(
            *name,
            "requests/s" | "p50" | "p99" | "memory" | "failed" | "times" | "spinning"
        ) || name.starts_with("of ")
            || name.starts_with("p99 ");
        if let (true, Some(column)) = (number, table.column_mut(index)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Medians of what a server did: rate, latencies, CPU time, memory, and how many requests failed in all.
fn figures(rounds: &[Sample]) -> Vec<String> {
    let middle = |value: fn(&Sample) -> f64| median(rounds.iter().map(value)).unwrap_or_default();
    vec![
        format!("{:.0}", middle(|sample| sample.per_second)),
        duration(middle(|sample| sample.p50_us)),
        duration(middle(|sample| sample.p99_us)),
        format!(
            "{:.0} + {:.0} µs",
            middle(|sample| sample.user_us),
            middle(|sample| sample.system_us)
        ),
        format!(
            "{:.0} MiB",
            middle(|sample| sample.peak_bytes as f64) / f64::from(1 << 20)
        ),
        rounds
            .iter()
            .map(|sample| sample.failed)
            .sum::<u64>()
            .to_string(),
    ]
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn duration(micros: f64) -> String {
    if micros < 1_000.0 {
        format!("{micros:.0} µs")
    } else if micros < 1_000_000.0 {
        format!("{:.1} ms", micros / 1e3)
    } else {
        format!("{:.1} s", micros / 1e6)
    }
}
