//! Endpoints: where to listen, or what to connect to. `tcp://HOST:PORT`, `udp://HOST:PORT` or `unix:PATH`,
//! parsed once into a type.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::net::address::{Address, write_path};
use crate::net::transport::Transport;

/// An endpoint as a user names it. A host name may stand for several addresses; no host stands for every
/// interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Ip { transport: Transport, host: Host, port: Port },
    Unix(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    EveryInterface,
    Address(IpAddr),
    /// A name, or an IPv6 address with a zone (`fe80::1%eth0`). Only the system can look it up.
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Port {
    Number(u16),
    /// A name in services(5).
    Service(String),
}

/// A text that is not an endpoint. It prints as a sentence that says what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointError(String);

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for EndpointError {}

impl From<EndpointError> for io::Error {
    fn from(e: EndpointError) -> io::Error {
        io::Error::new(ErrorKind::InvalidInput, e)
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
        Endpoint(Kind::Ip { transport: Transport::Tcp, host, port })
    }
}

impl Endpoint {
    /// Returns the endpoint of a Unix socket. The path may hold bytes that are not UTF-8.
    pub fn unix(path: impl Into<PathBuf>) -> Endpoint {
        Endpoint(Kind::Unix(path.into()))
    }

    /// Returns whether the endpoint is the path of a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.0, Kind::Unix(_))
    }

    /// Returns whether the endpoint is of UDP.
    pub fn is_udp(&self) -> bool {
        matches!(self.0, Kind::Ip { transport: Transport::Udp, .. })
    }

    /// Returns whether the host is a name, whose addresses may change.
    pub fn is_name(&self) -> bool {
        matches!(&self.0, Kind::Ip { host: Host::Name(_), .. })
    }

    /// Returns the number of its addresses; `None` for a name that has to be looked up.
    #[doc(hidden)]
    pub fn address_count(&self) -> Option<usize> {
        match &self.0 {
            Kind::Unix(_) | Kind::Ip { host: Host::Address(_), .. } => Some(1),
            Kind::Ip { host: Host::EveryInterface, .. } => Some(2),
            Kind::Ip { host: Host::Name(_), .. } => None,
        }
    }

    /// Returns whether it is an IPv6 address with a zone.
    pub(crate) fn has_zone(&self) -> bool {
        matches!(&self.0, Kind::Ip { host: Host::Name(name), .. } if name.contains('%'))
    }

    /// Returns every address of the endpoint, each once, IPv4 before IPv6. It looks a name up with
    /// getaddrinfo(3), which waits: call it before the loop runs, never from within.
    ///
    /// # Errors
    /// The host or the service is not known, or the resolver does not answer.
    pub fn resolve(&self) -> io::Result<Vec<Address>> {
        let (transport, host, port) = match &self.0 {
            Kind::Unix(path) => return Ok(vec![Address::Unix(path.clone())]),
            Kind::Ip { transport, host, port } => (*transport, host, port),
        };
        let port = port.resolve(transport)?;
        let mut addresses: Vec<SocketAddr> = match host {
            Host::EveryInterface => {
                let every = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
                every.map(|ip| (ip, port).into()).into()
            }
            Host::Address(ip) => vec![(*ip, port).into()],
            Host::Name(name) => transport.look_up(Some(name), &port.to_string())?,
        };
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
        }
        Ok(addresses.into_iter().map(|address| transport.address(address)).collect())
    }
}

impl Port {
    fn resolve(&self, transport: Transport) -> io::Result<u16> {
        let service = match self {
            Port::Number(number) => return Ok(*number),
            Port::Service(service) => service,
        };
        let found = transport.look_up(None, service).ok().and_then(|found| found.first().copied());
        found.map(|address| address.port()).ok_or_else(|| {
            let reason = format!("no service is called `{service}` here: give the port's number");
            io::Error::new(ErrorKind::NotFound, reason)
        })
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(error("no path, expected unix:PATH")),
                path => Ok(Endpoint(Kind::Unix(path.into()))),
            };
        }
        let (transport, rest) = match text.split_once("://") {
            Some(("tcp", rest)) => (Transport::Tcp, rest),
            Some(("udp", rest)) => (Transport::Udp, rest),
            Some((scheme, _)) => {
                let scheme = scheme.escape_debug();
                return Err(EndpointError(format!(
                    "unknown scheme `{scheme}`, expected tcp://HOST:PORT, udp://HOST:PORT or unix:PATH"
                )));
            }
            None => (Transport::Tcp, text),
        };
        let (host, port) = rest
            .rsplit_once(':')
            // This colon belongs to an IPv6 address.
            .filter(|_| !rest.ends_with(']'))
            .ok_or_else(|| error("no port, expected HOST:PORT"))?;
        Ok(Endpoint(Kind::Ip { transport, port: port.parse()?, host: host.parse()? }))
    }
}

impl FromStr for Port {
    type Err = EndpointError;

    /// A service name holds a letter (RFC 6335, section 5.1), a number does not.
    fn from_str(text: &str) -> Result<Port, EndpointError> {
        // Rust's own parser accepts a leading `+`.
        if let Some(number) = text.parse().ok().filter(|_| !text.starts_with('+')) {
            return Ok(Port::Number(number));
        }
        let is_name = text.contains(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c));
        if is_name {
            return Ok(Port::Service(text.to_owned()));
        }
        let text = text.escape_debug();
        Err(EndpointError(format!(
            "`{text}` is not a port, expected a number from 0 to 65535 or a service"
        )))
    }
}

impl FromStr for Host {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Host, EndpointError> {
        // glibc's getaddrinfo(3) takes `*` for no name, which would mean loopback.
        if text.is_empty() || text == "*" {
            return Ok(Host::EveryInterface);
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
            return Err(EndpointError(format!("`{}` is not a host name", text.escape_debug())));
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner =
                inner.strip_suffix(']').ok_or_else(|| error("no `]` behind the IPv6 address"))?;
            return parse_ipv6(inner);
        }
        if text.contains(':') {
            return Err(error("an IPv6 address goes in brackets: [::1]:65432"));
        }
        Ok(match text.parse::<Ipv4Addr>() {
            Ok(ip) => Host::Address(ip.into()),
            Err(_) => Host::Name(text.to_owned()),
        })
    }
}

fn error(reason: &str) -> EndpointError {
    EndpointError(reason.to_owned())
}

fn parse_ipv6(text: &str) -> Result<Host, EndpointError> {
    let (ip, zone) = text.split_once('%').unwrap_or((text, ""));
    let ip: Ipv6Addr =
        ip.parse().map_err(|_| EndpointError(format!("`{text}` is not an IPv6 address")))?;
    Ok(if zone.is_empty() { Host::Address(ip.into()) } else { Host::Name(text.to_owned()) })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Unix(path) => write_path(f, path),
            Kind::Ip { transport, host, port } => {
                write!(f, "{}://{host}:{port}", transport.scheme())
            }
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
            "udp://127.0.0.1:7",
            "udp://[fe80::1%eth0]:echo",
            "udp://:0",
            "unix:/run/echod.sock",
            "unix:here",
        ] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("[::1]:7".parse::<Endpoint>(), "tcp://[::1]:7".parse());
        assert_eq!("*:7".parse::<Endpoint>(), ":7".parse());
        assert_eq!("127.0.0.1:65432".parse(), Ok(Endpoint::default()));
        assert_ne!("udp://:7".parse::<Endpoint>(), ":7".parse(), "a bare HOST:PORT is TCP");
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
            ("udp:127.0.0.1:7", "an IPv6 address goes in brackets"),
            ("udp://localhost", "no port"),
            ("tcp://a b:7", "`a b` is not a host name"),
            ("a\nb:7", "`a\\nb` is not a host name"),
            ("unix:", "no path"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn every_interface_is_v4_then_v6_on_one_port() {
        for scheme in ["tcp", "udp"] {
            let endpoint: Endpoint = format!("{scheme}://:7").parse().unwrap();
            let addresses: Vec<_> =
                endpoint.resolve().unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(addresses, ["0.0.0.0:7", "[::]:7"].map(|a| format!("{scheme}://{a}")));
        }
    }

    #[test]
    fn a_service_that_nobody_knows_is_named() {
        let endpoint: Endpoint = "127.0.0.1:no-such-service".parse().unwrap();
        assert!(endpoint.resolve().unwrap_err().to_string().contains("`no-such-service`"));
    }
}
