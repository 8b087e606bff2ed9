//! A command of WASI 0.3 that does what its arguments say.
use futures_lite::future::zip;
use wasip3::cli::{environment, exit, stdin, stdout};
use wasip3::clocks::monotonic_clock;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};

mod lifecycle {
    wasip3::wit_bindgen::generate!({
        path: "../../../../sdk/wit",
        world: "oarlock:dyno/imports-async",
        generate_all,
        runtime_path: "wasip3::wit_bindgen::rt",
    });
    pub use oarlock::dyno::lifecycle_async::stopping;
}

wasip3::cli::command::export!(Probe);

struct Probe;

impl wasip3::exports::cli::run::Guest for Probe {
    async fn run() -> Result<(), ()> {
        let args = environment::get_arguments();
        match args.get(1).map_or("", String::as_str) {
            "args" => print(&args.join("|")).await,
            "env" => {
                let text: String = environment::get_environment()
                    .iter()
                    .map(|(n, v)| format!("{n}={v}\n"))
                    .collect();
                print(&text).await;
            }
            "fail" => return Err(()),
            "exit" => exit::exit_with_code(7),
            "trap" => std::process::abort(),
            "spin" => loop {
                std::hint::black_box(0);
            },
            "sleep" => monotonic_clock::wait_for(50_000_000).await,
            "stdin" => {
                print("waiting\n").await;
                let (text, result) = stdin::read_via_stream();
                let length = text.collect().await.len();
                result.await.unwrap();
                print(&format!("stdin ended after {length} bytes")).await;
            }
            "stopping" => {
                print("waiting\n").await;
                lifecycle::stopping().await;
                print("stopping").await;
            }
            "write" => {
                std::fs::write("/tmp/file", "text").unwrap();
                print(&std::fs::read_to_string("/tmp/file").unwrap()).await;
            }
            "deep" => print(&deep().await).await,
            "many" => print(&many().await).await,
            _ => return Err(()),
        }
        Ok(())
    }
}

fn tmp() -> Descriptor {
    let folders = wasip3::filesystem::preopens::get_directories().into_iter();
    folders
        .into_iter()
        .find(|(_, path)| path == "/tmp")
        .unwrap()
        .0
}

/// Folders in folders, each made in the one before, as deep as they go.
async fn deep() -> String {
    let mut here = tmp();
    for depth in 0.. {
        if let Err(error) = here.create_directory_at("d".to_owned()).await {
            return format!("{depth}: {error:?}");
        }
        let flags = (
            PathFlags::empty(),
            OpenFlags::DIRECTORY,
            DescriptorFlags::MUTATE_DIRECTORY,
        );
        here = here
            .open_at(flags.0, "d".to_owned(), flags.1, flags.2)
            .await
            .unwrap();
    }
    unreachable!()
}

/// Entries of each kind, as many as there can be; and some that come and go, several at once.
async fn many() -> String {
    let tmp = tmp();
    let file = |name: String| {
        let flags = (
            PathFlags::empty(),
            OpenFlags::CREATE,
            DescriptorFlags::WRITE,
        );
        tmp.open_at(flags.0, name, flags.1, flags.2)
    };
    drop(file("first".to_owned()).await.unwrap());
    for _ in 0..30 {
        let (a, b) = zip(file("a".to_owned()), file("b".to_owned())).await;
        drop((a.unwrap(), b.unwrap()));
        tmp.rename_at("a".to_owned(), &tmp, "b".to_owned())
            .await
            .unwrap();
        tmp.create_directory_at("e".to_owned()).await.unwrap();
        let (gone, folder) = zip(
            tmp.unlink_file_at("b".to_owned()),
            tmp.remove_directory_at("e".to_owned()),
        )
        .await;
        gone.unwrap();
        folder.unwrap();
    }
    for made in 1.. {
        let name = format!("{made}");
        let result = match made % 4 {
            0 => file(name).await.map(drop),
            1 => tmp.create_directory_at(name).await,
            2 => {
                tmp.link_at(PathFlags::empty(), "first".to_owned(), &tmp, name)
                    .await
            }
            _ => tmp.symlink_at("first".to_owned(), name).await,
        };
        if let Err(error) = result {
            tmp.unlink_file_at("first".to_owned()).await.unwrap();
            drop(file("another".to_owned()).await.unwrap());
            return format!("{made}: {error:?}");
        }
    }
    unreachable!()
}

async fn print(text: &str) {
    let (mut bytes, stream) = wasip3::wit_stream::new();
    let written = stdout::write_via_stream(stream);
    bytes.write_all(text.as_bytes().to_vec()).await;
    drop(bytes);
    written.await.unwrap();
}
