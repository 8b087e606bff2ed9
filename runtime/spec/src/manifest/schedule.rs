//! Cron fields and time zones. The zones are the ones bundled with this build, so that a manifest
//! means the same on every machine.

use std::sync::LazyLock;

use croner::parser::{CronParser, Seconds, Year};
use croner::{Cron, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::types::Schedule;
use crate::suggest::nearest;

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A mistake and what to write instead.
type Refusal = (String, Option<String>);

impl Schedule {
    /// The time zone, from this build's own database; UTC if it were not there, which parsing rules out.
    pub fn time_zone(&self) -> TimeZone {
        ZONES.get(&self.timezone).unwrap_or(TimeZone::UTC)
    }
}

/// The zone's name as the database writes it.
pub(crate) fn zone(name: &str) -> Result<String, Refusal> {
    if let Ok(zone) = ZONES.get(name) {
        return Ok(zone.iana_name().unwrap_or(name).to_owned());
    }
    let names: Vec<String> = ZONES.available().map(|name| name.to_string()).collect();
    // Many write the city alone.
    let city = names.iter().find(|known| {
        known
            .rsplit('/')
            .next()
            .is_some_and(|city| city.eq_ignore_ascii_case(&name.replace(' ', "_")))
    });
    let near = city
        .map(String::as_str)
        .or_else(|| nearest(name, names.iter().map(String::as_str)));
    let help = near.map_or_else(
        || "use a name of the IANA database, as in \"Europe/Paris\", or \"UTC\"".to_owned(),
        |near| format!("did you mean `{near}`?"),
    );
    Err((
        format!("unknown time zone `{}`", crate::mistakes::brief(name)),
        Some(help),
    ))
}

const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

const FIELDS: [&str; 5] = ["minute", "hour", "day of month", "month", "day of week"];

/// Checks five cron fields.
pub(crate) fn cron(text: &str) -> Result<(), Refusal> {
    let shown = crate::mistakes::brief(text);
    let fields: Vec<&str> = text.split_whitespace().collect();
    if let [nickname] = fields.as_slice()
        && let Some((_, meaning)) = NICKNAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(nickname))
    {
        return Err((
            format!("`{shown}` is a nickname, not five fields"),
            Some(format!("write \"{meaning}\"")),
        ));
    }
    if fields.is_empty() {
        return Err((
            "the schedule is empty".to_owned(),
            Some("use five fields, as in \"17 3 * * *\"".to_owned()),
        ));
    }
    if fields.len() != FIELDS.len() {
        let noun = if fields.len() == 1 { "field" } else { "fields" };
        return Err((
            format!("`{shown}` has {} {noun}, a schedule has five", fields.len()),
            Some(
                "use minute, hour, day of month, month and day of week, as in \"17 3 * * *\""
                    .to_owned(),
            ),
        ));
    }
    let Ok(cron) = parser().parse(text) else {
        return Err((
            wrong_field(&fields).unwrap_or_else(|| format!("`{shown}` is not a valid schedule")),
            None,
        ));
    };
    if !ever(&cron) {
        return Err((
            format!("`{shown}` never comes: no month has that day"),
            None,
        ));
    }
    Ok(())
}

fn parser() -> CronParser {
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
}

/// The first field that is wrong by itself.
fn wrong_field(fields: &[&str]) -> Option<String> {
    fields
        .iter()
        .zip(FIELDS)
        .enumerate()
        .find_map(|(index, (field, name))| {
            let alone: Vec<&str> = (0..FIELDS.len())
                .map(|i| if i == index { *field } else { "*" })
                .collect();
            let range = match index {
                0 => "0 to 59",
                1 => "0 to 23",
                2 => "1 to 31",
                3 => "1 to 12 or JAN to DEC",
                _ => "0 to 7 or SUN to SAT",
            };
            parser().parse(&alone.join(" ")).is_err().then(|| {
                format!(
                    "`{}` is not valid as the {name}, which takes {range}",
                    crate::mistakes::brief(field)
                )
            })
        })
}

/// Whether some day within 28 years, after which the calendar repeats, is one of the schedule's.
fn ever(cron: &Cron) -> bool {
    jiff::civil::date(2000, 1, 1)
        .series(jiff::Span::new().days(1))
        .take(28 * 366)
        .any(|day| {
            let (year, month, day_of_month) = (
                i32::from(day.year()),
                day.month().unsigned_abs(),
                day.day().unsigned_abs(),
            );
            let weekday = Weekday::from_days_from_sunday(u32::from(
                day.weekday().to_sunday_zero_offset().unsigned_abs(),
            ));
            cron.pattern.month_match(month.into()).unwrap_or(false)
                && cron
                    .pattern
                    .day_match(year, month.into(), day_of_month.into(), weekday)
                    .unwrap_or(false)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_fields_and_nothing_else() {
        for good in [
            "17 3 * * *",
            "*/5 * * * *",
            "0 9-17 * * MON-FRI",
            "0 0 29 2 *",
            "0 0 L * *",
            "0,30 * 1 JAN *",
        ] {
            assert_eq!(cron(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "@daily",
            "* * * *",
            "0 * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "0 0 30 2 *",
            "0 0 31 4 *",
            "x * * * *",
        ] {
            assert!(cron(bad).is_err(), "{bad}");
        }
        assert!(cron("0 25 * * *").unwrap_err().0.contains("hour"));
    }

    #[test]
    fn zones_come_from_this_build() {
        assert_eq!(zone("UTC").unwrap(), "UTC");
        assert_eq!(zone("Europe/Berlin").unwrap(), "Europe/Berlin");
        assert_eq!(
            zone("Europe/Berln").unwrap_err().1.unwrap(),
            "did you mean `Europe/Berlin`?"
        );
        assert_eq!(
            zone("berlin").unwrap_err().1.unwrap(),
            "did you mean `Europe/Berlin`?"
        );
        let schedule = Schedule {
            cron: "0 0 * * *".into(),
            timezone: "America/New_York".into(),
        };
        assert_eq!(schedule.time_zone().iana_name(), Some("America/New_York"));
    }
}
