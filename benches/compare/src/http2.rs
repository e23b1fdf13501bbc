//! A sender's streams over HTTP/2.

use std::io::{Error, Result};
use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{SendRequest, handshake};
use h2::{Reason, RecvStream};
use tokio::task::spawn;

use crate::event::{Events, Kind, Tag};
use crate::socket::{Tls, connect};

/// A place on a connection that others share: requests and responses, one after the other, each on a stream of its own.
pub struct Sender(SendRequest<Bytes>);

/// Opens a connection for as many senders. A task of its own drives it until all of them are gone.
pub async fn open(to: SocketAddr, tls: &Tls, senders: usize) -> Result<Vec<Sender>> {
    let (send, connection) = handshake(connect(to, Some(tls)).await?).await.map_err(Error::other)?;
    // If it fails, so does each sender.
    spawn(connection);
    Ok((0..senders).map(|_| Sender(send.clone())).collect())
}

impl Sender {
    /// Sends an event, reads the whole response and returns its status.
    pub async fn exchange(&mut self, events: &Events, number: usize, tag: &Tag, kind: Kind) -> Result<u16> {
        let (head, body) = events.request(number, tag, kind);
        self.send(head, body).await.map_err(Error::other)
    }

    async fn send(&mut self, head: http::Request<()>, body: Bytes) -> std::result::Result<u16, h2::Error> {
        std::future::poll_fn(|context| self.0.poll_ready(context)).await?;
        let (response, mut stream) = self.0.send_request(head, false)?;
        stream.send_data(body, true)?;
        let (head, body) = response.await?.into_parts();
        discard(body).await?;
        Ok(head.status.as_u16())
    }
}

async fn discard(mut body: RecvStream) -> std::result::Result<(), h2::Error> {
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => body.flow_control().release_capacity(data.len())?,
            // A server that answers without the body may stop the rest of it (RFC 9113, 8.1).
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
