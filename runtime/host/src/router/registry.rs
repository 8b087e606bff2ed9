//! The open connections of one core: all are told when to end, and idle ones give way to new clients.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::connection::{Connection, Order};
use super::lock;

/// The open connections of one core. Its lock is taken when one comes or goes.
#[derive(Default)]
pub(super) struct Registry {
    state: Mutex<RegistryState>,
}

#[derive(Default)]
struct RegistryState {
    open: HashMap<u64, Arc<Connection>>,
    next: u64,
    order: Order,
}

impl Registry {
    /// To all, and to those still to come.
    pub(super) fn order(&self, order: Order) {
        let mut state = lock(&self.state);
        state.order = order;
        for connection in state.open.values() {
            connection.give(order);
        }
    }

    /// Those that could give way, and since when they are idle.
    pub(super) fn add_idle(&self, idle: &mut Vec<(Instant, Arc<Connection>)>) {
        let state = lock(&self.state);
        let found = state.open.values();
        idle.extend(
            found.filter_map(|connection| Some((connection.idle_since()?, connection.clone()))),
        );
    }

    pub(super) fn enter(self: &Arc<Self>, connection: &Arc<Connection>) -> Registered {
        let mut state = lock(&self.state);
        let id = state.next;
        state.next += 1;
        connection.give(state.order);
        state.open.insert(id, connection.clone());
        Registered {
            registry: self.clone(),
            id,
        }
    }
}

/// Leaves on drop.
pub(super) struct Registered {
    registry: Arc<Registry>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let gone = lock(&self.registry.state).open.remove(&self.id);
        drop(gone);
    }
}
