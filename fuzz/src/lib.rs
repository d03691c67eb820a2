//! What the fuzz targets check.

use echoloop::net::buffer::Buffer;
use echoloop::net::pool::Pool;
use echoloop::protocol::{Exchange, Framed, Kind, Protocol};

/// Number of bytes that a connection may hold.
const LIMIT: usize = 4096;

/// Checks that the bytes give the same echo in pieces as at once. The first byte is the size of the pieces.
pub fn any_split_gives_the_same(kind: &str, data: &[u8]) {
    let kind: Kind = kind.parse().expect("a kind");
    let [piece, bytes @ ..] = data else { return };
    let bytes = &bytes[..bytes.len().min(LIMIT)];
    let (echo, is_malformed) = echo(&kind, bytes, LIMIT);
    assert!(bytes.starts_with(&echo));
    assert_eq!(self::echo(&kind, bytes, 1 + usize::from(*piece)), (echo, is_malformed));
}

/// Returns the echo of all pieces and of the end, and whether a piece was malformed.
fn echo(kind: &Kind, bytes: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let (mut protocol, mut searched) = (Framed(kind.clone()), 0);
    let (mut input, mut output, mut pool) =
        (Buffer::default(), Buffer::default(), Pool::new(LIMIT));
    for piece in bytes.chunks(piece) {
        // The answers of earlier pieces are still there, so they and the input share the limit.
        assert!(input.append(piece, &mut pool).expect("memory"), "no room");
        let mut exchange = Exchange::new(&mut input, &mut output, &mut pool);
        if protocol.received(&mut searched, &mut exchange).is_err() {
            return (output.bytes().to_vec(), true);
        }
    }
    let mut exchange = Exchange::new(&mut input, &mut output, &mut pool);
    protocol.end_of_input(&mut searched, &mut exchange).expect("no message is left");
    (output.bytes().to_vec(), false)
}

/// Checks that a text which is a kind prints as the same kind.
pub fn a_kind_prints_as_it_parses(text: &str) {
    if let Ok(kind) = text.parse::<Kind>() {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
}
