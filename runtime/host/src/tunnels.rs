//! Connections that the platform opens for the build of an app, by the host's own egress rules.

use std::fmt;
use std::sync::Arc;

use oarlock_sandbox::{Egress, EgressRules, PrivateNetworks};
use oarlock_spec::manifest::AllowEntry;
use tokio::net::TcpStream;

use crate::Host;

/// Connections to what an operator allows, and to nothing else: names are resolved here, and no address of a private
/// range, of the machine itself, of a metadata service or of the host's own listeners is granted by a name.
#[derive(Clone)]
pub struct Tunnels(Arc<Egress>);

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tunnels")
    }
}

impl Host {
    /// Connections to these entries, by this host's policy.
    pub fn tunnels(&self, allow: Vec<AllowEntry>) -> Tunnels {
        let shared = &self.inner.shared;
        Tunnels(Arc::new(Egress::new(EgressRules {
            endpoints: Vec::new(),
            allow,
            private: PrivateNetworks {
                allowed: shared.config.policy.private_networks.clone(),
                local_development: false,
            },
            never: shared.router.addresses(),
            never_ips: crate::formation::metadata_addresses(),
        })))
    }
}

impl Tunnels {
    /// Connects to a host, by its name or address.
    ///
    /// # Errors
    /// What was denied and why, or why nothing answers.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        self.0.connect(host, port).await
    }
}
