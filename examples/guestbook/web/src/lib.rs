//! The web process: an HTML page for people and a JSON API for programs.

mod page;

use guestbook::{Book, Entry, Message};
use jiff::Timestamp;
use oarlock_sdk::http::{HeaderValue, Method, StatusCode, header};
use oarlock_sdk::{Request, Response, Result, config, html, json, status};
use serde_json::json as value;

oarlock_sdk::handler!(serve);

/// How many entries a page or an answer has.
const PAGE: u64 = 50;
/// The largest request body, in bytes; the longest message takes less, in either form.
const BODY_LIMIT: usize = 16 * 1024;

async fn serve(request: Request) -> Result<Response> {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET | &Method::HEAD, "/") => show(&request, None).await,
        (&Method::POST, "/entries") => add_from_form(request).await,
        (&Method::GET | &Method::HEAD, "/api/entries") => list(&request).await,
        (&Method::POST, "/api/entries") => add_from_json(request).await,
        (&Method::GET | &Method::HEAD, "/api/digest") => json(&Book::open()?.digest().await?),
        (_, "/" | "/entries" | "/api/entries" | "/api/digest") => {
            Ok(status(StatusCode::METHOD_NOT_ALLOWED))
        }
        _ => Ok(status(StatusCode::NOT_FOUND)),
    }
}

/// The page, with the newest entries or those that contain the word asked for.
async fn show(request: &Request, problem: Option<page::Problem>) -> Result<Response> {
    let book = Book::open()?;
    let query = parameter(request, "q").unwrap_or_default();
    let entries = find(&book, &query).await?;
    let page = page::Page {
        greeting: config::var_or("GREETING", "Leave a word.".to_owned())?,
        dyno: config::var_or("DYNO", "?".to_owned())?,
        release: config::var_or("OARLOCK_RELEASE", "?".to_owned())?,
        digest: book.digest().await?,
        query,
        entries,
        problem,
    };
    let mut response = html(page.to_string());
    // Nothing on this page comes from elsewhere, and nothing in it runs.
    let policy = HeaderValue::from_static(
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
    );
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

async fn add_from_form(request: Request) -> Result<Response> {
    let (head, body) = request.into_parts();
    let form = body.bytes(BODY_LIMIT).await?;
    let field = |name: &str| {
        let mut fields = form_urlencoded::parse(&form);
        fields
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
            .unwrap_or_default()
    };
    let message = Message {
        name: field("name"),
        text: field("text"),
    };
    match Entry::new(&message, Timestamp::now()) {
        Ok(entry) => {
            let number = Book::open()?.add(&entry).await?;
            println!("entry {number} by {:?}", entry.name);
            let mut response = status(StatusCode::SEE_OTHER);
            response
                .headers_mut()
                .insert(header::LOCATION, HeaderValue::from_static("/"));
            Ok(response)
        }
        Err(reason) => {
            let request = Request::from_parts(head, ().into());
            let mut response = show(&request, Some(page::Problem { reason, message })).await?;
            *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
            Ok(response)
        }
    }
}

async fn list(request: &Request) -> Result<Response> {
    let book = Book::open()?;
    let entries = find(&book, &parameter(request, "q").unwrap_or_default()).await?;
    let entries: Vec<_> = entries
        .iter()
        .map(|(number, entry)| with_number(*number, entry))
        .collect();
    json(&value!({ "entries": entries }))
}

async fn add_from_json(request: Request) -> Result<Response> {
    let message = match request.into_body().read_json::<Message>(BODY_LIMIT).await {
        Ok(message) => message,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match Entry::new(&message, Timestamp::now()) {
        Ok(entry) => {
            let number = Book::open()?.add(&entry).await?;
            println!("entry {number} by {:?}", entry.name);
            let mut response = json(&with_number(number, &entry))?;
            *response.status_mut() = StatusCode::CREATED;
            Ok(response)
        }
        Err(reason) => refuse(StatusCode::UNPROCESSABLE_ENTITY, &reason.to_string()),
    }
}

async fn find(book: &Book, query: &str) -> Result<Vec<(u64, Entry)>> {
    if query.is_empty() {
        book.newest(PAGE).await
    } else {
        book.search(query, PAGE as usize).await
    }
}

fn with_number(number: u64, entry: &Entry) -> serde_json::Value {
    value!({ "number": number, "name": entry.name, "text": entry.text, "at": entry.at })
}

fn refuse(code: StatusCode, reason: &str) -> Result<Response> {
    let mut response = json(&value!({ "error": reason }))?;
    *response.status_mut() = code;
    Ok(response)
}

fn parameter(request: &Request, name: &str) -> Option<String> {
    let query = request.uri().query()?.as_bytes();
    form_urlencoded::parse(query)
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}
