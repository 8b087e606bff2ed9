//! tokio's network types: connects, or listens, as its arguments say.
use oarlock_sdk as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match (args[0].as_str(), args[1].as_str()) {
        // Eight at once, each with its own answer.
        ("connect", addr) => {
            let tasks: Vec<_> = (0..8)
                .map(|n| tokio::task::spawn(echo(addr.to_owned(), n)))
                .collect();
            for task in tasks {
                match task.await.unwrap() {
                    Ok(text) => println!("got {text}"),
                    Err(error) => println!("error {:?}", error.kind()),
                }
            }
        }
        ("listen", addr) => {
            let listener = TcpListener::bind(addr).await.unwrap();
            println!("listening");
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::task::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
            println!("closed");
        }
        other => panic!("unknown arguments {other:?}"),
    }
}

async fn echo(addr: String, n: u32) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(format!("ping {n}").as_bytes()).await?;
    stream.shutdown().await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
