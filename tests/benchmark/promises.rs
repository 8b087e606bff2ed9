//! What the host promises to cost: printed beside what was asked, and never deciding anything.

use serde::Serialize;

/// One number that the host is held to.
#[derive(Debug, Serialize)]
pub(crate) struct Promise {
    pub(crate) what: String,
    pub(crate) asked: String,
    pub(crate) measured: String,
    /// What was measured as a share of the most that was asked: more than 1 is not reached. `None`: it was not counted.
    pub(crate) share: Option<f64>,
}

impl Promise {
    /// At most `most` was asked, of which `measured` is.
    pub(crate) fn at_most(what: impl Into<String>, most: f64, measured: f64, unit: &str) -> Self {
        Self {
            what: what.into(),
            asked: format!("≤ {most:.0} {unit}"),
            measured: format!("{measured:.1} {unit}"),
            share: (most > 0.0).then(|| measured / most),
        }
    }

    /// All of them were asked.
    pub(crate) fn all(what: impl Into<String>, all: usize, good: usize, measured: String) -> Self {
        Self {
            what: what.into(),
            asked: format!("all {all}"),
            measured,
            share: Some(all as f64 / good.max(1) as f64),
        }
    }

    /// With more of what was seen.
    pub(crate) fn noting(mut self, note: &str) -> Self {
        self.measured = format!("{}; {note}", self.measured);
        self
    }

    pub(crate) fn verdict(&self) -> String {
        match self.share {
            None => "not measured".to_owned(),
            Some(share) if share <= 1.0 => "reached".to_owned(),
            Some(share) => format!("not reached: {:.2} of the target", 1.0 / share),
        }
    }
}
