//! What the control API answers.

use super::*;

#[tokio::test]
async fn the_endpoints_answer_as_the_table_says() {
    let place = Place::app();
    let runtime = FakeRuntime::new();
    let running = place.up(&runtime).await.unwrap();
    let client = &running.client;
    let apps = client.apps().await.unwrap();
    assert_eq!(
        (apps.len(), apps[0].app.as_str(), apps[0].release),
        (1, "guestbook", Some(ReleaseId(1)))
    );
    let web = "web".parse().unwrap();
    let whole = client
        .scale(&name(), &Formation::from([(web, 3)]))
        .await
        .unwrap();
    assert_eq!(whole.values().copied().collect::<Vec<_>>(), [3, 1]);
    assert_eq!(client.formation(&name()).await.unwrap(), whole);
    let dynos: Vec<String> = client
        .dynos(&name())
        .await
        .unwrap()
        .iter()
        .map(|row| row.dyno.to_string())
        .collect();
    assert_eq!(dynos, ["web.1", "web.2", "web.3", "worker.1"]);
    let error = client
        .scale(&name(), &Formation::from([("wep".parse().unwrap(), 3)]))
        .await
        .unwrap_err();
    assert_eq!(word(&error), words::INVALID_FORMATION);
    assert_eq!(client.restart(&name(), None).await.unwrap().len(), 4);
    assert_eq!(
        client.restart(&name(), Some("worker")).await.unwrap().len(),
        1
    );
    let error = client.restart(&name(), Some("none")).await.unwrap_err();
    assert_eq!(word(&error), words::UNKNOWN_TARGET);
    let error = client.dynos(&"other".parse().unwrap()).await.unwrap_err();
    assert_eq!(word(&error), words::UNKNOWN_APP);
    assert!(error.to_string().contains("guestbook"), "{error}");
    // A release keeps what was scaled.
    client
        .change_config(&name(), &change(&[("C", Some("x"))]))
        .await
        .unwrap();
    assert_eq!(runtime.last().formation, whole);
    let large = "x".repeat(crate::control::MAX_BODY);
    let error = client
        .change_config(&name(), &change(&[("C", Some(&large))]))
        .await
        .unwrap_err();
    assert_eq!(word(&error), words::BODY_TOO_LARGE);
    let large = "x".repeat(crate::releases::MAX_CONFIG);
    let error = client
        .change_config(&name(), &change(&[("C", Some(&large))]))
        .await
        .unwrap_err();
    assert_eq!(word(&error), words::INVALID_CONFIG);
    running.stop().await;
    // Under `up`, scale lasts until the end.
    let running = place.up(&runtime).await.unwrap();
    assert_eq!(
        runtime
            .last()
            .formation
            .values()
            .copied()
            .collect::<Vec<_>>(),
        [1, 1]
    );
    running.stop().await;
}

#[tokio::test]
async fn without_a_host_the_client_says_so() {
    let place = Place::app();
    let runtime = FakeRuntime::new();
    let running = place.up(&runtime).await.unwrap();
    let client = running.client.clone();
    running.stop().await;
    let error = client.apps().await.unwrap_err();
    assert_eq!(error.exit_code(), exit::NO_HOST, "{error}");
    let error = Client::new(place.root.path().join("none"))
        .apps()
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), exit::NO_HOST, "{error}");
}

#[tokio::test]
async fn logs_are_streamed_and_end_with_the_host() {
    let place = Place::app();
    let runtime = FakeRuntime::new();
    let running = place.up(&runtime).await.unwrap();
    let tail = LogQuery {
        n: Some(1),
        ..LogQuery::default()
    };
    let mut lines = running.client.logs(&name(), &tail).await.unwrap();
    assert_eq!(
        lines.next().await.unwrap().unwrap().message,
        "Release v1 is current"
    );
    assert!(lines.next().await.unwrap().is_none());
    let mut follow = running
        .client
        .logs(
            &name(),
            &LogQuery {
                n: Some(0),
                follow: true,
                ..LogQuery::default()
            },
        )
        .await
        .unwrap();
    running
        .runtime
        .log(&name(), "web.1", "hello \"world\"\u{1b}[0m");
    let line = tokio::time::timeout(LIMIT, follow.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(
        (line.dyno.as_str(), line.message.as_str()),
        ("web.1", "hello \"world\"\u{1b}[0m")
    );
    let dyno = LogQuery {
        dyno: Some("web.1".to_owned()),
        ..LogQuery::default()
    };
    let mut only = running.client.logs(&name(), &dyno).await.unwrap();
    assert!(only.next().await.unwrap().is_some());
    assert!(only.next().await.unwrap().is_none());
    let too_many = LogQuery {
        n: Some(1_000_000),
        ..LogQuery::default()
    };
    assert_eq!(
        word(&running.client.logs(&name(), &too_many).await.err().unwrap()),
        words::BAD_REQUEST
    );
    running.stop().await;
    assert!(matches!(
        tokio::time::timeout(LIMIT, follow.next()).await.unwrap(),
        Ok(None) | Err(_)
    ));
}

fn run_request(args: &[&str]) -> RunRequest {
    RunRequest {
        command: "cat".to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
    }
}

#[tokio::test]
async fn a_one_off_dyno_has_its_callers_stdin_stdout_and_stderr() {
    let place = Place::app();
    let runtime = FakeRuntime::new();
    let running = place.up(&runtime).await.unwrap();
    let mut run = running
        .client
        .run(&name(), &run_request(&[]))
        .await
        .unwrap();
    assert_eq!(run.dyno.to_string(), "run.1234");
    let sent: Vec<u8> = (0..3_000_000u32)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    let (to_send, mut writer) = (sent.clone(), run.writer);
    let send = tokio::spawn(async move {
        for part in to_send.chunks(60_000) {
            writer.send(&RunFrame::Stdin(part.to_vec())).await.unwrap();
        }
        writer.send(&RunFrame::Stdin(vec![])).await.unwrap();
        writer
    });
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = loop {
        match tokio::time::timeout(LIMIT, run.reader.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
        {
            RunFrame::Stdout(bytes) => out.extend(bytes),
            RunFrame::Stderr(bytes) => err.extend(bytes),
            RunFrame::Exit(code, message) => break (code, message),
            other => panic!("{other:?}"),
        }
    };
    assert!(out == sent, "what comes out is what went in");
    assert_eq!(err, b"3000000 bytes");
    assert_eq!(exit, (3, String::new()));
    assert!(run.reader.next().await.unwrap().is_none());
    drop(send.await.unwrap());
    let error = running
        .client
        .run(
            &name(),
            &RunRequest {
                command: "dog".to_owned(),
                args: vec![],
            },
        )
        .await
        .err()
        .unwrap();
    assert_eq!(word(&error), words::UNKNOWN_COMMAND);
    running.stop().await;
}

#[tokio::test]
async fn a_one_off_dyno_is_stopped_and_ends_with_its_client() {
    let place = Place::app();
    let runtime = FakeRuntime::new();
    let running = place.up(&runtime).await.unwrap();
    let mut run = running
        .client
        .run(&name(), &run_request(&[]))
        .await
        .unwrap();
    run.writer.send(&RunFrame::Stop).await.unwrap();
    let exit = tokio::time::timeout(LIMIT, run.reader.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(exit, RunFrame::Exit(126, "stopped".to_owned()));
    drop(run);
    let gone = async || {
        let mut alive = runtime.one_offs.subscribe();
        tokio::time::timeout(LIMIT, alive.wait_for(|alive| *alive == 0))
            .await
            .expect("the dyno is ended")
            .unwrap();
    };
    gone().await;
    let run = running
        .client
        .run(&name(), &run_request(&[]))
        .await
        .unwrap();
    assert_eq!(*runtime.one_offs.borrow(), 1);
    drop(run);
    gone().await;
    // Also when the guest is silent and reads nothing, and its stdin is full.
    let mut run = running
        .client
        .run(&name(), &run_request(&["deaf"]))
        .await
        .unwrap();
    for _ in 0..2 {
        run.writer
            .send(&RunFrame::Stdin(vec![0; 60_000]))
            .await
            .unwrap();
    }
    drop(run);
    gone().await;
    running.stop().await;
}
