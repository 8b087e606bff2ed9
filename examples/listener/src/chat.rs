//! The chat's WebSocket. What a visitor sends is text; what comes back is JSON:
//! `{"type":"message","number":1,"author":"Ada","text":"Hello"}`, `{"type":"refused","reason":"…"}`
//! or `{"type":"missed","count":3}`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::ws::{Message as Frame, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::App;
use crate::room::{self, Heard, Message, Refused, Seat};
use crate::socket::{End, Event, Socket};

/// The longest frame, in bytes: enough for the room's longest message in any script.
const LONGEST: usize = 4 << 10;

#[derive(Deserialize)]
pub(crate) struct Visitor {
    #[serde(default)]
    name: String,
    /// The last message that this visitor has seen, when it comes back.
    #[serde(default)]
    after: u64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Told<'a> {
    Message(&'a Message),
    Refused { reason: String },
    Missed { count: u64 },
}

pub(crate) async fn chat(
    State(app): State<App>,
    Query(visitor): Query<Visitor>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let name = match room::name(&visitor.name) {
        Ok(name) => name,
        Err(refused) => return (StatusCode::BAD_REQUEST, refused.to_string()).into_response(),
    };
    upgrade
        .max_message_size(LONGEST)
        .max_frame_size(LONGEST)
        .on_upgrade(async move |socket| {
            let mut socket = Socket::new(socket, app.stop.clone());
            let end = match app.room.join(visitor.after) {
                Ok((seat, before)) => {
                    let Err(end) = take_part(&app, &name, &mut socket, seat, before).await;
                    end
                }
                // A browser's script can read a close, but no status.
                Err(refused) => End::Refused(refused.to_string()),
            };
            socket.close(end).await;
        })
}

async fn take_part(
    app: &App,
    name: &str,
    socket: &mut Socket,
    mut seat: Seat,
    before: Vec<Arc<Message>>,
) -> Result<Infallible, End> {
    for message in before {
        tell(socket, &Told::Message(&message)).await?;
    }
    loop {
        let refused = match socket.next(seat.hear()).await? {
            Event::Other(Heard::Message(message)) => {
                tell(socket, &Told::Message(&message)).await?;
                continue;
            }
            Event::Other(Heard::Missed(count)) => {
                tell(socket, &Told::Missed { count }).await?;
                continue;
            }
            Event::Text(text) => app.room.say(name, &text),
            Event::Binary(_) => Err(Refused::NoText),
        };
        if let Err(refused) = refused {
            let reason = refused.to_string();
            tell(socket, &Told::Refused { reason }).await?;
        }
    }
}

async fn tell(socket: &mut Socket, told: &Told<'_>) -> Result<(), End> {
    let json = serde_json::to_string(told).map_err(|_| End::Gone)?;
    socket.send(Frame::text(json)).await
}
