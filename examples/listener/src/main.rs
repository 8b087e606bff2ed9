//! A chat over axum: a server of its own on `$PORT`, with WebSockets and server-sent events.
//!
//! | path | what |
//! |---|---|
//! | `/` | the chat's page |
//! | `/chat?name=Ada` | a WebSocket: text goes out to all in the room, JSON comes back |
//! | `/events` | the same as server-sent events, to read only |
//! | `/echo` | a WebSocket that answers each message with itself |

mod chat;
mod echo;
mod events;
mod page;
mod room;
mod socket;
mod stop;

use std::sync::Arc;

use axum::Router;
use axum::routing::{any, get};

use room::Room;
use stop::Stop;

/// What every connection shares.
#[derive(Clone)]
struct App {
    room: Arc<Room>,
    stop: Stop,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Err(error) = serve().await {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

async fn serve() -> std::io::Result<()> {
    let listener = oarlock_sdk::tokio::listener().await?;
    let (stop, stopped) = stop::new();
    let app = App {
        room: Arc::new(Room::new()),
        stop: stop.clone(),
    };
    println!("listening on {}", listener.local_addr()?);
    tokio::spawn(async move {
        oarlock_sdk::tokio::stopping().await;
        println!("stopping");
        stop.set();
    });
    let told = app.stop.clone();
    axum::serve(listener, routes(app))
        .with_graceful_shutdown(async move { told.wait().await })
        .await?;
    // axum does not wait for WebSockets: they are no requests any more.
    stopped.all_closed().await;
    println!("stopped");
    Ok(())
}

fn routes(app: App) -> Router {
    Router::new()
        .route("/", get(page::html))
        .route("/chat.css", get(page::css))
        .route("/chat.js", get(page::script))
        .route("/chat", any(chat::chat))
        .route("/echo", any(echo::echo))
        .route("/events", get(events::events))
        .with_state(app)
}
