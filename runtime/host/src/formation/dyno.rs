//! The task of one dyno: from the permission to start to the end of its guest.
//!
//! A task waits for its `Go` before it does anything; when the dispatcher is gone it ends without
//! having started. It runs on the dispatcher's runtime, its guest on a core. It returns only when
//! the guest is gone: a kill takes effect at the guest's next epoch tick, and until then its place
//! is not given away.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use oarlock_sandbox::{Exit, Instance, InstanceEnd, Output, RunHandle, Sandbox, StartError, Stdin};
use oarlock_spec::api::LogSource;
use oarlock_spec::codes::{DynoCode, exit};
use oarlock_spec::names::DynoName;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};

use super::table::{DynoId, Ended, error_line};
use crate::cores::{CoreId, Cores};
use crate::logs::AppLog;
use crate::web::{Backend, Wear, WebDyno};

/// A command that has run this long has started; one that fails earlier did not boot.
pub(crate) const SETTLED: Duration = Duration::from_millis(100);

/// What the dispatcher says to a dyno's task, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    /// Nothing yet.
    Wait,
    /// Start.
    Go,
    /// End: stop signal, grace, kill.
    Stop,
}

/// What a dyno tells its dispatcher while it lives.
pub(crate) enum News {
    /// It is ready.
    Ready {
        id: DynoId,
        /// What the router leases, for web.
        web: Option<Arc<WebDyno>>,
    },
    /// Its instance has served its time: another shall take its place.
    WornOut { id: DynoId },
}

/// How long a worn instance waits until it asks again to be replaced: what was to replace it may have failed.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What every dyno task has.
pub(crate) struct Task {
    pub(crate) id: DynoId,
    pub(crate) name: DynoName,
    pub(crate) log: AppLog,
    pub(crate) signals: watch::Receiver<Signal>,
    pub(crate) news: mpsc::Sender<News>,
    pub(crate) boot_timeout: Duration,
    pub(crate) stop_grace: Duration,
    /// As the log shows it.
    pub(crate) command: String,
}

/// Who ends a run: the sandbox's handle, or a test's.
pub(crate) trait Control: Send + 'static {
    /// The stop signal.
    fn stop(&self);
    /// The end.
    fn kill(&self);
}

impl Control for RunHandle {
    fn stop(&self) {
        Self::stop(self);
    }
    fn kill(&self) {
        Self::kill(self);
    }
}

/// A run under way on a core.
pub(crate) struct Running {
    pub(crate) control: Box<dyn Control>,
    pub(crate) ended: Pin<Box<dyn Future<Output = Exit> + Send>>,
}

/// Starts a command on a core.
pub(crate) async fn start_command(
    (cores, core): (&Cores, CoreId),
    sandbox: Sandbox,
    io: (Stdin, Output),
    extra_args: Vec<String>,
) -> Option<Running> {
    let (handle_tx, handle_rx) = tokio::sync::oneshot::channel();
    let (stdin, output) = io;
    let task = OnCore(cores.spawn(core, async move {
        let run = sandbox.run(stdin, output, &extra_args);
        // Nobody to take the handle: the run is dropped, and with it the guest.
        if handle_tx.send(run.handle()).is_err() {
            return Exit::Killed;
        }
        run.wait().await
    }));
    let handle = handle_rx.await.ok()?;
    Some(Running {
        control: Box::new(handle),
        ended: Box::pin(async move { task.await.unwrap_or(Exit::Killed) }),
    })
}

/// A task on a core that ends with its supervisor.
struct OnCore<T>(JoinHandle<T>);

impl<T> Future for OnCore<T> {
    type Output = Result<T, JoinError>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for OnCore<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How a supervised run ended.
#[derive(Debug)]
pub(crate) struct RunEnd {
    pub(crate) exit: Exit,
    /// It was told to stop, or ran too long.
    pub(crate) told: bool,
    /// It ran longer than it may.
    pub(crate) late: bool,
    /// It ran long enough to count as started, or ended well.
    pub(crate) settled: bool,
}

impl Task {
    /// Waits for the permission to start; `false`: there will be none.
    pub(crate) async fn may_start(&mut self) -> bool {
        matches!(
            self.signals
                .wait_for(|word| *word >= Signal::Go)
                .await
                .map(|word| *word),
            Ok(Signal::Go)
        )
    }

    pub(crate) fn remark(&self, text: &str) {
        self.log
            .write(LogSource::Oarlock, &self.name.to_string(), text);
    }

    pub(super) async fn told_to_stop(signals: &mut watch::Receiver<Signal>) {
        // A dispatcher that is gone stops its dynos.
        let _gone = signals
            .wait_for(|word| *word == Signal::Stop)
            .await
            .is_err();
    }

    pub(super) async fn tell_ready(&self, web: Option<Arc<WebDyno>>) {
        // Fails only when the dispatcher is gone, and then `told_to_stop` returns.
        let ready = News::Ready { id: self.id, web };
        let _gone = self.news.send(ready).await.is_err();
    }

    /// Asks to be replaced once the instance is worn. Never returns.
    pub(super) async fn ask_when_worn(&self, web: &WebDyno) {
        let worn = web.worn().await;
        self.remark(&worn.to_string());
        self.ask_to_be_replaced().await;
    }

    /// Asks to be replaced once the instance takes no more calls, because of work after its answers: it has said so in
    /// the log. Never returns.
    async fn ask_when_it_works_on(&self, instance: &Instance, web: &WebDyno) {
        instance.to_be_replaced().await;
        web.close();
        self.ask_to_be_replaced().await;
    }

    /// Asks, and again if nothing comes of it. Never returns.
    async fn ask_to_be_replaced(&self) {
        loop {
            let _gone = self.news.send(News::WornOut { id: self.id }).await.is_err();
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// A worker's or singleton's life.
    pub(crate) async fn command(mut self, cores: Cores, sandbox: Sandbox) -> Ended {
        if !self.may_start().await {
            return Ended::Stopped;
        }
        self.remark(&format!("Starting process with command `{}`", self.command));
        let Some(running) = start_command(
            (&cores, cores.assign()),
            sandbox,
            (Stdin::OpenUntilStop, Output::Log),
            Vec::new(),
        )
        .await
        else {
            return Ended::NotStarted("the host's threads have ended".into());
        };
        let end = self.supervise(running, None).await;
        ended(&end)
    }

    /// Sees a run through: tells that it is ready once it has settled, stops it when told to or
    /// when `limit` is over, kills it after `stop_grace`, and logs how it ended.
    pub(crate) async fn supervise(
        &mut self,
        mut running: Running,
        limit: Option<Duration>,
    ) -> RunEnd {
        let settle = tokio::time::sleep(SETTLED);
        let too_long = tokio::time::sleep(limit.unwrap_or(Duration::MAX));
        tokio::pin!(settle, too_long);
        let (mut settled, mut late) = (false, false);
        let (exit, told) = loop {
            tokio::select! {
                biased;
                exit = &mut running.ended => {
                    // A short job that ended well had started.
                    if exit == Exit::Code(0) && !settled {
                        settled = true;
                        self.tell_ready(None).await;
                    }
                    break (exit, false);
                }
                () = Self::told_to_stop(&mut self.signals) => break (self.stop(running).await, true),
                () = &mut settle, if !settled => {
                    settled = true;
                    self.tell_ready(None).await;
                }
                () = &mut too_long, if limit.is_some() => {
                    self.remark("The process ran longer than it may");
                    late = true;
                    break (self.stop(running).await, true);
                }
            }
        };
        self.log_exit(&exit);
        RunEnd {
            exit,
            told,
            late,
            settled,
        }
    }

    pub(super) async fn stop(&self, mut running: Running) -> Exit {
        self.remark("Stopping the process with the stop signal");
        running.control.stop();
        match tokio::time::timeout(self.stop_grace, &mut running.ended).await {
            Ok(exit) => exit,
            Err(_elapsed) => {
                self.log_exit_timeout();
                running.control.kill();
                running.ended.await
            }
        }
    }

    pub(super) fn log_exit_timeout(&self) {
        let grace = self.stop_grace.as_secs_f64();
        self.remark(&format!(
            "{} -> The process did not exit within {grace} seconds of the stop signal",
            error_line(DynoCode::R12)
        ));
        self.remark("Ending the process");
    }

    pub(super) fn log_exit(&self, exit: &Exit) {
        match exit {
            Exit::Code(_) | Exit::Killed => {}
            Exit::Trap(text) => self.remark(&format!("The component trapped: {text}")),
            Exit::Memory => self.remark(&error_line(DynoCode::R14)),
            Exit::NotStarted(error) => {
                return self.remark(&format!("The process could not be started: {error}"));
            }
        }
        self.remark(&format!("Process exited with status {}", status(exit)));
    }

    /// The life of a web dyno with an instance per request: an account, proved once by an instance.
    pub(crate) async fn web_fresh(
        mut self,
        cores: Cores,
        sandbox: Sandbox,
        capacity: u32,
    ) -> Ended {
        if !self.may_start().await {
            return Ended::Stopped;
        }
        self.remark(&format!("Starting process with command `{}`", self.command));
        match self.boot(&cores, &sandbox).await {
            // One is enough to know that others will start too.
            Ok(Some((instance, _core))) => instance.kill(),
            Ok(None) => return Ended::Stopped,
            Err(ended) => return ended,
        }
        let web = WebDyno::new(&self.name, Backend::Fresh(sandbox.clone()), capacity);
        self.tell_ready(Some(Arc::clone(&web))).await;
        Self::told_to_stop(&mut self.signals).await;
        // Guests may go on after their answers.
        let orderly = async {
            web.drained().await;
            sandbox.calls_gone().await;
        };
        let status = match tokio::time::timeout(self.stop_grace, orderly).await {
            Ok(()) => exit::OK,
            Err(_elapsed) => {
                self.log_exit_timeout();
                sandbox.end_calls().await;
                exit::DYNO_ENDED
            }
        };
        self.remark(&format!("Process exited with status {status}"));
        Ended::Stopped
    }

    /// The life of a web dyno that is one instance.
    pub(crate) async fn web_live(mut self, cores: Cores, sandbox: Sandbox, capacity: u32) -> Ended {
        if !self.may_start().await {
            return Ended::Stopped;
        }
        self.remark(&format!("Starting process with command `{}`", self.command));
        let (instance, core) = match self.boot(&cores, &sandbox).await {
            Ok(Some(booted)) => booted,
            Ok(None) => return Ended::Stopped,
            Err(ended) => return ended,
        };
        let backend = Backend::Live {
            instance: instance.clone(),
            core,
        };
        let limits = sandbox.limits();
        let wear = Wear::new(
            limits.max_requests,
            limits.memory,
            sandbox.meter(),
            rand::random(),
        );
        let web = WebDyno::new(&self.name, backend, capacity).with_wear(wear);
        self.tell_ready(Some(Arc::clone(&web))).await;
        let mut signals = self.signals.clone();
        tokio::select! {
            biased;
            end = instance.ended() => return self.instance_ended(&end),
            () = Self::told_to_stop(&mut signals) => {}
            () = self.ask_when_worn(&web) => {}
            () = self.ask_when_it_works_on(&instance, &web) => {}
        }
        // The dispatcher has taken it out of the pool: the guest hears that it is to stop, for it may have requests that
        // only it can end (event streams); requests under way are finished. `stop_grace` bounds both together.
        self.remark("Stopping the process with the stop signal");
        instance.announce_stop();
        let orderly = async {
            web.drained().await;
            instance.retire();
            instance.ended().await
        };
        let end = match tokio::time::timeout(self.stop_grace, orderly).await {
            Ok(end) => end,
            Err(_elapsed) => {
                self.log_exit_timeout();
                instance.kill();
                instance.ended().await
            }
        };
        self.instance_ended(&end);
        Ended::Stopped
    }

    /// Starts an instance within `boot_timeout`; `None`: it was told to stop meanwhile.
    async fn boot(
        &mut self,
        cores: &Cores,
        sandbox: &Sandbox,
    ) -> Result<Option<(Instance, CoreId)>, Ended> {
        let core = cores.assign();
        let sandbox = sandbox.clone();
        let task = OnCore(cores.spawn(core, async move { sandbox.start().await }));
        let started = tokio::select! {
            biased;
            () = Self::told_to_stop(&mut self.signals) => return Ok(None),
            started = tokio::time::timeout(self.boot_timeout, task) => started,
        };
        match started {
            Ok(Ok(Ok(instance))) => Ok(Some((instance, core))),
            Ok(Ok(Err(error))) => {
                if matches!(error, StartError::Memory { .. }) {
                    self.remark(&error_line(DynoCode::R14));
                }
                self.remark(&format!("The process could not be started: {error}"));
                Err(Ended::NotStarted(error.to_string()))
            }
            Ok(Err(_gone)) => Err(Ended::NotStarted("the host's threads have ended".into())),
            Err(_elapsed) => {
                let after = format!(
                    "it was not ready within {} seconds",
                    self.boot_timeout.as_secs_f64()
                );
                self.remark(&format!("{} -> {after}", error_line(DynoCode::R10)));
                Err(Ended::NotStarted(format!(
                    "{}: {after}",
                    error_line(DynoCode::R10)
                )))
            }
        }
    }

    fn instance_ended(&self, end: &InstanceEnd) -> Ended {
        let (code, ended) = match end {
            InstanceEnd::Retired => (exit::OK, Ended::Retired),
            // The host ended it with a request that nobody waited for any more: no crash of the guest's.
            InstanceEnd::Killed => (exit::DYNO_ENDED, Ended::Retired),
            InstanceEnd::Trap(text) => {
                self.remark(&format!("The component trapped: {text}"));
                let (code, reason) = (exit::TRAP, format!("it trapped: {text}"));
                (code, Ended::Exited { code, reason })
            }
            InstanceEnd::Memory => {
                let (code, reason) = (exit::DYNO_ENDED, error_line(DynoCode::R14));
                self.remark(&reason);
                (code, Ended::Exited { code, reason })
            }
        };
        self.remark(&format!("Process exited with status {code}"));
        ended
    }
}

/// The status that the log shows for an exit.
pub(crate) fn status(exit: &Exit) -> u8 {
    match exit {
        Exit::Code(code) => *code,
        Exit::Trap(_) => exit::TRAP,
        Exit::Memory | Exit::Killed => exit::DYNO_ENDED,
        Exit::NotStarted(StartError::Trap(_)) => exit::TRAP,
        Exit::NotStarted(
            StartError::Memory { .. } | StartError::Full(_) | StartError::Platform(_),
        ) => exit::DYNO_ENDED,
    }
}

/// What an exit was, in words; empty if there is nothing to say of it.
pub(crate) fn reason(exit: &Exit) -> String {
    match exit {
        Exit::Code(0) => String::new(),
        Exit::Code(code) => format!("it exited with status {code}"),
        Exit::Trap(text) => format!("it trapped: {text}"),
        Exit::Memory => error_line(DynoCode::R14),
        Exit::Killed => "it was ended".to_owned(),
        Exit::NotStarted(error) => error.to_string(),
    }
}

fn ended(end: &RunEnd) -> Ended {
    match &end.exit {
        _ if end.told => Ended::Stopped,
        Exit::NotStarted(error) => Ended::NotStarted(error.to_string()),
        exit => Ended::Exited {
            code: status(exit),
            reason: reason(exit),
        },
    }
}
