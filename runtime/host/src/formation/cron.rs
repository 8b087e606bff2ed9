//! When scheduled processes are due: five cron fields on the wall clock of an IANA time zone.
//!
//! The fields are matched against local times without a zone, and each match is then mapped to an
//! instant: a local time that daylight saving skips becomes the moment of the change (all skipped
//! ones together run once), one that it repeats becomes its first pass only.

use std::collections::BTreeMap;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, civil};
use oarlock_spec::manifest::Schedule;
use oarlock_spec::names::ProcessType;
use serde::{Deserialize, Serialize};

/// Why a schedule cannot be followed. The manifest's parser refuses these already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CronError {
    /// The fields.
    #[error("the schedule `{cron}` is not five valid cron fields: {reason}")]
    Fields {
        /// As written.
        cron: String,
        /// Why.
        reason: String,
    },
}

/// A schedule, ready to be asked.
#[derive(Debug, Clone)]
pub(crate) struct CronSchedule {
    cron: Cron,
    zone: TimeZone,
}

impl CronSchedule {
    pub(crate) fn parse(schedule: &Schedule) -> Result<Self, CronError> {
        let cron = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build()
            .parse(&schedule.cron)
            .map_err(|e| CronError::Fields {
                cron: schedule.cron.clone(),
                reason: e.to_string(),
            })?;
        let zone = schedule.time_zone();
        Ok(Self { cron, zone })
    }

    /// The first due time after `after`; `None` if there is none (30 February).
    pub(crate) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let mut local = self.zone.to_datetime(after);
        loop {
            local = self.cron.find_next_occurrence(&local, false).ok()?;
            let instant = self.instant_of(local)?;
            // During the second pass of a repeated hour the candidates are those of the first.
            if instant > after {
                return Some(instant);
            }
        }
    }

    fn instant_of(&self, local: civil::DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok(),
            AmbiguousOffset::Gap { before, .. } => {
                // Read with the old offset, a skipped time lies behind the change.
                let behind = before
                    .to_timestamp(local)
                    .ok()?
                    .checked_add(SignedDuration::from_nanos(1))
                    .ok()?;
                self.zone
                    .preceding(behind)
                    .next()
                    .map(|change| change.timestamp())
            }
        }
    }
}

/// A due time later than this was missed: it is logged, not run.
const LATE: SignedDuration = SignedDuration::from_mins(1);
/// Missed times are counted up to here.
const MISSED_COUNT: usize = 1_000;

/// What became of the due times of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    /// Start it now.
    Run {
        /// Which process.
        process: ProcessType,
        /// When it was due.
        at: Timestamp,
    },
    /// These passed while the host did not run (or its machine slept).
    Missed {
        /// Which process.
        process: ProcessType,
        /// How many, counted up to a thousand.
        count: usize,
        /// The last of them.
        last: Timestamp,
    },
}

/// What is kept on disk, so that a later host knows what was missed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CronMemory {
    processes: BTreeMap<ProcessType, Remembered>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    cron: String,
    timezone: String,
    /// Due times up to here are dealt with.
    until: Timestamp,
}

/// The schedules of one app's current release: pure, told the time by its caller.
#[derive(Debug, Default)]
pub(crate) struct Schedules {
    entries: BTreeMap<ProcessType, CronSchedule>,
    memory: CronMemory,
}

impl Schedules {
    /// With what an earlier host remembered.
    pub(crate) fn new(memory: CronMemory) -> Self {
        Self {
            entries: BTreeMap::new(),
            memory,
        }
    }

    /// From now on these. A schedule that is new or was changed has missed nothing.
    pub(crate) fn set<'a>(
        &mut self,
        schedules: impl IntoIterator<Item = (&'a ProcessType, &'a Schedule)>,
        now: Timestamp,
    ) -> Result<(), CronError> {
        let mut entries = BTreeMap::new();
        let mut memory = CronMemory::default();
        for (process, schedule) in schedules {
            entries.insert(process.clone(), CronSchedule::parse(schedule)?);
            let old = self.memory.processes.get(process);
            let same =
                old.filter(|old| old.cron == schedule.cron && old.timezone == schedule.timezone);
            // A time from the future means that the clock was set back: nothing was missed.
            let until = same.map_or(now, |old| old.until.min(now));
            memory.processes.insert(
                process.clone(),
                Remembered {
                    cron: schedule.cron.clone(),
                    timezone: schedule.timezone.clone(),
                    until,
                },
            );
        }
        self.entries = entries;
        self.memory = memory;
        Ok(())
    }

    /// What is to be remembered on disk.
    pub(crate) fn memory(&self) -> &CronMemory {
        &self.memory
    }

    /// The next due time of any.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.entries
            .iter()
            .filter_map(|(process, schedule)| {
                schedule.next(self.memory.processes.get(process)?.until)
            })
            .min()
    }

    /// Deals with all due times up to `now`: of each process at most one runs, the others were missed.
    pub(crate) fn due(&mut self, now: Timestamp) -> Vec<Due> {
        let mut due = Vec::new();
        for (process, schedule) in &self.entries {
            let Some(remembered) = self.memory.processes.get_mut(process) else {
                continue;
            };
            let (mut passed, mut last) = (0, None);
            let mut at = remembered.until;
            while let Some(next) = schedule.next(at).filter(|next| *next <= now) {
                (passed, last, at) = (passed + 1, Some(next), next);
                if passed == MISSED_COUNT {
                    break;
                }
            }
            let Some(mut last) = last else { continue };
            if passed == MISSED_COUNT {
                // Too many to walk through: go on from just before now.
                let recent = now.checked_sub(LATE).unwrap_or(now).max(last);
                last = schedule
                    .next(recent)
                    .filter(|next| *next <= now)
                    .unwrap_or(last);
            }
            remembered.until = now.max(last);
            let in_time = now.duration_since(last) < LATE;
            let missed = passed - usize::from(in_time);
            if missed > 0 {
                due.push(Due::Missed {
                    process: process.clone(),
                    count: missed,
                    last,
                });
            }
            if in_time {
                due.push(Due::Run {
                    process: process.clone(),
                    at: last,
                });
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(cron: &str, timezone: &str) -> Schedule {
        Schedule {
            cron: cron.into(),
            timezone: timezone.into(),
        }
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The due times after `from` up to `to`, in UTC.
    fn between(cron: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
        let cron = CronSchedule::parse(&schedule(cron, zone)).unwrap();
        let (mut at, to, mut found) = (time(from), time(to), Vec::new());
        while let Some(next) = cron.next(at).filter(|next| *next <= to) {
            found.push(next.strftime("%dT%H:%M").to_string());
            at = next;
        }
        found
    }

    #[test]
    fn daylight_saving_changes() {
        // zone, fields, from, to, due (day and hour in UTC)
        let cases: &[(&str, &str, &str, &str, &[&str])] = &[
            // Berlin, 28 March 2027: 02:00 CET -> 03:00 CEST at 01:00 UTC.
            (
                "Europe/Berlin",
                "30 2 * * *",
                "2027-03-27T00:00:00Z",
                "2027-03-30T00:00:00Z",
                &["27T01:30", "28T01:00", "29T00:30"],
            ),
            (
                "Europe/Berlin",
                "*/15 2 * * *",
                "2027-03-28T00:00:00Z",
                "2027-03-28T23:00:00Z",
                &["28T01:00"],
            ),
            (
                "Europe/Berlin",
                "*/30 * * * *",
                "2027-03-28T00:00:00Z",
                "2027-03-28T02:00:00Z",
                &["28T00:30", "28T01:00", "28T01:30", "28T02:00"],
            ),
            (
                "Europe/Berlin",
                "0 3 * * *",
                "2027-03-28T00:00:00Z",
                "2027-03-28T12:00:00Z",
                &["28T01:00"],
            ),
            (
                "Europe/Berlin",
                "59 1 * * *",
                "2027-03-28T00:00:00Z",
                "2027-03-28T12:00:00Z",
                &["28T00:59"],
            ),
            // Berlin, 31 October 2027: 03:00 CEST -> 02:00 CET at 01:00 UTC.
            (
                "Europe/Berlin",
                "30 2 * * *",
                "2027-10-30T00:00:00Z",
                "2027-11-01T12:00:00Z",
                &["30T00:30", "31T00:30", "01T01:30"],
            ),
            (
                "Europe/Berlin",
                "*/30 * * * *",
                "2027-10-30T23:45:00Z",
                "2027-10-31T02:30:00Z",
                &["31T00:00", "31T00:30", "31T02:00", "31T02:30"],
            ),
            (
                "Europe/Berlin",
                "0 3 * * *",
                "2027-10-31T00:00:00Z",
                "2027-10-31T12:00:00Z",
                &["31T02:00"],
            ),
            // New York, 14 March 2027: 02:00 EST -> 03:00 EDT at 07:00 UTC.
            (
                "America/New_York",
                "17 2 * * *",
                "2027-03-13T08:00:00Z",
                "2027-03-15T12:00:00Z",
                &["14T07:00", "15T06:17"],
            ),
            // New York, 7 November 2027: 02:00 EDT -> 01:00 EST at 06:00 UTC.
            (
                "America/New_York",
                "30 1 * * *",
                "2027-11-06T12:00:00Z",
                "2027-11-08T12:00:00Z",
                &["07T05:30", "08T06:30"],
            ),
            (
                "America/New_York",
                "0 * * * *",
                "2027-11-07T04:30:00Z",
                "2027-11-07T08:00:00Z",
                &["07T05:00", "07T07:00", "07T08:00"],
            ),
            // Sydney, 4 April 2027: 03:00 AEDT -> 02:00 AEST at 16:00 UTC on the 3rd.
            (
                "Australia/Sydney",
                "30 2 * * *",
                "2027-04-02T12:00:00Z",
                "2027-04-05T00:00:00Z",
                &["02T15:30", "03T15:30", "04T16:30"],
            ),
            // Sydney, 3 October 2027: 02:00 AEST -> 03:00 AEDT at 16:00 UTC on the 2nd.
            (
                "Australia/Sydney",
                "30 2 * * *",
                "2027-10-01T12:00:00Z",
                "2027-10-04T00:00:00Z",
                &["01T16:30", "02T16:00", "03T15:30"],
            ),
            // Lord Howe shifts by half an hour: 02:00 -> 02:30 on 3 October 2027, 15:30 UTC.
            (
                "Australia/Lord_Howe",
                "15 2 * * *",
                "2027-10-02T12:00:00Z",
                "2027-10-03T12:00:00Z",
                &["02T15:30"],
            ),
            (
                "UTC",
                "17 3 * * *",
                "2027-03-28T00:00:00Z",
                "2027-03-29T12:00:00Z",
                &["28T03:17", "29T03:17"],
            ),
        ];
        for (zone, cron, from, to, due) in cases {
            assert_eq!(
                between(cron, zone, from, to),
                *due,
                "{cron} in {zone} from {from}"
            );
        }
    }

    #[test]
    fn a_date_that_never_comes_has_no_due_time() {
        assert_eq!(
            between(
                "0 0 30 2 *",
                "UTC",
                "2027-01-01T00:00:00Z",
                "2029-01-01T00:00:00Z"
            ),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_is_not_five_fields_is_refused() {
        assert!(matches!(
            CronSchedule::parse(&schedule("* * * *", "UTC")),
            Err(CronError::Fields { .. })
        ));
        assert!(matches!(
            CronSchedule::parse(&schedule("0 * * * * *", "UTC")),
            Err(CronError::Fields { .. })
        ));
    }

    fn nightly(memory: CronMemory, cron: &str, now: &str) -> Schedules {
        let mut schedules = Schedules::new(memory);
        let process: ProcessType = "nightly".parse().unwrap();
        schedules
            .set([(&process, &schedule(cron, "UTC"))], time(now))
            .unwrap();
        schedules
    }

    #[test]
    fn runs_when_due_and_once() {
        let mut s = nightly(CronMemory::default(), "0 3 * * *", "2027-01-01T00:00:00Z");
        assert_eq!(s.next(), Some(time("2027-01-01T03:00:00Z")));
        assert_eq!(s.due(time("2027-01-01T02:59:59Z")), []);
        let run = s.due(time("2027-01-01T03:00:01Z"));
        assert!(
            matches!(&run[..], [Due::Run { at, .. }] if *at == time("2027-01-01T03:00:00Z")),
            "{run:?}"
        );
        assert_eq!(s.due(time("2027-01-01T03:00:02Z")), []);
        assert_eq!(s.next(), Some(time("2027-01-02T03:00:00Z")));
    }

    #[test]
    fn what_a_host_that_was_down_missed_is_told_not_run() {
        let s = nightly(CronMemory::default(), "0 3 * * *", "2027-01-01T00:00:00Z");
        let kept = serde_json::to_string(s.memory()).unwrap();
        let mut s = nightly(
            serde_json::from_str(&kept).unwrap(),
            "0 3 * * *",
            "2027-01-04T12:00:00Z",
        );
        let missed = s.due(time("2027-01-04T12:00:00Z"));
        assert!(
            matches!(&missed[..], [Due::Missed { count: 4, last, .. }] if *last == time("2027-01-04T03:00:00Z"))
        );
        assert_eq!(s.due(time("2027-01-04T12:00:01Z")), []);
        // A changed schedule has missed nothing.
        let mut s = nightly(
            serde_json::from_str(&kept).unwrap(),
            "0 4 * * *",
            "2027-01-04T12:00:00Z",
        );
        assert_eq!(s.due(time("2027-01-04T12:00:00Z")), []);
    }

    #[test]
    fn a_year_of_minutes_is_counted_up_to_a_bound() {
        let mut s = nightly(CronMemory::default(), "* * * * *", "2027-01-01T00:00:00Z");
        let due = s.due(time("2028-01-01T00:00:30Z"));
        assert!(
            matches!(&due[..], [Due::Missed { count: 999, .. }, Due::Run { at, .. }] if *at == time("2028-01-01T00:00:00Z")),
            "{due:?}"
        );
        assert_eq!(s.next(), Some(time("2028-01-01T00:01:00Z")));
    }

    #[test]
    fn a_clock_set_back_runs_nothing_twice() {
        let mut s = nightly(CronMemory::default(), "0 3 * * *", "2027-01-01T00:00:00Z");
        assert_eq!(s.due(time("2027-01-01T03:00:00Z")).len(), 1);
        assert_eq!(s.due(time("2027-01-01T02:30:00Z")), []);
        assert_eq!(s.due(time("2027-01-01T03:00:00Z")), []);
    }
}
