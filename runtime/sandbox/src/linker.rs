//! What components may import: WASI 0.2 and 0.3, `wasi:http`, `wasi:keyvalue` and `oarlock:dyno`, linked for
//! every component alike. What its grant does not name answers "not permitted"; it is never missing.

use wasmtime::Engine;
use wasmtime::component::Linker;
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView};
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView};
use wasmtime_wasi::{WasiView, p2, p3};
use wasmtime_wasi_io::bindings::wasi::io;

use crate::engine::Variant;
use crate::state::GuestState;

/// The linker of an engine: everything the host provides; a serial one has nothing of 0.3.
pub(crate) fn build(engine: &Engine, variant: Variant) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    let l = &mut linker;
    wasi_0_2(l)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(l)?;
    crate::bodies::p2(l)?;
    crate::environment::p2(l)?;
    crate::files::p2(l)?;
    crate::lifecycle::p2(l)?;
    crate::sockets::p2(l)?;
    crate::kv::add_to_linker(l)?;
    l.allow_shadowing(true);
    crate::entries::p2(l)?;
    l.allow_shadowing(false);
    if variant == Variant::Concurrent {
        wasi_0_3(l)?;
        wasmtime_wasi_http::p3::add_to_linker(l)?;
        crate::environment::p3(l)?;
        crate::files::p3(l)?;
        crate::lifecycle::p3(l)?;
        crate::sockets::p3(l)?;
        l.allow_shadowing(true);
        crate::entries::p3(l)?;
        l.allow_shadowing(false);
    }
    crate::fields::add_to_linker(l, variant)?;
    Ok(linker)
}

/// The key under which the bindings of `wasi:io` find the table.
struct HasIo;

impl wasmtime::component::HasData for HasIo {
    type Data<'a> = &'a mut wasmtime::component::ResourceTable;
}

/// All of wasmtime-wasi's 0.2 but what is ours: the environment, the preopens, TCP and name look-ups.
fn wasi_0_2(l: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    use p2::bindings::{cli, clocks, filesystem, random, sockets};
    io::error::add_to_linker::<GuestState, HasIo>(l, |s| s.ctx().table)?;
    io::poll::add_to_linker::<GuestState, HasIo>(l, |s| s.ctx().table)?;
    io::streams::add_to_linker::<GuestState, HasIo>(l, |s| s.ctx().table)?;
    clocks::wall_clock::add_to_linker::<GuestState, WasiClocks>(l, GuestState::clocks)?;
    clocks::monotonic_clock::add_to_linker::<GuestState, WasiClocks>(l, GuestState::clocks)?;
    random::random::add_to_linker::<GuestState, WasiRandom>(l, GuestState::random)?;
    random::insecure::add_to_linker::<GuestState, WasiRandom>(l, GuestState::random)?;
    random::insecure_seed::add_to_linker::<GuestState, WasiRandom>(l, GuestState::random)?;
    filesystem::types::add_to_linker::<GuestState, WasiFilesystem>(l, GuestState::filesystem)?;
    cli::exit::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::stdin::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::stdout::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::stderr::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::terminal_input::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::terminal_output::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::terminal_stdin::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::terminal_stdout::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::terminal_stderr::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    let options = sockets::network::LinkOptions::default();
    sockets::network::add_to_linker::<GuestState, WasiSockets>(l, &options, GuestState::sockets)?;
    sockets::instance_network::add_to_linker::<GuestState, WasiSockets>(l, GuestState::sockets)?;
    sockets::udp::add_to_linker::<GuestState, WasiSockets>(l, GuestState::sockets)?;
    sockets::udp_create_socket::add_to_linker::<GuestState, WasiSockets>(l, GuestState::sockets)
}

/// All of wasmtime-wasi's 0.3 but the environment, the preopens and the sockets.
fn wasi_0_3(l: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    use p3::bindings::{cli, filesystem};
    p3::clocks::add_to_linker(l)?;
    p3::random::add_to_linker(l)?;
    filesystem::types::add_to_linker::<GuestState, WasiFilesystem>(l, GuestState::filesystem)?;
    cli::exit::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::stdin::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::stdout::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::stderr::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::terminal_input::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::terminal_output::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::terminal_stdin::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::terminal_stdout::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)?;
    cli::terminal_stderr::add_to_linker::<GuestState, WasiCli>(l, GuestState::cli)
}
