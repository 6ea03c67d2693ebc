//! A page without a kernel, and what others can do with it.

use super::*;
use heartbeat_common::lease::{Bank, MAGIC, Refused, acting, bank};

const BOOT: [u64; 2] = [1, 2];

/// A view of this node's vote alone, which acts.
fn install(page: &Page) {
    let view = Bank { order: 3, own_mark: 30, own_weight: 1, total_weight: 1, member: true, ..Bank::default() };
    lease::install(page, &view);
    page.set(word::IN_FORCE, 3);
    assert!(lease::grant(page, 30) && acting(page, 1).is_ok());
}

#[test]
fn only_the_same_incarnation_keeps_its_page() {
    let page = Page::private().unwrap();
    assert!(!page.take_on(7, BOOT, true), "there was none");
    install(&page);
    assert!(page.take_on(7, BOOT, true));
    assert!(acting(&page, 1).is_ok());
    // Nothing of it for another incarnation, another machine start, or where something was lost.
    for (incarnation, boot, adopt) in [(7, BOOT, false), (8, BOOT, true), (8, [1, 3], true)] {
        install(&page);
        assert!(!page.take_on(incarnation, boot, adopt));
        assert_eq!(acting(&page, 1), Err(Refused::NoMember));
        assert_eq!((page.get(word::INCARNATION), page.get(word::ACTIVE)), (incarnation, 0));
    }
}

#[test]
fn a_closed_page_is_over() {
    let page = Page::private().unwrap();
    page.take_on(7, BOOT, false);
    install(&page);
    page.close();
    assert_eq!(acting(&page, 1), Err(Refused::Closed));
    assert!(!lease::grants(&page, 30, 7));
    assert!(!page.take_on(7, BOOT, true), "nor is it kept");
    assert_eq!(page.get(word::CLOSED), 0);
}

#[test]
fn only_the_page_that_an_incarnation_had_ends_what_it_ran() {
    let page = Page::private().unwrap();
    assert!(!page.end_earlier(7), "a page that nobody had: the earlier one is elsewhere, and runs out");
    page.take_on(7, BOOT, false);
    install(&page);
    assert!(page.end_earlier(7));
    assert_eq!(acting(&page, 1), Err(Refused::Closed));
    // In between it ran under another incarnation, and by another page.
    page.take_on(7, BOOT, false);
    install(&page);
    assert!(!page.end_earlier(8));
    assert_eq!(acting(&page, 1), Err(Refused::Closed));
}

#[test]
fn grants_that_were_cleared_are_cleared_for_whoever_looks_next() {
    let page = Page::private().unwrap();
    page.take_on(7, BOOT, false);
    install(&page);
    page.clear_grants(77);
    assert!(!lease::grants(&page, 30, 7));
    assert_eq!(page.get(lease::active_bank(&page) + bank::OWN_DATE_NS), 77);
}

/// Maps a descriptor; true: that worked.
fn maps(fd: &OwnedFd, protection: libc::c_int) -> bool {
    // SAFETY: a new mapping that nobody uses; it is given back at once.
    unsafe {
        let mapped = libc::mmap(std::ptr::null_mut(), lease::LEN, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0);
        mapped != libc::MAP_FAILED && {
            let magic = mapped.cast::<u64>().read_volatile();
            // What is mapped for reading is not made writable afterwards either.
            let again = libc::mprotect(mapped, lease::LEN, libc::PROT_READ | libc::PROT_WRITE);
            assert_eq!((magic, again == 0), (MAGIC, protection & libc::PROT_WRITE != 0));
            libc::munmap(mapped, lease::LEN) == 0
        }
    }
}

#[test]
fn whoever_is_given_the_page_can_read_it_and_no_more() {
    let page = Page::private().unwrap();
    page.take_on(7, BOOT, false);
    let reader = page.reader(Path::new("/nowhere")).unwrap();
    assert!(maps(&reader, libc::PROT_READ));
    assert!(!maps(&reader, libc::PROT_READ | libc::PROT_WRITE));
    assert!(nix::unistd::write(&reader, &[0; 8]).is_err());
    assert!(nix::unistd::ftruncate(&reader, 0).is_err());
    assert!(nix::unistd::ftruncate(&reader, 8192).is_err());
    // SAFETY: a live descriptor, and a command that takes an integer.
    assert!(unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) } < 0);
    assert_eq!(page.get(word::INCARNATION), 7);
}
