//! What its connections carry.

use super::*;

fn said(number: u64, author: &str, text: &str) -> Value {
    json!({"type": "message", "number": number, "author": author, "text": text})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_echoes_and_refuses_what_is_too_long() {
    let listener = Listener::up().await;
    let mut socket = listener.open("/echo").await;
    for message in [
        Message::text("hello"),
        Message::text("x".repeat(60_000)),
        Message::binary(vec![0, 255, 7]),
    ] {
        socket.say(message.clone()).await;
        assert_eq!(socket.hear().await, message);
    }
    socket.say(Message::text("x".repeat(70_000))).await;
    let Message::Close(Some(frame)) = socket.hear().await else {
        panic!("it is closed with a reason");
    };
    assert_eq!(frame.code, CloseCode::Size);
    assert_eq!(listener.running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_hear_each_other_and_what_was_said_before() {
    let listener = Listener::up().await;
    let mut ada = listener.open("/chat?name=Ada").await;
    ada.say(Message::text("Is anybody here?")).await;
    assert_eq!(ada.json().await, said(1, "Ada", "Is anybody here?"));

    let mut bob = listener.open("/chat?name=Bob").await;
    assert_eq!(bob.json().await, said(1, "Ada", "Is anybody here?"));
    bob.say(Message::text("I am.")).await;
    for socket in [&mut ada, &mut bob] {
        assert_eq!(socket.json().await, said(2, "Bob", "I am."));
    }
    // Who comes back has seen the first.
    let mut again = listener.open("/chat?name=Ada&after=1").await;
    assert_eq!(again.json().await, said(2, "Bob", "I am."));

    bob.say(Message::text("x".repeat(501))).await;
    let refused = bob.json().await;
    assert_eq!(refused["type"], "refused");
    assert!(refused["reason"].as_str().unwrap().contains("500"));
    let nameless = connect_async(listener.url("ws", "/chat")).await;
    assert!(nameless.is_err(), "a name is asked for");
    assert_eq!(listener.running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_one_by_one_and_it_says_goodbye() {
    let listener = Listener::up().await;
    let mut ada = listener.open("/chat?name=Ada").await;
    let mut events = Events::open(&listener).await;
    for text in ["first", "second"] {
        ada.say(Message::text(text)).await;
        ada.json().await;
        // It comes before anything else is said.
        events.until(&format!("\"text\":\"{text}\"")).await;
    }
    let Listener { running, _app } = listener;
    let goodbye = async {
        events.until("event: stopping").await;
        let Message::Close(Some(frame)) = ada.hear().await else {
            panic!("it is closed with a reason");
        };
        assert_eq!(frame.code, CloseCode::Away);
    };
    let (status, ()) = tokio::join!(running.interrupt(), goodbye);
    assert_eq!(status, Some(0));
}

/// Server-sent events, as they come.
struct Events {
    stream: TcpStream,
    read: String,
}

impl Events {
    async fn open(listener: &Listener) -> Self {
        use tokio::io::AsyncWriteExt as _;
        let mut stream = TcpStream::connect(listener.running.address())
            .await
            .unwrap();
        let request = "GET /events HTTP/1.1\r\nHost: listener.localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut events = Self {
            stream,
            read: String::new(),
        };
        events.until("text/event-stream").await;
        events
    }

    async fn until(&mut self, text: &str) {
        use tokio::io::AsyncReadExt as _;
        while !self.read.contains(text) {
            let mut piece = [0; 4096];
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut piece));
            let length = read.await.expect("an event comes").unwrap();
            assert!(length > 0, "the stream ended: {}", self.read);
            self.read
                .push_str(&String::from_utf8_lossy(&piece[..length]));
        }
    }
}
