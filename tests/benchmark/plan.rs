//! What is measured: rows, loads, servers and parts.

use std::path::PathBuf;

use clap::ValueEnum;
use oarlock_tests::{Wasi, sdk_guest};
use serde::Serialize;

/// A way to run the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// WASI 0.2, an instance for each request.
    #[value(name = "0.2-fresh")]
    #[serde(rename = "0.2-fresh")]
    Fresh,
    /// WASI 0.2, instances that serve one request after the other.
    #[value(name = "0.2-reused")]
    #[serde(rename = "0.2-reused")]
    Reused2,
    /// WASI 0.3, instances that serve many requests at once.
    #[value(name = "0.3-reused")]
    #[serde(rename = "0.3-reused")]
    Reused3,
}

impl Row {
    pub(crate) const ALL: [Self; 3] = [Self::Fresh, Self::Reused2, Self::Reused3];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fresh => "0.2 fresh",
            Self::Reused2 => "0.2 reused",
            Self::Reused3 => "0.3 reused",
        }
    }

    /// The test guest that it runs: over `wstd`, and over `wasip3` with the types of `http`.
    pub(crate) fn guest(self) -> &'static str {
        match self {
            Self::Fresh | Self::Reused2 => "hello-p2",
            Self::Reused3 => "hello-p3",
        }
    }

    /// The component that answers a load.
    pub(crate) fn component(self, load: Load) -> PathBuf {
        match (load, self) {
            (Load::Bare, Self::Fresh | Self::Reused2) => sdk_guest(Wasi::P2, "raw"),
            (Load::Bare, Self::Reused3) => sdk_guest(Wasi::P3, "raw"),
            _ => oarlock_tests::guest(self.guest()),
        }
    }

    /// Our formation.
    pub(crate) fn dynos(self) -> u32 {
        match self {
            Self::Fresh => 2,
            Self::Reused2 => 16,
            Self::Reused3 => 4,
        }
    }

    /// What the manifest says of it; all else is the default.
    pub(crate) fn limits(self) -> &'static str {
        match self {
            Self::Fresh => "isolation = \"request\"",
            Self::Reused2 => "isolation = \"dyno\"",
            Self::Reused3 => "isolation = \"dyno\"\nconcurrency = 16",
        }
    }

    /// What `wasmtime serve` and the bare handler are told: requests per instance.
    pub(crate) fn reuse(self) -> u32 {
        match self {
            Self::Fresh => 1,
            Self::Reused2 | Self::Reused3 => 1000,
        }
    }

    /// Which of DESIGN's ratios hold for it: at least so many times `wasmtime serve`, and of bare hyper.
    pub(crate) fn targets(self) -> (f64, Option<f64>) {
        match self {
            Self::Fresh => (3.0, None),
            Self::Reused2 => (1.2, Some(0.5)),
            Self::Reused3 => (1.2, Some(0.3)),
        }
    }
}

/// A way to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Load {
    /// 14 bytes, 32 connections that are kept.
    Hello,
    /// The same, of a guest on the bare bindings: what is left is the host.
    Bare,
    /// A body of 10 KiB.
    #[value(name = "10k")]
    #[serde(rename = "10k")]
    TenKilobytes,
    /// A body of 1 MiB, streamed in 16 pieces.
    #[value(name = "1m")]
    #[serde(rename = "1m")]
    Megabyte,
    /// 14 bytes, 512 connections.
    #[value(name = "512")]
    #[serde(rename = "512")]
    Many,
    /// 14 bytes, a new connection for each request.
    New,
}

impl Load {
    pub(crate) const ALL: [Self; 6] = [
        Self::Hello,
        Self::Bare,
        Self::TenKilobytes,
        Self::Megabyte,
        Self::Many,
        Self::New,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hello => "14 bytes",
            Self::Bare => "14 bytes, bare guest",
            Self::TenKilobytes => "10 KiB",
            Self::Megabyte => "1 MiB streamed",
            Self::Many => "512 connections",
            Self::New => "new connections",
        }
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Hello | Self::Bare | Self::Many | Self::New => "/",
            Self::TenKilobytes => "/10k",
            Self::Megabyte => "/1m",
        }
    }

    /// How long an answer's body must be.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Hello | Self::Bare | Self::Many | Self::New => 14,
            Self::TenKilobytes => 10 << 10,
            Self::Megabyte => 1 << 20,
        }
    }

    pub(crate) fn connections(self) -> u32 {
        if self == Self::Many { 512 } else { 32 }
    }

    pub(crate) fn kept(self) -> bool {
        self != Self::New
    }
}

/// A server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// No guest at all: the limit.
    Hyper,
    /// A bare `ProxyHandler`, set up as `wasmtime serve` is.
    Proxy,
    /// The real `wasmtime serve`.
    Wasmtime,
    /// Ours: the real binary, everything on.
    Oarlock,
}

impl Peer {
    pub(crate) const ALL: [Self; 4] = [Self::Hyper, Self::Proxy, Self::Wasmtime, Self::Oarlock];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hyper => "hyper, no Wasm",
            Self::Proxy => "bare ProxyHandler",
            Self::Wasmtime => "wasmtime serve",
            Self::Oarlock => "oarlock up",
        }
    }
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// All servers under load.
    Rows,
    /// Instantiation inside the host.
    Instantiation,
    /// The first byte of a web dyno scaled from 0.
    Wake,
    /// `web=0` to `web=1000`.
    Thousand,
    /// A second start of the host.
    Start,
    /// CPU per request beside the older release that `--older` names.
    Older,
    /// Memory and mappings of the real host: idle, under load, after a burst, with a thousand apps.
    Footprint,
    /// Both thread designs, under load and beside spinning guests.
    Threads,
}

impl Part {
    pub(crate) const ALL: [Self; 8] = [
        Self::Rows,
        Self::Instantiation,
        Self::Wake,
        Self::Thousand,
        Self::Start,
        Self::Older,
        Self::Footprint,
        Self::Threads,
    ];

    pub(crate) const USUAL: [Self; 7] = [
        Self::Rows,
        Self::Instantiation,
        Self::Wake,
        Self::Thousand,
        Self::Start,
        Self::Older,
        Self::Footprint,
    ];
}
