//! Servers under load, in rounds.

use std::process::Command;

use serde::Serialize;

use crate::load::{self, Counted, Wrk};
use crate::peers::threads::Design;
use crate::plan::{Load, Peer, Row};
use crate::report::Report;
use crate::server::{self, Server, Tools};
use crate::{Arguments, Effort};

/// What one server did in one round.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    /// Answers per second.
    pub(crate) per_second: f64,
    /// Half of the requests were answered within so many microseconds.
    pub(crate) p50_us: f64,
    /// 99 of 100 were.
    pub(crate) p99_us: f64,
    /// The server's own time on processors, per request.
    pub(crate) user_us: f64,
    /// The kernel's for it, per request.
    pub(crate) system_us: f64,
    /// The most memory that the server ever had, in bytes.
    pub(crate) peak_bytes: u64,
    /// Requests without a good answer.
    pub(crate) failed: u64,
}

/// What was measured of one server in one row.
#[derive(Debug, Serialize)]
pub(crate) struct Samples {
    pub(crate) row: Row,
    pub(crate) load: Load,
    pub(crate) server: Peer,
    /// One of each round.
    pub(crate) rounds: Vec<Sample>,
}

/// What was measured of one thread design.
#[derive(Debug, Serialize)]
pub(crate) struct DesignSamples {
    pub(crate) row: Row,
    pub(crate) spinners: u32,
    pub(crate) design: Design,
    pub(crate) rounds: Vec<Sample>,
}

/// All rows under all loads.
pub(crate) fn measure(
    tools: &Tools,
    arguments: &Arguments,
    servers: &[Peer],
    effort: Effort,
    report: &mut Report,
) -> anyhow::Result<()> {
    let wrk = Wrk::new()?;
    for row in arguments.rows.iter().copied() {
        for load in arguments.loads.iter().copied() {
            let mut samples: Vec<Samples> = servers
                .iter()
                .map(|server| Samples {
                    row,
                    load,
                    server: *server,
                    rounds: Vec::new(),
                })
                .collect();
            for round in 0..effort.rounds {
                // Who comes first meets a cooler machine: each in its turn.
                let turn = round as usize % samples.len().max(1);
                let (later, first) = samples.split_at_mut(turn);
                for entry in first.iter_mut().chain(later) {
                    eprintln!(
                        "{}, {}: {} ({} of {})",
                        row.name(),
                        load.name(),
                        entry.server.name(),
                        round + 1,
                        effort.rounds
                    );
                    let server = tools.start(entry.server, row, load)?;
                    let sample = sample(&wrk, server, load, effort)?;
                    anyhow::ensure!(
                        !effort.quick || entry.server != Peer::Oarlock || sample.failed == 0,
                        "{} requests had no good answer",
                        sample.failed
                    );
                    entry.rounds.push(sample);
                }
            }
            report.rows(samples);
        }
    }
    Ok(())
}

/// Both thread designs, with and without spinning neighbours.
pub(crate) fn threads(tools: &Tools, effort: Effort, report: &mut Report) -> anyhow::Result<()> {
    let wrk = Wrk::new()?;
    let spinning: &[u32] = if effort.quick { &[2] } else { &[0, 2, 8] };
    for row in [Row::Fresh, Row::Reused3] {
        for spinners in spinning.iter().copied() {
            let mut samples = Design::ALL.map(|design| DesignSamples {
                row,
                spinners,
                design,
                rounds: Vec::new(),
            });
            for round in 0..effort.rounds {
                if round % 2 == 1 {
                    samples.reverse();
                }
                for entry in &mut samples {
                    eprintln!(
                        "{} beside {spinners} spinning guests: {} ({} of {})",
                        row.name(),
                        entry.design.name(),
                        round + 1,
                        effort.rounds
                    );
                    let addr = server::free_address()?;
                    let mut command = tools.own("serve-threads", &addr);
                    threads_arguments(&mut command, entry);
                    let server = Server::start(command, addr, None)?;
                    entry
                        .rounds
                        .push(sample(&wrk, server, Load::Hello, effort)?);
                }
                if round % 2 == 1 {
                    samples.reverse();
                }
            }
            report.threads(samples);
        }
    }
    Ok(())
}

fn threads_arguments(command: &mut Command, entry: &DesignSamples) {
    command
        .arg("--component")
        .arg(oarlock_tests::guest(entry.row.guest()))
        .arg("--spinner")
        .arg(oarlock_tests::guest("handler-p2"))
        .args(["--spinners", &entry.spinners.to_string()])
        .arg("--design")
        .arg(match entry.design {
            Design::PerCore => "per-core",
            Design::Stealing => "stealing",
        });
    if entry.row != Row::Fresh {
        command.arg("--reused");
    }
}

/// One window of load on a server, which is then ended.
pub(crate) fn sample(
    wrk: &Wrk,
    server: Server,
    load: Load,
    effort: Effort,
) -> anyhow::Result<Sample> {
    load::check(server.addr, load)?;
    if !effort.quick {
        wrk.run(server.addr, load, effort.warm_up)?;
    }
    let before = server.used()?;
    let counted = wrk.run(server.addr, load, effort.window)?;
    let after = server.used()?;
    let peak_bytes = server.peak_memory()?;
    server.stop()?;
    let Counted {
        requests,
        micros,
        p50_us,
        p99_us,
        failed,
        bad_status,
    } = counted;
    anyhow::ensure!(requests > 0, "no request was answered");
    let each = |before: f64, after: f64| (after - before) / requests as f64;
    Ok(Sample {
        per_second: requests as f64 * 1e6 / micros.max(1) as f64,
        p50_us: p50_us as f64,
        p99_us: p99_us as f64,
        user_us: each(before.user_us, after.user_us),
        system_us: each(before.system_us, after.system_us),
        peak_bytes,
        failed: failed + bad_status,
    })
}
