//! Addresses that sockets are bound or connected to.

use std::ffi::OsStr;
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use socket2::SockAddr;

use crate::net::escape::write_escaped;

/// Address of a socket. It prints as an endpoint: `tcp://127.0.0.1:7`, `udp://127.0.0.1:7`,
/// `unix:/run/echod.sock`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Address {
    /// IP address and port of a TCP socket.
    Tcp(SocketAddr),
    /// IP address and port of a UDP socket.
    Udp(SocketAddr),
    /// Path of a Unix socket. An abstract address (unix(7)) is `@` and its name. The path is empty for a
    /// socket without a name, as nearly every client has.
    Unix(PathBuf),
}

impl Address {
    /// Returns the IP address and port of a TCP address.
    pub fn as_tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) => Some(*address),
            Address::Udp(_) | Address::Unix(_) => None,
        }
    }

    /// Returns the IP address and port of a UDP address.
    pub fn as_udp(&self) -> Option<SocketAddr> {
        match self {
            Address::Udp(address) => Some(*address),
            Address::Tcp(_) | Address::Unix(_) => None,
        }
    }

    /// Returns the path of a Unix address.
    pub fn as_unix(&self) -> Option<&Path> {
        match self {
            Address::Tcp(_) | Address::Udp(_) => None,
            Address::Unix(path) => Some(path),
        }
    }

    pub(crate) fn of_socket(address: &SockAddr) -> Address {
        if let Some(address) = address.as_socket() {
            return Address::Tcp(address);
        }
        if let Some(name) = address.as_abstract_namespace() {
            return Address::Unix(OsStr::from_bytes(&[b"@", name].concat()).into());
        }
        Address::Unix(address.as_pathname().unwrap_or(Path::new("")).to_owned())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp://{address}"),
            Address::Udp(address) => write!(f, "udp://{address}"),
            Address::Unix(path) => write_path(f, path),
        }
    }
}

/// Writes the path as an endpoint. A path may hold any byte but 0, and a client chooses its own, so it is
/// escaped.
pub(crate) fn write_path(f: &mut fmt::Formatter<'_>, path: &Path) -> fmt::Result {
    f.write_str("unix:")?;
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        write_escaped(f, chunk.valid())?;
        write!(f, "{}", chunk.invalid().escape_ascii())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_forge_a_line_or_move_the_cursor() {
        let path = Path::new(OsStr::from_bytes(b"/a\n\x1b[31m \xc3\xa9\xff\xc2\x85"));
        assert_eq!(
            Address::Unix(path.into()).to_string(),
            "unix:/a\\n\\u{1b}[31m \u{e9}\\xff\\u{85}"
        );
    }
}
