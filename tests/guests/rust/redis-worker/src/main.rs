//! A worker over the published `redis` crate, unmodified: takes the jobs of a list and answers each in
//! another. Arguments: how many jobs; then host:port pairs that it must not be able to reach.

use redis::TypedCommands;

fn main() {
    let mut args = std::env::args().skip(1);
    let jobs: usize = args.next().unwrap().parse().unwrap();
    for forbidden in args {
        match std::net::TcpStream::connect(&forbidden) {
            Ok(_) => panic!("{forbidden} could be reached"),
            Err(error) => println!("{forbidden}: {:?}", error.kind()),
        }
    }
    let Ok(url) = std::env::var("JOBS_URL") else {
        println!("no JOBS_URL");
        std::process::exit(1);
    };
    let mut redis = match redis::Client::open(url).and_then(|client| client.get_connection()) {
        Ok(redis) => redis,
        Err(error) => {
            println!("cannot connect: {error}");
            std::process::exit(1);
        }
    };
    for _ in 0..jobs {
        let [_, job] = redis
            .blpop("jobs", 20.0)
            .unwrap()
            .expect("a job within 20 s");
        redis.rpush("answers", format!("{job} done")).unwrap();
    }
    println!("{jobs} jobs done");
}
