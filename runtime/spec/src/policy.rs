//! The operator's file: caps, private networks, shared servers, prices. `Policy` in the library.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What an operator allows beyond the defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Bytes of all instances of one app together; `None`: a quarter of the machine.
    pub app_memory: Option<u64>,
    /// Private ranges that a literal IP or CIDR entry of a manifest may name.
    pub private_networks: Vec<IpNet>,
    /// Hard caps on `[limits]` keys (key, then value in the manifest's own notation).
    pub caps: BTreeMap<String, toml::Value>,
    /// Defaults of `[limits]` keys for manifests that are silent.
    pub defaults: BTreeMap<String, toml::Value>,
    /// Admin URLs of shared add-on servers, by provider.
    pub addons: BTreeMap<String, String>,
}
