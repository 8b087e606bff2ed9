//! Which programs' code is in memory.
//!
//! A program whose code can be read again from the code cache keeps it only while something runs it, or while there
//! is room: what is longest unused gives way when the engine's number of programs is reached, or when the code that
//! nothing runs is more than [`IDLE_BYTES`]. The next instance loads it again, which takes about a millisecond.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwapOption;

use crate::cache::Code;
use crate::capacity::Most;
use crate::program::Entry;

/// Code that nothing runs, and that is kept in case it is needed again. What wasmtime knows of it
/// comes on top.
const IDLE_BYTES: u64 = 32 << 20;

/// A program's code, linked. Whoever runs it holds it until the store is gone.
pub(crate) struct Loaded {
    pub(crate) entry: Entry,
    /// Others that load the same component share it.
    code: Arc<Code>,
}

impl Loaded {
    pub(crate) fn new(entry: Entry, code: Arc<Code>) -> Arc<Self> {
        Arc::new(Self { entry, code })
    }
}

/// Where a program's code is, if it is in memory.
pub(crate) struct Cell {
    loaded: ArcSwapOption<Loaded>,
    /// Asked for since somebody looked for what could go.
    used: AtomicBool,
    /// Whether it can be had again.
    reloads: bool,
    /// Held by whoever loads it again.
    pub(crate) loading: tokio::sync::Mutex<()>,
}

impl Cell {
    /// The code, if it is in memory.
    pub(crate) fn get(&self) -> Option<Arc<Loaded>> {
        // Written only if it says otherwise: all cores read it.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        self.loaded.load_full()
    }

    /// The cell itself holds one.
    fn is_idle(&self) -> bool {
        self.reloads
            && self
                .loaded
                .load()
                .as_ref()
                .is_some_and(|loaded| Arc::strong_count(loaded) == 1)
    }
}

/// No room for another program: all that are in memory run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Full(pub(crate) Most);

/// All programs whose code is in memory, those that were loaded longest ago first.
pub(crate) struct Residents {
    cells: Mutex<VecDeque<Weak<Cell>>>,
    most: Most,
    /// [`IDLE_BYTES`], but in tests.
    idle: u64,
}

impl Residents {
    pub(crate) fn new(most: Most) -> Self {
        Self {
            cells: Mutex::default(),
            most,
            idle: IDLE_BYTES,
        }
    }

    /// Takes up a new program. `reloads`: its code can be had again.
    pub(crate) fn add(&self, loaded: Arc<Loaded>, reloads: bool) -> Result<Arc<Cell>, Full> {
        let cell = Arc::new(Cell {
            loaded: ArcSwapOption::empty(),
            used: AtomicBool::new(true),
            reloads,
            loading: tokio::sync::Mutex::default(),
        });
        self.put(&cell, loaded)?;
        Ok(cell)
    }

    /// Takes up a program's code again.
    pub(crate) fn put(&self, cell: &Arc<Cell>, loaded: Arc<Loaded>) -> Result<(), Full> {
        let mut cells = self.lock();
        // This clone keeps the newcomer from being the one that gives way: without room it is refused.
        let _newcomer = loaded.clone();
        cell.loaded.store(Some(loaded));
        cells.push_back(Arc::downgrade(cell));
        if self.make_room(&mut cells) {
            return Ok(());
        }
        cells.pop_back();
        cell.loaded.store(None);
        Err(Full(self.most))
    }

    /// Lets go of what is too much and idle by now: what ran when the last program was taken up could not give way.
    pub(crate) fn shrink(&self) {
        self.make_room(&mut self.lock());
    }

    /// How many programs' code is in memory.
    pub(crate) fn count(&self) -> usize {
        let is_loaded = |cell: &Weak<Cell>| {
            cell.upgrade()
                .is_some_and(|cell| cell.loaded.load().is_some())
        };
        self.lock().iter().filter(|cell| is_loaded(cell)).count()
    }

    /// Lets go of what is idle and has not been asked for lately, until all is within its bounds. Whether the number
    /// is.
    fn make_room(&self, cells: &mut VecDeque<Weak<Cell>>) -> bool {
        cells.retain(|cell| {
            cell.upgrade()
                .is_some_and(|cell| cell.loaded.load().is_some())
        });
        let mut idle = idle_bytes(cells);
        // Each is looked at twice at the most: the first look takes away its mark.
        for _ in 0..cells.len() * 2 {
            if cells.len() <= self.most.count as usize && idle <= self.idle {
                break;
            }
            let Some(oldest) = cells.pop_front() else {
                break;
            };
            let Some(cell) = oldest.upgrade() else {
                continue;
            };
            if !cell.is_idle() || cell.used.swap(false, Ordering::Relaxed) {
                cells.push_back(oldest);
                continue;
            }
            if let Some(gone) = cell.loaded.swap(None) {
                // Others may share the code; they are counted again the next time.
                idle = idle.saturating_sub(gone.code.bytes);
            }
        }
        cells.len() <= self.most.count as usize
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Weak<Cell>>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of code that nothing runs, each component's once.
fn idle_bytes(cells: &VecDeque<Weak<Cell>>) -> u64 {
    let mut seen = HashSet::new();
    let idle = cells.iter().filter_map(|cell| {
        let cell = cell.upgrade().filter(|cell| cell.is_idle())?;
        let loaded = cell.loaded.load_full()?;
        seen.insert(Arc::as_ptr(&loaded.code))
            .then_some(loaded.code.bytes)
    });
    idle.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::Bound;
    use crate::engine::{Engine, EngineConfig};

    const COMMAND: &str = r#"(component
        (core module $m (func (export "run") (result i32) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $runner (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $runner)))"#;

    #[tokio::test]
    async fn what_ran_when_room_was_made_goes_when_it_is_idle() {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let wasm = wat::parse_str(COMMAND).unwrap();
        let program = engine.load("worker.wasm", &wasm).unwrap();
        let running = program.loaded().await.unwrap();
        drop(program);
        let residents = Residents {
            cells: Mutex::default(),
            most: Most {
                count: 8,
                bound: Bound::Configured,
            },
            idle: 0,
        };
        let _cell = residents.add(running.clone(), true).unwrap();
        residents.shrink();
        assert_eq!(residents.count(), 1, "it runs");
        drop(running);
        residents.shrink();
        assert_eq!(residents.count(), 0);
    }
}
