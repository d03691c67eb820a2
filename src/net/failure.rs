//! What an error of the system does not say by itself: what was tried, and what to do.

use std::io;

use rustix::io::Errno;

/// Adds to an error what was tried, and what to do where files have run out.
pub(crate) fn cannot(tried: &str, e: &io::Error) -> io::Error {
    let advice = file_advice(e);
    io::Error::new(e.kind(), format!("cannot {tried}: {e}{advice}"))
}

/// Returns what to do about an error which says that no more files can be opened. Other errors have none.
pub(crate) fn file_advice(e: &io::Error) -> &'static str {
    match Errno::from_io_error(e) {
        Some(Errno::MFILE) => "; raise the limit of open files (ulimit -n)",
        Some(Errno::NFILE) => "; raise the system's limit of open files (fs.file-max)",
        _ => "",
    }
}
