//! A host that starves its daemons: stopped, frozen, held to a quota, pushed aside, out of processes, memory,
//! descriptors or disk. Each time the kernel answers on and nobody is removed. One test at a time: they take the whole
//! machine.

use heartbeat_tests::lab::crew::{Crew, Mark, PATIENCE};
use heartbeat_tests::lab::starve::{Limited, cpu_time};
use heartbeat_tests::lab::wait::starvation_or_skip;
use heartbeat_tests::lab::{Cluster, Direction, Fault, Freezer, Hog, Lab, Options, Port, Quota, Spec, wait_for};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
/// Controller age at which a peer is stalled.
const STALL_MS: u64 = 1000;

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Three nodes without a daemon yet.
fn crew() -> Crew {
    let lab = Lab::new(Spec::new(3, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan").with("stall_limit_ms", STALL_MS);
    Crew::new(lab, cluster)
}

fn running() -> Crew {
    let mut crew = crew();
    crew.start_all(&Options::default()).unwrap();
    crew
}

fn stalls(crew: &Crew, mark: &Mark, by: usize) -> usize {
    crew.said(mark, by, "node_stalled").unwrap().iter().filter(|event| event["node"] == crew.name(B)).count()
}

/// All is as before, and nobody was removed meanwhile, by anybody.
fn unharmed(crew: &Crew, mark: &Mark) {
    crew.all_up().unwrap();
    crew.nobody_removed(mark).unwrap();
}

/// Kills a process and what it started (its own group) when dropped.
struct Load(Child);

impl Load {
    fn start(command: &mut Command) -> Self {
        use std::os::unix::process::CommandExt;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.process_group(0).spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

#[test]
fn fault_44_stopped_for_less_than_the_stall_limit_nothing_is_said() {
    if !starvation_or_skip("fault_44_stopped_for_less_than_the_stall_limit_nothing_is_said") {
        return;
    }
    let _alone = alone();
    let crew = running();
    let mark = crew.mark().unwrap();
    for _ in 0..3 {
        crew.daemon(B).stop().unwrap();
        std::thread::sleep(Duration::from_millis(STALL_MS * 6 / 10));
        crew.daemon(B).resume().unwrap();
        std::thread::sleep(Duration::from_millis(400));
    }
    unharmed(&crew, &mark);
    let of_b = crew.verdicts(&mark).unwrap().into_iter().filter(|(_, _, about)| about == "b");
    assert_eq!(of_b.collect::<Vec<_>>(), vec![]);
}

#[test]
fn fault_45_stopped_for_longer_it_is_stalled_and_on_resuming_accuses_nobody() {
    if !starvation_or_skip("fault_45_stopped_for_longer_it_is_stalled_and_on_resuming_accuses_nobody") {
        return;
    }
    let _alone = alone();
    let crew = running();
    let mark = crew.mark().unwrap();
    crew.daemon(B).stop().unwrap();
    for by in [A, C] {
        let stalled = crew.await_said(&mark, by, "node_stalled").unwrap();
        assert_eq!((&stalled["node"], &stalled["limit_ms"]), (&"b".into(), &STALL_MS.into()), "{stalled}");
    }
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(crew.peer(A, B).unwrap()["state"], "stalled", "a member still, after four detection times");
    crew.daemon(B).resume().unwrap();
    for by in [A, C] {
        crew.await_said(&mark, by, "node_recovered").unwrap();
    }
    crew.await_said(&mark, B, "local_lateness").unwrap();
    unharmed(&crew, &mark);
    let by_b = crew.verdicts(&mark).unwrap().into_iter().filter(|(by, _, _)| by == "b");
    assert_eq!(by_b.collect::<Vec<_>>(), vec![], "its own lateness is nobody's fault");
}

#[test]
fn fault_46_frozen_it_is_stalled_and_never_down() {
    if !starvation_or_skip("fault_46_frozen_it_is_stalled_and_never_down") {
        return;
    }
    let _alone = alone();
    let crew = running();
    let freezer = Freezer::new(&crew.lab, "freeze").unwrap();
    freezer.add(crew.daemon(B).pid()).unwrap();
    let mark = crew.mark().unwrap();
    freezer.freeze().unwrap();
    std::thread::sleep(Duration::from_millis(STALL_MS / 2));
    assert_eq!(stalls(&crew, &mark, A), 0, "within the stall limit");
    crew.await_said(&mark, A, "node_stalled").unwrap();
    freezer.thaw().unwrap();
    crew.await_said(&mark, A, "node_recovered").unwrap();
    unharmed(&crew, &mark);
}

#[test]
fn fault_47_held_to_one_percent_of_a_cpu_it_is_not_removed() {
    if !starvation_or_skip("fault_47_held_to_one_percent_of_a_cpu_it_is_not_removed") {
        return;
    }
    let _alone = alone();
    let mut crew = crew();
    let quota = Quota::new(&crew.lab, "percent", Duration::from_millis(100), Duration::from_millis(100)).unwrap();
    crew.start(A, &Options::default()).unwrap();
    // Started inside, so that realtime scheduling is refused: a warning, not an exit.
    crew.start(B, &Options { quota: Some(&quota), ..Options::default() }).unwrap();
    crew.start(C, &Options::default()).unwrap();
    crew.all_up().unwrap();
    assert!(crew.events(B).unwrap().iter().any(|event| event["event"] == "realtime_refused"));
    let mark = crew.mark().unwrap();
    let eater = Hog::start_with(&crew.lab, 0, None, Duration::from_secs(20), |command| quota.join(command)).unwrap();
    quota.set(Duration::from_millis(1), Duration::from_millis(100)).unwrap();
    let before = cpu_time(crew.daemon(B).pid()).unwrap();
    std::thread::sleep(Duration::from_secs(8));
    let used = cpu_time(crew.daemon(B).pid()).unwrap() - before;
    let (throttled, _) = quota.throttled().unwrap();
    drop(eater);
    quota.set(Duration::from_millis(100), Duration::from_millis(100)).unwrap();
    assert!(throttled > 20 && used < Duration::from_millis(400), "it was held: {throttled} times, used {used:?}");
    unharmed(&crew, &mark);
}

#[test]
fn fault_48_a_realtime_hog_on_every_cpu_removes_nobody() {
    if !starvation_or_skip("fault_48_a_realtime_hog_on_every_cpu_removes_nobody") {
        return;
    }
    let _alone = alone();
    let crew = running();
    let mark = crew.mark().unwrap();
    // The kernel leaves others what sched_rt_runtime_us does not give to realtime tasks: 50 ms a second as a rule.
    let runtime = std::fs::read_to_string("/proc/sys/kernel/sched_rt_runtime_us").unwrap();
    println!("sched_rt_runtime_us {}", runtime.trim());
    let cpus = std::thread::available_parallelism().unwrap().get();
    let duration = Duration::from_secs(4);
    let begin = Instant::now();
    let hogs: Vec<Hog> = (0..cpus).map(|cpu| Hog::start(&crew.lab, cpu, Some(99), duration).unwrap()).collect();
    hogs.into_iter().for_each(|hog| hog.wait().unwrap());
    assert!(begin.elapsed() >= duration);
    unharmed(&crew, &mark);
    let late = (A..=C).filter(|node| !crew.said(&mark, *node, "local_lateness").unwrap().is_empty()).count();
    assert!(late > 0, "they were starved, and say so");
}

#[test]
fn fault_49_a_fork_bomb_beside_it_removes_nobody() {
    if !starvation_or_skip("fault_49_a_fork_bomb_beside_it_removes_nobody") {
        return;
    }
    let _alone = alone();
    let crew = running();
    let group = Limited::processes(&crew.lab, "bomb", 300).unwrap();
    let mark = crew.mark().unwrap();
    let mut command = crew.lab.switch().command("bash");
    command.args(["-c", "bomb() { bomb | bomb & }; bomb; sleep 5"]);
    group.join(&mut command).unwrap();
    let bomb = Load::start(&mut command);
    let full = || group.figure("pids.current").unwrap();
    wait_for(PATIENCE, "the bomb to fill its group", || if full() >= 250 { Ok(()) } else { Err(full()) }).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    drop(bomb);
    wait_for(PATIENCE, "the bomb to end", || {
        group.kill();
        if full() == 0 { Ok(()) } else { Err(full()) }
    })
    .unwrap();
    unharmed(&crew, &mark);
}

#[test]
fn fault_50_memory_pressure_in_its_own_group_removes_nobody() {
    if !starvation_or_skip("fault_50_memory_pressure_in_its_own_group_removes_nobody") {
        return;
    }
    let _alone = alone();
    let mut crew = crew();
    let group = Limited::memory(&crew.lab, "memory", 64 << 20).unwrap();
    crew.start_all(&Options::default()).unwrap();
    let pid = crew.daemon(B).pid();
    group.add(pid).unwrap();
    let mark = crew.mark().unwrap();
    let mut command = crew.lab.switch().command("sh");
    // tail keeps a last line that never ends. It is the one to be killed: the unit has the daemon at -900.
    command.args([
        "-c",
        "echo 1000 > /proc/self/oom_score_adj; while :; do head -c 300M /dev/zero | tail -n 1 > /dev/null; done",
    ]);
    group.join(&mut command).unwrap();
    let greedy = Load::start(&mut command);
    std::thread::sleep(Duration::from_secs(4));
    let (limit_hits, killed) = (group.figure("memory.failcnt").unwrap(), oom_kills(&group));
    drop(greedy);
    assert!(limit_hits > 0 && killed > 0, "limit hit {limit_hits} times, {killed} killed");
    assert_eq!(crew.daemon(B).pid(), pid);
    unharmed(&crew, &mark);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), None).expect("the daemon lives");
    let parent = Path::new("/sys/fs/cgroup/memory/cgroup.procs");
    std::fs::write(parent, pid.to_string()).unwrap();
}

fn oom_kills(group: &Limited) -> u64 {
    let text = group.text("memory.oom_control").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|count| count.trim().parse().ok()).expect("oom_kill in memory.oom_control")
}

#[test]
fn fault_51_an_io_storm_on_its_disk_removes_nobody() {
    if !starvation_or_skip("fault_51_an_io_storm_on_its_disk_removes_nobody") {
        return;
    }
    let _alone = alone();
    let crew = running();
    let mark = crew.mark().unwrap();
    let directory = crew.lab.node_dir(B);
    let storms: Vec<Load> = (0..3)
        .map(|number| {
            let file = directory.join(format!("storm{number}"));
            let write = format!(
                "while :; do dd if=/dev/zero of={0} bs=256k count=200 conv=fsync; rm -f {0}; done",
                file.display()
            );
            Load::start(crew.lab.switch().command("sh").args(["-c", &write]))
        })
        .collect();
    // Events are written on that disk meanwhile.
    let port = Port { node: B, network: 0 };
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        crew.lab.inject(&[Fault::Cut(port, Direction::Both)]).unwrap();
        std::thread::sleep(Duration::from_millis(250));
        crew.lab.heal().unwrap();
        std::thread::sleep(Duration::from_millis(500));
    }
    drop(storms);
    crew.await_said(&mark, B, "path_lost").unwrap();
    unharmed(&crew, &mark);
}

/// A small file system that can be frozen: whoever writes to it waits in the kernel until it is thawed.
struct Disk {
    mounted: PathBuf,
    /// Thaws it should this process be killed; the lab's own end cannot.
    rescue: Option<Load>,
}

impl Disk {
    fn make(lab: &Lab, mounted: PathBuf) -> Self {
        let image = lab.scratch().join("disk.img");
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let run = |program: &str, words: &[&str]| {
            let output = Command::new(program).args(words).output().unwrap();
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
        std::fs::create_dir_all(&mounted).unwrap();
        run("mount", &["-o", "loop", image.to_str().unwrap(), mounted.to_str().unwrap()]);
        Self { mounted, rescue: None }
    }

    fn freeze(&mut self) {
        let path = self.mounted.to_str().unwrap();
        // Not of the lab, which would end it first.
        let thaw = format!("sleep 40; fsfreeze -u {path}");
        self.rescue = Some(Load::start(Command::new("sh").args(["-c", &thaw])));
        assert!(Command::new("fsfreeze").args(["-f", path]).status().unwrap().success());
    }

    fn thaw(&mut self) {
        if self.rescue.is_some() {
            assert!(Command::new("fsfreeze").args(["-u", self.mounted.to_str().unwrap()]).status().unwrap().success());
            self.rescue = None;
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let path = self.mounted.to_str().unwrap();
        if self.rescue.is_some() {
            let _ = Command::new("fsfreeze").args(["-u", path]).status();
        }
        let _ = Command::new("umount").args(["-l", path]).status();
    }
}

#[test]
fn fault_52_a_disk_that_hangs_stops_neither_echoes_nor_verdicts_nor_leaving() {
    if !starvation_or_skip("fault_52_a_disk_that_hangs_stops_neither_echoes_nor_verdicts_nor_leaving") {
        return;
    }
    let _alone = alone();
    let mut crew = crew();
    let slow = crew.lab.node_dir(B).join("disk");
    let mut disk = Disk::make(&crew.lab, slow.clone());
    let path = |name: &str| format!("\"{}\"", slow.join(name).display());
    let on_disk = vec![("event_log".to_owned(), path("log/events.jsonl")), ("state_dir".to_owned(), path("state"))];
    crew.start(A, &Options::default()).unwrap();
    crew.start(C, &Options::default()).unwrap();
    crew.start(B, &Options { daemon: on_disk, ..Options::default() }).unwrap();
    crew.all_up().unwrap();
    let mark = crew.mark().unwrap();
    disk.freeze();
    // Events that its log cannot take, and a death that it must see all the same.
    let killed = crew.take(C);
    crew.lab.cut_all(C).unwrap();
    crew.await_state(B, C, "down").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(stalls(&crew, &mark, A), 0, "its controller makes progress");
    assert_eq!(crew.peer(A, B).unwrap()["state"], "up");
    let shown = crew.daemon(B).ask("status").unwrap();
    assert_eq!(shown["nodes"]["down"], 1, "it answers its people: {shown}");
    // Told to stop, it has told its peers within 5 s, whether its disk comes back or not.
    let begin = Instant::now();
    let daemon = crew.take(B);
    daemon.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    let left = crew.await_said(&mark, A, "node_left").unwrap();
    assert_eq!(left["node"], "b");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    disk.thaw();
    assert!(daemon.wait(PATIENCE).unwrap().success());
    let written = std::fs::read_to_string(slow.join("log/events.jsonl")).unwrap();
    assert!(written.contains("node_down"), "kept in memory until the disk took it: {written}");
    drop(killed);
}

#[test]
fn fault_53_without_a_free_descriptor_clients_are_refused_and_nothing_else() {
    if !starvation_or_skip("fault_53_without_a_free_descriptor_clients_are_refused_and_nothing_else") {
        return;
    }
    let _alone = alone();
    let crew = running();
    let mark = crew.mark().unwrap();
    let pid = crew.daemon(B).pid();
    let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    let limit = |count: u64| {
        let limits = libc::rlimit { rlim_cur: count, rlim_max: 4096 };
        let none: *mut libc::rlimit = std::ptr::null_mut();
        // SAFETY: the limits live through the call, and nothing is to be returned.
        let result = unsafe { libc::prlimit(pid.cast_signed(), libc::RLIMIT_NOFILE, &raw const limits, none) };
        assert_eq!(result, 0);
    };
    let before = open();
    // Limits are of numbers, not of how many: the first free one and two more may be taken.
    let free = (0..).find(|number| !Path::new(&format!("/proc/{pid}/fd/{number}")).exists()).unwrap();
    limit(free + 3);
    let socket = crew.lab.node_dir(B).join("run/control.sock");
    let end = Instant::now() + Duration::from_secs(4);
    let mut clients = Vec::new();
    while Instant::now() < end {
        // Connected and silent; some do not even get through the backlog.
        clients.extend(UnixStream::connect(&socket));
        if clients.len() > 60 {
            clients.remove(0);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(open() <= before + 3);
    let log = crew.daemon(B).log();
    assert!(log.contains("cannot take a connection"), "it was short of descriptors, and says so");
    for client in &mut clients {
        client.set_nonblocking(true).unwrap();
        let _ = client.read(&mut [0; 64]);
    }
    drop(clients);
    limit(4096);
    wait_for(PATIENCE, "the control socket to answer again", || crew.daemon(B).ask("status").map(drop)).unwrap();
    unharmed(&crew, &mark);
    assert_eq!(crew.said(&mark, A, "path_lost").unwrap().len(), 0);
}
