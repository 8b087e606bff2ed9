//! A worker over the published `redis` crate on tokio, which reaches its server by name: the name is
//! looked up first, and the crate is given the address. It answers jobs until it is told to stop.
//! Arguments: names to look up and do nothing with.

use std::time::Duration;

use oarlock_sdk::tokio::{resolve, stopping};
use redis::{AsyncTypedCommands, ConnectionAddr, IntoConnectionInfo};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for name in std::env::args().skip(1) {
        match resolve(&name).await {
            Ok(addresses) => println!("{name}: {} addresses", addresses.len()),
            Err(error) => println!("{name}: {:?}: {error}", error.kind()),
        }
    }
    let mut redis = match connect().await {
        Ok(redis) => redis,
        Err(error) => {
            println!("cannot connect: {error}");
            std::process::exit(1);
        }
    };
    println!("ready");
    let mut done = 0;
    loop {
        let job = tokio::select! {
            job = redis.blpop("jobs", 20.0) => job.unwrap(),
            () = stopping() => break,
        };
        let Some([_, job]) = job else { continue };
        // Others go on meanwhile: this runtime has one thread, and nothing here holds it.
        tokio::time::sleep(Duration::from_millis(1)).await;
        redis.rpush("answers", format!("{job} done")).await.unwrap();
        done += 1;
    }
    println!("{done} jobs done");
}

async fn connect() -> Result<redis::aio::MultiplexedConnection, Box<dyn std::error::Error>> {
    let info = std::env::var("JOBS_URL")?.into_connection_info()?;
    let ConnectionAddr::Tcp(host, port) = info.addr() else {
        return Err("not a TCP address".into());
    };
    let addresses = resolve(&format!("{host}:{port}")).await?;
    // A BLPOP may wait for longer than the crate waits for an answer by itself.
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let mut failure = "no address".into();
    for address in addresses {
        let address = ConnectionAddr::Tcp(address.ip().to_string(), address.port());
        let client = redis::Client::open(info.clone().set_addr(address))?;
        match client
            .get_multiplexed_async_connection_with_config(&config)
            .await
        {
            Ok(redis) => return Ok(redis),
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}
