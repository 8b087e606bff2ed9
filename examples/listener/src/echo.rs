//! A WebSocket that answers each message with itself.

use std::convert::Infallible;

use axum::extract::State;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::response::Response;

use crate::App;
use crate::socket::{End, Event, Socket};

/// The longest message, in bytes.
const LONGEST: usize = 64 << 10;

pub(crate) async fn echo(State(app): State<App>, upgrade: WebSocketUpgrade) -> Response {
    upgrade
        .max_message_size(LONGEST)
        .max_frame_size(LONGEST)
        .on_upgrade(async move |socket| {
            let mut socket = Socket::new(socket, app.stop.clone());
            let Err(end) = answer(&mut socket).await;
            socket.close(end).await;
        })
}

async fn answer(socket: &mut Socket) -> Result<Infallible, End> {
    loop {
        let back = match socket.next(std::future::pending::<Infallible>()).await? {
            Event::Text(text) => Message::text(text),
            Event::Binary(data) => Message::Binary(data),
            Event::Other(never) => match never {},
        };
        socket.send(back).await?;
    }
}
