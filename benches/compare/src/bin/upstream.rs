//! The application behind the gateways: reads the body and answers 200. `GET` returns the number of
//! events received.

use std::cell::Cell;
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::rc::Rc;

use hookstile_compare::exchange::content_length;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nOK";
const READ_AT_ONCE: usize = 256 << 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).and_then(|argument| argument.parse::<SocketAddr>().ok());
    let address = address.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "usage: upstream ADDRESS"))?;
    let listener = TcpListener::bind(address).await?;
    let events = Rc::new(Cell::new(0));
    LocalSet::new()
        .run_until(async {
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                spawn_local(handle_connection(stream, Rc::clone(&events)));
            }
        })
        .await
}

/// Handles a connection until it ends or sends something unexpected, which a proxy reports as a
/// failure of its own.
async fn handle_connection(mut stream: TcpStream, events: Rc<Cell<usize>>) -> Result<()> {
    let mut buffer = vec![0; READ_AT_ONCE];
    let mut filled = 0;
    loop {
        let (end, length, is_event) = loop {
            if let Some(head) = head(&buffer[..filled])? {
                break head;
            }
            match stream.read(&mut buffer[filled..]).await? {
                0 => return Ok(()),
                read => filled += read,
            }
        };
        let mut left = (end + length).saturating_sub(filled);
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => return Ok(()),
                read => left = left.saturating_sub(read),
            }
        }
        // No peer pipelines its requests.
        filled = 0;
        if is_event {
            events.set(events.get() + 1);
            stream.write_all(OK).await?;
        } else {
            let count = events.get().to_string();
            let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{count}", count.len());
            stream.write_all(response.as_bytes()).await?;
        }
    }
}

/// Returns the lengths of the head and of the body, and whether the request is a POST; `None` while
/// the head is incomplete.
fn head(bytes: &[u8]) -> Result<Option<(usize, usize, bool)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(bytes).map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
    let httparse::Status::Complete(end) = parsed else { return Ok(None) };
    match (request.method, content_length(request.headers)) {
        (Some("GET"), length) => Ok(Some((end, length.unwrap_or(0), false))),
        (_, Some(length)) => Ok(Some((end, length, true))),
        (_, None) => Err(Error::new(ErrorKind::InvalidData, "an event without Content-Length")),
    }
}
