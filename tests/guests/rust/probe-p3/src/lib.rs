//! A command of WASI 0.3 that does what its arguments say.
use wasip3::cli::{environment, exit, stdin, stdout};
use wasip3::clocks::monotonic_clock;

mod lifecycle {
    wasip3::wit_bindgen::generate!({
        path: "../../../../sdk/wit",
        world: "oarlock:dyno/imports-async",
        generate_all,
        runtime_path: "wasip3::wit_bindgen::rt",
    });
    pub use oarlock::dyno::lifecycle_async::stopping;
}

wasip3::cli::command::export!(Probe);

struct Probe;

impl wasip3::exports::cli::run::Guest for Probe {
    async fn run() -> Result<(), ()> {
        let args = environment::get_arguments();
        match args.get(1).map_or("", String::as_str) {
            "args" => print(&args.join("|")).await,
            "env" => {
                let text: String = environment::get_environment()
                    .iter()
                    .map(|(n, v)| format!("{n}={v}\n"))
                    .collect();
                print(&text).await;
            }
            "fail" => return Err(()),
            "exit" => exit::exit_with_code(7),
            "trap" => std::process::abort(),
            "spin" => loop {
                std::hint::black_box(0);
            },
            "sleep" => monotonic_clock::wait_for(50_000_000).await,
            "stdin" => {
                print("waiting\n").await;
                let (text, result) = stdin::read_via_stream();
                let length = text.collect().await.len();
                result.await.unwrap();
                print(&format!("stdin ended after {length} bytes")).await;
            }
            "stopping" => {
                print("waiting\n").await;
                lifecycle::stopping().await;
                print("stopping").await;
            }
            "write" => {
                std::fs::write("/tmp/file", "text").unwrap();
                print(&std::fs::read_to_string("/tmp/file").unwrap()).await;
            }
            _ => return Err(()),
        }
        Ok(())
    }
}

async fn print(text: &str) {
    let (mut bytes, stream) = wasip3::wit_stream::new();
    let written = stdout::write_via_stream(stream);
    bytes.write_all(text.as_bytes().to_vec()).await;
    drop(bytes);
    written.await.unwrap();
}
