//! The system calls of the XDP plane that no safe wrapper covers: mapping maps into memory, and detaching by a pin.
//!
//! The only file of `xdp` with system calls and `unsafe`. Every function is safe to call with any argument.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::slice;

use libc::c_int;

use super::abi::Shared;

/// The entries of an array map (`BPF_F_MMAPABLE`), which the kernel's side uses at the same time.
pub(super) struct Mapped<T> {
    base: NonNull<T>,
    count: usize,
    octets: usize,
}

impl<T: Shared> Mapped<T> {
    /// Maps `count` entries of the map behind `map`, whose entries are of `T`'s size.
    pub(super) fn map(map: BorrowedFd<'_>, count: usize) -> io::Result<Mapped<T>> {
        let octets = count.checked_mul(size_of::<T>()).filter(|octets| *octets != 0);
        let octets = octets.ok_or(io::ErrorKind::InvalidInput)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, which overlaps no memory of this process. The kernel
        // refuses a length beyond the map's.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), octets, access, libc::MAP_SHARED, map.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapped { base, count, octets })
    }
}

impl<T: Shared> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `count` entries and lives as long as `self`; a page boundary is aligned for any `T`,
        // and `T: Shared` says that any octets are a value and that others may change them.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.count) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: `base` and `octets` are those of the mapping, and no slice into it is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.octets) };
    }
}

// SAFETY: the mapping belongs to this value, and `T: Shared` is made to be used from several threads.
unsafe impl<T: Shared> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Mapped<T> {}

/// Detaches the program of the link that is pinned at `path`, at once: a pin that is only removed lets go of its link when
/// the kernel gets to it.
pub(super) fn detach_link(path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let link = bpf(BPF_OBJ_GET, [name.as_ptr() as u64, 0])?;
    let descriptor = c_int::try_from(link).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for this process, and nobody else knows of it.
    let link = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let [a, b, c, d] = link.as_raw_fd().to_ne_bytes();
    bpf(BPF_LINK_DETACH, [u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]), 0]).map(drop)
}

fn bpf(command: c_int, attributes: [u64; 2]) -> io::Result<i64> {
    let (pointer, len): (*const [u64; 2], _) = (&attributes, size_of::<[u64; 2]>());
    // SAFETY: `pointer` is to a local of `len` octets that outlives the call; the commands used here write none, and read a
    // path that their caller holds, or a descriptor.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

const BPF_OBJ_GET: c_int = 7;
const BPF_LINK_DETACH: c_int = 34;
