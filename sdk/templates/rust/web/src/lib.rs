//! The web process.

use oarlock_sdk::http::StatusCode;
use oarlock_sdk::{Request, Response, Result, config, kv, status, text};

oarlock_sdk::handler!(serve);

async fn serve(request: Request) -> Result<Response> {
    match request.uri().path() {
        "/" => {
            let greeting: String = config::var("GREETING")?;
            let visits = kv::open("default")?.increment("visits", 1).await?;
            Ok(text(format!("{greeting} from {{name}}, visitor {visits}\n")))
        }
        _ => Ok(status(StatusCode::NOT_FOUND)),
    }
}
