//! What becomes of large memory that was freed, for a process that loads and unloads
//! for months.
//!
//! glibc learns from the first large block that is freed to cut further ones of its
//! size out of its heaps, and these it can only give back from their ends. The blocks
//! of one adapter's loading are megabytes each, so that a gateway held what all its
//! loads together needed at some time.

/// From this size on a block is mapped by itself, and unmapped when it is freed. What
/// the engine allocates for a step is not noticeably slower for it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM: libc::c_int = 1 << 20;

/// Has blocks of megabytes given back to the system as soon as they are freed, where
/// the allocator would keep them. To be called once, before there are threads.
pub fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // glibc's own choice beside a threshold of this size
        let kept_at_the_end = 2 * MAPPED_FROM;
        // SAFETY: changes the allocator's settings; takes the allocator's lock. Where it
        // is refused, all stays as it was.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
            libc::mallopt(libc::M_TRIM_THRESHOLD, kept_at_the_end);
        }
    }
}
