//! Whether the allocator has memory left.
//!
//! An allocation that fails in the middle of the loop ends the process (`handle_alloc_error` in the standard
//! library), and every connection with it. So what grows with the connections asks here first.

use std::hint::black_box;

/// Number of bytes that stay free for small allocations: log lines, names, an orderly end.
const HEADROOM: usize = 64 * 1024;

/// Returns whether `bytes` can be allocated now, in one piece, with some memory left for small allocations.
/// It allocates them for a moment to find out.
pub(crate) fn is_available(bytes: usize) -> bool {
    let mut probe: Vec<u8> = Vec::new();
    let is_available = probe.try_reserve_exact(bytes.saturating_add(HEADROOM)).is_ok();
    // The compiler may leave out an allocation that nobody looks at.
    black_box(&probe);
    is_available
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_not_available() {
        assert!(is_available(0) && is_available(1024 * 1024));
        assert!(!is_available(isize::MAX.unsigned_abs() - HEADROOM) && !is_available(usize::MAX));
    }
}
