//! What may be done at a wire beside the rules: raw frames put onto it, frames counted that the rules dropped, and the
//! passing program of a port taken away. It forges no tag.

use super::{Lab, Port};
use anyhow::{Context, Result};
use nix::sys::socket::{MsgFlags, send};
use serde_json::Value;
use std::os::fd::{AsRawFd, OwnedFd};

/// A raw socket at a node's end of a network, which sends whatever it is given.
#[derive(Debug)]
pub struct Wire(OwnedFd);

impl Wire {
    /// Sends one frame, from the Ethernet header on.
    ///
    /// # Errors
    /// Fails when the device refuses it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty()).map(drop).context("sending a raw frame")
    }
}

impl Lab {
    /// Opens a raw socket at a node's port.
    ///
    /// # Errors
    /// Fails when the interface is not there.
    pub fn wire(&self, port: Port) -> Result<Wire> {
        let interface = self.interface(port);
        Ok(Wire(self.node(port.node).enter(|| super::relay::raw_socket(&interface))??))
    }

    /// How many frames the switch has dropped by the faults in force; each change of the faults counts anew.
    ///
    /// # Errors
    /// Fails when `nft` does not tell.
    pub fn dropped(&self) -> Result<u64> {
        let shown = self.switch().run("nft", &["-j", "list", "table", "bridge", "hb"])?;
        Ok(packets(&serde_json::from_str(&shown)?))
    }

    /// How many frames of UDP the switch has delivered twice; each change of the faults counts anew.
    ///
    /// # Errors
    /// Fails when nothing is duplicated.
    pub fn duplicated(&self) -> Result<u64> {
        let shown = self.switch().run("nft", &["-j", "list", "table", "netdev", "hb"])?;
        Ok(packets(&serde_json::from_str(&shown)?))
    }

    /// The MAC address of a node's interface.
    ///
    /// # Errors
    /// Fails when the interface is not there.
    pub fn mac(&self, port: Port) -> Result<[u8; 6]> {
        let shown = self.node(port.node).run("ip", &["-json", "link", "show", &self.interface(port)])?;
        let links: Vec<Value> = serde_json::from_str(&shown)?;
        let text = links.first().and_then(|link| link["address"].as_str()).context("no address shown")?;
        let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        bytes?.try_into().map_err(|bytes| anyhow::anyhow!("{bytes:?} is no MAC address"))
    }

    /// Takes the passing program off a port of the switch: what the node's program sends by XDP_TX is then lost
    /// without a word.
    pub fn take_pass(&self, port: Port) {
        self.pass_links().remove(&self.switch_port(port));
    }
}

/// Sums every counter below `value`.
fn packets(value: &Value) -> u64 {
    match value {
        Value::Array(values) => values.iter().map(packets).sum(),
        Value::Object(fields) => {
            let own = fields.get("counter").and_then(|counter| counter["packets"].as_u64()).unwrap_or(0);
            own + fields.iter().filter(|(name, _)| *name != "counter").map(|(_, value)| packets(value)).sum::<u64>()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counters_are_summed_wherever_they_stand() {
        let rule = |packets: u64| json!({"rule": {"expr": [{"match": 1}, {"counter": {"packets": packets, "bytes": 9}}, {"drop": null}]}});
        assert_eq!(packets(&json!({"nftables": [{"metainfo": {}}, rule(3), rule(4)]})), 7);
        assert_eq!(packets(&json!({"nftables": [{"chain": {"name": "forward"}}]})), 0);
    }
}
