//! Bytes received and not yet sent, in pages that are borrowed only while there are any.
//!
//! A server with ten thousand idle connections owes nobody anything, and should hold nothing. So a
//! [`Buffer`] is one pointer, null while it is empty; its page comes from the [`Pool`] just before a
//! recv and goes back as soon as the last byte is sent. On a loop with one thread that is nearly
//! always the same page, still warm in the cache.
//!
//! Pages are mapped, not allocated. An allocator gives memory back to the system only from the end of
//! its heap, where one small allocation that outlives a burst holds all of the burst.

use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// How many bytes of unused pages a pool keeps for the next burst, one page at least; what is over
/// goes back to the system.
const SPARE_BYTES: usize = 1024 * 1024;

/// A page is left for a smaller one when what has to wait fills less than one part in this many:
/// a thousand stalled readers with ten bytes each should not keep a thousand pages.
const SPARSE: usize = 16;

/// A queue of bytes: filled at the back by recv, consumed at the front by send.
#[derive(Debug, Default)]
pub struct Buffer(Option<Box<Page>>);

/// The bytes that wait are `bytes[start..end]`. The cursors live here and not in [`Buffer`], so that
/// an empty buffer costs a connection one pointer.
#[derive(Debug)]
struct Page {
    bytes: Bytes,
    start: usize,
    end: usize,
}

#[derive(Debug)]
enum Bytes {
    /// A page of the pool's.
    Lent(MmapMut),
    /// Just the bytes that wait.
    Few(Box<[u8]>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Lent(bytes) => bytes,
            Bytes::Few(bytes) => bytes,
        }
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Bytes::Lent(bytes) => bytes,
            Bytes::Few(bytes) => bytes,
        }
    }
}

impl Buffer {
    /// Whether nothing waits. An empty buffer may still hold a page, between [`Buffer::room`] and
    /// [`Buffer::give_back`].
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|page| page.start == page.end)
    }

    /// The bytes that wait, oldest first.
    pub fn waiting(&self) -> &[u8] {
        match &self.0 {
            Some(page) => &page.bytes[page.start..page.end],
            None => &[],
        }
    }

    /// A whole page to receive into; never an empty slice. Only an empty buffer is filled: while
    /// bytes wait, a connection does not receive.
    ///
    /// # Errors
    /// The system has no memory left.
    pub fn room(&mut self, pool: &mut Pool) -> io::Result<&mut [u8]> {
        debug_assert!(self.is_empty());
        let page = match self.0.take() {
            Some(page) => page,
            None => pool.take()?,
        };
        Ok(&mut self.0.insert(page).bytes)
    }

    /// The first `n` bytes of the room now wait.
    pub fn filled(&mut self, n: usize) {
        if let Some(page) = &mut self.0 {
            (page.start, page.end) = (0, n);
        }
    }

    /// The first `n` bytes that waited are gone. With the last of them the page goes back.
    pub fn consume(&mut self, n: usize, pool: &mut Pool) {
        if let Some(page) = &mut self.0 {
            debug_assert!(n <= page.end - page.start);
            page.start += n;
        }
        if self.is_empty() {
            self.give_back(pool);
        }
    }

    /// Drops whatever waits and returns the page.
    pub fn give_back(&mut self, pool: &mut Pool) {
        if let Some(page) = self.0.take() {
            pool.put(page);
        }
    }

    /// Called when the bytes that are left have to wait for an unknown time: a few of them move to a
    /// page of just their size, and the pool gets the large one back.
    pub fn settle(&mut self, pool: &mut Pool) {
        let waiting = self.waiting();
        let lent = matches!(&self.0, Some(page) if matches!(page.bytes, Bytes::Lent(_)));
        if !lent || waiting.is_empty() || waiting.len() >= pool.page_size / SPARSE {
            return;
        }
        let few = Page { start: 0, end: waiting.len(), bytes: Bytes::Few(waiting.into()) };
        if let Some(page) = self.0.replace(Box::new(few)) {
            pool.put(page);
        }
    }
}

/// The pages of one loop. All have one size, the most that a connection can hold.
#[derive(Debug)]
pub struct Pool {
    page_size: usize,
    #[expect(clippy::vec_box, reason = "a page moves between here and a buffer as one pointer")]
    spare: Vec<Box<Page>>,
    max_spare: usize,
    /// Pages that there are, here or with buffers.
    mapped: usize,
}

impl Pool {
    /// A pool of pages of `page_size` bytes, at least 1, none of them allocated yet.
    pub fn new(page_size: usize) -> Pool {
        let page_size = page_size.max(1);
        let max_spare = (SPARE_BYTES / page_size).max(1);
        Pool { page_size, spare: Vec::new(), max_spare, mapped: 0 }
    }

    /// How many pages are with buffers now.
    pub fn lent(&self) -> usize {
        self.mapped - self.spare.len()
    }

    fn take(&mut self) -> io::Result<Box<Page>> {
        if let Some(page) = self.spare.pop() {
            return Ok(page);
        }
        let bytes = Bytes::Lent(MmapMut::map_anon(self.page_size)?);
        self.mapped += 1;
        Ok(Box::new(Page { bytes, start: 0, end: 0 }))
    }

    fn put(&mut self, mut page: Box<Page>) {
        if matches!(page.bytes, Bytes::Few(_)) {
            return;
        }
        if self.spare.len() < self.max_spare {
            (page.start, page.end) = (0, 0);
            self.spare.push(page);
        } else {
            self.mapped -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer_of(bytes: &[u8], pool: &mut Pool) -> Buffer {
        let mut buffer = Buffer::default();
        buffer.room(pool).unwrap()[..bytes.len()].copy_from_slice(bytes);
        buffer.filled(bytes.len());
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
        assert_eq!((buffer.waiting(), pool.lent()), (&b"world"[..], 1));
        buffer.consume(5, &mut pool);
        assert_eq!((buffer.waiting(), pool.lent()), (&b""[..], 0));
    }

    #[test]
    fn room_that_nothing_came_into_is_given_back() {
        let mut pool = Pool::new(64);
        let mut buffer = Buffer::default();
        assert_eq!(buffer.room(&mut pool).unwrap().len(), 64);
        buffer.give_back(&mut pool);
        assert!(buffer.is_empty());
        assert_eq!(pool.lent(), 0);
    }

    #[test]
    fn a_page_used_again_shows_nothing_of_its_last_user() {
        let mut pool = Pool::new(64);
        buffer_of(b"secret", &mut pool).give_back(&mut pool);
        let mut buffer = Buffer::default();
        buffer.room(&mut pool).unwrap();
        assert_eq!(buffer.waiting(), b"");
    }

    #[test]
    fn a_few_bytes_that_wait_do_not_keep_a_page() {
        let mut pool = Pool::new(1024);
        let mut few = buffer_of(&[7; 63], &mut pool);
        few.settle(&mut pool);
        assert_eq!((few.waiting(), pool.lent()), (&[7; 63][..], 0));
        few.consume(3, &mut pool);
        few.settle(&mut pool);
        few.consume(60, &mut pool);
        assert_eq!((few.waiting(), pool.lent()), (&b""[..], 0));

        let mut many = buffer_of(&[7; 64], &mut pool);
        many.settle(&mut pool);
        assert_eq!(pool.lent(), 1);
    }

    #[test]
    fn the_pool_keeps_a_few_spare_pages_and_frees_the_rest_of_a_burst() {
        let page_size = SPARE_BYTES / 4;
        let mut pool = Pool::new(page_size);
        let burst: Vec<_> = (0..100).map(|_| pool.take().unwrap()).collect();
        for page in burst {
            pool.put(page);
        }
        assert_eq!((pool.spare.len(), pool.lent()), (4, 0));
    }
}
