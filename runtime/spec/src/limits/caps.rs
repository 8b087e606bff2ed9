//! Caps: what the operator allows at most. A policy's `[caps]`, and the caps that `serve` has without one.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::keys::{LimitKey, LimitValue};
use super::set::{LimitSet, in_range, read_time};
use crate::manifest::{Addon, Manifest};
use crate::mistakes::Findings;
use crate::names::ProcessType;
use crate::read::{self, Entry};
use crate::units::{parse_size, show_count, show_duration, show_size};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: u64 = 1_000;
const DAY: u64 = 86_400 * SECOND;

/// The most that one app may have altogether, where `[limits]` has no key for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppCaps {
    /// Dynos over all process types; one-off dynos and scheduled ones do not count. `None`: no cap.
    pub dynos: Option<u32>,
    /// Bytes of one `kv` add-on (its `size`). `None`: no cap.
    pub kv_size: Option<u64>,
    /// How long a release phase may take. `None`: what the host gives everybody.
    pub release_phase: Option<Duration>,
}

/// A formation that is larger than the policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wanted} dynos over all process types are above what this host's policy allows; use at most {most}, or have the \
     operator raise `dynos` in [caps]"
)]
pub struct TooManyDynos {
    /// How many it would have.
    pub wanted: u64,
    /// The cap.
    pub most: u32,
}

/// The size of a `kv` add-on whose manifest names none.
pub const DEFAULT_KV_SIZE: u64 = GIB;

impl AppCaps {
    /// Their names in `[caps]`.
    pub(crate) const NAMES: [&'static str; 3] = ["dynos", "kv_size", "release_phase"];

    /// What `serve` allows where the policy says nothing.
    pub fn of_serve() -> Self {
        Self {
            dynos: Some(100),
            kv_size: Some(4 * GIB),
            release_phase: Some(15 * MINUTE),
        }
    }

    /// Takes what these leave open from what `serve` allows.
    pub(crate) fn fill_with_serve_caps(&mut self) {
        let other = Self::of_serve();
        self.dynos = self.dynos.or(other.dynos);
        self.kv_size = self.kv_size.or(other.kv_size);
        self.release_phase = self.release_phase.or(other.release_phase);
    }

    /// Whether an app may have so many dynos of each type.
    ///
    /// # Errors
    /// If they are more than the cap in sum.
    pub fn check_dynos<'c>(
        &self,
        counts: impl IntoIterator<Item = &'c u32>,
    ) -> Result<(), TooManyDynos> {
        let wanted: u64 = counts.into_iter().copied().map(u64::from).sum();
        match self.dynos {
            Some(most) if wanted > u64::from(most) => Err(TooManyDynos { wanted, most }),
            _ => Ok(()),
        }
    }

    /// Lowers the largest counts of a formation until it fits: for one that was allowed once, and that nobody asks
    /// for now. Whether it had to.
    pub fn lower_dynos(&self, formation: &mut BTreeMap<ProcessType, u32>) -> bool {
        let mut lowered = false;
        while let Err(TooManyDynos { wanted, most }) = self.check_dynos(formation.values()) {
            let excess = u32::try_from(wanted - u64::from(most)).unwrap_or(u32::MAX);
            let Some(largest) = formation.values_mut().max() else {
                break;
            };
            // One is left of each type while there is another to take from.
            *largest = if *largest > 1 {
                largest.saturating_sub(excess).max(1)
            } else {
                0
            };
            lowered = true;
        }
        lowered
    }

    /// Notes a `size` that is above the cap.
    pub(crate) fn check_addon(
        &self,
        addon: &Addon,
        entry: &Entry<'_>,
        findings: &mut Findings<'_>,
    ) {
        let (Some(most), Some(size)) = (self.kv_size, addon.size) else {
            return;
        };
        if is_kv(addon) && size > most {
            findings.suggest(
                &entry.span(),
                "`size` is above what this host's policy allows",
                format!(
                    "use at most \"{}\", or have the operator raise `kv_size` in [caps]",
                    show_size(most)
                ),
            );
        }
    }

    /// Lowers the sizes of `kv` add-ons that are above the cap, the default one too.
    pub(crate) fn hold_below(&self, manifest: &mut Manifest) {
        let Some(most) = self.kv_size else { return };
        for addon in manifest.addons.values_mut().filter(|addon| is_kv(addon)) {
            if addon.size.unwrap_or(DEFAULT_KV_SIZE) > most {
                addon.size = Some(most);
            }
        }
    }

    /// Reads these keys of `[caps]`; the others are limits.
    pub(crate) fn read(table: &DeTable<'_>, findings: &mut Findings<'_>) -> Self {
        let mut caps = Self::default();
        for entry in read::entries(table) {
            match entry.key {
                "dynos" => {
                    let most = u64::from(crate::manifest::MAX_SCALE);
                    caps.dynos = entry
                        .integer(0..=most, findings)
                        .and_then(|count| u32::try_from(count).ok());
                }
                "kv_size" => caps.kv_size = read_kv_size(&entry, findings),
                "release_phase" => {
                    caps.release_phase = read_time(&entry, &(SECOND..=DAY), findings);
                }
                _ => {}
            }
        }
        caps
    }

    /// As a file would write them, for people: `dynos 100`.
    pub fn shown(&self) -> impl Iterator<Item = (&'static str, String)> {
        let values = [
            self.dynos.map(|count| show_count(u64::from(count))),
            self.kv_size
                .map(|bytes| format!("\"{}\"", show_size(bytes))),
            self.release_phase
                .map(|time| format!("\"{}\"", show_duration(time))),
        ];
        Self::NAMES
            .into_iter()
            .zip(values)
            .filter_map(|(name, value)| Some((name, value?)))
    }
}

fn is_kv(addon: &Addon) -> bool {
    addon.provider == "kv"
}

fn read_kv_size(entry: &Entry<'_>, findings: &mut Findings<'_>) -> Option<u64> {
    if let DeValue::Integer(_) = entry.value.get_ref() {
        let help = "use a number and a unit, as in \"4 GiB\"".to_owned();
        entry.wrong_type("a size with its unit", Some(help), findings);
        return None;
    }
    let text = entry.string(findings)?;
    let bytes = super::in_units(entry, text, parse_size(text), findings)?;
    in_range(entry, bytes, &(MIB..=KIB * GIB), findings)
}

/// What `serve` allows at most where the policy has no cap, so that a tenant cannot give himself the machine.
///
/// `None`: `isolation` is no number; `idle` and `max_requests` cost the host nothing, however large they are.
fn serve_cap(key: LimitKey) -> Option<LimitValue> {
    use LimitKey as K;
    use LimitValue as V;
    Some(match key {
        K::Memory => V::Size(GIB),
        K::Cpu => V::Cores(2.0),
        // Twenty times the default; each is a request that the host holds.
        K::Concurrency => V::Count(1_000),
        // Ten times the default, likewise.
        K::Queue => V::Count(1_000),
        K::Timeout | K::IdleTimeout => V::Time(5 * MINUTE),
        K::BootTimeout => V::Time(2 * MINUTE),
        // A slot is held as long.
        K::StopGrace | K::AfterResponse => V::Time(MINUTE),
        K::RequestBody => V::Size(GIB),
        // Four times the default: heads are held whole, several at once.
        K::Header => V::Size(256 * KIB),
        // Sixteen times the default; each takes a descriptor.
        K::Sockets => V::Count(1_024),
        K::Outgoing => V::Count(512),
        // Ten times the default.
        K::Handles => V::Count(10_000),
        K::Resources => V::Count(100_000),
        // Sixteen times the default: it is made in one go, on a core that others wait for.
        K::Random => V::Size(16 * MIB),
        // Ten times the default.
        K::LogRate => V::Size(MIB),
        // Sixteen times the default.
        K::Tmp => V::Size(GIB),
        // Ten times the default: so many are looked at when a folder moves, and removed at the end.
        K::Files => V::Count(100_000),
        K::Isolation | K::Idle | K::MaxRequests => return None,
    })
}

impl LimitSet {
    /// The caps of `serve` for the keys that `self` leaves open. A default of the operator's own that is above one
    /// raises it: it was his word.
    pub(crate) fn with_serve_caps(&self, defaults: &Self) -> Self {
        let cap = |key: LimitKey| {
            let built_in = serve_cap(key)?;
            match defaults.get(key) {
                Some(default) if default.exceeds(built_in) => Some(default),
                _ => Some(built_in),
            }
        };
        LimitKey::ALL
            .iter()
            .filter_map(|key| Some((*key, self.get(*key).or_else(|| cap(*key))?)))
            .collect()
    }

    /// As a file would write them, for people: `memory "1 GiB"`.
    pub fn shown(&self) -> impl Iterator<Item = (&'static str, String)> {
        LimitKey::ALL
            .iter()
            .filter_map(|key| Some((key.as_str(), self.get(*key)?.show())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formation(counts: &[(&str, u32)]) -> BTreeMap<ProcessType, u32> {
        counts
            .iter()
            .map(|(name, count)| (name.parse().unwrap(), *count))
            .collect()
    }

    fn lowered(dynos: u32, counts: &[(&str, u32)]) -> (bool, BTreeMap<ProcessType, u32>) {
        let mut formation = formation(counts);
        let caps = AppCaps {
            dynos: Some(dynos),
            ..AppCaps::default()
        };
        let had_to = caps.lower_dynos(&mut formation);
        assert_eq!(caps.check_dynos(formation.values()), Ok(()));
        (had_to, formation)
    }

    #[test]
    fn dynos_are_counted_over_all_types() {
        let caps = AppCaps::of_serve();
        let fits = formation(&[("web", 60), ("worker", 40)]);
        assert_eq!(caps.check_dynos(fits.values()), Ok(()));
        let over = formation(&[("web", 60), ("worker", 41)]);
        let refused = caps.check_dynos(over.values()).unwrap_err();
        assert_eq!((refused.wanted, refused.most), (101, 100));
        let said = refused.to_string();
        assert!(said.contains("101") && said.contains("100") && said.contains("`dynos` in [caps]"));
        assert_eq!(
            AppCaps::default().check_dynos(&[u32::MAX, u32::MAX]),
            Ok(())
        );
    }

    #[test]
    fn a_formation_from_before_is_lowered_where_it_is_largest() {
        let fits = [("web", 3), ("worker", 2)];
        assert_eq!(lowered(5, &fits), (false, formation(&fits)));
        let (had_to, now) = lowered(10, &[("web", 500), ("worker", 2)]);
        assert_eq!(
            (had_to, now),
            (true, formation(&[("web", 8), ("worker", 2)]))
        );
        let (_, now) = lowered(2, &[("a", 9), ("b", 9), ("c", 9)]);
        assert_eq!(now.values().sum::<u32>(), 2);
        let (_, now) = lowered(0, &[("a", 1), ("b", u32::MAX)]);
        assert_eq!(now.values().sum::<u32>(), 0);
    }

    #[test]
    fn serve_has_a_cap_for_every_limit_that_costs_the_host_something() {
        let caps = LimitSet::default().with_serve_caps(&LimitSet::default());
        let without: Vec<&str> = LimitKey::ALL
            .iter()
            .filter(|key| caps.get(**key).is_none())
            .map(|key| key.as_str())
            .collect();
        assert_eq!(without, ["idle", "isolation", "max_requests"]);
        // No default is above its own cap, or `serve` would change what every app has.
        let mut limits = super::super::Limits::default();
        caps.hold_below(&mut limits);
        assert_eq!(limits, super::super::Limits::default());
    }

    #[test]
    fn the_operator_s_own_word_is_above_the_built_in_caps() {
        let set = |bytes| -> LimitSet {
            [(LimitKey::Memory, LimitValue::Size(bytes))]
                .into_iter()
                .collect()
        };
        let memory = |caps: &LimitSet, defaults: &LimitSet| {
            caps.with_serve_caps(defaults).get(LimitKey::Memory)
        };
        let none = LimitSet::default();
        assert_eq!(memory(&none, &none), Some(LimitValue::Size(GIB)));
        assert_eq!(
            memory(&set(8 * GIB), &none),
            Some(LimitValue::Size(8 * GIB))
        );
        assert_eq!(memory(&set(MIB), &none), Some(LimitValue::Size(MIB)));
        assert_eq!(
            memory(&none, &set(2 * GIB)),
            Some(LimitValue::Size(2 * GIB))
        );
        assert_eq!(memory(&none, &set(MIB)), Some(LimitValue::Size(GIB)));
    }
}
