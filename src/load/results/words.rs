//! Words of the report: numbers with their nouns, and what to do about an error.

/// Returns a number with its noun: `1 message`, `2 messages`.
pub(crate) fn counted(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// What to do about an error whose name begins with these words. The others say it themselves.
const ADVICE: [(&str, &str); 23] = [
    ("connection refused", "is a server listening there?"),
    ("connection reset by the server", "did it crash, or limit its clients? See its log"),
    ("connection closed by the server", "does it limit clients, sizes or idle time? See its log"),
    ("the server's backlog stayed full", "it accepts too slowly: try a --connect-rate"),
    ("timed out", "nothing answered: is the address right, does a firewall drop it?"),
    ("Connection timed out", "nothing answered: is the address right, does a firewall drop it?"),
    ("no answer to a connect", "is the address right, does a firewall drop it?"),
    ("Network is unreachable", "is the address right, and is there a route to it?"),
    ("No route to host", "is the address right, and is the host up?"),
    ("No such file or directory", "is a server listening on this path?"),
    ("Permission denied", "may this user write to the path of the socket?"),
    ("Too many open files in system", "this machine has no more: raise fs.file-max"),
    ("No buffer space available", "this machine has too little memory for sockets: try fewer -c"),
    ("Cannot allocate memory", "this machine has too little memory: try fewer -c"),
    ("message timed out", "the server does not echo, or takes longer than --timeout"),
    ("the end did not come in time", "the server keeps connections that were half-closed"),
    ("datagram not back in time", "does the network or the server drop what is too much?"),
    ("the rate was not kept", "try a lower -R, or more -c or -p"),
    ("bytes were changed", "the server, or what is before it, is not an echo server of bytes"),
    ("bytes were missing", "the server loses bytes"),
    ("surplus bytes", "the server sends bytes twice, or bytes of its own"),
    ("bytes of another connection", "the server mixes up its connections"),
    ("wrong bytes, not looked into", "there were too many; the first are named apart"),
];

/// Returns what to do about an error, if its name does not say it.
pub(crate) fn advice(error: &str) -> Option<&'static str> {
    ADVICE.iter().find(|(name, _)| error.starts_with(name)).map(|&(_, advice)| advice)
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use rustix::io::Errno;

    use super::*;
    use crate::load::fault::Fault;
    use crate::load::results::statistics::{Statistics, error_name};

    #[test]
    fn one_is_singular() {
        let texts = [0, 1, 2].map(|n| counted(n, "message"));
        assert_eq!(texts, ["0 messages", "1 message", "2 messages"]);
    }

    #[test]
    fn every_usual_error_says_what_to_do() {
        let mut statistics = Statistics::default();
        for fault in [
            Fault::Unknown,
            Fault::Changed,
            Fault::Missing(1),
            Fault::Surplus(1),
            Fault::Misplaced(1),
        ] {
            statistics.count_corruption(0, 0, fault);
        }
        let kinds = [
            ErrorKind::ConnectionRefused,
            ErrorKind::ConnectionReset,
            ErrorKind::BrokenPipe,
            ErrorKind::UnexpectedEof,
            ErrorKind::WouldBlock,
            ErrorKind::TimedOut,
        ];
        let codes = [
            Errno::NETUNREACH,
            Errno::HOSTUNREACH,
            Errno::TIMEDOUT,
            Errno::NOENT,
            Errno::ACCESS,
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
        ];
        let errors = kinds.into_iter().map(Error::from);
        let errors = errors.chain(codes.map(|code| Error::from_raw_os_error(code.raw_os_error())));
        for name in errors.map(|e| error_name(&e)).chain(statistics.errors.into_keys()) {
            assert!(advice(&name).is_some() || name.contains(": "), "{name}");
        }
    }
}
