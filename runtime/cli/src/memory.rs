//! How the kernel backs this process's memory. The library never changes that: it is the program's own.

use rustix::thread::disable_transparent_huge_pages;

/// Keeps the kernel from giving out memory in pieces of 2 MiB. The allocator asks for such pieces, and what a host keeps
/// is spread thinly over many places (per connection, app and thread): they held two to three times what was in use,
/// and whatever a burst left could not be given back. Processor time per request is the same without.
///
/// Children have it from their parent. If it fails, the host only takes more memory.
pub(crate) fn without_huge_pages() {
    if let Err(error) = disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "the kernel gives out memory in large pieces, so that more of it is taken than used");
    }
}
