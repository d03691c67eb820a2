//! Where to listen, or whom to call: `tcp://HOST:PORT` or `unix:PATH`, parsed once into a type.

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use dns_lookup::{AddrInfoHints, getaddrinfo};
use socket2::SockAddr;

/// What a user names. A host may stand for several addresses, an empty one for every interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Named);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    Tcp { host: Host, port: Port },
    Unix(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    EveryInterface,
    Address(IpAddr),
    /// A name, or an IPv6 address with a zone (`fe80::1%eth0`), which only the system can look up.
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Port {
    Number(u16),
    /// Looked up in services(5).
    Service(String),
}

/// What a socket is bound or connected to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket; `@` and its name for an abstract one (unix(7)); empty where it has
    /// neither, as a client's nearly never has.
    Unix(PathBuf),
}

impl Address {
    /// The IP address and port, if it has them.
    pub fn as_tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    /// The path, if it is one.
    pub fn as_unix(&self) -> Option<&Path> {
        match self {
            Address::Tcp(_) => None,
            Address::Unix(path) => Some(path),
        }
    }
}

impl From<&SockAddr> for Address {
    fn from(address: &SockAddr) -> Address {
        if let Some(address) = address.as_socket() {
            return Address::Tcp(address);
        }
        if let Some(name) = address.as_abstract_namespace() {
            return Address::Unix(OsStr::from_bytes(&[b"@", name].concat()).into());
        }
        Address::Unix(address.as_pathname().unwrap_or(Path::new("")).to_owned())
    }
}

/// The echo server of the sockets tutorials: 127.0.0.1, port 65432.
impl Default for Endpoint {
    fn default() -> Endpoint {
        Endpoint::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 65432)))
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Endpoint {
        let (host, port) = (Host::Address(address.ip()), Port::Number(address.port()));
        Endpoint(Named::Tcp { host, port })
    }
}

impl Endpoint {
    /// Whether it is the path of a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.0, Named::Unix(_))
    }

    /// Every address that it stands for, each once, v4 before v6. A name is looked up now, with a call
    /// that waits: resolve before the loop runs, never in it.
    ///
    /// # Errors
    /// The host or the service is not known, or the resolver cannot be asked.
    pub fn resolve(&self) -> io::Result<Vec<Address>> {
        let (host, port) = match &self.0 {
            Named::Unix(path) => return Ok(vec![Address::Unix(path.clone())]),
            Named::Tcp { host, port } => (host, port),
        };
        let port = port.resolve()?;
        let mut addresses = match host {
            Host::EveryInterface => {
                let every = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
                every.map(|ip| Address::Tcp((ip, port).into())).into()
            }
            Host::Address(ip) => vec![Address::Tcp((*ip, port).into())],
            Host::Name(name) => look_up(Some(name), &port.to_string())?,
        };
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
        }
        Ok(addresses)
    }
}

impl Port {
    fn resolve(&self) -> io::Result<u16> {
        let service = match self {
            Port::Number(number) => return Ok(*number),
            Port::Service(service) => service,
        };
        let found = look_up(None, service).ok().and_then(|found| found.first()?.as_tcp());
        found.map(|address| address.port()).ok_or_else(|| {
            let why = format!("no service is called `{service}` here: give the port's number");
            io::Error::new(ErrorKind::NotFound, why)
        })
    }
}

/// By getaddrinfo(3), which unlike the standard library's lookup knows services and zones.
fn look_up(host: Option<&str>, service: &str) -> io::Result<Vec<Address>> {
    let hints = AddrInfoHints { socktype: libc::SOCK_STREAM, ..AddrInfoHints::default() };
    let found = getaddrinfo(host, Some(service), Some(hints))?;
    found.map(|found| Ok(Address::Tcp(found?.sockaddr))).collect()
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("no path, expected unix:PATH".into()),
                path => Ok(Endpoint(Named::Unix(path.into()))),
            };
        }
        let rest = match text.split_once("://") {
            Some(("tcp", rest)) => rest,
            Some((scheme, _)) => {
                let scheme = scheme.escape_debug();
                return Err(format!(
                    "unknown scheme `{scheme}`, expected tcp://HOST:PORT or unix:PATH"
                ));
            }
            None => text,
        };
        let (host, port) = rest
            .rsplit_once(':')
            // That colon is the address's.
            .filter(|_| !rest.ends_with(']'))
            .ok_or("no port, expected HOST:PORT")?;
        Ok(Endpoint(Named::Tcp { port: port.parse()?, host: host.parse()? }))
    }
}

impl FromStr for Port {
    type Err = String;

    /// A service's name has a letter in it (RFC 6335, section 5.1), a number has none.
    fn from_str(text: &str) -> Result<Port, String> {
        // A number may not begin with a `+`, as Rust's own may.
        if let Some(number) = text.parse().ok().filter(|_| !text.starts_with('+')) {
            return Ok(Port::Number(number));
        }
        let is_name = text.contains(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c));
        if is_name {
            return Ok(Port::Service(text.to_owned()));
        }
        let text = text.escape_debug();
        Err(format!("`{text}` is not a port, expected a number from 0 to 65535 or a service"))
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Host, String> {
        // Looked up, `*` would stand for loopback: getaddrinfo(3) of glibc takes it for no name at all.
        if text.is_empty() || text == "*" {
            return Ok(Host::EveryInterface);
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
            return Err(format!("`{}` is not a host name", text.escape_debug()));
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or("no `]` behind the IPv6 address")?;
            let (ip, zone) = inner.split_once('%').map_or((inner, ""), |(ip, zone)| (ip, zone));
            let ip: Ipv6Addr =
                ip.parse().map_err(|_| format!("`{inner}` is not an IPv6 address"))?;
            return Ok(match zone {
                "" => Host::Address(ip.into()),
                _ => Host::Name(inner.to_owned()),
            });
        }
        if text.contains(':') {
            return Err("an IPv6 address goes in brackets: [::1]:65432".into());
        }
        Ok(match text.parse::<Ipv4Addr>() {
            Ok(ip) => Host::Address(ip.into()),
            Err(_) => Host::Name(text.to_owned()),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Named::Unix(path) => write_path(f, path),
            Named::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::EveryInterface => Ok(()),
            Host::Address(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Host::Address(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Host::Name(name) if name.contains(':') => write!(f, "[{name}]"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Port::Number(number) => write!(f, "{number}"),
            Port::Service(service) => f.write_str(service),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp://{address}"),
            Address::Unix(path) => write_path(f, path),
        }
    }
}

/// A path may be any bytes but 0, and a client chooses its own: what could end a line, or move a
/// terminal's cursor, is escaped.
fn write_path(f: &mut fmt::Formatter<'_>, path: &Path) -> fmt::Result {
    f.write_str("unix:")?;
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        write!(f, "{}", chunk.invalid().escape_ascii())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_reads_back_as_it_was_written() {
        for text in [
            "tcp://127.0.0.1:65432",
            "tcp://[::1]:7",
            "tcp://[fe80::1%eth0]:7",
            "tcp://localhost:0",
            "tcp://localhost:echo",
            "tcp://:7",
            "unix:/run/echod.sock",
            "unix:here",
        ] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("[::1]:7".parse::<Endpoint>(), "tcp://[::1]:7".parse());
        assert_eq!("*:7".parse::<Endpoint>(), ":7".parse());
        assert_eq!("127.0.0.1:65432".parse(), Ok(Endpoint::default()));
    }

    #[test]
    fn what_is_no_endpoint_is_named_in_the_error() {
        for (text, why) in [
            ("", "no port"),
            ("localhost", "no port"),
            ("[::1]", "no port"),
            ("localhost:", "`` is not a port"),
            ("localhost:65536", "`65536` is not a port"),
            ("localhost:-1", "`-1` is not a port"),
            ("localhost:+1", "`+1` is not a port"),
            ("localhost:ec ho", "`ec ho` is not a port"),
            ("::1:7", "brackets"),
            ("[::1:7", "no `]`"),
            ("[localhost]:7", "`localhost` is not an IPv6 address"),
            ("http://localhost:7", "unknown scheme `http`"),
            ("tcp://a b:7", "`a b` is not a host name"),
            ("a\nb:7", "`a\\nb` is not a host name"),
            ("unix:", "no path"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn every_interface_is_v4_then_v6_on_one_port() {
        let endpoint: Endpoint = ":7".parse().unwrap();
        let addresses: Vec<_> =
            endpoint.resolve().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["tcp://0.0.0.0:7", "tcp://[::]:7"]);
    }

    #[test]
    fn a_service_that_nobody_knows_is_named() {
        let endpoint: Endpoint = "127.0.0.1:no-such-service".parse().unwrap();
        assert!(endpoint.resolve().unwrap_err().to_string().contains("`no-such-service`"));
    }

    #[test]
    fn a_path_cannot_forge_a_line_or_move_the_cursor() {
        let path = Path::new(OsStr::from_bytes(b"/a\n\x1b[31m \xc3\xa9\xff\xc2\x85"));
        assert_eq!(
            Address::Unix(path.into()).to_string(),
            "unix:/a\\n\\u{1b}[31m \u{e9}\\xff\\u{85}"
        );
    }
}
