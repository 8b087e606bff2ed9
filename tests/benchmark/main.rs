//! Oarlock beside its peers, in one interleaved run: requests per second, latency, CPU time and memory.
//!
//! Each row is a way to run a guest (a fresh instance per request, one that is reused; WASI 0.2 and 0.3), each load a
//! way to ask for it. In each round every server is started, asked and stopped in turn, so that what else the machine
//! does meets all of them; what is printed are medians, and medians of the ratios of a round. `wrk` makes the load; it
//! runs beside the servers on the same cores, as DESIGN's numbers were taken.
//!
//! With `--quick` it takes a moment and checks only that all of it works.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command of the repository"
)]

mod app;
mod footprint;
mod load;
mod machine;
mod older;
mod parts;
mod peers;
mod plan;
mod promises;
mod report;
mod rows;
mod server;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use plan::{Load, Part, Peer, Row};

/// Measures Oarlock beside bare hyper, a bare `ProxyHandler` and `wasmtime serve`.
#[derive(Debug, Parser)]
#[command(name = "benchmark", about, max_term_width = 100)]
struct Arguments {
    /// Seconds that a server is asked in each round.
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
    seconds: f64,
    /// Rounds; in each, every server of a row is measured once.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Ways to run the guest.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Row::ALL)]
    rows: Vec<Row>,
    /// Ways to ask.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Load::ALL)]
    loads: Vec<Load>,
    /// Servers; `wasmtime` is left out, with a word, where it is not on PATH.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Peer::ALL)]
    servers: Vec<Peer>,
    /// Which parts; `threads` (both thread designs, with and without spinning neighbours) only if it is named.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::USUAL)]
    parts: Vec<Part>,
    /// An older release to measure CPU per request beside (the part `older`, at least 9 rounds): a binary, or a
    /// revision of this repository, which is built below `target/older` with the profile of this run.
    #[arg(long, value_name = "BINARY|REVISION")]
    older: Option<String>,
    /// Small apps that one host serves in the part `footprint`; each is compiled once, in a third of a second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=4_000))]
    apps: u32,
    /// The `oarlock` to measure, instead of the one that cargo built for this run.
    #[arg(long, value_name = "BINARY")]
    oarlock: Option<PathBuf>,
    /// Writes all results, with the machine and the versions, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Prints the tables as Markdown.
    #[arg(long)]
    markdown: bool,
    /// One short round of everything: only whether it works.
    #[arg(long)]
    quick: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    serve: Option<Serve>,
}

/// What the benchmark starts itself as servers of their own processes.
#[derive(Debug, Subcommand)]
enum Serve {
    /// Bare hyper.
    #[command(name = "serve-hyper", hide = true)]
    Hyper,
    /// A bare `ProxyHandler`, set up as `wasmtime serve` is.
    #[command(name = "serve-proxy", hide = true)]
    Proxy(peers::proxy::Arguments),
    /// Our sandbox on one of the two thread designs.
    #[command(name = "serve-threads", hide = true)]
    Threads(peers::threads::Arguments),
}

/// How long and how often.
#[derive(Debug, Clone, Copy)]
struct Effort {
    window: Duration,
    warm_up: Duration,
    rounds: u32,
    quick: bool,
}

impl Arguments {
    fn effort(&self) -> Effort {
        let seconds = if self.quick { 0.5 } else { self.seconds };
        let window = Duration::from_secs_f64(seconds.clamp(0.1, 600.0));
        Effort {
            window,
            warm_up: (window / 4).min(Duration::from_secs(1)),
            rounds: if self.quick { 1 } else { self.rounds },
            quick: self.quick,
        }
    }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::parse();
    match arguments.serve.take() {
        Some(Serve::Hyper) => peers::hyper::serve(),
        Some(Serve::Proxy(arguments)) => peers::proxy::serve(&arguments),
        Some(Serve::Threads(arguments)) => peers::threads::serve(&arguments),
        None => measure(&arguments),
    }
}

fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    anyhow::ensure!(
        std::env::var_os("RUST_BACKTRACE").is_none_or(|value| value == "0"),
        "RUST_BACKTRACE is set, and makes what is measured in this process slow; unset it, or set it to 0"
    );
    oarlock_tests::need_program("wrk", "wrk");
    let effort = arguments.effort();
    let tools = server::Tools::find(arguments.oarlock.clone())?;
    let machine = machine::Machine::read(&tools);
    println!("{machine}");
    let mut report = report::Report::new(machine, effort);
    let measured = measure_parts(&tools, arguments, &mut report);
    // What was measured before a part failed is not lost.
    report.print(arguments.markdown);
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.json()?)?;
        println!("Wrote {}.", path.display());
    }
    measured
}

fn measure_parts(
    tools: &server::Tools,
    arguments: &Arguments,
    report: &mut report::Report,
) -> anyhow::Result<()> {
    let effort = arguments.effort();
    for part in Part::ALL
        .into_iter()
        .filter(|part| arguments.quick || arguments.parts.contains(part))
    {
        match part {
            Part::Rows => {
                let servers: Vec<Peer> = arguments
                    .servers
                    .iter()
                    .copied()
                    .filter(|peer| tools.has(*peer))
                    .collect();
                if servers.len() < arguments.servers.len() {
                    println!("`wasmtime` is not on PATH: it is left out.");
                }
                rows::measure(tools, arguments, &servers, effort, report)?;
            }
            Part::Instantiation => report.part(parts::instantiation(effort)?),
            Part::Wake => report.part(parts::wake(effort)?),
            Part::Thousand => report.part(parts::thousand(effort)?),
            Part::Start => report.part(parts::second_start(tools, effort)?),
            Part::Older => match &arguments.older {
                Some(older) => report.promises(older::measure(tools, arguments, older, effort)?),
                None => println!(
                    "No `--older` is given: CPU per request beside an older release is left out."
                ),
            },
            Part::Footprint => report.promises(footprint::measure(tools, arguments.apps, effort)?),
            Part::Threads => rows::threads(tools, effort, report)?,
        }
    }
    Ok(())
}
