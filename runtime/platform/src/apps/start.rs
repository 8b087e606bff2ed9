//! How far the start of an app has come, for those who ask.

use oarlock_spec::api::AppState;

use super::{ManagedApp, lock};
use crate::platform::Event;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Others have their turn.
    Waiting,
    /// Its folder, its records, its slug.
    Reading,
    Building,
    /// Its components, and then its release phase and its dynos.
    Compiling,
}

/// The start of an app; what it says holds while no release runs.
#[derive(Debug, Clone)]
pub(super) enum Start {
    Under(Step),
    /// Why.
    Failed(String),
}

impl ManagedApp {
    pub(crate) fn is_at(&self, step: Step) {
        *lock(&self.start) = Start::Under(step);
    }

    /// Its start has failed, and there is no release to go on with: nobody waits for it any more.
    pub(crate) fn fail(&self, message: String, public: String) {
        *lock(&self.start) = Start::Failed(public.clone());
        self.shared.runtime.give_up(&self.name);
        self.say_failed(message, &public);
    }

    /// Tells the operator, and the app's log what is for its eyes.
    pub(crate) fn say_failed(&self, message: String, public: &str) {
        // A release that failed has said so already, and why.
        let said = lock(&self.shown).failed.take();
        let rest = said.and_then(|said| public.strip_prefix(&said));
        let rest = rest.map_or(public, str::trim_start);
        if !rest.is_empty() {
            self.log_told(rest);
        }
        self.shared.tell(Event::Failed {
            app: self.name.clone(),
            message,
        });
    }

    /// What has become of it while no release runs, in a word and in detail.
    pub(super) async fn start_state(&self) -> (AppState, String) {
        let start = lock(&self.start).clone();
        match start {
            Start::Failed(message) => (AppState::Failed, message),
            Start::Under(step) => (AppState::Starting, self.doing(step).await.to_owned()),
        }
    }

    async fn doing(&self, step: Step) -> &'static str {
        match step {
            Step::Waiting => "waiting",
            Step::Reading => "reading",
            Step::Building => "building",
            Step::Compiling => {
                // The host says no more than which dynos it has begun.
                let dynos = self.shared.runtime.dynos(&self.name).await;
                let dynos = dynos.unwrap_or_default();
                if dynos.iter().any(|dyno| dyno.process.is_release()) {
                    "release phase"
                } else if dynos.is_empty() {
                    "compiling"
                } else {
                    "booting"
                }
            }
        }
    }
}
