//! Where a service is, from its URL.

/// The parts of a service's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Whether the scheme asks for TLS.
    pub tls: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User and password, percent-decoded; either may be empty.
    pub credentials: Option<(String, String)>,
}

impl std::fmt::Display for Address {
    /// Host and port only: passwords are printed nowhere.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Parses `scheme[s]://[user[:password]@]host[:port][/…]`; the port defaults to `port`, or with TLS to `tls_port`.
/// The error says what is expected, without repeating the URL, which may hold a password.
pub fn parse(url: &str, scheme: &str, port: u16, tls_port: u16) -> Result<Address, String> {
    let expected = || format!("not of the form {scheme}://[user[:password]@]host[:port][/…]");
    let (found, rest) = url.split_once("://").ok_or_else(expected)?;
    let tls = match found.strip_prefix(scheme) {
        Some("") => false,
        Some("s") => true,
        _ => return Err(expected()),
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let (credentials, place) = match authority.rsplit_once('@') {
        Some((credentials, place)) => {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            (Some((decoded(user).ok_or_else(expected)?, decoded(password).ok_or_else(expected)?)), place)
        }
        None => (None, authority),
    };
    let (host, number) = split_port(place).ok_or_else(expected)?;
    let default = if tls { tls_port } else { port };
    let port = match number {
        Some(number) => number.parse().map_err(|_| expected())?,
        None => default,
    };
    let host = decoded(host).filter(|host| !host.is_empty()).ok_or_else(expected)?;
    Ok(Address { tls, host, port, credentials })
}

fn split_port(place: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return match port {
            "" => Some((host, None)),
            _ => Some((host, Some(port.strip_prefix(':')?))),
        };
    }
    Some(place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))))
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = digit(bytes.next()?)? * 16 + digit(bytes.next()?)?;
        out.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amqp(url: &str) -> Result<Address, String> {
        parse(url, "amqp", 5672, 5671)
    }

    #[test]
    fn every_part_is_optional_but_the_host() {
        let plain = amqp("amqp://h").unwrap();
        assert_eq!(plain, Address { tls: false, host: "h".into(), port: 5672, credentials: None });
        let full = amqp("amqps://u%40x:p%2Fw@h.example:1234/vhost?heartbeat=5").unwrap();
        assert_eq!(full.credentials, Some(("u@x".into(), "p/w".into())));
        assert_eq!((full.tls, full.to_string().as_str()), (true, "h.example:1234"));
        assert_eq!(amqp("amqps://h").unwrap().port, 5671);
        assert_eq!(amqp("amqp://[::1]:1").unwrap().to_string(), "[::1]:1");
    }

    #[test]
    fn an_error_does_not_repeat_the_password() {
        for url in [
            "secret",
            "http://u:secret@h",
            "amqp://u:secret@",
            "amqp://u:secret@h:port",
            "amqp://u:secret%zz@h",
        ] {
            let error = amqp(url).unwrap_err();
            assert!(!error.contains("secret") && error.contains("amqp://"), "{error}");
        }
    }
}
