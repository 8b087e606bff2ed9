//! What a TCP socket of `wasi:sockets` 0.2 promises, asked of its functions directly: a case and a family as arguments, `ok`
//! as the answer. The cases are those that the WASI test suite and wasmtime's own tests ask about.
mod cases;
mod net;
mod streams;

use net::Net;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [case, family] = args.as_slice() else {
        panic!("a case and a family, not {args:?}")
    };
    let net = Net::new(family == "v6");
    match case.as_str() {
        "bind" => cases::bind(&net),
        "connect" => cases::connect(&net),
        "states" => cases::states(&net),
        "options" => cases::options(&net),
        "backlog" => cases::backlog(&net),
        "many" => cases::many(&net),
        "application" => streams::application(&net),
        "half-close" => streams::half_close(&net),
        "reset" => streams::reset(&net),
        "shutdown" => streams::shutdown(&net),
        "bulk" => streams::bulk(&net),
        other => panic!("unknown case {other}"),
    }
    println!("ok");
}
