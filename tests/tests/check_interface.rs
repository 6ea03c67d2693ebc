//! What `heartbeatd check` says of an interface that carries somebody else's XDP program. It starts no daemon.

use heartbeat_tests::lab::pass::Pass;
use heartbeat_tests::lab::wait::{binary, root_or_skip};
use heartbeat_tests::lab::{Cluster, Lab, Options, Port, Spec};
use std::process::Output;

fn check(lab: &Lab, fast_path: &str) -> Output {
    let options = Options { fast_path: fast_path.to_owned(), ..Options::default() };
    let file = lab.node_dir(0).join("check.toml");
    std::fs::write(&file, Cluster::new(lab, "lan").render(lab, 0, &options)).unwrap();
    let program = binary("heartbeatd", "HEARTBEATD").unwrap();
    lab.node(0).command(program).arg("check").arg("--config").arg(file).output().unwrap()
}

#[test]
fn a_foreign_program_is_found_before_the_start() {
    if !root_or_skip("a_foreign_program_is_found_before_the_start") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let interface = lab.interface(Port { node: 0, network: 0 });
    let name = interface.clone();
    heartbeat_user::keys::generate(&lab.scratch().join("cluster.key")).unwrap();
    let link = lab.node(0).enter(move || Pass::load().unwrap().attach(&name).unwrap()).unwrap();

    let refused = check(&lab, "auto");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(8), "{text}");
    assert!(text.contains(&interface) && text.contains("another XDP program is on the device"), "{text}");

    let off = check(&lab, "off");
    assert!(off.status.success(), "userspace needs no XDP: {}", String::from_utf8_lossy(&off.stderr));
    drop(link);
    let clean = check(&lab, "auto");
    assert!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stderr));
}
