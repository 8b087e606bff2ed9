//! Its page, in headless Chromium.

use oarlock_tests::browser::{Browser, Page};

use super::*;

async fn enter(browser: &Browser, url: &str, name: &str) -> Page {
    let mut page = browser.open(url).await;
    page.eval(&format!(
        "document.getElementById('name').value = '{name}';
         document.getElementById('enter').requestSubmit(); 0"
    ))
    .await;
    let status = "document.getElementById('status').textContent";
    page.until(&format!("{status} === 'In the room as {name}'"))
        .await;
    page
}

async fn say(page: &mut Page, text: &str) {
    page.eval(&format!(
        "document.getElementById('text').value = '{text}';
         document.getElementById('say').requestSubmit(); 0"
    ))
    .await;
}

async fn shows(page: &mut Page, lines: &[&str]) {
    let shown = "JSON.stringify([...document.querySelectorAll('#messages li')].map((line) => line.textContent))";
    let wanted = serde_json::to_string(lines).unwrap();
    page.until(&format!("{shown} === {}", json!(wanted))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_windows_chat_and_come_back_after_a_restart() {
    let listener = Listener::up().await;
    let browser = Browser::start().await;
    let url = listener.url("http", "/");
    let mut ada = enter(&browser, &url, "Ada").await;
    let mut bob = enter(&browser, &url, "Bob").await;
    say(&mut ada, "Hello <b>Bob</b>").await;
    for page in [&mut ada, &mut bob] {
        // Shown as it was written, and no part of the page.
        shows(page, &["Ada: Hello <b>Bob</b>"]).await;
    }
    say(&mut bob, "Hello Ada").await;
    for page in [&mut ada, &mut bob] {
        shows(page, &["Ada: Hello <b>Bob</b>", "Bob: Hello Ada"]).await;
    }
    // A restart starts the new dyno first; the pages then find their way to it by themselves.
    ada.eval(
        "window.lost = false;
         new MutationObserver(() => { window.lost ||= document.getElementById('status').className === 'lost'; })
             .observe(document.getElementById('status'), { attributes: true }); 0",
    )
    .await;
    let restarted = listener.running.oarlock(&["restart", "web"]).await;
    assert_eq!(restarted.code, 0, "{}", restarted.stderr);
    ada.until("window.lost && document.getElementById('status').className === 'open'")
        .await;
    assert_eq!(listener.running.interrupt().await, Some(0));
}
