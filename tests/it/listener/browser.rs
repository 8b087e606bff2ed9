//! Two windows of a real browser chat with each other.

use fantoccini::{Client, ClientBuilder, Locator};
use oarlock_tests::app::PATIENCE;
use oarlock_tests::servers::Chromedriver;

async fn window(driver: &Chromedriver) -> Client {
    let mut capabilities = serde_json::Map::new();
    let arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"];
    capabilities.insert(
        "goog:chromeOptions".to_owned(),
        serde_json::json!({ "args": arguments }),
    );
    let connector = hyper_util::client::legacy::connect::HttpConnector::new();
    ClientBuilder::new(connector)
        .capabilities(capabilities)
        .connect(&driver.url())
        .await
        .unwrap()
}

async fn enter(window: &Client, url: &str, name: &str) {
    window.goto(url).await.unwrap();
    let field = window.find(Locator::Id("name")).await.unwrap();
    field.send_keys(name).await.unwrap();
    let button = window.find(Locator::Css("#enter button")).await.unwrap();
    button.click().await.unwrap();
    window
        .wait()
        .at_most(PATIENCE)
        .for_element(Locator::Css("#status.open"))
        .await
        .unwrap();
}

async fn say(window: &Client, text: &str) {
    let field = window.find(Locator::Id("text")).await.unwrap();
    field.send_keys(text).await.unwrap();
    let button = window.find(Locator::Css("#say button")).await.unwrap();
    button.click().await.unwrap();
}

/// The text of message `n`, once it is there.
async fn hear(window: &Client, n: usize) -> String {
    let item = format!("#messages li:nth-child({n})");
    let element = window
        .wait()
        .at_most(PATIENCE)
        .for_element(Locator::Css(&item))
        .await
        .unwrap();
    element.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_windows_chat_with_each_other() {
    let (running, _app) = super::up().await;
    let driver = Chromedriver::start();
    let url = format!("http://{}/", running.address());
    let (ada, bob) = (window(&driver).await, window(&driver).await);
    enter(&ada, &url, "Ada").await;
    enter(&bob, &url, "Bob").await;
    say(&ada, "Hello <Bob>").await;
    assert_eq!(hear(&bob, 1).await, "Ada: Hello <Bob>");
    say(&bob, "Hello Ada").await;
    assert_eq!(hear(&ada, 1).await, "Ada: Hello <Bob>");
    assert_eq!(hear(&ada, 2).await, "Bob: Hello Ada");
    ada.close().await.unwrap();
    bob.close().await.unwrap();
    assert_eq!(running.interrupt().await, Some(0));
}
