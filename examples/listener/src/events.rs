//! The room as server-sent events, to read only. A reader that comes back says the last event it got
//! (`Last-Event-ID`), as browsers do, and misses nothing that the room remembers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use futures_core::Stream;

use crate::App;
use crate::room::{Heard, Message, Seat};
use crate::stop::Stop;

/// A comment goes out this often: a connection without traffic is closed on its way (55 s at the router).
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) async fn events(State(app): State<App>, headers: HeaderMap) -> Response {
    let after = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok())
        .unwrap_or(0);
    let (seat, before) = match app.room.join(after) {
        Ok(joined) => joined,
        Err(refused) => {
            return (StatusCode::SERVICE_UNAVAILABLE, refused.to_string()).into_response();
        }
    };
    let feed = Feed {
        before: before.into(),
        next: Some(next(seat, app.stop.clone())),
    };
    let feed = Sse::new(feed).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    ([(header::CACHE_CONTROL, "no-store")], feed).into_response()
}

/// An event, and what makes the one after it, if there will be one.
type Next = Pin<Box<dyn Future<Output = (Event, Option<(Seat, Stop)>)> + Send>>;

/// First what was said before, then what is said now, and when the dyno stops, that.
struct Feed {
    before: VecDeque<Arc<Message>>,
    next: Option<Next>,
}

impl Stream for Feed {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(message) = self.before.pop_front() {
            return Poll::Ready(Some(Ok(event(&message))));
        }
        let Some(next) = &mut self.next else {
            return Poll::Ready(None);
        };
        let (event, after) = ready!(next.as_mut().poll(cx));
        self.next = after.map(|(seat, stop)| self::next(seat, stop));
        Poll::Ready(Some(Ok(event)))
    }
}

fn next(mut seat: Seat, stop: Stop) -> Next {
    Box::pin(async move {
        let heard = tokio::select! {
            heard = seat.hear() => heard,
            () = stop.wait() => return (Event::default().event("stopping").data("bye"), None),
        };
        let event = match heard {
            Heard::Message(message) => event(&message),
            Heard::Missed(count) => Event::default().event("missed").data(count.to_string()),
        };
        (event, Some((seat, stop)))
    })
}

fn event(message: &Message) -> Event {
    let event = Event::default().event("message");
    match serde_json::to_string(message) {
        Ok(json) => event.id(message.number.to_string()).data(json),
        // It has always one: a number and two texts.
        Err(_) => event.comment("a message without a JSON form"),
    }
}
