//! Says hello to a broker as AMQP 0-9-1 begins: the protocol header, and the broker's `connection.start`.

use std::io::{self, Read, Write};

use super::facts::Broker;

/// AMQP 0-9-1, section 4.2.2.
const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\0\x00\x09\x01";
/// Frame type METHOD on channel 0.
const METHOD: u8 = 1;
/// `connection.start`: class 10, method 10.
const CONNECTION_START: [u8; 4] = [0, 10, 0, 10];
/// A broker's greeting is below 1 KiB; a frame may have 128 KiB before tuning.
const GREETING_MAX_BYTES: u32 = 128 * 1024;

/// Opens AMQP on a fresh connection and reads the greeting. The stream's own timeouts bound it.
pub fn greet(mut stream: impl Read + Write) -> io::Result<Broker> {
    stream.write_all(PROTOCOL_HEADER)?;
    let mut header = [0; 7];
    stream.read_exact(&mut header)?;
    let [kind, _, _, size @ ..] = header;
    let size = u32::from_be_bytes(size);
    if kind != METHOD || size > GREETING_MAX_BYTES {
        return Err(odd());
    }
    let mut payload = vec![0; usize::try_from(size).unwrap_or_default()];
    stream.read_exact(&mut payload)?;
    parse(&payload).ok_or_else(odd)
}

fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it does not speak AMQP 0-9-1")
}

/// `None` unless it is a `connection.start`.
fn parse(payload: &[u8]) -> Option<Broker> {
    let properties = payload.strip_prefix(&CONNECTION_START)?;
    Some(Broker {
        product: long_string(properties, b"product"),
        version: long_string(properties, b"version"),
    })
}

/// The value of a field of a table whose value is a long string: name with its length, `S`, length, bytes.
fn long_string(table: &[u8], name: &[u8]) -> Option<String> {
    let mut key = vec![u8::try_from(name.len()).ok()?];
    key.extend(name);
    key.push(b'S');
    let at = table.windows(key.len()).position(|window| window == key)?;
    let (length, rest) = table.get(at + key.len()..)?.split_first_chunk::<4>()?;
    let value = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let printable = |text: &str| text.len() <= 64 && !text.contains(char::is_control);
    String::from_utf8(value.to_vec()).ok().filter(|text| printable(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_tells_product_and_version() {
        let mut payload = vec![0, 10, 0, 10, 0, 9, 0, 0, 0, 46];
        payload.extend(b"\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x063.10.8");
        let broker = parse(&payload).unwrap();
        assert_eq!(
            (broker.product.as_deref(), broker.version.as_deref()),
            (Some("RabbitMQ"), Some("3.10.8"))
        );
    }

    #[test]
    fn hostile_lengths_and_other_methods_are_no_greeting() {
        assert_eq!(parse(&[0, 10, 0, 50]), None);
        assert_eq!(parse(b"\0\x0a\0\x0a\x07versionS\xff\xff\xff\xffx"), Some(Broker::default()));
        assert_eq!(parse(b"\0\x0a\0\x0a\x07versionS\0"), Some(Broker::default()));
    }
}
