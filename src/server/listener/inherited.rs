//! What connections inherit from their server socket.
//!
//! Linux copies the options of a TCP server socket to each of its connections, which saves each of them the
//! system calls. But a server socket that was handed over has the options that somebody else has set. Those
//! that change what a stream promises are brought to a known state, and those that only an operator can judge
//! are left alone:
//!
//! | option | what it would do to a connection | here |
//! |---|---|---|
//! | `SO_LINGER` | a close destroys what was sent, or stops the loop until it is read | off |
//! | `SO_OOBINLINE` | an urgent byte stands among the others | off |
//! | `SO_RCVLOWAT` | a message shorter than this is never announced | 1 |
//! | `TCP_CORK` | a small answer waits for 200 ms | off |
//! | `TCP_LINGER2` | if negative, a reset follows our end of the stream | the system's |
//! | `IP_RECVERR`, `IPV6_RECVERR` | a passing fault of the network ends a connection | off |
//! | `SO_KEEPALIVE`, `TCP_KEEP...`, `TCP_USER_TIMEOUT` | when a peer that has vanished is given up | as configured |
//! | `TCP_NODELAY` | a small answer waits for the peer's acknowledgement | on |
//! | `TCP_NOTSENT_LOWAT` | what the kernel holds for a reader that stalls | 128 KiB |
//! | `TCP_CONGESTION` | how fast it sends | left, unless configured |
//! | `SO_SNDBUF`, `SO_RCVBUF`, `TCP_WINDOW_CLAMP`, `TCP_MAXSEG`, `SO_MAX_PACING_RATE` | memory and speed | left |
//! | `SO_PRIORITY`, `SO_MARK`, `SO_BINDTODEVICE`, `IP_TOS`, `IP_TTL`, filters, keys of `TCP_MD5SIG` | the way through the network, and who may come | left |
//! | `TCP_DEFER_ACCEPT`, `TCP_FASTOPEN` | when a client is announced | left: whoever sends is served |
//! | `SO_BUSY_POLL`, `SO_INCOMING_CPU`, `TCP_QUICKACK`, `TCP_THIN_...` | cost and latency | left |
//! | `SO_RCVTIMEO`, `SO_SNDTIMEO` | nothing: no call waits | left |
//! | `SO_TIMESTAMP` and its kin, `SO_RXQ_OVFL`, `TCP_INQ`, `SO_ZEROCOPY`, `SO_PEEK_OFF` | nothing: no call asks for it | left |
//! | `TCP_ULP` | | impossible: it takes a connection |
//!
//! A connection of a Unix socket inherits only `SO_PASSCRED`, `SO_PASSSEC`, `SO_PASSPIDFD`, which do
//! nothing to a recv without room for them and are left, and
//!
//! | option | what it would do | here |
//! |---|---|---|
//! | `SO_PASSRIGHTS` (Linux 6.16) | a client passes files; the last close of one may wait, and with it the loop | off |
//!
//! A recv discards passed files, which closes them. If one of them is, for example, a TCP socket with
//! `SO_LINGER` and unsent bytes, the thread that called recv waits in this close for as long as the client
//! wishes. It would also wait in closing a connection that has such files in its queue, so older kernels
//! have no remedy.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use log::warn;
use rustix::io::Errno;
use socket2::{SockRef, Socket, TcpKeepalive};

use crate::net::address::Address;
#[cfg(target_os = "linux")]
use crate::net::option::IntegerOption;
use crate::net::socket::Socket as Stream;
use crate::server::listener::options::ListenOptions;

/// Number of bytes that the kernel holds for a connection and has not sent yet; it takes more only when
/// half of them are gone. Without it a reader that stalls can have megabytes (`tcp_wmem`, tcp(7)). What was
/// sent and is not acknowledged comes on top, so it does not limit the speed.
#[cfg(target_os = "linux")]
const MAX_UNSENT: u32 = 128 * 1024;

/// An option and the answer to setting it.
type Set = (&'static str, io::Result<()>);

/// Brings a TCP server socket to the known state. What is optional and cannot be set is a warning.
///
/// # Errors
/// Names the option that cannot be brought to a state in which a stream keeps its promises.
pub(crate) fn prepare(socket: &Socket, options: &ListenOptions) -> io::Result<()> {
    set_required(socket, options)?;
    let lacking: Vec<_> = optional(socket, options)
        .into_iter()
        .filter_map(|(option, answer)| Some(format!("{option} ({})", answer.err()?)))
        .collect();
    if !lacking.is_empty() {
        let address = Address::of_socket(&socket.local_addr()?);
        warn!(target: "echoloop", "{address} is served without {}", lacking.join(", "));
    }
    Ok(())
}

/// Brings a connection to the state of its server socket, if it may be older than that. What it lacks, the
/// server socket lacks too, and that was logged.
pub(crate) fn prepare_connection(socket: &Stream, options: &ListenOptions) -> io::Result<()> {
    match socket {
        Stream::Tcp(stream) => {
            let socket = SockRef::from(stream);
            drop(optional(&socket, options));
            set_required(&socket, options)
        }
        #[cfg(target_os = "linux")]
        Stream::Unix(stream) => lacking_is_off(IntegerOption::PASSRIGHTS.set(stream, 0)),
        #[cfg(not(target_os = "linux"))]
        Stream::Unix(_) => Ok(()),
    }
}

fn set_required(socket: &Socket, options: &ListenOptions) -> io::Result<()> {
    for (option, answer) in required(socket) {
        lacking_is_off(answer).map_err(|e| {
            let reason = format!("cannot reset {option}, which its connections inherit: {e}");
            io::Error::new(e.kind(), reason)
        })?;
    }
    options.congestion.as_ref().map_or(Ok(()), |name| set_congestion(socket, name))
}

fn required(socket: &Socket) -> Vec<Set> {
    vec![
        ("SO_LINGER", socket.set_linger(None)),
        ("SO_OOBINLINE", socket.set_out_of_band_inline(false)),
        #[cfg(target_os = "linux")]
        ("SO_RCVLOWAT", IntegerOption::RCVLOWAT.set(socket, 1)),
        #[cfg(target_os = "linux")]
        ("TCP_CORK", IntegerOption::CORK.set(socket, 0)),
        #[cfg(target_os = "linux")]
        ("TCP_LINGER2", IntegerOption::LINGER2.set(socket, 0)),
        #[cfg(target_os = "linux")]
        ("IP_RECVERR", IntegerOption::RECVERR.set(socket, 0)),
        #[cfg(target_os = "linux")]
        ("IPV6_RECVERR", IntegerOption::RECVERR_V6.set(socket, 0)),
    ]
}

fn optional(socket: &Socket, options: &ListenOptions) -> Vec<Set> {
    let keepalive = options.keepalive.map(Keepalive::new);
    vec![
        // An answer is sent as soon as it is there. Nagle's algorithm would hold a small one back until the
        // peer has acknowledged the one before.
        ("TCP_NODELAY", socket.set_tcp_nodelay(true)),
        #[cfg(target_os = "linux")]
        ("TCP_NOTSENT_LOWAT", socket.set_tcp_notsent_lowat(MAX_UNSENT)),
        (
            "SO_KEEPALIVE",
            match &keepalive {
                Some(keepalive) => socket.set_tcp_keepalive(&keepalive.probes()),
                None => socket.set_keepalive(false),
            },
        ),
        #[cfg(target_os = "linux")]
        ("TCP_USER_TIMEOUT", socket.set_tcp_user_timeout(keepalive.map(|k| k.given_up))),
    ]
}

/// An option that the protocol of a socket lacks (MPTCP lacks some) is off.
fn lacking_is_off(answer: io::Result<()>) -> io::Result<()> {
    answer.or_else(|e| if is_lacking(&e) { Ok(()) } else { Err(e) })
}

fn is_lacking(e: &io::Error) -> bool {
    matches!(Errno::from_io_error(e), Some(Errno::NOPROTOOPT | Errno::OPNOTSUPP))
}

#[cfg(any(target_os = "linux", target_os = "freebsd"))]
fn set_congestion(socket: &Socket, name: &str) -> io::Result<()> {
    socket.set_tcp_congestion(name.as_bytes()).map_err(|e| {
        let advice = match e.kind() {
            ErrorKind::NotFound => {
                "those that it has are in net.ipv4.tcp_available_congestion_control"
            }
            _ => "those that anybody may use are in net.ipv4.tcp_allowed_congestion_control",
        };
        let reason = format!("the kernel refuses the congestion control `{name}`: {e}; {advice}");
        io::Error::other(reason)
    })
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn set_congestion(_: &Socket, _: &str) -> io::Result<()> {
    Err(io::Error::new(
        ErrorKind::Unsupported,
        "congestion control cannot be chosen on this system",
    ))
}

/// When a peer is given up. One that vanished says nothing: after `idle` without a byte the kernel probes
/// it, and ends the connection if it does not answer for as long again (`TCP_KEEPIDLE`, tcp(7)). In the
/// same time it ends a connection whose peer takes nothing of what it is owed, even if it keeps answering
/// with a closed window (`TCP_USER_TIMEOUT`, RFC 5482). All are whole seconds.
#[derive(Debug)]
struct Keepalive {
    idle: Duration,
    interval: Duration,
    probes: u32,
    given_up: Duration,
}

impl Keepalive {
    fn new(idle: Duration) -> Keepalive {
        let interval = (idle.as_secs() / 3).max(1);
        let probes = u32::try_from(idle.as_secs().div_ceil(interval)).unwrap_or(u32::MAX);
        Keepalive { idle, interval: Duration::from_secs(interval), probes, given_up: idle * 2 }
    }

    fn probes(&self) -> TcpKeepalive {
        let keepalive = TcpKeepalive::new().with_time(self.idle);
        keepalive.with_interval(self.interval).with_retries(self.probes)
    }
}

/// Has the kernel refuse files that clients want to pass. Where it cannot, that is a warning, unless only the
/// owner of the socket may connect.
///
/// # Errors
/// Those of setsockopt(2), except that the option is not known.
#[cfg(target_os = "linux")]
pub(crate) fn refuse_files(socket: &Socket) -> io::Result<()> {
    match IntegerOption::PASSRIGHTS.set(socket, 0) {
        Err(e) if is_lacking(&e) => {}
        answer => return answer,
    }
    let address = Address::of_socket(&socket.local_addr()?);
    let mode = match &address {
        Address::Unix(path) => fs::symlink_metadata(path).map(|found| found.mode()).ok(),
        _ => None,
    };
    if mode.is_none_or(|mode| mode & 0o022 != 0) {
        warn!(
            target: "echoloop",
            "{address}: a client that passes an open file can hold up this server, and the kernel cannot refuse \
             files (SO_PASSRIGHTS, Linux 6.16): let only users connect whom you trust"
        );
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn refuse_files(_: &Socket) -> io::Result<()> {
    Ok(())
}
