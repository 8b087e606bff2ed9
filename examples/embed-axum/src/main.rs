//! `cargo run --release -p embed-axum`, once the guests are built. Ctrl-C ends it: that is the server's, not the library's.

use std::path::Path;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    let stop = async {
        // Without signals there is nothing that could end it but a kill.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let (guests, data) = (here.join("guests"), here.join("target/data"));
    embed_axum::serve(listener, (&guests, &data), stop).await
}
