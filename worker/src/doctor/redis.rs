//! Asks Redis whether it is there and whether it keeps what it is told (RESP2, inline enough for four commands).

use std::io::{self, BufRead, BufReader, Read, Write};

use super::facts::Redis;

/// `INFO` of one section is below 4 KiB.
const REPLY_MAX_BYTES: usize = 256 * 1024;

/// Authenticates where there are credentials, sends PING and reads what INFO says. The stream's own timeouts bound it.
pub fn ask(stream: impl Read + Write, credentials: Option<&(String, String)>) -> io::Result<Redis> {
    let mut stream = BufReader::new(stream);
    match credentials {
        Some((user, password)) if user.is_empty() => command(&mut stream, &["AUTH", password])?,
        Some((user, password)) => command(&mut stream, &["AUTH", user, password])?,
        None => String::new(),
    };
    let pong = command(&mut stream, &["PING"])?;
    if pong != "PONG" {
        return Err(odd());
    }
    // An ACL may forbid it; that is a finding, no failure.
    let mut about = String::new();
    for section in ["server", "persistence", "memory"] {
        about += &command(&mut stream, &["INFO", section]).unwrap_or_default();
    }
    Ok(parse_info(&about))
}

fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it does not speak Redis's protocol")
}

/// Sends one command and reads a simple or bulk string.
fn command(stream: &mut BufReader<impl Read + Write>, words: &[&str]) -> io::Result<String> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    stream.get_mut().write_all(request.as_bytes())?;
    let mut line = String::new();
    stream.take(1024).read_line(&mut line)?;
    let line = line.trim_end();
    match line.split_at_checked(1) {
        Some(("+", text)) => Ok(text.to_owned()),
        Some(("-", error)) => Err(io::Error::other(error.to_owned())),
        Some(("$", length)) => {
            let length = length.parse().ok().filter(|length| *length <= REPLY_MAX_BYTES).ok_or_else(odd)?;
            let mut body = vec![0; length + 2];
            stream.read_exact(&mut body)?;
            body.truncate(length);
            String::from_utf8(body).map_err(|_| odd())
        }
        _ if line.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(odd()),
    }
}

fn parse_info(text: &str) -> Redis {
    let value = |key: &str| {
        let mut pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
    };
    Redis {
        version: value("redis_version"),
        append_only: value("aof_enabled").map(|enabled| enabled == "1"),
        eviction: value("maxmemory_policy"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        thread,
    };

    use super::*;

    /// A server that reads whole commands and answers each with the next reply; returns what it read.
    fn server<const N: usize>(replies: [&'static str; N]) -> (TcpStream, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let mut seen = String::new();
            for reply in replies {
                let mut line = String::new();
                if stream.read_line(&mut line).unwrap() == 0 {
                    break;
                }
                let words: usize = line.trim_end()[1..].parse().unwrap();
                for _ in 0..2 * words {
                    line.clear();
                    stream.read_line(&mut line).unwrap();
                    seen += line.trim_end();
                    seen.push(' ');
                }
                stream.get_mut().write_all(reply.as_bytes()).unwrap();
            }
            seen
        });
        (client, server)
    }

    #[test]
    fn a_password_is_sent_and_info_is_read() {
        let (client, server) = server([
            "+OK\r\n",
            "+PONG\r\n",
            "$22\r\nredis_version:7.0.15\r\n\r\n",
            "$15\r\naof_enabled:0\r\n\r\n",
            "$28\r\nmaxmemory_policy:noeviction\n\r\n",
        ]);
        let redis = ask(client, Some(&(String::new(), "secret".into()))).unwrap();
        assert_eq!(redis.version.as_deref(), Some("7.0.15"));
        assert_eq!((redis.append_only, redis.eviction.as_deref()), (Some(false), Some("noeviction")));
        assert!(server.join().unwrap().starts_with("$4 AUTH $6 secret $4 PING $4 INFO "));
    }

    #[test]
    fn a_refused_info_is_unknown_and_a_refused_ping_an_error() {
        let (client, server_one) =
            server(["+PONG\r\n", "-NOPERM no\r\n", "-NOPERM no\r\n", "-NOPERM no\r\n"]);
        assert_eq!(ask(client, None).unwrap(), Redis::default());
        server_one.join().unwrap();
        let (client, server_two) = server(["-NOAUTH Authentication required.\r\n"]);
        assert!(ask(client, None).unwrap_err().to_string().contains("NOAUTH"));
        server_two.join().unwrap();
    }

    #[test]
    fn another_protocol_and_hostile_lengths_are_errors() {
        for reply in ["HTTP/1.1 400 Bad Request\r\n", "$99999999999\r\n", "$-1\r\n", ""] {
            let (client, server) = server([reply]);
            assert!(ask(client, None).is_err(), "{reply:?}");
            server.join().unwrap();
        }
    }
}
