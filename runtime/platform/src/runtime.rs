//! The part of the host that the platform drives, as a trait: so that releases, the control API and the
//! start are tested without a guest.

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use oarlock_host::apply::{Applied, ApplyError, Desired, Slug, Staged};
use oarlock_host::dynos::{OneOff, OneOffError, OneOffExit, OneOffRequest};
use oarlock_host::logs::LogFilter;
use oarlock_host::{ChangeError, Host};
use oarlock_spec::api::{DynoRow, Formation, LogLine, LogSource};
use oarlock_spec::limits::Limits;
use oarlock_spec::names::{AppName, DynoName};

/// See [`Host`], whose methods these are.
#[async_trait]
pub(crate) trait Runtime: Send + Sync + 'static {
    fn expect(&self, app: &AppName, limits: &Limits);
    fn give_up(&self, app: &AppName);
    /// `after_phase`: see [`oarlock_host::apply::Stage::after_release_phase`].
    async fn stage(
        &self,
        desired: Desired,
        slug: Slug,
        after_phase: BoxFuture<'static, Result<(), String>>,
    ) -> Result<Box<dyn StagedRelease>, ApplyError>;
    async fn scale(&self, app: &AppName, change: Formation) -> Result<Formation, ChangeError>;
    async fn formation(&self, app: &AppName) -> Option<Formation>;
    async fn restart(
        &self,
        app: &AppName,
        target: Option<&str>,
    ) -> Result<Vec<DynoName>, ChangeError>;
    async fn dynos(&self, app: &AppName) -> Option<Vec<DynoRow>>;
    async fn run(
        &self,
        app: &AppName,
        request: OneOffRequest,
    ) -> Result<Box<dyn OneOffDyno>, OneOffError>;
    /// Writes a line of Oarlock's own.
    fn log(&self, app: &AppName, dyno: &str, message: &str);
    fn tail(&self, app: &AppName, n: usize, filter: &LogFilter) -> Vec<LogLine>;
    fn follow(&self, app: &AppName, n: usize, filter: LogFilter) -> BoxStream<'static, LogLine>;
}

/// See [`Staged`]. Dropping it brings back what served.
#[async_trait]
pub(crate) trait StagedRelease: Send + Sync + 'static {
    fn applied(&self) -> &Applied;
    async fn commit(self: Box<Self>) -> Result<Applied, ApplyError>;
}

/// See [`OneOff`]. Dropping it ends the dyno.
#[async_trait]
pub(crate) trait OneOffDyno: Send + Sync + 'static {
    fn name(&self) -> &DynoName;
    fn stop(&self);
    /// Cancel safe.
    async fn wait(&mut self) -> OneOffExit;
}

#[async_trait]
impl Runtime for Host {
    fn expect(&self, app: &AppName, limits: &Limits) {
        Host::expect(self, app, limits);
    }
    fn give_up(&self, app: &AppName) {
        Host::give_up(self, app);
    }
    async fn stage(
        &self,
        desired: Desired,
        slug: Slug,
        after_phase: BoxFuture<'static, Result<(), String>>,
    ) -> Result<Box<dyn StagedRelease>, ApplyError> {
        let stage = Host::stage(self, desired, slug).after_release_phase(after_phase);
        Ok(Box::new(stage.await?))
    }
    async fn scale(&self, app: &AppName, change: Formation) -> Result<Formation, ChangeError> {
        Host::scale(self, app, change).await
    }
    async fn formation(&self, app: &AppName) -> Option<Formation> {
        Host::formation(self, app).await
    }
    async fn restart(
        &self,
        app: &AppName,
        target: Option<&str>,
    ) -> Result<Vec<DynoName>, ChangeError> {
        Host::restart(self, app, target).await
    }
    async fn dynos(&self, app: &AppName) -> Option<Vec<DynoRow>> {
        Host::dynos(self, app).await
    }
    async fn run(
        &self,
        app: &AppName,
        request: OneOffRequest,
    ) -> Result<Box<dyn OneOffDyno>, OneOffError> {
        Ok(Box::new(Host::run(self, app, request).await?))
    }
    fn log(&self, app: &AppName, dyno: &str, message: &str) {
        Host::log(self, app).write(LogSource::Oarlock, dyno, message);
    }
    fn tail(&self, app: &AppName, n: usize, filter: &LogFilter) -> Vec<LogLine> {
        Host::log(self, app).tail(n, filter)
    }
    fn follow(&self, app: &AppName, n: usize, filter: LogFilter) -> BoxStream<'static, LogLine> {
        let follower = Host::log(self, app).follow(n, filter);
        Box::pin(futures::stream::unfold(follower, async |mut follower| {
            follower.next().await.map(|line| (line, follower))
        }))
    }
}

#[async_trait]
impl StagedRelease for Staged {
    fn applied(&self) -> &Applied {
        Staged::applied(self)
    }
    async fn commit(self: Box<Self>) -> Result<Applied, ApplyError> {
        Staged::commit(*self).await
    }
}

#[async_trait]
impl OneOffDyno for OneOff {
    fn name(&self) -> &DynoName {
        &self.dyno
    }
    fn stop(&self) {
        OneOff::stop(self);
    }
    async fn wait(&mut self) -> OneOffExit {
        OneOff::wait(self).await
    }
}
