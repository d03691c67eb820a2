//! Connections that wait for memory.
//!
//! No page for a recv is like no file for an accept: nobody is disconnected for it. The connection stays, with
//! its readiness latched, and is driven again when memory is returned, or after a pause.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crate::net::deadline::after;
use crate::net::memory;
use crate::net::pool::Pool;
use crate::server::warnings::RateLimitedWarning;

/// How long connections wait, unless memory is returned earlier.
const PAUSE: Duration = Duration::from_millis(100);

/// Keys of the connections that wait for memory, each once, those that came first in front.
#[derive(Debug, Default)]
pub(crate) struct MemoryQueue {
    keys: VecDeque<usize>,
    paused_until: Option<Instant>,
    warning: RateLimitedWarning,
}

impl MemoryQueue {
    /// Number of bytes that a connection may take.
    pub(crate) const BYTES_PER_KEY: usize = size_of::<usize>();

    /// Makes room for so many connections.
    pub(crate) fn reserve(&mut self, count: usize) {
        memory::reserve_queue(&mut self.keys, count);
    }

    /// Adds a connection for which there was no memory.
    pub(crate) fn push(&mut self, key: usize, pool: &mut Pool, now: Instant) {
        // The kernel may be what lacks memory (recv(2)), and then the pool does not know.
        pool.begin_shortage();
        self.paused_until = after(now, Some(PAUSE));
        self.keys.push_back(key);
    }

    /// Warns of the connections that wait; `error` is why the last of them does.
    pub(crate) fn warn(&mut self, error: &io::Error, pool: &Pool, now: Instant) {
        let (waiting, held, limit) = (self.keys.len(), pool.held(), pool.limit());
        self.warning.warn(
            now,
            format_args!(
                "{waiting} connection(s) wait for memory, the buffers hold {held} of {limit} bytes: {error}"
            ),
        );
    }

    /// Returns when the connections are to be driven again.
    pub(crate) fn due(&self, pool: &Pool, now: Instant) -> Option<Instant> {
        if self.keys.is_empty() {
            return None;
        }
        if pool.is_short() { self.paused_until } else { Some(now) }
    }

    /// Ends the shortage of the pool if the connections are to be driven now, and returns their number.
    pub(crate) fn begin_retry(&self, pool: &mut Pool, now: Instant) -> usize {
        if self.due(pool, now).is_none_or(|due| due > now) {
            return 0;
        }
        pool.end_shortage();
        self.keys.len()
    }

    /// Takes the key of the first connection.
    pub(crate) fn pop(&mut self) -> Option<usize> {
        self.keys.pop_front()
    }

    /// Removes a connection, and returns whether it waited.
    pub(crate) fn remove(&mut self, key: usize) -> bool {
        let position = self.keys.iter().position(|&waiting| waiting == key);
        position.and_then(|position| self.keys.remove(position)).is_some()
    }

    /// Forgets all connections.
    pub(crate) fn clear(&mut self) {
        self.keys.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_wait_until_a_page_is_returned_or_the_pause_is_over() {
        let (mut queue, mut pool, now) = (MemoryQueue::default(), Pool::new(4096), Instant::now());
        assert_eq!((queue.due(&pool, now), queue.begin_retry(&mut pool, now)), (None, 0));
        let page = pool.take().unwrap();
        queue.push(7, &mut pool, now);
        assert_eq!(queue.due(&pool, now), Some(now + PAUSE));
        assert_eq!(queue.begin_retry(&mut pool, now), 0);
        assert_eq!(queue.begin_retry(&mut pool, now + PAUSE), 1);

        queue.push(8, &mut pool, now);
        pool.put(page);
        assert_eq!(queue.due(&pool, now), Some(now));
        assert_eq!(queue.begin_retry(&mut pool, now), 2);
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(7), Some(8), None));

        for key in 1..4 {
            queue.push(key, &mut pool, now);
        }
        assert!(queue.remove(2) && !queue.remove(2));
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(1), Some(3), None));
    }
}
