//! `packaging/heartbeat_lease.h` against the Rust function that it repeats: both judge the same pages, and a program
//! made with it opens the page that heartbeatd hands out.

mod page;

use heartbeat_common::lease::{LEN, MAGIC, Refused, SLOTS, Token, WORDS, Words, acting, bank, word};
use heartbeat_user::io::lease_socket::{LeaseSocket, Readable, Shown};
use page::{Server, Written};
use std::cell::Cell;
use std::ffi::{CString, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Pages that are judged twice.
const PAGES: u64 = 1_000_000;

fn include() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging")
}

/// Compiles a program that includes the header, strictly.
fn compile(source: &str, to: &Path, options: &[&str]) {
    let file = to.with_extension("c");
    std::fs::write(&file, source).unwrap();
    let flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"];
    let mut cc = Command::new("cc");
    cc.args(flags).args(options).arg("-I").arg(include()).arg(&file).arg("-o").arg(to);
    let output = cc.output().expect("cc, which Rust links with, is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CToken {
    order: u64,
    incarnation: u64,
}

type Judge = unsafe extern "C" fn(*const u64, u64, *mut CToken) -> c_int;

/// Loads the header's judge.
fn judge(directory: &Path) -> Judge {
    let library = directory.join("judge.so");
    let source = "#include \"heartbeat_lease.h\"\n\
        int judge(const uint64_t *page, uint64_t now, hb_token *token);\n\
        int judge(const uint64_t *page, uint64_t now, hb_token *token)\n\
        { return (int)hb_lease_judge(page, now, token); }\n";
    compile(source, &library, &["-shared", "-fPIC"]);
    let name = CString::new(library.as_os_str().as_bytes()).unwrap();
    // SAFETY: a library that was made a moment ago and runs nothing when it is loaded.
    let handle: *mut c_void = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
    assert!(!handle.is_null());
    // SAFETY: the handle is open and never closed.
    let symbol = unsafe { libc::dlsym(handle, c"judge".as_ptr()) };
    assert!(!symbol.is_null());
    // SAFETY: the symbol is the function of the source above, with this signature.
    unsafe { std::mem::transmute::<*mut c_void, Judge>(symbol) }
}

struct Page(Box<[Cell<u64>; WORDS]>);

impl Words for Page {
    fn get(&self, index: usize) -> u64 {
        self.0[index].get()
    }
    fn set(&self, index: usize, value: u64) {
        self.0[index].set(value);
    }
}

/// xorshift64*: the same pages each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    /// A number where something may turn: near a bound of its type, near the others, or anything.
    fn edge(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => u64::MAX - self.below(3),
            2 => (1 << 63) - 1 + self.below(3),
            3 => 0,
            _ => self.below(64),
        }
    }
}

/// Makes a page where most of what is looked at first lets act, so that what comes later is reached.
fn renew(page: &Page, random: &mut Random) {
    let mostly = |random: &mut Random, value: u64| if random.below(16) == 0 { random.edge() } else { value };
    for (index, value) in [
        (word::MAGIC, MAGIC),
        (word::INCARNATION, 9),
        (word::FENCED, 8),
        (word::GRANTING, 5),
        (word::CLOSED, 0),
        (word::IN_FORCE, 7),
        (word::HOLD, 0),
        (word::AHEAD, 0),
        (word::LIVES_UNTIL, 0),
    ] {
        page.set(index, mostly(random, value));
    }
    page.set(word::ACTIVE, random.below(4));
    for at in [word::BANKS, word::BANKS + bank::WORDS] {
        for (index, value) in [(bank::MEMBER, 1), (bank::OWN_MARK, 5), (bank::CARRY_UNTIL_NS, 0), (bank::OWN_WEIGHT, 1)]
        {
            page.set(at + index, mostly(random, value));
        }
        for index in [bank::ACT_NS, bank::FLOOR_NS, bank::BOOT_OFFSET_NS, bank::OWN_DATE_NS, bank::TOTAL_WEIGHT] {
            let value = random.below(64);
            page.set(at + index, mostly(random, value));
        }
        let used = if random.below(8) == 0 { SLOTS as u64 + 9 } else { 8 };
        page.set(at + bank::SLOTS_USED, random.below(used));
        for index in 0..SLOTS / 8 {
            let odd = random.below(8) == 0;
            page.set(at + bank::WEIGHTS + index, if odd { random.next() } else { 0x0101_0101_0101_0101 });
        }
        for slot in 0..SLOTS {
            let date = random.below(64);
            page.set(at + bank::DATES + slot, mostly(random, date));
        }
    }
}

fn number(refused: Refused) -> c_int {
    match refused {
        Refused::NoPage => 1,
        Refused::Closed => 2,
        Refused::Nobody => 3,
        Refused::Fenced => 4,
        Refused::Held(_) => 5,
        Refused::Ahead => 6,
        Refused::NoMember => 7,
        Refused::NotInForce => 8,
        Refused::Expired => 9,
        Refused::Unsteady => 10,
    }
}

#[test]
fn the_header_judges_as_the_library_does() {
    let directory = tempfile::tempdir().unwrap();
    let judge = judge(directory.path());
    let page = Page(Box::new([const { Cell::new(0) }; WORDS]));
    assert_eq!(size_of_val(&*page.0), LEN);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut answers = [0_u64; 11];
    for number_of in 0..PAGES {
        // A new page each 16th time, else another word of the one before.
        match number_of % 16 {
            0 => renew(&page, &mut random),
            _ => page.set(random.below(WORDS as u64) as usize, random.edge()),
        }
        let now = if random.below(16) == 0 { random.edge() } else { random.below(160) };
        let mut token = CToken { order: 1, incarnation: 1 };
        // SAFETY: the page has all its words, and both pointers live through the call.
        let found = unsafe { judge(page.0.as_ptr().cast(), now, &mut token) };
        let (expected, may) = match acting(&page, now) {
            Ok(Token { order, incarnation }) => (0, CToken { order, incarnation }),
            Err(refused) => (number(refused), CToken::default()),
        };
        assert_eq!((found, token), (expected, may), "page {number_of} at {now}");
        answers[expected as usize] += 1;
    }
    // Every answer but the one that takes a writer beside was given often: both were really asked.
    assert!(answers[..10].iter().all(|count| *count > 1_000), "{answers:?}");
}

/// A program of somebody else's, as the head of the header shows it.
const PROGRAM: &str = r#"#include "heartbeat_lease.h"
int main(int count, char **words)
{
    hb_lease lease;
    hb_token token;
    char text[48];
    hb_refused refused;
    if (count != 2)
        return 99;
    if (hb_lease_open(&lease, words[1]) != 0) {
        printf("errno %d", errno);
        return 3;
    }
    refused = hb_lease_acting(&lease, &token);
    hb_token_text(&token, text, sizeof text);
    printf("%d %s", (int)refused, text);
    hb_lease_close(&lease);
    hb_lease_close(&lease);
    return hb_lease_valid(&lease, &token);
}
"#;

#[test]
fn a_program_made_with_the_header_opens_the_page() {
    let directory = tempfile::tempdir().unwrap();
    let (program, path) = (directory.path().join("program"), directory.path().join("lease.sock"));
    compile(PROGRAM, &program, &[]);
    let run = || {
        let output = Command::new(&program).arg(&path).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    assert_eq!(run(), (format!("errno {}", libc::ENOENT), Some(3)));
    let (shown, written) = (Shown::default(), Written::new());
    let server = Server::start(LeaseSocket::bind_at(&path).unwrap(), shown.clone());
    assert_eq!(run(), (format!("errno {}", libc::ENODATA), Some(3)));
    shown.set(Some(Readable::try_new(written.readable()).unwrap()));
    assert_eq!(run(), ("9 0.0.0".to_owned(), Some(0)), "no vote has granted");
    written.grant(true);
    assert_eq!(run(), (format!("0 {}", page::TOKEN), Some(0)));
    written.set(word::FENCED, page::INCARNATION);
    assert_eq!(run(), ("4 0.0.0".to_owned(), Some(0)));
    written.set(word::MAGIC, MAGIC + 1);
    assert_eq!(run(), (format!("errno {}", libc::EPROTO), Some(3)));
    server.stop();
}
