//! The life of a listening web dyno: a command that serves `$PORT`.
//!
//! It is up when its guest first asks for a connection, and down when the guest lets go of its listener. A drain
//! begins with the stop signal, so that guests can end what lives long (WebSockets, event streams); requests under way
//! are finished, and only then does the listener close, for guests that know no other sign.

use std::sync::Arc;

use oarlock_sandbox::{Exit, Output, Port, Sandbox, Stdin};
use oarlock_spec::codes::DynoCode;
use tokio::time::Instant;

use super::dyno::{Running, Task, reason, start_command, status};
use super::table::{Ended, error_line};
use crate::cores::{CoreId, Cores};
use crate::router::Upstream;
use crate::web::{Backend, Wear, WebDyno};

/// What there is of a dyno that is up.
struct Up {
    running: Running,
    port: Port,
    upstream: Arc<Upstream>,
    web: Arc<WebDyno>,
}

/// How a boot ended without a dyno that is up.
enum Boot {
    Up(Running),
    Over(Ended),
}

impl Task {
    /// See the module.
    pub(crate) async fn web_listening(
        mut self,
        cores: Cores,
        sandbox: Sandbox,
        capacity: u32,
    ) -> Ended {
        if !self.may_start().await {
            return Ended::Stopped;
        }
        self.remark(&format!("Starting process with command `{}`", self.command));
        let Some(port) = sandbox.port().cloned() else {
            return Ended::NotStarted("it was given no port to listen on".into());
        };
        let core = cores.assign();
        let running = match self.boot_listening((&cores, core), &sandbox, &port).await {
            Boot::Up(running) => running,
            Boot::Over(ended) => return ended,
        };
        let upstream = Upstream::new(port.clone(), cores, core, capacity);
        let limits = sandbox.limits();
        let wear = Wear::new(
            limits.max_requests,
            limits.memory,
            sandbox.meter(),
            rand::random(),
        );
        let backend = Backend::Listening(Arc::clone(&upstream));
        let web = WebDyno::new(&self.name, backend, capacity).with_wear(wear);
        self.tell_ready(Some(Arc::clone(&web))).await;
        let up = Up {
            running,
            port,
            upstream,
            web,
        };
        self.serve(up).await
    }

    /// Starts the command and waits, at most for `boot_timeout`, until it accepts connections.
    async fn boot_listening(
        &mut self,
        on: (&Cores, CoreId),
        sandbox: &Sandbox,
        port: &Port,
    ) -> Boot {
        let io = (Stdin::OpenUntilStop, Output::Log);
        let Some(mut running) = start_command(on, sandbox.clone(), io, Vec::new()).await else {
            let reason = "the host's threads have ended".into();
            return Boot::Over(Ended::NotStarted(reason));
        };
        let after = tokio::select! {
            biased;
            exit = &mut running.ended => {
                self.log_exit(&exit);
                let reason = match reason(&exit) {
                    none if none.is_empty() => "it exited before it listened on its port".to_owned(),
                    reason => reason,
                };
                return Boot::Over(Ended::NotStarted(reason));
            }
            () = Self::told_to_stop(&mut self.signals) => {
                // There are no requests to be finished.
                port.close();
                let exit = self.stop(running).await;
                self.log_exit(&exit);
                return Boot::Over(Ended::Stopped);
            }
            () = port.accepting() => return Boot::Up(running),
            () = tokio::time::sleep(self.boot_timeout) => format!(
                "it did not listen on `$PORT` ({}) within {} seconds",
                port.number(),
                self.boot_timeout.as_secs_f64()
            ),
        };
        let error = format!("{} -> {after}", error_line(DynoCode::R10));
        self.remark(&error);
        self.remark("Ending the process");
        running.control.kill();
        let exit = running.ended.await;
        self.log_exit(&exit);
        Boot::Over(Ended::NotStarted(format!(
            "{}: {after}",
            error_line(DynoCode::R10)
        )))
    }

    /// Until it ends, whoever ends it.
    async fn serve(mut self, mut up: Up) -> Ended {
        let mut signals = self.signals.clone();
        // From the stop signal, whoever gave it.
        let mut until = None;
        loop {
            tokio::select! {
                biased;
                exit = &mut up.running.ended => {
                    up.upstream.close();
                    self.log_exit(&exit);
                    if until.is_some() {
                        // As it was asked to; it is not to be started again before the host has come to it.
                        Self::told_to_stop(&mut self.signals).await;
                        return Ended::Stopped;
                    }
                    return Ended::Exited { code: status(&exit), reason: reason(&exit) };
                }
                () = Self::told_to_stop(&mut signals) => {
                    let exit = self.stop_listening(up, until).await;
                    self.log_exit(&exit);
                    return Ended::Stopped;
                }
                () = up.upstream.host_ends(), if until.is_none() => {
                    until = Some(Instant::now() + self.stop_grace);
                    up.running.control.stop();
                }
                () = up.port.gone(), if until.is_none() => return self.deserted(up).await,
                () = self.ask_when_worn(&up.web) => {}
            }
        }
    }

    /// The guest has let go of its listener: it is about to exit, or of no use any more.
    async fn deserted(&mut self, up: Up) -> Ended {
        up.web.close();
        let exit = self.stop_listening(up, None).await;
        self.log_exit(&exit);
        let reason = match reason(&exit) {
            none if none.is_empty() => "it stopped listening on its port".to_owned(),
            reason => reason,
        };
        Ended::Exited {
            code: status(&exit),
            reason,
        }
    }

    /// The drain: the dispatcher has taken the dyno out of the pool. `stop_grace` bounds all of it, from the stop
    /// signal on, if that was given before (`until`).
    async fn stop_listening(&self, up: Up, until: Option<Instant>) -> Exit {
        let until = until.unwrap_or_else(|| Instant::now() + self.stop_grace);
        let Up {
            mut running,
            port,
            upstream,
            web,
        } = up;
        self.remark("Stopping the process with the stop signal");
        upstream.close();
        running.control.stop();
        let drained = async {
            web.drained().await;
            port.close();
            std::future::pending::<()>().await;
        };
        let orderly = async {
            tokio::select! {
                biased;
                exit = &mut running.ended => Some(exit),
                () = drained => None,
            }
        };
        if let Ok(Some(exit)) = tokio::time::timeout_at(until, orderly).await {
            return exit;
        }
        self.log_exit_timeout();
        running.control.kill();
        running.ended.await
    }
}
