//! What a TCP socket of `wasi:sockets` 0.3 promises: a case and a family as arguments, `ok` as the answer. The cases are
//! those that the WASI test suite and wasmtime's own tests ask about.
mod cases;
mod net;
mod streams;

use net::Net;
use wasip3::cli::environment::get_arguments;

wasip3::cli::command::export!(Cases);

struct Cases;

impl wasip3::exports::cli::run::Guest for Cases {
    async fn run() -> Result<(), ()> {
        let args: Vec<String> = get_arguments().into_iter().skip(1).collect();
        let [case, family] = args.as_slice() else {
            panic!("a case and a family, not {args:?}")
        };
        let net = Net { v6: family == "v6" };
        match case.as_str() {
            "bind" => cases::bind(&net).await,
            "connect" => cases::connect(&net).await,
            "states" => cases::states(&net).await,
            "options" => cases::options(&net).await,
            "backlog" => cases::backlog(&net).await,
            "many" => cases::many(&net).await,
            "application" => streams::application(&net).await,
            "half-close" => streams::half_close(&net).await,
            "reset" => streams::reset(&net).await,
            "bulk" => streams::bulk(&net).await,
            other => panic!("unknown case {other}"),
        }
        println!("ok");
        Ok(())
    }
}
