//! Somebody else has this node's port: whoever is quick enough in the gap of a restart, which takes no right at all. It
//! binds the port in the node's namespace; no daemon is told of it.

use anyhow::{Result, ensure};
use heartbeat_common::frame::PORT;
use heartbeat_tests::lab::crew::{Crew, Mark, PATIENCE};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Options, Port, wait_for};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

const A: usize = 0;
const B: usize = 1;

/// Two nodes on two networks that show each other up. The stall limit leaves room for a restart on a busy machine.
fn pair(options: &Options<'_>) -> Crew {
    Crew::pair(2, &[("stall_limit_ms", 5000)], options).unwrap()
}

/// Kills B's daemon, has somebody take the port of every address, and starts B again: it is ready all the same.
fn robbed(crew: &mut Crew, options: &Options<'_>) -> (Mark, UdpSocket) {
    let mark = crew.mark().unwrap();
    crew.take(B).kill().unwrap();
    let thief = crew.lab.node(B).enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))).unwrap().unwrap();
    crew.start(B, options).unwrap();
    (mark, thief)
}

/// Waits until B has said `name` of each of its two addresses.
fn each_told(crew: &Crew, mark: &Mark, name: &str) {
    let told = wait_for(PATIENCE, name, || -> Result<_> {
        let said = crew.said(mark, B, name)?;
        ensure!(said.len() >= 2, "{said:?}");
        Ok(said)
    })
    .unwrap();
    let mut of: Vec<_> = told.iter().map(|event| (event["interface"].clone(), event["address"].clone())).collect();
    of.sort_by_key(|(interface, _)| interface.to_string());
    let wanted = [("net1", "10.77.1.2"), ("net2", "10.77.2.2")].map(|(i, a)| (i.into(), a.into()));
    assert_eq!(of, wanted);
    assert!(told.iter().all(|event| event["port"] == PORT), "{told:?}");
}

/// Lines about the port in B's status.
fn warnings(crew: &Crew) -> usize {
    let status = crew.daemon(B).ask("status").unwrap();
    let lines = status["warnings"].as_array().unwrap();
    lines.iter().filter(|line| line.as_str().is_some_and(|line| line.contains("UDP port 3343"))).count()
}

/// Echoes that A had on all of its paths.
fn echoes(crew: &Crew) -> u64 {
    let answer = crew.daemon(A).ask("paths").unwrap();
    answer["paths"].as_array().unwrap().iter().map(|path| path["echoes"].as_u64().unwrap()).sum()
}

#[test]
fn a_port_taken_in_the_gap_of_a_restart_removes_nobody_and_is_had_again() {
    if !root_or_skip("a_port_taken_in_the_gap_of_a_restart_removes_nobody_and_is_had_again") {
        return;
    }
    let mut crew = pair(&Options::default());
    let (mark, thief) = robbed(&mut crew, &Options::default());
    each_told(&crew, &mark, "port_taken");
    let (answered, before) = (crew.counter(B, "answered").unwrap(), echoes(&crew));
    std::thread::sleep(Duration::from_secs(2));
    // 10 probes a second on each of two networks.
    let (answered, had) = (crew.counter(B, "answered").unwrap() - answered, echoes(&crew) - before);
    assert!(answered >= 30 && had >= 30, "{answered} answered, {had} had");
    assert_eq!(crew.peer(A, B).unwrap()["responder"], "kernel");
    assert_eq!(crew.said(&mark, A, "path_lost").unwrap().len(), 0, "not one echo was missing");
    assert_eq!(crew.said(&mark, B, "port_taken").unwrap().len(), 2, "once an episode");
    assert_eq!(warnings(&crew), 2);
    let failed = crew.said(&mark, B, "path_failed").unwrap();
    assert!(failed.len() == 2 && failed.iter().all(|path| path["location"] == "own_interface"), "its own: {failed:?}");
    // A carrier that comes back brings no port.
    let port = Port { node: B, network: 0 };
    for up in [false, true] {
        crew.lab.set_carrier(port, up).unwrap();
        let paths = if up { 2 } else { 1 };
        wait_for(PATIENCE, &format!("A to show B by {paths} paths"), || -> Result<_> {
            let peer = crew.peer(A, B)?;
            ensure!(peer["paths_up"] == paths, "{peer}");
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(crew.peer(B, A).unwrap()["paths_up"], 0);
    // A's userspace stands still, and asks nothing: B cannot ask either, and knows nothing of a death.
    crew.daemon(A).stop().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    crew.daemon(A).resume().unwrap();
    assert_eq!(crew.said(&mark, B, "node_down").unwrap().len(), 0, "A's kernel would have answered");
    assert_eq!(crew.said(&mark, B, "isolated").unwrap().len(), 0);
    let healed = crew.mark().unwrap();
    drop(thief);
    each_told(&crew, &healed, "port_free");
    crew.all_up().unwrap();
    assert_eq!(warnings(&crew), 0);
    crew.nobody_removed(&mark).unwrap();
}

#[test]
fn a_port_taken_in_the_gap_of_a_restart_without_xdp_keeps_no_daemon_from_starting() {
    if !root_or_skip("a_port_taken_in_the_gap_of_a_restart_without_xdp_keeps_no_daemon_from_starting") {
        return;
    }
    let off = Options { fast_path: "off".to_owned(), ..Options::default() };
    let mut crew = pair(&off);
    let (mark, thief) = robbed(&mut crew, &off);
    each_told(&crew, &mark, "port_taken");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(crew.said(&mark, B, "node_down").unwrap().len(), 0, "B hears nothing and asks nothing");
    let healed = crew.mark().unwrap();
    drop(thief);
    each_told(&crew, &healed, "port_free");
    crew.all_up().unwrap();
}

/// Tries to have the port beside whoever has it, by every option that lets sockets share one.
fn share() -> nix::Result<OwnedFd> {
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, PORT))?;
    Ok(fd)
}

#[test]
fn nobody_shares_the_port_of_a_running_daemon() {
    if !root_or_skip("nobody_shares_the_port_of_a_running_daemon") {
        return;
    }
    let crew = pair(&Options::default());
    let shared = crew.lab.node(B).enter(share).unwrap();
    assert_eq!(shared.map(drop), Err(nix::errno::Errno::EADDRINUSE));
}
