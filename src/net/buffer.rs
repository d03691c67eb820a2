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
//! Pages are mapped, not allocated. An allocator returns memory to the system only from the end of its
//! heap, where one small allocation that outlives a burst keeps all of the burst.
//!
//! (One file: page, buffer and pool know the insides of each other.)

use std::io;
use std::mem;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Number of bytes in unused pages that a pool keeps for the next burst (at least one page). The system
/// gets the rest back.
const SPARE_BYTES: usize = 1024 * 1024;

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

/// The bytes of the queue are `memory[start..end]`. The cursors are part of the page and not of the
/// [`Buffer`], so that an empty buffer costs a connection one pointer.
#[derive(Debug)]
struct Page {
    memory: Memory,
    start: usize,
    end: usize,
}

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

#[derive(Debug)]
enum Memory {
    /// A page of the pool.
    Pooled(MmapMut),
    /// Just enough for a few bytes that wait.
    Exact(Box<[u8]>),
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Memory::Pooled(memory) => memory,
            Memory::Exact(memory) => memory,
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Memory::Pooled(memory) => memory,
            Memory::Exact(memory) => memory,
        }
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
        self.0.as_ref().map_or(0, |page| page.end - page.start)
    }

    /// Returns whether there is no room for one more byte.
    pub fn is_full(&self, pool: &Pool) -> bool {
        self.len() == pool.page_size
    }

    /// Returns the bytes, oldest first.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Some(page) => &page.memory[page.start..page.end],
            None => &[],
        }
    }

    /// Takes the page out, or an empty one from the pool, for a recv behind the bytes.
    ///
    /// # Errors
    /// The system has no memory left. The bytes stay in the buffer.
    #[expect(clippy::inline_always, reason = "a call would cost each recv eleven instructions")]
    #[inline(always)]
    pub fn room(&mut self, pool: &mut Pool) -> io::Result<Room> {
        match self.0.take() {
            None => pool.take().map(Room),
            Some(page) => self.grow(page, pool),
        }
    }

    /// Makes all of a page that does not hold bytes available behind them.
    #[inline(never)]
    fn grow(&mut self, mut page: Box<Page>, pool: &mut Pool) -> io::Result<Room> {
        let bytes = page.start..page.end;
        if matches!(page.memory, Memory::Pooled(_)) {
            (page.start, page.end) = (0, bytes.len());
            if bytes.start > 0 {
                page.memory.copy_within(bytes, 0);
            }
            return Ok(Room(page));
        }
        match pool.take() {
            Ok(mut larger) => {
                larger.end = bytes.len();
                larger.memory[..bytes.len()].copy_from_slice(&page.memory[bytes]);
                Ok(Room(larger))
            }
            Err(e) => {
                self.0 = Some(page);
                Err(e)
            }
        }
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
        debug_assert!(n <= page.end - page.start);
        page.start += n;
        if page.start == page.end {
            self.release(pool);
        }
    }

    /// Adds a copy of `bytes`. Returns false, and adds nothing, if they do not fit.
    ///
    /// # Errors
    /// The system has no memory left.
    pub fn append(&mut self, bytes: &[u8], pool: &mut Pool) -> io::Result<bool> {
        if bytes.len() > pool.page_size - self.len() {
            return Ok(false);
        }
        if !bytes.is_empty() {
            let mut room = self.room(pool)?;
            room.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            self.fill(room, bytes.len());
        }
        Ok(true)
    }

    /// Moves the first `n` bytes to the end of another buffer. Returns false, and moves nothing, if they
    /// do not fit. If the other buffer is empty, the two change pages, and only the rest is copied.
    ///
    /// # Errors
    /// The system has no memory left. Nothing was moved.
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

    /// Is called when the bytes have to wait for an unknown time. A few bytes move to memory of just
    /// their size, and the pool gets its page back.
    #[inline]
    pub fn shrink(&mut self, pool: &mut Pool) {
        if !self.is_empty() {
            self.shrink_to_fit(pool);
        }
    }

    #[inline(never)]
    fn shrink_to_fit(&mut self, pool: &mut Pool) {
        let bytes = self.bytes();
        let is_pooled = matches!(&self.0, Some(page) if matches!(page.memory, Memory::Pooled(_)));
        if !is_pooled || bytes.len() >= MAX_COPIED.min(pool.page_size / SPARSE) {
            return;
        }
        let exact = Page { start: 0, end: bytes.len(), memory: Memory::Exact(bytes.into()) };
        if let Some(page) = self.0.replace(Box::new(exact)) {
            pool.put(page);
        }
    }
}

/// The pages of one loop. All have one size: the most that a connection may hold in one direction.
#[derive(Debug)]
pub struct Pool {
    page_size: usize,
    #[expect(clippy::vec_box, reason = "a page moves between here and a buffer as one pointer")]
    /// Unused pages, within the capacity that it was made with.
    spare: Vec<Box<Page>>,
    /// Number of pages that exist, in the pool or in use.
    mapped: usize,
}

impl Pool {
    /// Makes a pool of pages of `page_size` bytes, at least 1. No page is mapped yet.
    pub fn new(page_size: usize) -> Pool {
        let page_size = page_size.max(1);
        let max_spare = (SPARE_BYTES / page_size).max(1);
        Pool { page_size, spare: Vec::with_capacity(max_spare), mapped: 0 }
    }

    /// Returns the number of bytes of a page.
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    /// Returns the number of pages that buffers hold now.
    pub fn in_use(&self) -> usize {
        self.mapped - self.spare.len()
    }

    #[inline]
    fn take(&mut self) -> io::Result<Box<Page>> {
        if let Some(page) = self.spare.pop() {
            return Ok(page);
        }
        let memory = Memory::Pooled(MmapMut::map_anon(self.page_size)?);
        self.mapped += 1;
        Ok(Box::new(Page { memory, start: 0, end: 0 }))
    }

    fn put(&mut self, mut page: Box<Page>) {
        let is_pooled = matches!(page.memory, Memory::Pooled(_));
        if is_pooled && self.spare.len() < self.spare.capacity() {
            (page.start, page.end) = (0, 0);
            self.spare.push(page);
        } else {
            self.unmap(page);
        }
    }

    #[inline(never)]
    fn unmap(&mut self, page: Box<Page>) {
        self.mapped -= usize::from(matches!(page.memory, Memory::Pooled(_)));
        drop(page);
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(pool.in_use(), 1);
        many.consume(1, &mut pool);
        many.shrink(&mut pool);
        assert_eq!(pool.in_use(), 0);
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

    #[test]
    fn the_pool_keeps_a_few_spare_pages_and_frees_the_rest_of_a_burst() {
        let page_size = SPARE_BYTES / 4;
        let mut pool = Pool::new(page_size);
        let burst: Vec<_> = (0..100).map(|_| pool.take().unwrap()).collect();
        for page in burst {
            pool.put(page);
        }
        assert_eq!((pool.spare.len(), pool.in_use()), (4, 0));
    }
}
