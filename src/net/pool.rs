//! Pages for buffers, and the bound for all of them together.
//!
//! Pages are mapped, not allocated. An allocator returns memory to the system only from the end of its
//! heap, where one small allocation that outlives a burst keeps all of the burst.
//!
//! The pages of a pool have one size, as long as memory is plentiful: the most that a buffer may hold. Near
//! the bound they become smaller, so that those who come late get something too. A page may take a fixed
//! part of what is still free (dynamic thresholds, as switches divide their buffers: Choudhury and Hahne,
//! 1998). Many greedy connections then hold equal parts, and some memory always stays free for a connection
//! that asks for little.
//!
//! | memory is | a page that is taken | a page that is returned |
//! |---|---|---|
//! | plentiful | has the full size | becomes spare, up to a mebibyte of them; else it is unmapped |
//! | scarce: less than 64 full pages are free | has a 64th of what is free, at least 4 KiB | the same, if it has the size of the next page |
//! | short: a page was asked for in vain | is asked for again, perhaps in vain | is unmapped, which ends the shortage |

use std::error::Error;
use std::io::{self, ErrorKind};
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::net::memory;

/// Number of bytes in unused pages that a pool keeps for the next burst (at least one page), and the same in
/// small pages. The system gets the rest back.
const SPARE_BYTES: usize = 1024 * 1024;

/// One part in this many of the free memory is the most that the next page may take.
const PARTS: usize = 64;

/// Size of the smallest page: the system's own page, on most machines.
const SMALL: usize = 4096;

/// Fewer bytes than this have no page of their own when they wait.
const FEW: usize = SMALL / 16;

/// Number of pages that exist at most. Each may be a mapping of its own, and Linux allows a process 65,530
/// of them (`vm.max_map_count`). Beyond that not even munmap(2) works, since it may have to split one.
const MAX_PAGES: usize = 60_000;

/// Memory, and the part of it that is in use: `memory[start..end]`. The cursors are part of the page and
/// not of the buffer, so that an empty buffer costs a connection one pointer.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) memory: Memory,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Page {
    /// Returns the number of bytes in use.
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Returns the bytes in use.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// Copies bytes into an empty page.
    pub(crate) fn hold(&mut self, bytes: &[u8]) {
        debug_assert!(self.end == 0);
        self.memory[..bytes.len()].copy_from_slice(bytes);
        self.end = bytes.len();
    }

    /// Moves the bytes to the front. What is behind them is room.
    pub(crate) fn compact(&mut self) {
        if self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.len());
        }
    }
}

#[derive(Debug)]
pub(crate) enum Memory {
    Mapped(MmapMut),
    /// Just enough for a few bytes that wait, from the allocator.
    Exact(Box<[u8]>),
}

impl Memory {
    /// Returns the number of bytes that it takes from the system.
    fn cost(&self) -> usize {
        match self {
            Memory::Mapped(memory) => cost(memory.len()),
            Memory::Exact(memory) => memory.len(),
        }
    }
}

/// Returns the number of bytes that the system spends on a mapping.
fn cost(bytes: usize) -> usize {
    bytes.next_multiple_of(SMALL)
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Memory::Mapped(memory) => memory,
            Memory::Exact(memory) => memory,
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Memory::Mapped(memory) => memory,
            Memory::Exact(memory) => memory,
        }
    }
}

/// The pages of one loop.
#[derive(Debug)]
#[expect(clippy::vec_box, reason = "a page moves between here and a buffer as one pointer")]
pub struct Pool {
    /// Number of bytes that a buffer may hold.
    page_size: usize,
    /// Number of bytes that all pages may take from the system together.
    limit: usize,
    /// Number of bytes that they take now.
    held: usize,
    /// Number of mapped pages, in the pool or in use.
    mapped: usize,
    /// Size of the next page. It is `page_size` unless memory is short.
    share: usize,
    /// Unused pages of `share` bytes, within the capacity that it was made with.
    spare: Vec<Box<Page>>,
    /// Size of the pages that become spare: `share`, or 0 after a page was asked for in vain, until one is
    /// returned.
    spare_size: usize,
    /// Unused pages of [`SMALL`] bytes.
    small: Vec<Box<Page>>,
}

impl Pool {
    /// Makes a pool for buffers of at most `page_size` bytes, at least 1. No page is mapped yet, and there is
    /// no bound for all of them.
    pub fn new(page_size: usize) -> Pool {
        let page_size = page_size.max(1);
        let max_spare = (SPARE_BYTES / page_size).max(1);
        Pool {
            page_size,
            limit: usize::MAX,
            held: 0,
            mapped: 0,
            share: page_size,
            spare: Vec::with_capacity(max_spare),
            spare_size: page_size,
            small: Vec::with_capacity(SPARE_BYTES / SMALL),
        }
    }

    /// Sets the number of bytes that all pages may take from the system together. Pages in use stay.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.drop_spare();
        self.adapt();
    }

    /// Returns the number of bytes that all pages may take from the system together.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the size of the next page.
    pub(crate) fn share(&self) -> usize {
        self.share
    }

    /// Returns the most bytes that a buffer may hold.
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    /// Returns the number of pages that buffers hold now.
    pub fn in_use(&self) -> usize {
        self.mapped - self.spare.len() - self.small.len()
    }

    /// Returns the number of bytes that all pages take from the system now.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Returns whether a page was asked for in vain, and none was returned since.
    pub fn is_short(&self) -> bool {
        self.spare_size == 0
    }

    /// Notes that memory was asked for in vain.
    pub(crate) fn begin_shortage(&mut self) {
        self.spare_size = 0;
    }

    /// Forgets that a page was asked for in vain. Memory may be there again.
    pub fn end_shortage(&mut self) {
        self.spare_size = self.share;
    }

    /// Takes an empty page.
    ///
    /// # Errors
    /// `OutOfMemory`: the bound is reached, or the system has no memory left.
    #[inline]
    pub(crate) fn take(&mut self) -> io::Result<Box<Page>> {
        match self.spare.pop() {
            Some(page) => Ok(page),
            None => self.map(self.share),
        }
    }

    /// Takes an empty page of at least `bytes` bytes, which are no more than a buffer may hold.
    ///
    /// # Errors
    /// As [`take`](Pool::take).
    pub(crate) fn take_at_least(&mut self, bytes: usize) -> io::Result<Box<Page>> {
        debug_assert!(bytes <= self.page_size);
        if bytes <= self.share { self.take() } else { self.map(self.size_for(bytes)) }
    }

    /// Returns a page that holds a copy of `bytes` and is not much larger than they are.
    ///
    /// # Errors
    /// As [`take`](Pool::take).
    pub(crate) fn copy_of(&mut self, bytes: &[u8]) -> io::Result<Box<Page>> {
        let mut page = match bytes.len() {
            // The allocator keeps what a burst of these leaves behind. It is not much.
            ..FEW => self.allocate(bytes.len())?,
            _ => self.small.pop().map_or_else(|| self.map(SMALL), Ok)?,
        };
        page.hold(bytes);
        Ok(page)
    }

    /// Takes a page back.
    pub(crate) fn put(&mut self, mut page: Box<Page>) {
        if page.memory.len() == self.spare_size && self.spare.len() < self.spare.capacity() {
            (page.start, page.end) = (0, 0);
            self.spare.push(page);
        } else {
            self.put_other(page);
        }
    }

    #[inline(never)]
    fn put_other(&mut self, mut page: Box<Page>) {
        let is_small = page.memory.len() == SMALL;
        if is_small && !self.is_short() && self.small.len() < self.small.capacity() {
            (page.start, page.end) = (0, 0);
            self.small.push(page);
            return;
        }
        self.unmap(page);
        self.end_shortage();
        self.adapt();
    }

    #[inline(never)]
    fn map(&mut self, bytes: usize) -> io::Result<Box<Page>> {
        let page = self.try_map(bytes).or_else(|_| {
            self.drop_spare();
            self.try_map(bytes)
        });
        match page {
            Ok(_) => self.adapt(),
            Err(_) => self.begin_shortage(),
        }
        page
    }

    fn try_map(&mut self, bytes: usize) -> io::Result<Box<Page>> {
        let held = self.held.saturating_add(cost(bytes));
        if held > self.limit || self.mapped == MAX_PAGES {
            return Err(out_of_memory("the buffers hold as much as they may"));
        }
        let memory = MmapMut::map_anon(bytes).map_err(out_of_memory)?;
        if !memory::has_headroom() {
            return Err(out_of_memory("the allocator has no memory left"));
        }
        self.held = held;
        self.mapped += 1;
        Ok(Box::new(Page { memory: Memory::Mapped(memory), start: 0, end: 0 }))
    }

    fn allocate(&mut self, bytes: usize) -> io::Result<Box<Page>> {
        if self.held.saturating_add(bytes) > self.limit || !memory::has_headroom() {
            return Err(out_of_memory("no memory for a few bytes"));
        }
        self.held += bytes;
        Ok(Box::new(Page { memory: Memory::Exact(vec![0; bytes].into()), start: 0, end: 0 }))
    }

    fn unmap(&mut self, page: Box<Page>) {
        self.held -= page.memory.cost();
        self.mapped -= usize::from(matches!(page.memory, Memory::Mapped(_)));
        drop(page);
    }

    fn drop_spare(&mut self) {
        while let Some(page) = self.spare.pop().or_else(|| self.small.pop()) {
            self.unmap(page);
        }
    }

    /// Fits the size of the next page to the memory that is free. It grows later than it shrinks, so that
    /// one page more or less does not change it each time.
    fn adapt(&mut self) {
        let part = (self.limit.saturating_sub(self.held)) / PARTS;
        let (most, least) = (self.size_within(part), self.size_within(part / 2));
        let share = self.share.clamp(least, most);
        if share != self.share {
            self.share = share;
            if !self.is_short() {
                self.spare_size = share;
            }
            self.drop_spare();
        }
    }

    /// Returns the size of the largest page within `bytes`, or that of the smallest page.
    fn size_within(&self, bytes: usize) -> usize {
        if bytes >= self.page_size {
            return self.page_size;
        }
        let bytes = bytes.max(SMALL);
        (1 << bytes.ilog2()).min(self.page_size)
    }

    /// Returns the size of a page for `bytes`.
    fn size_for(&self, bytes: usize) -> usize {
        bytes.next_power_of_two().clamp(SMALL, self.page_size.max(SMALL)).min(self.page_size)
    }
}

fn out_of_memory(e: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::OutOfMemory, e)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 64 * 1024;

    #[expect(clippy::vec_box, reason = "as the pool keeps them")]
    fn take_all(pool: &mut Pool) -> Vec<Box<Page>> {
        std::iter::from_fn(|| pool.take().ok()).collect()
    }

    #[test]
    fn the_pool_keeps_a_few_spare_pages_and_frees_the_rest_of_a_burst() {
        let page_size = SPARE_BYTES / 4;
        let mut pool = Pool::new(page_size);
        let burst: Vec<_> = (0..100).map(|_| pool.take().unwrap()).collect();
        assert_eq!(pool.held(), 100 * page_size);
        for page in burst {
            pool.put(page);
        }
        assert_eq!((pool.spare.len(), pool.in_use(), pool.held()), (4, 0, 4 * page_size));
    }

    #[test]
    fn near_the_bound_pages_become_smaller_and_never_more_than_it_are_mapped() {
        let mut pool = Pool::new(PAGE);
        pool.set_limit(128 * PAGE);
        let pages = take_all(&mut pool);
        assert!(pool.held() <= 128 * PAGE && pool.held() > 127 * PAGE, "{}", pool.held());
        assert!(pool.is_short());
        let sizes: Vec<_> = pages.iter().map(|page| page.memory.len()).collect();
        assert!(sizes.is_sorted_by(|one, next| one >= next), "{sizes:?}");
        assert_eq!((sizes[0], sizes[sizes.len() - 1]), (PAGE, SMALL));
        assert!(sizes.len() > 300, "{}", sizes.len());
    }

    #[test]
    fn there_are_never_so_many_pages_that_one_cannot_be_unmapped() {
        let mut pool = Pool::new(SMALL);
        let pages = take_all(&mut pool);
        assert_eq!((pages.len(), pool.in_use()), (MAX_PAGES, MAX_PAGES));
        for page in pages {
            pool.put(page);
        }
        assert!(pool.in_use() == 0 && pool.held() <= 2 * SPARE_BYTES && !pool.is_short());
    }

    #[test]
    fn a_page_that_is_returned_ends_the_shortage_and_pages_grow_again() {
        let mut pool = Pool::new(PAGE);
        pool.set_limit(200 * PAGE);
        let mut pages = take_all(&mut pool);
        pool.put(pages.pop().unwrap());
        assert!(!pool.is_short());
        for page in pages {
            pool.put(page);
        }
        assert_eq!(pool.take().unwrap().memory.len(), PAGE);
        assert!(pool.held() <= SPARE_BYTES + PAGE);
    }

    #[test]
    fn a_page_for_a_whole_message_is_larger_than_the_next_share() {
        let mut pool = Pool::new(PAGE);
        pool.set_limit(2 * PAGE);
        assert_eq!(pool.take().unwrap().memory.len(), SMALL);
        assert_eq!(pool.take_at_least(SMALL + 1).unwrap().memory.len(), 2 * SMALL);
        assert_eq!(pool.take_at_least(PAGE).unwrap().memory.len(), PAGE);
        assert_eq!(pool.take_at_least(PAGE).unwrap_err().kind(), ErrorKind::OutOfMemory);
    }

    #[test]
    fn pages_of_an_odd_size_have_it_whole() {
        for page_size in [1, 64, 1024, 5000, 70_000] {
            let mut pool = Pool::new(page_size);
            let pages = [pool.take().unwrap(), pool.take_at_least(page_size).unwrap()];
            assert!(pages.iter().all(|page| page.memory.len() == page_size));
            for page in pages {
                pool.put(page);
            }
            pool.set_limit(10 * cost(page_size));
            for page in take_all(&mut pool) {
                assert!(page.memory.len() <= page_size);
                pool.put(page);
            }
            assert_eq!(pool.in_use(), 0);
        }
    }
}
