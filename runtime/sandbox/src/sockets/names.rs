//! The 0.2 look-up stream, and what guests are told of a look-up that failed.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use wasmtime_wasi_io::poll::Pollable;

use super::NetGrant;
use crate::egress::LookupError;

/// Looks a name up; failures that the manifest or the guest can mend go to the log.
pub(crate) async fn look_up(
    grant: Arc<NetGrant>,
    name: String,
) -> Result<Vec<IpAddr>, LookupError> {
    // The dyno's own loopback, whatever the machine's files say.
    if let Some(addresses) = grant.egress.localhost(&name) {
        return Ok(addresses.to_vec());
    }
    let answer = grant.egress.look_up(&name).await;
    match &answer {
        Err(LookupError::Denied(denial)) => grant.remarks.write(&denial.reason),
        Err(error @ LookupError::TooMany) => grant
            .remarks
            .write(&format!("look-up of {name} refused: {error}")),
        _ => {}
    }
    answer
}

type LookUp = Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, LookupError>> + Send>>;

/// `wasi:sockets/ip-name-lookup.resolve-address-stream` of 0.2.
#[expect(unreachable_pub, reason = "generated code re-exports it")]
pub enum AddressStream {
    Pending(LookUp),
    Answered(std::vec::IntoIter<IpAddr>),
    Failed(LookupError),
}

impl AddressStream {
    pub(crate) fn new(grant: Arc<NetGrant>, name: String) -> Self {
        Self::Pending(Box::pin(look_up(grant, name)))
    }

    /// Begins the look-up; an error that is known at once.
    pub(crate) fn start(&mut self) -> Option<LookupError> {
        let _ = self.poll_ready(&mut Context::from_waker(Waker::noop()));
        match self {
            Self::Failed(error) => Some(error.clone()),
            Self::Pending(_) | Self::Answered(_) => None,
        }
    }

    /// The next address; `None` is the end, `Pending` means "would block".
    pub(crate) fn next(&mut self) -> Poll<Result<Option<IpAddr>, LookupError>> {
        ready!(self.poll_ready(&mut Context::from_waker(Waker::noop())));
        Poll::Ready(match self {
            Self::Answered(addresses) => Ok(addresses.next()),
            Self::Failed(error) => Err(error.clone()),
            Self::Pending(_) => return Poll::Pending,
        })
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Pending(look_up) = self {
            *self = match ready!(look_up.as_mut().poll(cx)) {
                Ok(addresses) => Self::Answered(addresses.into_iter()),
                Err(error) => Self::Failed(error),
            };
        }
        Poll::Ready(())
    }
}

#[async_trait::async_trait]
impl Pollable for AddressStream {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await;
    }
}
