//! Answers 14 bytes to every request.
use oarlock_sdk::{Request, Response, text};

oarlock_sdk::handler!(serve);

async fn serve(_request: Request) -> Response {
    text("Hello, Oarlock")
}
