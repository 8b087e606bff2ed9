//! A web handler over the published `tokio-postgres` crate: each request adds a visit and answers how
//! many there were. With a query, it tells whether that host:port can be reached.

use std::net::ToSocketAddrs;

use tokio_postgres::{Config, NoTls};
use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let answer = match request.uri().query() {
        Some(other) => match std::net::TcpStream::connect(other) {
            Ok(_) => "connected".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        },
        None => {
            // tokio's sockets need its own reactor; the handler's does the HTTP.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime
                .block_on(visit())
                .unwrap_or_else(|error| format!("failed: {error}"))
        }
    };
    Ok(Response::new(answer.into()))
}

async fn visit() -> Result<String, Box<dyn std::error::Error>> {
    let url = std::env::var("DB_URL").map_err(|_| "no DB_URL")?;
    let config: Config = url.parse()?;
    let parsed = url::Url::parse(&url)?;
    let host = parsed.host_str().ok_or("no host")?;
    // tokio's own look-up wants a thread; std's does not.
    let address = (host, parsed.port().unwrap_or(5432))
        .to_socket_addrs()?
        .next()
        .ok_or("no address")?;
    let socket = tokio::net::TcpStream::connect(address).await?;
    let (client, connection) = config.connect_raw(socket, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("create table if not exists visits (id serial primary key, at timestamptz default now())").await?;
    client
        .execute("insert into visits default values", &[])
        .await?;
    let row = client.query_one("select count(*) from visits", &[]).await?;
    Ok(format!("visit {}", row.get::<_, i64>(0)))
}
