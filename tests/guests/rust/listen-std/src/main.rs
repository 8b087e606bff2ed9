//! An HTTP server on std's sockets: one connection after the other, kept alive; by the path of the request it does
//! what servers should not. Its argument says how it begins.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn main() {
    let port = std::env::var("PORT").expect("PORT is set");
    let (mut connections, mut requests) = (0, 0);
    match std::env::args().nth(1).as_deref() {
        None => {}
        // Never listens.
        Some("idle") => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        // Listens, and takes its time to accept.
        Some("slow") => {
            let listener = TcpListener::bind(format!("0.0.0.0:{port}")).unwrap();
            println!("bound");
            std::thread::sleep(Duration::from_millis(1_000));
            let error = listener.accept().unwrap_err();
            println!("accept: {:?}", error.kind());
            return;
        }
        Some("exit") => std::process::exit(1),
        // Looks whether ports are to be had, its own last.
        Some("ports") => {
            let next = (port.parse::<u16>().unwrap() ^ 1).to_string();
            for port in ["8080", "0", &next, &port] {
                let bound = TcpListener::bind(format!("0.0.0.0:{port}"));
                println!("bind: {:?}", bound.map(drop).map_err(|error| error.kind()));
            }
        }
        Some(other) => panic!("unknown argument {other}"),
    }
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).unwrap();
    println!("listening on {}", listener.local_addr().unwrap());
    while let Ok((stream, peer)) = listener.accept() {
        connections += 1;
        assert!(peer.ip().is_loopback() && peer.port() != 0);
        if connections == 1 {
            println!("from {} at {}", peer.ip(), stream.local_addr().unwrap());
        }
        // A connection that breaks is no reason to end.
        if let Err(error) = serve(stream, connections, &mut requests) {
            println!("broken: {:?}", error.kind());
        }
        if requests == u32::MAX {
            break;
        }
    }
    println!("closed after {requests} requests on {connections} connections");
}

fn serve(stream: TcpStream, connections: u32, requests: &mut u32) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut length, mut head) = (0, line.clone());
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head += &header;
        }
        *requests += 1;
        let body = match path.as_str() {
            "/who" => format!(
                "{} {connections} {requests}",
                std::env::var("PORT").unwrap()
            ),
            "/head" => head,
            "/connect" => {
                let mut addr = String::new();
                reader.by_ref().take(length).read_to_string(&mut addr)?;
                format!(
                    "{:?}",
                    TcpStream::connect(addr)
                        .map(drop)
                        .map_err(|error| error.kind())
                )
            }
            // No answer at all.
            "/silence" => return Ok(()),
            "/nonsense" => {
                reader.get_mut().write_all(b"SMTP ready\r\n\r\n")?;
                return Ok(());
            }
            "/switch" => {
                let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
                reader.get_mut().write_all(head)?;
                return Ok(());
            }
            // Answers, and closes the connection without saying so.
            "/once" => {
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nonce";
                reader.get_mut().write_all(head)?;
                return Ok(());
            }
            "/crash" => {
                let part = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n";
                reader.get_mut().write_all(part)?;
                panic!("as asked");
            }
            // The end of the body is the connection's.
            "/crash-unframed" => {
                reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\n\r\npart")?;
                panic!("as asked");
            }
            // As servers of HTTP/1.0 answer: the end of the body is the connection's.
            "/old" => {
                reader
                    .get_mut()
                    .write_all(b"HTTP/1.0 200 OK\r\n\r\nall of it")?;
                return Ok(());
            }
            "/old-crash" => {
                reader.get_mut().write_all(b"HTTP/1.0 200 OK\r\n\r\npart")?;
                panic!("as asked");
            }
            "/coded" => {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
                reader.get_mut().write_all(head)?;
                return Ok(());
            }
            "/both" => {
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
                reader.get_mut().write_all(head)?;
                return Ok(());
            }
            "/many" => {
                let many: String = (0..900).map(|n| format!("x-{n}: v\r\n")).collect();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{many}\r\nok");
                reader.get_mut().write_all(head.as_bytes())?;
                return Ok(());
            }
            "/hang" => loop {
                std::thread::sleep(Duration::from_millis(50));
            },
            "/stop-listening" => {
                *requests = u32::MAX;
                "bye".to_owned()
            }
            _ => "not found".to_owned(),
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        reader.get_mut().write_all(head.as_bytes())?;
        reader.get_mut().write_all(body.as_bytes())?;
        if *requests == u32::MAX {
            return Ok(());
        }
    }
}
