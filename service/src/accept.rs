//! A bound on connections: those beyond it wait in the listener's backlog.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

/// A connection that counts until it is dropped.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    _permit: OwnedSemaphorePermit,
}

/// At most `most` of the connections of `incoming` at a time.
pub fn bounded<S: Send + 'static>(
    incoming: impl Stream<Item = io::Result<S>> + Send + 'static,
    most: usize,
) -> impl Stream<Item = io::Result<Counted<S>>> + Send {
    let room = Arc::new(Semaphore::new(most));
    let incoming = Box::pin(incoming);
    futures::stream::unfold((incoming, room), |(mut incoming, room)| async move {
        let permit = Arc::clone(&room).acquire_owned().await.ok()?;
        let stream = incoming.next().await?;
        let counted = stream.map(|stream| Counted {
            stream,
            _permit: permit,
        });
        Some((counted, (incoming, room)))
    })
}

impl<S: Connected> Connected for Counted<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_third_waits_until_one_leaves() {
        let incoming = futures::stream::iter((0..5).map(Ok::<u8, io::Error>));
        let mut accepted = Box::pin(bounded(incoming, 2));
        let first = accepted.next().await;
        let _second = accepted.next().await;
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(accepted.as_mut().poll_next(&mut context).is_pending());
        drop(first);
        assert!(accepted.next().await.is_some());
    }
}
