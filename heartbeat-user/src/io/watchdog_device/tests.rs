use super::*;
use std::sync::{Arc, Mutex};

/// A device as the kernel has it: closed without the byte, it runs on.
#[derive(Debug, Default)]
struct State {
    running: bool,
    opened: u32,
    fed: u32,
    timeout: u32,
    /// The longest that it has; what is asked for beyond is cut.
    most: u32,
    options: u32,
    settable: bool,
    feeding_fails: bool,
    disarmed: u32,
}

struct Played {
    state: Arc<Mutex<State>>,
    announced: bool,
}

impl Watchdog for Played {
    fn info(&mut self) -> io::Result<Info> {
        Ok(Info { options: self.state.lock().unwrap().options, ..Info::default() })
    }
    fn set_timeout(&mut self, seconds: u32) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if !state.settable {
            return Err(io::ErrorKind::Unsupported.into());
        }
        state.timeout = seconds.min(state.most);
        Ok(())
    }
    fn timeout(&mut self) -> io::Result<u32> {
        Ok(self.state.lock().unwrap().timeout)
    }
    fn feed(&mut self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.feeding_fails {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.fed += 1;
        // Each write or keep-alive takes an earlier announcement back.
        self.announced = false;
        Ok(())
    }
    fn announce_close(&mut self) -> io::Result<()> {
        self.announced = true;
        Ok(())
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        if self.announced {
            let mut state = self.state.lock().unwrap();
            (state.running, state.disarmed) = (false, state.disarmed + 1);
        }
    }
}

const HANG: Duration = Duration::from_millis(59_500);
const MAY: Result<Token, Refused> = Ok(Token { order: 7, incarnation: 12 });

fn feeder(state: State) -> (Feeder<Played>, Arc<Mutex<State>>) {
    let state = Arc::new(Mutex::new(state));
    let device = state.clone();
    let open = move || {
        let mut state = device.lock().unwrap();
        (state.running, state.opened) = (true, state.opened + 1);
        Ok(Played { state: device.clone(), announced: false })
    };
    (Feeder::new(Box::new(open), HANG), state)
}

fn good() -> State {
    State { timeout: 30, most: 255, options: MAGIC_CLOSE, settable: true, ..State::default() }
}

#[test]
fn it_is_armed_by_the_first_act_and_fed_only_while_acting() {
    let (mut feeder, state) = feeder(good());
    for refused in [Refused::Nobody, Refused::NotInForce, Refused::Expired] {
        feeder.handle(Err(refused)).unwrap();
    }
    assert!(!feeder.is_armed() && state.lock().unwrap().opened == 0, "nothing runs that it would have to end");
    feeder.handle(MAY).unwrap();
    assert!(feeder.is_armed() && state.lock().unwrap().running);
    assert_eq!(state.lock().unwrap().timeout, 60, "the hang limit, rounded up");
    for _ in 0..3 {
        feeder.handle(MAY).unwrap();
    }
    assert_eq!(state.lock().unwrap().fed, 3);
    for refused in [Refused::Expired, Refused::Fenced, Refused::Unsteady] {
        feeder.handle(Err(refused)).unwrap();
    }
    assert_eq!(state.lock().unwrap().fed, 3, "its time runs");
    assert!(state.lock().unwrap().running, "what ran under the lease may run still");
}

#[test]
fn it_is_disarmed_when_everything_stopped_and_armed_again_by_the_next_act() {
    let (mut feeder, state) = feeder(good());
    feeder.everything_stopped().unwrap();
    assert_eq!(state.lock().unwrap().opened, 0);
    feeder.handle(MAY).unwrap();
    feeder.handle(Err(Refused::Expired)).unwrap();
    feeder.everything_stopped().unwrap();
    assert!(!feeder.is_armed() && !state.lock().unwrap().running);
    feeder.handle(MAY).unwrap();
    let state = state.lock().unwrap();
    assert!(state.running && state.opened == 2);
}

#[test]
fn a_daemon_that_dies_leaves_it_armed() {
    let (mut feeder, state) = feeder(good());
    feeder.handle(MAY).unwrap();
    drop(feeder);
    assert!(state.lock().unwrap().running);
}

#[test]
fn what_a_predecessor_left_armed_is_taken_over_without_a_gap() {
    for (acting, runs, armed) in [(true, false, true), (true, true, true), (false, true, true), (false, false, false)] {
        let (mut feeder, state) = feeder(State { running: runs, ..good() });
        state.lock().unwrap().disarmed = 0;
        feeder.take_over(acting, || runs).unwrap();
        assert_eq!(feeder.is_armed(), armed, "acting {acting}, running {runs}");
        let mut state = state.lock().unwrap();
        assert_eq!((state.running, state.disarmed), (armed, u32::from(!armed)), "acting {acting}, running {runs}");
        state.disarmed = 0;
    }
    let (mut feeder, state) = feeder(good());
    feeder.take_over(true, || panic!("nobody is asked")).unwrap();
    feeder.handle(MAY).unwrap();
    feeder.take_over(true, || true).unwrap();
    let state = state.lock().unwrap();
    assert_eq!((state.opened, state.fed, state.disarmed), (1, 1, 0), "it is fed on, and opened once");
}

#[test]
fn another_hang_limit_is_asked_of_the_device_that_runs() {
    const S: Duration = Duration::from_secs(1);
    let (mut feeder, state) = feeder(good());
    feeder.handle(MAY).unwrap();
    feeder.retime(120 * S).unwrap();
    assert_eq!(state.lock().unwrap().timeout, 120);
    feeder.retime(30 * S).unwrap();
    assert_eq!(state.lock().unwrap().timeout, 30);
    // Beyond what it has: it is refused, and runs on as it was.
    let error = feeder.retime(300 * S).unwrap_err().to_string();
    assert!(error.contains("hang_limit_s (300 s)"), "{error}");
    let seen = |state: &State| (state.timeout, state.running, state.opened, state.disarmed);
    assert_eq!(seen(&state.lock().unwrap()), (30, true, 1, 0));
    feeder.handle(MAY).unwrap();
    // Where it does not run, it is tried and closed; the former limit stays for the next time.
    feeder.everything_stopped().unwrap();
    assert!(feeder.retime(300 * S).is_err());
    assert!(!state.lock().unwrap().running);
    feeder.handle(MAY).unwrap();
    assert_eq!(state.lock().unwrap().timeout, 30);
}

#[test]
fn a_device_quicker_than_the_hang_limit_is_refused_and_disarmed() {
    for (timeout, most, settable) in [(30, 59, true), (30, 255, false), (59, 255, false)] {
        let (mut feeder, state) = feeder(State { timeout, most, settable, ..good() });
        for error in [feeder.probe().unwrap_err(), feeder.handle(MAY).unwrap_err()] {
            assert!(error.to_string().contains("hang_limit_s (60 s)"), "{error}");
        }
        assert!(!feeder.is_armed() && !state.lock().unwrap().running);
    }
    // One that cannot be set, and is slow enough as it is.
    let (mut feeder, state) = feeder(State { timeout: 60, settable: false, ..good() });
    feeder.probe().unwrap();
    assert!(!state.lock().unwrap().running, "a probe arms nothing for good");
    feeder.handle(MAY).unwrap();
}

#[test]
fn a_device_that_cannot_be_disarmed_is_refused() {
    let (mut feeder, _) = feeder(State { options: 0, ..good() });
    assert!(feeder.probe().unwrap_err().to_string().contains("cannot be disarmed"));
    assert!(feeder.handle(MAY).is_err());
    assert!(!feeder.is_armed());
}

#[test]
fn a_device_that_cannot_be_fed_is_told() {
    let (mut feeder, state) = feeder(good());
    feeder.handle(MAY).unwrap();
    state.lock().unwrap().feeding_fails = true;
    assert!(feeder.handle(MAY).is_err());
    assert!(feeder.is_armed(), "it runs still, and ends what nobody guards");
}

#[test]
fn the_check_reads_what_the_kernel_says_and_opens_nothing() {
    let entry = tempfile::tempdir().unwrap();
    check_entry(entry.path(), HANG).expect("a kernel that does not say");
    let says = |name: &str, value: &str| std::fs::write(entry.path().join(name), value).unwrap();
    says("nowayout", "0\n");
    for (most, passes) in [("0\n", true), ("60\n", true), ("59\n", false)] {
        says("max_timeout", most);
        assert_eq!(check_entry(entry.path(), HANG).is_ok(), passes, "{most}");
    }
    says("max_timeout", "0\n");
    says("nowayout", "1\n");
    assert!(check_entry(entry.path(), HANG).unwrap_err().to_string().contains("nowayout"));
    says("nowayout", "0\n");
    let class = |name: &str| {
        let _ = std::fs::remove_file(entry.path().join("subsystem"));
        std::os::unix::fs::symlink(format!("../../../class/{name}"), entry.path().join("subsystem")).unwrap();
        check_entry(entry.path(), HANG).map_err(|error| error.to_string())
    };
    assert_eq!(class("watchdog"), Ok(()));
    assert_eq!(class("mem"), Err("is no watchdog device".to_owned()));
    assert!(check(entry.path(), HANG).unwrap_err().to_string().contains("no watchdog device"));
    let error = format!("{:#}", check(Path::new("/no/such/device"), HANG).unwrap_err());
    assert!(error.starts_with("/no/such/device: No such file"), "{error}");
    for (state, known) in [("active\n", true), ("inactive\n", false)] {
        says("state", state);
        assert_eq!(state_of(entry.path()), known);
    }
    assert!(!runs(entry.path()) && !runs(Path::new("/no/such/device")));
}

/// The requests as the kernel numbers them (linux/watchdog.h): a device that is none refuses each, and is not harmed.
#[test]
fn the_kernels_device_is_asked_by_its_own_numbers() {
    let mut device = Device::open(Path::new("/dev/null")).unwrap();
    for error in [
        device.info().unwrap_err(),
        device.set_timeout(60).unwrap_err(),
        device.timeout().unwrap_err(),
        device.feed().unwrap_err(),
    ] {
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
    device.announce_close().unwrap();
    assert_eq!(nix::request_code_read!(b'W', 0, size_of::<Info>()), 0x8028_5700);
    assert_eq!(nix::request_code_read!(b'W', 5, size_of::<libc::c_int>()), 0x8004_5705);
    assert_eq!(nix::request_code_readwrite!(b'W', 6, size_of::<libc::c_int>()), 0xc004_5706);
    assert_eq!(nix::request_code_read!(b'W', 7, size_of::<libc::c_int>()), 0x8004_5707);
}
