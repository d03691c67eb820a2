//! Whether the allocator has memory left.
//!
//! An allocation that fails in the middle of the loop ends the process (`handle_alloc_error` in the standard
//! library), and every connection with it. So what grows with the connections asks here first.

use std::collections::VecDeque;
use std::hint::black_box;

use memmap2::MmapMut;

/// Number of bytes that stay free for small allocations: log lines, names, an orderly end.
const HEADROOM: usize = 64 * 1024;

/// Returns whether `bytes` can be allocated now, with some memory left for small allocations. It takes them for
/// a moment to find out.
pub(crate) fn is_available(bytes: usize) -> bool {
    // Mapped, not allocated: glibc takes the free of a large block for a sign that more such blocks will come,
    // and gets them from its heap from then on, where to grow one copies it.
    let large = MmapMut::map_anon(bytes.max(1));
    large.is_ok() && has_headroom()
}

/// Returns whether some memory is left for small allocations.
pub(crate) fn has_headroom() -> bool {
    let mut small: Vec<u8> = Vec::new();
    let is_there = small.try_reserve_exact(HEADROOM).is_ok();
    // The compiler may leave out an allocation that nobody looks at.
    black_box(&small);
    is_there
}

/// Makes room for `capacity` elements, those that are there included. Without elements the old room is not
/// kept: realloc(3) would copy it, and memory that nobody has touched becomes resident by that.
pub(crate) fn reserve<T>(elements: &mut Vec<T>, capacity: usize) {
    if elements.is_empty() {
        *elements = Vec::new();
    }
    elements.reserve_exact(capacity.saturating_sub(elements.len()));
}

/// Makes room in a queue as [`reserve`] does.
pub(crate) fn reserve_queue<T>(elements: &mut VecDeque<T>, capacity: usize) {
    if elements.is_empty() {
        *elements = VecDeque::new();
    }
    elements.reserve_exact(capacity.saturating_sub(elements.len()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_not_available() {
        assert!(is_available(0) && is_available(1024 * 1024));
        assert!(has_headroom() && !is_available(isize::MAX.unsigned_abs()));
        assert!(!is_available(usize::MAX));
    }
}
