//! Buffers that hold memory only while they hold bytes.
//!
//! A server with ten thousand idle connections owes nobody anything, and should need no buffers for
//! them. So an empty [`Buffer`] is one null pointer. It takes a page from the [`Pool`] before a recv and
//! returns it as soon as its last byte is gone. In a loop with one thread that is nearly always the same
//! page, which is still in the processor's cache.
//!
//! ```text
//!             start            end
//!               v               v
//!   +-----------+---------------+------------------+
//!   | consumed  | bytes         | room for a recv  |     one page
//!   +-----------+---------------+------------------+
//! ```
//!
//! (The pages and their pool are in [`pool`](crate::net::pool).)

use std::io;
use std::mem;

use crate::net::pool::{Page, Pool};

/// A buffer that has to wait leaves its page when it fills less than one part in this many: a thousand
/// stalled readers with ten bytes each should not keep a thousand pages.
const SPARSE: usize = 16;

/// A buffer with this many bytes stays in its page in any case. To leave it and to come back copies them, and
/// a peer that sends byte by byte causes that with every byte. So much is copied faster than a byte is
/// received.
const MAX_COPIED: usize = 4096;

/// A queue of bytes. Recv fills it at the back, send or a protocol consumes it at the front. It has a page
/// exactly while it holds bytes.
#[derive(Debug, Default)]
pub struct Buffer(Option<Box<Page>>);

/// A page taken out of a buffer for one recv. It holds the bytes of the buffer, and the room behind them.
/// [`Buffer::fill`] or [`Buffer::restore`] puts it back.
#[derive(Debug)]
#[must_use = "the buffer is empty until the room is put back"]
pub struct Room(Box<Page>);

impl Room {
    /// Returns the room. It is empty only if the buffer [is full](Buffer::is_full).
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0.memory[self.0.end..]
    }
}

impl Buffer {
    /// Returns whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        debug_assert!(self.0.as_ref().is_none_or(|page| page.start < page.end));
        self.0.is_none()
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |page| page.len())
    }

    /// Returns whether there is no room for one more byte.
    pub fn is_full(&self, pool: &Pool) -> bool {
        self.len() == pool.page_size()
    }

    /// Returns the bytes, oldest first.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Some(page) => page.bytes(),
            None => &[],
        }
    }

    /// Takes the page out, or an empty one from the pool, for a recv behind the bytes.
    ///
    /// # Errors
    /// `OutOfMemory`; see [`Pool`]. The bytes stay in the buffer.
    #[expect(clippy::inline_always, reason = "a call would cost each recv eleven instructions")]
    #[inline(always)]
    pub fn room(&mut self, pool: &mut Pool) -> io::Result<Room> {
        match self.0.take() {
            None => pool.take().map(Room),
            Some(page) => self.grow(page, 1, pool),
        }
    }

    /// Makes room for `more` bytes behind those of a page, and for as many as a page from the pool has.
    #[inline(never)]
    fn grow(&mut self, mut page: Box<Page>, more: usize, pool: &mut Pool) -> io::Result<Room> {
        let needed = page.len() + more;
        if page.memory.len() < needed.max(pool.share()) && needed <= pool.page_size() {
            match pool.take_at_least(needed) {
                Ok(mut larger) => {
                    larger.hold(page.bytes());
                    pool.put(page);
                    return Ok(Room(larger));
                }
                Err(e) if page.memory.len() < needed => {
                    self.0 = Some(page);
                    return Err(e);
                }
                Err(_) => {}
            }
        }
        page.compact();
        Ok(Room(page))
    }

    /// Puts the page back after a recv has filled the first `n` bytes of its room, at least 1.
    #[inline]
    pub fn fill(&mut self, room: Room, n: usize) {
        let Room(mut page) = room;
        debug_assert!(self.0.is_none() && n > 0 && n <= page.memory.len() - page.end);
        page.end += n;
        self.0 = Some(page);
    }

    /// Puts the page back after a recv has filled nothing. A page without bytes goes to the pool.
    pub fn restore(&mut self, room: Room, pool: &mut Pool) {
        debug_assert!(self.0.is_none());
        let Room(page) = room;
        if page.start < page.end {
            self.0 = Some(page);
        } else {
            pool.put(page);
        }
    }

    /// Removes the first `n` bytes. With the last byte the page goes back to the pool.
    #[inline]
    pub fn consume(&mut self, n: usize, pool: &mut Pool) {
        let Some(page) = &mut self.0 else { return };
        debug_assert!(n <= page.len());
        page.start += n;
        if page.start == page.end {
            self.release(pool);
        }
    }

    /// Adds a copy of `bytes`. Returns false, and adds nothing, if they do not fit.
    ///
    /// # Errors
    /// `OutOfMemory`; see [`Pool`]. Nothing was added.
    pub fn append(&mut self, bytes: &[u8], pool: &mut Pool) -> io::Result<bool> {
        if bytes.len() > pool.page_size() - self.len() {
            return Ok(false);
        }
        if !bytes.is_empty() {
            let mut room = match self.0.take() {
                None => pool.take_at_least(bytes.len()).map(Room),
                Some(page) => self.grow(page, bytes.len(), pool),
            }?;
            room.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            self.fill(room, bytes.len());
        }
        Ok(true)
    }

    /// Moves the first `n` bytes to the end of another buffer. Returns false, and moves nothing, if they
    /// do not fit. If the other buffer is empty, the two change pages, and only the rest is copied.
    ///
    /// # Errors
    /// `OutOfMemory`; see [`Pool`]. Nothing was moved.
    pub fn move_to(&mut self, other: &mut Buffer, n: usize, pool: &mut Pool) -> io::Result<bool> {
        debug_assert!(n <= self.len());
        if !other.is_empty() {
            let moved = other.append(&self.bytes()[..n], pool)?;
            if moved {
                self.consume(n, pool);
            }
            return Ok(moved);
        }
        if n == 0 {
            return Ok(true);
        }
        if n < self.len() {
            // It fits, since the other buffer is empty.
            other.append(&self.bytes()[n..], pool)?;
            if let Some(page) = &mut self.0 {
                page.end = page.start + n;
            }
        }
        mem::swap(self, other);
        Ok(true)
    }

    /// Drops the bytes and returns the page to the pool.
    pub fn release(&mut self, pool: &mut Pool) {
        if let Some(page) = self.0.take() {
            pool.put(page);
        }
    }

    /// Is called when the bytes have to wait for an unknown time. A few bytes move to a smaller page, or to
    /// memory of just their size, and the pool gets its page back.
    #[inline]
    pub fn shrink(&mut self, pool: &mut Pool) {
        if !self.is_empty() {
            self.shrink_to_fit(pool);
        }
    }

    #[inline(never)]
    fn shrink_to_fit(&mut self, pool: &mut Pool) {
        let Some(page) = &mut self.0 else { return };
        if page.len() >= MAX_COPIED.min(page.memory.len() / SPARSE) {
            return;
        }
        // Without memory for a smaller page the bytes stay where they are.
        if let Ok(smaller) = pool.copy_of(page.bytes()) {
            pool.put(mem::replace(page, smaller));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    fn buffer_of(bytes: &[u8], pool: &mut Pool) -> Buffer {
        let mut buffer = Buffer::default();
        assert!(buffer.append(bytes, pool).unwrap());
        buffer
    }

    #[test]
    fn an_empty_buffer_is_one_pointer() {
        assert_eq!(size_of::<Buffer>(), size_of::<usize>());
    }

    #[test]
    fn a_short_send_moves_the_cursor_and_the_last_one_returns_the_page() {
        let mut pool = Pool::new(64);
        let mut buffer = buffer_of(b"hello, world", &mut pool);
        buffer.consume(7, &mut pool);
        assert_eq!((buffer.bytes(), pool.in_use()), (&b"world"[..], 1));
        buffer.consume(5, &mut pool);
        assert_eq!((buffer.bytes(), pool.in_use()), (&b""[..], 0));
    }

    #[test]
    fn room_that_nothing_came_into_is_given_back() {
        let mut pool = Pool::new(64);
        let mut buffer = Buffer::default();
        let mut room = buffer.room(&mut pool).unwrap();
        assert_eq!((room.bytes_mut().len(), pool.in_use()), (64, 1));
        buffer.restore(room, &mut pool);
        assert!(buffer.is_empty());
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn a_page_used_again_shows_nothing_of_its_last_user() {
        let mut pool = Pool::new(64);
        buffer_of(b"secret", &mut pool).release(&mut pool);
        assert_eq!(buffer_of(b"mine", &mut pool).bytes(), b"mine");
    }

    #[test]
    fn a_few_bytes_that_wait_do_not_keep_a_page() {
        let mut pool = Pool::new(1024);
        let mut few = buffer_of(&[7; 63], &mut pool);
        few.shrink(&mut pool);
        assert_eq!((few.bytes(), pool.in_use()), (&[7; 63][..], 0));
        few.consume(3, &mut pool);
        few.shrink(&mut pool);
        few.consume(60, &mut pool);
        assert_eq!((few.bytes(), pool.in_use()), (&b""[..], 0));

        let mut many = buffer_of(&[7; 64], &mut pool);
        many.shrink(&mut pool);
        assert_eq!(pool.in_use(), 1);
    }

    #[test]
    fn many_bytes_that_wait_are_not_copied_however_large_the_page_is() {
        let mut pool = Pool::new(1024 * 1024);
        let mut many = buffer_of(&[7; MAX_COPIED], &mut pool);
        many.shrink(&mut pool);
        assert_eq!(many.0.as_ref().unwrap().memory.len(), pool.page_size());
        many.consume(1, &mut pool);
        many.shrink(&mut pool);
        assert_eq!(many.bytes(), [7; MAX_COPIED - 1]);
        assert_eq!(many.0.as_ref().unwrap().memory.len(), MAX_COPIED, "a page of the system");
    }

    #[test]
    fn a_message_grows_out_of_a_small_page_and_waits_whole_where_there_is_none() {
        let mut pool = Pool::new(64 * 1024);
        pool.set_limit(80 * 1024);
        let mut message = buffer_of(&[7; 4096], &mut pool);
        assert_eq!(message.0.as_ref().unwrap().memory.len(), 4096);
        assert!(message.append(&vec![8; 60_000], &mut pool).unwrap());
        assert_eq!((message.len(), message.bytes()[4095..4097].to_vec()), (64_096, vec![7, 8]));
        let mut other = Buffer::default();
        assert_eq!(
            other.append(&vec![9; 20_000], &mut pool).unwrap_err().kind(),
            ErrorKind::OutOfMemory
        );
        assert!(other.is_empty() && pool.is_short());
        message.release(&mut pool);
        assert!(!pool.is_short() && other.append(&vec![9; 20_000], &mut pool).unwrap());
    }

    #[test]
    fn half_a_message_shrinks_and_grows_again_behind_its_bytes() {
        let mut pool = Pool::new(1024);
        let mut half = buffer_of(b"consumed, half", &mut pool);
        half.consume(10, &mut pool);
        half.shrink(&mut pool);
        assert_eq!((half.bytes(), pool.in_use()), (&b"half"[..], 0));
        let mut room = half.room(&mut pool).unwrap();
        assert_eq!(room.bytes_mut().len(), 1020);
        half.restore(room, &mut pool);
        assert!(half.append(b" and half", &mut pool).unwrap());
        assert_eq!(half.bytes(), b"half and half");
    }

    #[test]
    fn consumed_bytes_make_room_and_a_full_buffer_has_none() {
        let mut pool = Pool::new(8);
        let mut buffer = buffer_of(b"12345678", &mut pool);
        assert!(buffer.is_full(&pool));
        assert!(!buffer.append(b"9", &mut pool).unwrap());
        buffer.consume(3, &mut pool);
        assert!(buffer.append(b"9", &mut pool).unwrap());
        assert_eq!(buffer.bytes(), b"456789");
        assert_eq!(buffer.room(&mut pool).unwrap().bytes_mut().len(), 2);
    }

    #[test]
    fn bytes_move_behind_those_that_wait_or_with_their_page() {
        let mut pool = Pool::new(8);
        let (mut input, mut output) = (buffer_of(b"abcdef", &mut pool), Buffer::default());
        assert!(input.move_to(&mut output, 4, &mut pool).unwrap());
        assert_eq!((input.bytes(), output.bytes()), (&b"ef"[..], &b"abcd"[..]));
        assert!(input.move_to(&mut output, 1, &mut pool).unwrap());
        assert_eq!((input.bytes(), output.bytes()), (&b"f"[..], &b"abcde"[..]));
        assert!(input.append(b"ghij", &mut pool).unwrap());
        assert!(!input.move_to(&mut output, 5, &mut pool).unwrap(), "it does not fit");
        output.release(&mut pool);
        assert!(input.move_to(&mut output, 5, &mut pool).unwrap());
        assert_eq!((input.bytes(), output.bytes()), (&b""[..], &b"fghij"[..]));
        output.release(&mut pool);
        assert_eq!(pool.in_use(), 0);
    }
}
