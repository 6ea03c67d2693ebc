//! What others on the host do to the program that stamps departures, and what a node leaves of it. It takes programs
//! off as root would, by bpftool and tc; no daemon is told of it.

use anyhow::{Context, Result, ensure};
use aya::programs::SchedClassifier;
use aya::programs::tc::{NlOptions, TcAttachOptions, TcAttachType, qdisc_add_clsact};
use heartbeat_tests::lab::crew::{Crew, PATIENCE, event_name, programs};
use heartbeat_tests::lab::pass::{Accept, PassLink};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Cluster, Lab, Options, Port, Spec, wait_for};
use heartbeat_user::io::egress::Egress;
use heartbeat_user::io::object::Object;
use heartbeat_user::io::pins::PinDir;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const A: usize = 0;
const B: usize = 1;
/// Programs that one side of a device holds.
const ROOM: usize = 63;

/// Detaches the link of the egress program of node B. The link is found by its program: not every bpftool knows links
/// of this kind by name.
fn detach_egress(crew: &Crew) {
    let query = || SchedClassifier::query_tcx("net1", TcAttachType::Egress);
    let (_, found) = crew.lab.node(B).enter(query).unwrap().unwrap();
    let program = found.first().expect("the egress program").id();
    let bpftool = |words: &[&str]| crew.lab.node(B).run("bpftool", words).unwrap();
    let links: Vec<Value> = serde_json::from_str(&bpftool(&["-j", "link", "show"])).unwrap();
    let link = links.iter().find(|link| link["prog_id"] == program).expect("its link")["id"].to_string();
    bpftool(&["link", "detach", "id", &link]);
}

/// Probes of B to A that are known to have left: (by anybody's word, by the egress program's).
fn departures(crew: &Crew) -> (u64, u64) {
    let paths = crew.daemon(B).ask("paths").unwrap();
    let known = paths["paths"][0]["departed"].as_u64().expect("a count");
    (known, crew.counter(B, "departed").unwrap())
}

/// Waits until ten more probes have left by either word.
fn ten_more(crew: &Crew, by_program: bool) {
    let (known, stamped) = departures(crew);
    wait_for(PATIENCE, "ten more probes to leave", || {
        let now = departures(crew);
        let more = if by_program { now.1 - stamped } else { now.0 - known };
        if more >= 10 { Ok(()) } else { Err(format!("{more} of ten")) }
    })
    .unwrap();
}

#[test]
fn a_detached_egress_program_is_attached_again_and_told_and_replaced_if_somebody_insists() {
    if !root_or_skip("a_detached_egress_program_is_attached_again_and_told_and_replaced_if_somebody_insists") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    // Room for a busy machine: what is missed while nobody stamps is not the matter here.
    let cluster = Cluster::new(&lab, "lan").with("same_subnet_threshold", 10);
    let mut crew = Crew::new(lab, cluster);
    crew.start_all(&Options::default()).unwrap();
    let mark = crew.mark().unwrap();
    assert_eq!(programs(&crew.lab, B).unwrap(), (1, 1));
    detach_egress(&crew);
    let lost = crew.await_said(&mark, B, "link_detached_foreign").unwrap();
    assert_eq!((&lost["program"], &lost["interface"]), (&"egress".into(), &"net1".into()), "{lost}");
    let back = crew.await_said(&mark, B, "link_reattached").unwrap();
    assert_eq!(back["program"], "egress", "{back}");
    assert_eq!(programs(&crew.lab, B).unwrap(), (1, 1));
    ten_more(&crew, true);

    // Again within the minute: somebody means it. The kernel's transmit timestamps do, and status says so.
    let again = crew.mark().unwrap();
    detach_egress(&crew);
    crew.await_said(&again, B, "link_detached_foreign").unwrap();
    ten_more(&crew, false);
    let stamped = departures(&crew).1;
    ten_more(&crew, false);
    assert_eq!(departures(&crew).1, stamped, "no program stamps any more");
    assert_eq!(programs(&crew.lab, B).unwrap(), (1, 0));
    assert_eq!(crew.said(&again, B, "link_reattached").unwrap().len(), 0);
    let told = crew.await_said(&again, B, "departures_unstamped").unwrap();
    assert!(told["reason"].as_str().unwrap().contains("detached twice"), "{told}");
    assert!(unstamped(&crew).contains("transmit timestamps"));
    let path = &crew.daemon(B).ask("paths").unwrap()["paths"][0];
    assert_eq!((&path["state"], &path["unsent"]), (&"up".into(), &0.into()), "{path}");

    // What leaves is known: so a peer that falls silent is accused of it.
    let silent = crew.mark().unwrap();
    crew.lab.delete_interface(Port { node: A, network: 0 }).unwrap();
    let down = crew.await_said(&silent, B, "node_down").unwrap();
    assert_eq!(down["node"], "a", "{down}");
    crew.nobody_removed(&again).unwrap_err();
}

/// What the status of node B says of departures that no program stamps; nothing: the program does.
fn unstamped(crew: &Crew) -> String {
    let status = crew.daemon(B).ask("status").unwrap();
    status["fast_path"][0]["unstamped"].as_str().unwrap_or_default().to_owned()
}

/// Attaches a program that accepts every frame to what node B sends.
fn accept(lab: &Lab, before: bool) -> PassLink {
    let accept = Accept::load().unwrap();
    lab.node(B).enter(|| accept.attach("net1", before)).unwrap().unwrap()
}

#[test]
fn a_program_that_accepts_frames_keeps_none_from_the_egress_program() {
    if !root_or_skip("a_program_that_accepts_frames_keeps_none_from_the_egress_program") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let _first = accept(&lab, false);
    let cluster = Cluster::new(&lab, "lan");
    let mut crew = Crew::new(lab, cluster);
    crew.start_all(&Options::default()).unwrap();
    ten_more(&crew, true);
    assert_eq!(unstamped(&crew), "");

    // One that comes before ours is overtaken, and told.
    let mark = crew.mark().unwrap();
    let second = accept(&crew.lab, true);
    let told = crew.await_said(&mark, B, "departures_unstamped").unwrap();
    assert!(told["reason"].as_str().unwrap().contains("lets no frame come"), "{told}");
    crew.await_said(&mark, B, "link_reattached").unwrap();
    ten_more(&crew, true);

    // Again within the minute: the sockets report.
    drop(second);
    let again = crew.mark().unwrap();
    let _third = accept(&crew.lab, true);
    crew.await_said(&again, B, "departures_unstamped").unwrap();
    assert!(unstamped(&crew).contains("transmit timestamps"));
    let stamped = departures(&crew).1;
    ten_more(&crew, false);
    assert_eq!(departures(&crew).1, stamped, "no program stamps any more");
    crew.nobody_removed(&mark).unwrap();

    // A peer that dies now is judged by probes that are known to have left.
    let silent = crew.mark().unwrap();
    crew.take(A).kill().unwrap();
    crew.lab.cut_all(A).unwrap();
    let down = crew.await_said(&silent, B, "node_down").unwrap();
    let path = &down["paths"][0];
    assert_eq!((&path["misses"], &path["unsent"]), (&5.into(), &0.into()), "{down}");
}

#[test]
fn an_egress_program_that_is_refused_at_start_is_told_once_and_tried_again() {
    if !root_or_skip("an_egress_program_that_is_refused_at_start_is_told_once_and_tried_again") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    // All the room there is.
    let mut others: Vec<PassLink> = (0..ROOM).map(|_| accept(&lab, false)).collect();
    let cluster = Cluster::new(&lab, "lan");
    let mut crew = Crew::new(lab, cluster);
    crew.start_all(&Options::default()).unwrap();
    let told = || crew.events(B).unwrap().iter().filter(|event| event_name(event) == "departures_unstamped").count();
    assert!(unstamped(&crew).contains("attach the egress program"), "{}", unstamped(&crew));
    ten_more(&crew, false);
    assert_eq!(departures(&crew).1, 0);
    others.truncate(32);
    let mark = crew.mark().unwrap();
    wait_for(Duration::from_secs(15), "the program to be attached", || {
        let said = crew.said(&mark, B, "link_reattached").map_err(|error| error.to_string())?;
        if said.is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    })
    .unwrap();
    ten_more(&crew, true);
    assert_eq!((unstamped(&crew).as_str(), told()), ("", 1));
}

/// Runs `work` on node B of a lab without daemons, with the kernel object loaded.
fn with_object(work: impl FnOnce(&mut Object, u32) -> Result<()> + Send) {
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let root = lab.pin_dir(B).join("heartbeatd");
    let done = lab.node(B).enter(|| -> Result<()> {
        let pins = PinDir::open(&root)?;
        let mut object = Object::load(None, &pins)?;
        let index = nix::net::if_::if_nametoindex("net1").context("the node's interface")?;
        work(&mut object, index)?;
        pins.remove_all()
    });
    done.unwrap().unwrap();
}

fn tc(words: &[&str]) -> Result<String> {
    let output = std::process::Command::new("tc").args(words).output().context("tc is installed")?;
    ensure!(output.status.success(), "tc {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn has_queue() -> Result<bool> {
    Ok(tc(&["qdisc", "show", "dev", "net1"])?.contains("clsact"))
}

#[test]
fn without_links_the_queue_added_for_the_program_goes_with_it() {
    if !root_or_skip("without_links_the_queue_added_for_the_program_goes_with_it") {
        return;
    }
    with_object(|object, index| {
        let egress = Egress::attach_filter(object, "net1", index)?;
        ensure!(has_queue()? && egress.alive());
        ensure!(tc(&["filter", "show", "dev", "net1", "egress"])?.contains("bpf"));
        egress.detach()?;
        ensure!(!has_queue()?, "the queue is still there");
        // So it does at the end of a controller that says nothing.
        drop(Egress::attach_filter(object, "net1", index)?);
        ensure!(!has_queue()?, "the queue is still there");
        Ok(())
    });
}

#[test]
fn without_links_a_filter_that_somebody_took_off_is_noticed() {
    if !root_or_skip("without_links_a_filter_that_somebody_took_off_is_noticed") {
        return;
    }
    with_object(|object, index| {
        let egress = Egress::attach_filter(object, "net1", index)?;
        ensure!(egress.alive());
        tc(&["filter", "del", "dev", "net1", "egress"])?;
        ensure!(!egress.alive(), "it is gone");
        egress.detach()?;
        ensure!(!has_queue()?);
        let egress = Egress::attach_filter(object, "net1", index)?;
        tc(&["qdisc", "del", "dev", "net1", "clsact"])?;
        ensure!(!egress.alive(), "it went with the queue");
        egress.detach()?;
        Ok(())
    });
}

#[test]
fn without_links_a_queue_that_others_made_or_use_stays() {
    if !root_or_skip("without_links_a_queue_that_others_made_or_use_stays") {
        return;
    }
    with_object(|object, index| {
        qdisc_add_clsact("net1").context("somebody's own queue")?;
        Egress::attach_filter(object, "net1", index)?.detach()?;
        ensure!(has_queue()?, "it was not ours to remove");
        ensure!(!tc(&["filter", "show", "dev", "net1", "egress"])?.contains("bpf"), "but the filter was");
        tc(&["qdisc", "del", "dev", "net1", "clsact"])?;

        let egress = Egress::attach_filter(object, "net1", index)?;
        let options = TcAttachOptions::Netlink(NlOptions::default());
        object.egress()?.attach_with_options("net1", TcAttachType::Ingress, options)?;
        egress.detach()?;
        ensure!(has_queue()?, "somebody uses it by now");
        ensure!(tc(&["filter", "show", "dev", "net1", "ingress"])?.contains("bpf"));
        Ok(())
    });
}

#[test]
fn a_node_that_leaves_takes_the_egress_program_off() {
    if !root_or_skip("a_node_that_leaves_takes_the_egress_program_off") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan");
    let mut crew = Crew::new(lab, cluster);
    crew.start_all(&Options::default()).unwrap();
    assert!(crew.take(B).terminate(Duration::from_secs(10)).unwrap().success());
    assert_eq!(programs(&crew.lab, B).unwrap(), (0, 0));
    let queues = crew.lab.node(B).run("tc", &["qdisc", "show", "dev", "net1"]).unwrap();
    assert!(!queues.contains("clsact"), "{queues}");
    assert!(!Path::new(&crew.pins(B)).exists());
}
