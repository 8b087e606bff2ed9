//! The one path that makes an app what it shall be, in two steps: a release is staged, and then committed.
//!
//! **Stage** loads the components, binds the add-ons, runs the release phase and boots all dynos that may stand beside
//! the old ones; its last step exchanges the singletons (the old one ends, the new one starts). **Commit** moves the
//! traffic and stops the old dynos. Between the two, whoever keeps releases writes down that this one is current: if
//! that fails, the staged release is dropped. A drop at any moment brings back what served: the new dynos end, the old
//! singletons start again. A release phase that has begun is not stopped by it: half a migration is worse than a whole.
//!
//! Releases of one app are staged one after the other; a staged one holds the next one back until it is committed or
//! dropped. What is scaled meanwhile holds for the new release too. While dynos boot, and until the commit, scaling
//! and restarts wait.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use oarlock_sandbox::{Exit, Output, Stdin};
use oarlock_spec::api::Formation;
use oarlock_spec::names::AppName;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use crate::Host;
use crate::apply::{Applied, ApplyError, Desired, ReleasePhase, Slug};
use crate::events::Event;
use crate::formation::HostShared;
use crate::formation::{
    Generation, HostedApp, Job, JobError, Message, Prepared, Purpose, exit_reason,
    release_phase_limit,
};
use crate::host::Inner;

/// What is awaited once the release phase has exited 0; an error gives the release up.
type AfterPhase = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// A release about to be staged ([`Host::stage`]): await it. Dropped before it is ready, it brings back what served.
#[must_use = "nothing is staged before this is awaited"]
pub struct Stage {
    host: Host,
    desired: Desired,
    slug: Slug,
    after_phase: AfterPhase,
}

impl Host {
    /// Makes a release ready to be current, beside whatever runs of its app; see [`Staged`]. `slug` is the opened slug
    /// that `desired` names.
    ///
    /// What is awaited fails if the release cannot be current; what served goes on.
    pub fn stage(&self, desired: Desired, slug: Slug) -> Stage {
        Stage {
            host: self.clone(),
            desired,
            slug,
            after_phase: Box::pin(std::future::ready(Ok(()))),
        }
    }
}

impl Stage {
    /// Has `work` done once the release phase has exited 0 and before any dyno starts: it may write down that this
    /// phase need not run again. If it fails the release is given up. Not done if no phase ran.
    pub fn after_release_phase(
        mut self,
        work: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> Self {
        self.after_phase = Box::pin(work);
        self
    }
}

impl IntoFuture for Stage {
    type Output = Result<Staged, ApplyError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let inner = Arc::clone(&self.host.inner);
        Box::pin(async move {
            let given_up = CancellationToken::new();
            // Whoever drops this future gives the release up; what came of it by then is dropped with the task.
            let guard = given_up.clone().drop_guard();
            let staged = self.host.on_control(async move {
                let turn = inner.turn(&self.desired.manifest.app, &given_up).await?;
                inner
                    .stage(turn, self.desired, self.slug, self.after_phase, given_up)
                    .await
            });
            let staged = staged.await.unwrap_or(Err(ApplyError::ShuttingDown));
            guard.disarm();
            staged
        })
    }
}

/// The right to bring releases of an app up; one at a time.
pub(crate) struct Turn {
    pub(crate) app: Arc<HostedApp>,
    /// As it was when the turn came; what is scaled from then on holds for the release that is staged in it.
    pub(crate) formation: Formation,
    _applying: OwnedMutexGuard<()>,
}

impl Inner {
    /// Waits for the app's turn; opens the app first, if it is new.
    pub(crate) async fn turn(
        self: &Arc<Self>,
        name: &AppName,
        given_up: &CancellationToken,
    ) -> Result<Turn, ApplyError> {
        let turn = async {
            loop {
                let app = self.opened(name).await?;
                let applying = Arc::clone(&app.applying).lock_owned();
                let applying = tokio::select! {
                    biased;
                    // It was taken off while we waited: the next one of its name is opened when it is gone.
                    () = app.gone.cancelled() => continue,
                    applying = applying => applying,
                };
                let began = app.ask(Message::Begin).await;
                let formation = began.ok_or(ApplyError::ShuttingDown)?;
                return Ok(Turn {
                    app,
                    formation,
                    _applying: applying,
                });
            }
        };
        tokio::select! {
            biased;
            () = given_up.cancelled() => Err(ApplyError::GivenUp),
            turn = turn => turn,
        }
    }

    /// Stages a release, and tells of it if it fails.
    pub(crate) async fn stage(
        self: &Arc<Self>,
        turn: Turn,
        desired: Desired,
        slug: Slug,
        after_phase: AfterPhase,
        given_up: CancellationToken,
    ) -> Result<Staged, ApplyError> {
        let (app, release) = (turn.app.name.clone(), desired.release);
        let staged = self
            .staged(turn, desired, slug, after_phase, given_up)
            .await;
        if let Err(error) = &staged {
            self.shared.events.tell(Event::ReleaseFailed {
                app,
                release,
                reason: error.to_string(),
            });
        }
        staged
    }

    async fn staged(
        self: &Arc<Self>,
        turn: Turn,
        desired: Desired,
        slug: Slug,
        after_phase: AfterPhase,
        given_up: CancellationToken,
    ) -> Result<Staged, ApplyError> {
        let (phase, shared) = (desired.release_phase, &self.shared);
        if desired.slug != slug.id {
            return Err(ApplyError::WrongSlug {
                wanted: desired.slug,
                given: slug.id,
            });
        }
        let app = Arc::clone(&turn.app);
        let prepared = tokio::select! {
            biased;
            () = given_up.cancelled() => return Err(ApplyError::GivenUp),
            () = app.gone.cancelled() => return Err(ApplyError::ShuttingDown),
            prepared = Prepared::new(desired, slug, &app, shared) => prepared?,
        };
        prepared.fits(&shared.engine)?;
        if phase == ReleasePhase::Run {
            let limit = release_phase_limit(&shared.config.policy);
            if run_release_phase(&app, &prepared, limit).await? {
                after_phase.await.map_err(ApplyError::Platform)?;
            }
        }
        if given_up.is_cancelled() {
            return Err(ApplyError::GivenUp);
        }
        let applied = Applied {
            app: app.name.clone(),
            release: prepared.release,
            compiled: prepared.compiled,
            cached: prepared.cached,
        };
        let prepared = Arc::new(prepared);
        let boot = app
            .ask(|reply| Message::Stage(prepared, reply))
            .await
            .ok_or(ApplyError::ShuttingDown)?;
        // From here on a drop takes back what was begun.
        let mut staged = Staged {
            shared: Arc::clone(shared),
            turn: Some(turn),
            generation: boot.generation,
            applied,
        };
        tokio::select! {
            biased;
            ready = boot.ready => {
                let ready = ready.map_err(|_gone| ApplyError::ShuttingDown);
                match ready.and_then(|ready| Ok(ready?)) {
                    Ok(()) => Ok(staged),
                    Err(error) => {
                        // The dispatcher has taken everything back.
                        staged.turn = None;
                        Err(error)
                    }
                }
            }
            () = given_up.cancelled() => Err(ApplyError::GivenUp),
        }
    }
}

/// A release that only needs to be made current: its dynos are ready, beside those that serve, and its singletons have
/// taken the places of the old ones. Dropped, it brings back what served.
///
/// The app's next release waits for this one, and so does everything that changes its dynos: commit it or drop it soon.
#[must_use = "dropped, it brings back what served"]
pub struct Staged {
    shared: Arc<HostShared>,
    /// `None`: there is nothing to take back.
    turn: Option<Turn>,
    generation: Generation,
    applied: Applied,
}

impl Staged {
    /// Whose release it is, which, and how its components were loaded.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Moves the traffic to it and stops the dynos of the release before. Once the host has heard of it, this is done
    /// whether or not it is awaited to its end.
    ///
    /// # Errors
    /// [`ApplyError::ShuttingDown`], if the app is being removed or the host shuts down meanwhile.
    pub async fn commit(mut self) -> Result<Applied, ApplyError> {
        let Some(turn) = &self.turn else {
            return Err(ApplyError::ShuttingDown);
        };
        let generation = self.generation;
        let committed = turn.app.ask(|reply| Message::Commit(generation, reply));
        let committed = committed.await;
        // A drop from here on finds nothing to take back.
        self.turn = None;
        committed.ok_or(ApplyError::ShuttingDown)??;
        Ok(self.applied.clone())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        let generation = self.generation;
        self.shared.control.spawn(async move {
            let undone = turn.app.dispatcher.send(Message::Undo(generation)).await;
            // A dispatcher that is gone has ended its dynos.
            drop(undone);
        });
    }
}

/// Runs the `release` process to its end; `false`: there is none.
async fn run_release_phase(
    app: &HostedApp,
    prepared: &Prepared,
    limit: Duration,
) -> Result<bool, ApplyError> {
    let Some((name, process)) = prepared
        .processes
        .iter()
        .find(|(name, _)| name.is_release())
    else {
        return Ok(false);
    };
    let job = Job {
        purpose: Purpose::Release,
        named: name.clone(),
        process: process.clone(),
        release: prepared.release,
        extra_args: Vec::new(),
        stdin: Stdin::Ended,
        output: Output::Log,
    };
    let started = app
        .ask(|reply| Message::Job(Box::new(job), reply))
        .await
        .ok_or(ApplyError::ShuttingDown)?;
    let failed = |code: Option<u8>, reason: String| Err(ApplyError::ReleasePhase { code, reason });
    let started = match started {
        Ok(started) => started,
        Err(JobError::Closing) => return Err(ApplyError::ShuttingDown),
        Err(error @ (JobError::TooMany | JobError::Start(_))) => {
            return failed(None, error.to_string());
        }
    };
    let end = started.end.await.map_err(|_| ApplyError::ShuttingDown)?;
    if end.late {
        return failed(
            None,
            format!(
                "it ran longer than {} seconds and was ended; the operator raises that by `release_phase` in the \
                 policy's [caps]",
                limit.as_secs_f64()
            ),
        );
    }
    match &end.exit {
        // Told to stop, it has not said that it is done: the next start runs it again.
        Exit::Code(0) if end.told => Err(ApplyError::ShuttingDown),
        Exit::Code(0) => Ok(true),
        // The guest's own word; otherwise it had none.
        Exit::Code(code) => failed(Some(*code), exit_reason(&end.exit)),
        Exit::Killed if end.told => failed(None, "it was stopped, and was ended".into()),
        Exit::Trap(_) | Exit::Memory | Exit::Killed | Exit::NotStarted(_) => {
            failed(None, exit_reason(&end.exit))
        }
    }
}
