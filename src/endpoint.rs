//! Where to listen: `tcp://HOST:PORT`, parsed once into a type.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A TCP endpoint. A name may stand for several addresses, an empty host for every interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    EveryInterface,
    Address(IpAddr),
    Name(String),
}

/// The echo server of the sockets tutorials: 127.0.0.1, port 65432.
impl Default for Endpoint {
    fn default() -> Endpoint {
        Endpoint::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 65432)))
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Endpoint {
        Endpoint { host: Host::Address(address.ip()), port: address.port() }
    }
}

impl Endpoint {
    /// Every address that the host stands for, each once, v4 before v6. A name is looked up now, with
    /// a call that waits: resolve before the loop runs, never in it.
    ///
    /// # Errors
    /// The name is not known, or the resolver cannot be asked.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let mut addresses: Vec<SocketAddr> = match &self.host {
            Host::EveryInterface => {
                let every = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
                every.map(|ip| (ip, self.port).into()).into()
            }
            Host::Address(ip) => vec![(*ip, self.port).into()],
            Host::Name(name) => (name.as_str(), self.port).to_socket_addrs()?.collect(),
        };
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
        }
        Ok(addresses)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        let rest = match text.split_once("://") {
            Some(("tcp", rest)) => rest,
            Some((scheme, _)) => return Err(format!("unknown scheme `{scheme}`, expected `tcp`")),
            None => text,
        };
        let (host, port) = rest.rsplit_once(':').ok_or("no port, expected HOST:PORT")?;
        let port = port
            .parse()
            .map_err(|_| format!("`{port}` is not a port, expected a number from 0 to 65535"))?;
        Ok(Endpoint { host: host.parse()?, port })
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Host, String> {
        if text.is_empty() {
            return Ok(Host::EveryInterface);
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or("no `]` behind the IPv6 address")?;
            let ip: Ipv6Addr =
                inner.parse().map_err(|_| format!("`{inner}` is not an IPv6 address"))?;
            return Ok(Host::Address(ip.into()));
        }
        if text.contains(':') {
            return Err("an IPv6 address goes in brackets: [::1]:65432".into());
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
            return Err(format!("`{}` is not a host name", text.escape_debug()));
        }
        Ok(match text.parse::<Ipv4Addr>() {
            Ok(ip) => Host::Address(ip.into()),
            Err(_) => Host::Name(text.to_owned()),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.host {
            Host::EveryInterface => write!(f, "tcp://:{port}"),
            Host::Address(ip) => write!(f, "tcp://{}", SocketAddr::from((*ip, port))),
            Host::Name(name) => write!(f, "tcp://{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_reads_back_as_it_was_written() {
        for text in ["tcp://127.0.0.1:65432", "tcp://[::1]:7", "tcp://localhost:0", "tcp://:7"] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("[::1]:7".parse::<Endpoint>(), "tcp://[::1]:7".parse());
        assert_eq!("127.0.0.1:65432".parse(), Ok(Endpoint::default()));
    }

    #[test]
    fn what_is_no_endpoint_is_named_in_the_error() {
        for (text, why) in [
            ("", "no port"),
            ("localhost", "no port"),
            ("localhost:", "`` is not a port"),
            ("localhost:65536", "`65536` is not a port"),
            ("localhost:-1", "`-1` is not a port"),
            ("::1:7", "brackets"),
            ("[::1:7", "no `]`"),
            ("[localhost]:7", "`localhost` is not an IPv6 address"),
            ("http://localhost:7", "unknown scheme `http`"),
            ("tcp://a b:7", "`a b` is not a host name"),
            ("a\nb:7", "`a\\nb` is not a host name"),
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
        assert_eq!(addresses, ["0.0.0.0:7", "[::]:7"]);
    }
}
