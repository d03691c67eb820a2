//! All framings, without a socket: two buffers and a pool.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::net::buffer::Buffer;
use crate::net::pool::Pool;

const LIMIT: usize = 256;

/// A connection without a socket.
struct Harness<F: Framing> {
    protocol: Framed<F>,
    searched: usize,
    input: Buffer,
    output: Buffer,
    pool: Pool,
}

impl<F: Framing> Harness<F> {
    fn new(framing: F) -> Self {
        let (input, output) = (Buffer::default(), Buffer::default());
        Harness { protocol: Framed(framing), searched: 0, input, output, pool: Pool::new(LIMIT) }
    }

    /// Receives the bytes at once. Returns the echo.
    fn receive(&mut self, bytes: &[u8]) -> Result<Vec<u8>, (Vec<u8>, Malformed)> {
        assert!(self.input.append(bytes, &mut self.pool).unwrap(), "no room");
        let mut exchange = Exchange::new(&mut self.input, &mut self.output, &mut self.pool);
        let next = self.protocol.received(&mut self.searched, &mut exchange);
        let echo = self.take_output();
        match next {
            Ok(next) => {
                assert_eq!(next, Next::Receive);
                Ok(echo)
            }
            Err(malformed) => Err((echo, malformed)),
        }
    }

    fn end(&mut self) -> Vec<u8> {
        let mut exchange = Exchange::new(&mut self.input, &mut self.output, &mut self.pool);
        let next = self.protocol.end_of_input(&mut self.searched, &mut exchange);
        assert_eq!(next, Ok(Next::Close));
        self.take_output()
    }

    fn take_output(&mut self) -> Vec<u8> {
        let echo = self.output.bytes().to_vec();
        self.output.release(&mut self.pool);
        echo
    }
}

/// Returns the whole messages at the start of `bytes`, and whether a malformed one follows them.
fn echo_of_all(kind: &Kind, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut whole = 0;
    while let Ok(Some(n @ 1..=LIMIT)) = kind.length(&bytes[whole..], 0) {
        if n > bytes.len() - whole {
            break;
        }
        whole += n;
    }
    let rest = &bytes[whole..];
    let malformed = match kind.length(rest, 0) {
        Ok(Some(n)) => n == 0 || n > LIMIT,
        Ok(None) => rest.len() >= LIMIT,
        Err(_) => true,
    };
    (bytes[..whole].to_vec(), malformed)
}

/// Receives the bytes in the pieces that `cuts` gives. Returns what came back, and whether it ended as
/// malformed.
fn echo_in_pieces(kind: &Kind, bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, bool) {
    let mut harness = Harness::new(kind.clone());
    let (mut echo, mut rest, mut cuts) = (Vec::new(), bytes, cuts.iter().cycle());
    while !rest.is_empty() {
        let room = LIMIT - harness.input.len();
        if room == 0 {
            // The connection ends here.
            return (echo, true);
        }
        let (piece, behind) = rest.split_at((*cuts.next().unwrap()).min(room).min(rest.len()));
        rest = behind;
        match harness.receive(piece) {
            Ok(more) => echo.extend(more),
            Err((more, _)) => {
                echo.extend(more);
                return (echo, true);
            }
        }
    }
    (echo, harness.input.len() == LIMIT)
}

fn kind(text: &str) -> Kind {
    text.parse().unwrap()
}

/// Bytes of which many are messages, and any of which may be malformed.
fn any_bytes(text: &str) -> BoxedStrategy<Vec<u8>> {
    let body = || vec(any::<u8>(), 0..20);
    let message = match kind(text) {
        Kind::Length(Prefix::Ascii5) => body()
            .prop_map(|body| [format!("{:05}", body.len()).as_bytes(), &body].concat())
            .boxed(),
        Kind::Length(Prefix::U16) => body()
            .prop_map(|body| {
                [&u16::try_from(body.len()).unwrap().to_be_bytes(), &body[..]].concat()
            })
            .boxed(),
        Kind::Length(_) => body()
            .prop_map(|body| {
                [&u32::try_from(body.len()).unwrap().to_be_bytes(), &body[..]].concat()
            })
            .boxed(),
        Kind::Typed(_) => prop_oneof![
            vec(any::<u8>(), 4).prop_map(|body| [b"A", &body[..]].concat()),
            Just(b"B0123456789abcdef".to_vec())
        ]
        .boxed(),
        _ => body().prop_map(|body| [&body[..], b"\n"].concat()).boxed(),
    };
    let piece = prop_oneof![30 => message, 1 => vec(any::<u8>(), 1..300)];
    vec(piece, 0..20).prop_map(|pieces| pieces.concat()).boxed()
}

/// Any split of the bytes gives the same messages and the same end, and no garbage panics.
fn any_split_gives_the_same(text: &str) {
    let config = ProptestConfig { cases: 100_000, failure_persistence: None, ..<_>::default() };
    let cuts = prop_oneof![Just(vec![1]), Just(vec![LIMIT]), vec(1..60_usize, 1..10)];
    proptest!(config, |(bytes in any_bytes(text), cuts in cuts)| {
        let kind = kind(text);
        prop_assert_eq!(echo_in_pieces(&kind, &bytes, &cuts), echo_of_all(&kind, &bytes));
    });
}

#[test]
fn any_split_gives_the_same_lines() {
    any_split_gives_the_same("line");
}

#[test]
fn any_split_gives_the_same_messages_of_fixed_length() {
    any_split_gives_the_same("fixed:7");
}

#[test]
fn any_split_gives_the_same_messages_counted_in_five_digits() {
    any_split_gives_the_same("length:ascii5");
}

#[test]
fn any_split_gives_the_same_messages_counted_in_two_bytes() {
    any_split_gives_the_same("length:u16");
}

#[test]
fn any_split_gives_the_same_messages_counted_in_four_bytes() {
    any_split_gives_the_same("length:u32");
}

#[test]
fn any_split_gives_the_same_typed_messages() {
    any_split_gives_the_same("typed:A=4,B=16");
}

#[test]
fn a_line_ends_at_its_newline_or_at_the_end_of_the_input() {
    let mut lines = Harness::new(Line);
    assert_eq!(lines.receive(b"one\n\ntwo\nthr"), Ok(b"one\n\ntwo\n".to_vec()));
    assert_eq!(lines.receive(b"ee\nfour"), Ok(b"three\n".to_vec()));
    assert_eq!(lines.end(), b"four");
    assert_eq!(Harness::new(Line).end(), b"");
}

#[test]
fn a_line_is_searched_from_where_the_last_search_ended() {
    // The newline among the bytes that were searched shows that they are not looked at again.
    assert_eq!(Line.length(b"a\nbc\n", 2), Ok(Some(5)));
    let mut lines = Harness::new(Line);
    for received in 1..LIMIT {
        assert_eq!(lines.receive(b"a"), Ok(Vec::new()));
        assert_eq!(lines.searched, received);
    }
    assert_eq!(lines.receive(b"\n").map(|line| line.len()), Ok(LIMIT));
    assert_eq!(lines.searched, 0);
}

#[test]
fn a_message_of_fixed_length_waits_for_its_last_byte() {
    let mut fixed = Harness::new(Fixed(4));
    assert_eq!(fixed.receive(b"abc"), Ok(Vec::new()));
    assert_eq!(fixed.receive(b"defghi"), Ok(b"abcdefgh".to_vec()));
    assert_eq!(fixed.end(), b"", "half a message is not echoed");
    assert_eq!(fixed.input.bytes(), b"i");
}

#[test]
fn a_length_counts_the_bytes_behind_it_and_may_be_0() {
    let mut digits = Harness::new(Prefix::Ascii5);
    assert_eq!(digits.receive(b"00003abc0000000001"), Ok(b"00003abc00000".to_vec()));
    assert_eq!(digits.receive(b"x"), Ok(b"00001x".to_vec()));
    let mut two = Harness::new(Prefix::U16);
    assert_eq!(two.receive(&[0, 2, 7, 8, 0, 0, 0]), Ok(vec![0, 2, 7, 8, 0, 0]));
    let mut four = Harness::new(Prefix::U32);
    assert_eq!(four.receive(&[0, 0, 0, 1, 9, 0, 0, 0]), Ok(vec![0, 0, 0, 1, 9]));
}

#[test]
fn a_length_is_in_network_byte_order() {
    assert_eq!(Prefix::U16.length(&[1, 2], 0), Ok(Some(2 + 0x0102)));
    assert_eq!(Prefix::U32.length(&[0, 1, 2, 3], 0), Ok(Some(4 + 0x01_0203)));
    assert_eq!(Prefix::U32.length(&[0xFF; 4], 0).unwrap().unwrap() - 4, 0xFFFF_FFFF);
}

#[test]
fn a_type_tells_the_length() {
    let mut typed = Harness::new(Typed([(b'A', 4), (b'B', 0)]));
    assert_eq!(typed.receive(b"A1234BBA12"), Ok(b"A1234BB".to_vec()));
    assert_eq!(typed.receive(b"34"), Ok(b"A1234".to_vec()));
}

#[test]
fn what_is_malformed_is_malformed_at_once_and_the_messages_before_it_are_echoed() {
    for (text, bytes, whole) in [
        ("length:ascii5", &b"00001a12x"[..], 6),
        ("length:ascii5", b"00001a-", 6),
        ("length:ascii5", b"00001a00252", 6),
        ("length:u16", &[0, 1, 7, 0, 255], 3),
        ("length:u32", &[0, 0, 0, 0, 0, 0, 0, 253], 4),
        ("length:u32", &[255; 4], 0),
        ("typed:A=4", b"A1234B", 5),
        ("fixed:257", b"a", 0),
    ] {
        let (echo, malformed) = Harness::new(kind(text)).receive(bytes).expect_err(text);
        assert_eq!(echo, bytes[..whole], "{text}: {malformed}");
    }
    // The largest message that fits is none of these.
    for (text, header) in [("length:ascii5", &b"00251"[..]), ("length:u16", &[0, 254])] {
        let mut message = header.to_vec();
        message.resize(LIMIT, b'x');
        assert_eq!(Harness::new(kind(text)).receive(&message), Ok(message), "{text}");
    }
    // Reachable only without the parser of kinds.
    assert!(Harness::new(Fixed(0)).receive(b"a").is_err());
}

#[test]
fn messages_that_have_no_room_yet_are_echoed_later() {
    let mut lines = Harness::new(Line);
    assert!(lines.output.append(&[b'x'; LIMIT - 3], &mut lines.pool).unwrap());
    assert!(lines.input.append(b"one\ntw", &mut lines.pool).unwrap());
    let mut exchange = Exchange::new(&mut lines.input, &mut lines.output, &mut lines.pool);
    assert_eq!(lines.protocol.received(&mut lines.searched, &mut exchange), Ok(Next::Send));
    assert_eq!(lines.take_output().len(), LIMIT - 3);
    assert_eq!(lines.receive(b"o\n"), Ok(b"one\ntwo\n".to_vec()));
}

#[test]
fn raw_has_no_messages() {
    let mut raw = Harness::new(Kind::Raw);
    assert_eq!(raw.receive(b"any bytes\n"), Ok(b"any bytes\n".to_vec()));
    assert_eq!(raw.end(), b"");
}
