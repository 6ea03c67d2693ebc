//! The configuration text of a lab's nodes. The cluster's part is the same for each; directories differ, since the
//! nodes of a lab share one file system. It checks nothing: `heartbeatd` is what is tested.

use super::{Lab, Options, Port};
use std::fmt::Write;
use std::path::PathBuf;

/// What every node of a cluster agrees on. Values are written as they stand, so strings carry their quotes.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Name of the cluster.
    pub name: String,
    /// Its id, 16 hex digits.
    pub id: String,
    /// Name of the profile that the settings start from.
    pub profile: String,
    /// Further keys of `[settings]`.
    pub settings: Vec<(String, String)>,
    /// Role of each network; `internal` where there is none.
    pub roles: Vec<String>,
    /// Key file; made by `heartbeatd genkey` if it is not there.
    pub key_file: PathBuf,
    /// Directory below which each node keeps its state, where that is to be on a disk: a lab's own directory is in memory.
    pub states: Option<PathBuf>,
}

impl Cluster {
    /// A cluster of all nodes of a lab, under a profile such as `lan`.
    #[must_use]
    pub fn new(lab: &Lab, profile: &str) -> Self {
        Self {
            name: "lab".to_owned(),
            id: "6f0c5d9e2a417b83".to_owned(),
            profile: profile.to_owned(),
            settings: Vec::new(),
            roles: Vec::new(),
            key_file: lab.scratch().join("cluster.key"),
            states: None,
        }
    }

    /// Adds a key of `[settings]`, or replaces it.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.retain(|(present, _)| present != key);
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// Directory of a node's state.
    #[must_use]
    pub fn state_dir(&self, lab: &Lab, node: usize) -> PathBuf {
        let own = lab.node_dir(node).join("state");
        self.states.as_ref().map_or(own, |states| states.join(&lab.spec().nodes[node]))
    }

    /// The configuration file of one node.
    #[must_use]
    pub fn render(&self, lab: &Lab, node: usize, options: &Options) -> String {
        let mut text = String::new();
        let mut put = |line: String| writeln!(text, "{line}").expect("a string takes all");
        put(format!("[cluster]\nname = \"{}\"\nid = \"{}\"", self.name, self.id));
        put(format!("key_file = \"{}\"\n", options.key_file.as_ref().unwrap_or(&self.key_file).display()));
        put(format!("[settings]\nprofile = \"{}\"", self.profile));
        self.settings.iter().for_each(|(key, value)| put(format!("{key} = {value}")));
        put("\n[daemon]".to_owned());
        for (key, value) in self.daemon_keys(lab, node, options) {
            put(format!("{key} = {value}"));
        }
        put(format!("{}\n", options.extra));
        for network in 0..lab.spec().networks {
            let role = self.roles.get(network).map_or("internal", String::as_str);
            let subnets = quoted(&lab.subnets(network));
            put(format!("[[network]]\nname = \"net{}\"\nrole = \"{role}\"\nsubnets = {subnets}\n", network + 1));
        }
        for (index, name) in lab.spec().nodes.iter().enumerate() {
            let ports: Vec<Port> = lab.ports_of(index);
            let addresses: Vec<_> = ports.iter().flat_map(|port| lab.addresses(*port)).collect();
            put(format!(
                "[[node]]\nname = \"{name}\"\nid = {}\naddresses = {}\n",
                index + 1,
                quoted(addresses.as_slice())
            ));
        }
        text
    }

    /// Keys of `[daemon]`: the node's own directories, then what the options say instead or besides.
    fn daemon_keys(&self, lab: &Lab, node: usize, options: &Options) -> Vec<(String, String)> {
        let own = lab.node_dir(node);
        let path = |path: PathBuf| format!("\"{}\"", path.display());
        let mut keys = vec![
            ("fast_path".to_owned(), format!("\"{}\"", options.fast_path)),
            ("pin_dir".to_owned(), path(lab.pin_dir(node).join("heartbeatd"))),
            ("lease_pin".to_owned(), path(lab.pin_dir(node).join("heartbeatd-lease/lease"))),
            ("state_dir".to_owned(), path(self.state_dir(lab, node))),
            ("run_dir".to_owned(), path(own.join("run"))),
            ("event_log".to_owned(), path(own.join("log/events.jsonl"))),
        ];
        for (key, value) in &options.daemon {
            keys.retain(|(present, _)| present != key);
            keys.push((key.clone(), value.clone()));
        }
        keys
    }
}

fn quoted<T: ToString>(values: &[T]) -> String {
    let values: Vec<String> = values.iter().map(|value| format!("\"{}\"", value.to_string())).collect();
    format!("[{}]", values.join(", "))
}
