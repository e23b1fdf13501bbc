//! The gateway's own listeners, as a client of this very process reaches them.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use ureq::Agent;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, TcpConnector, Transport,
    TransportAdapter,
};

use super::operations::Refused;
use crate::tls;

/// A listener that senders may connect to themselves.
#[derive(Clone)]
pub struct Front {
    pub address: SocketAddr,
    pub tls: Option<Arc<tls::Listener>>,
}

impl Front {
    /// The one that is reached with the least: without TLS, or at least without a certificate of one's own.
    pub(super) fn easiest(fronts: &[Self]) -> Result<&Self, Refused> {
        let asked_for = |front: &&Self| {
            front
                .tls
                .as_ref()
                .map(|tls| tls.requires_client_certificate())
        };
        let easiest = fronts.iter().min_by_key(asked_for).ok_or_else(|| {
            Refused::NoAnswer(
                "all of them are for a load balancer; add one without `proxy_protocol`, on 127.0.0.1 for example"
                    .into(),
            )
        })?;
        if asked_for(&easiest) == Some(true) {
            return Err(Refused::NoAnswer(
                "all of them ask for a client certificate, and the gateway has none itself; add one without \
                 `client_ca`, on 127.0.0.1 for example"
                    .into(),
            ));
        }
        Ok(easiest)
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", reachable(self.address))
    }

    /// A client for this listener, which it asks by `host` where there is one.
    pub(super) fn agent(&self, host: Option<&str>, within: Duration) -> Result<Agent, Refused> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None);
        let config = config.timeout_global(Some(within)).build();
        let Some(tls) = &self.tls else {
            return Ok(config.into());
        };
        let named = host.and_then(|host| ServerName::try_from(host.to_owned()).ok());
        let name = named.unwrap_or_else(|| ServerName::from(reachable(self.address).ip()));
        let config_of_tls = tls
            .loopback_client()
            .map_err(|error| Refused::NoAnswer(error.to_string()))?;
        let connector = ().chain(TcpConnector::default()).chain(OwnTls {
            config: config_of_tls,
            name,
        });
        Ok(Agent::with_parts(
            config,
            connector,
            DefaultResolver::default(),
        ))
    }
}

/// An address to connect to from this machine, for one that is listened on.
pub fn reachable(front: SocketAddr) -> SocketAddr {
    let ip = match front.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, front.port())
}

/// Puts TLS on a connection. ureq's own takes no certificate for itself alone, and no name but the URL's.
#[derive(Debug)]
struct OwnTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl<In: Transport> Connector<In> for OwnTls {
    type Out = Encrypted;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Encrypted>, ureq::Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        let mut conn = ClientConnection::new(Arc::clone(&self.config), self.name.clone())?;
        let mut sock = TransportAdapter::new(transport.boxed(), Arc::clone(&details.current_time));
        sock.set_timeout(details.timeout);
        conn.complete_io(&mut sock)?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        Ok(Some(Encrypted {
            buffers,
            stream: StreamOwned::new(conn, sock),
        }))
    }
}

struct Encrypted {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encrypted").finish_non_exhaustive()
    }
}

impl Transport for Encrypted {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        Ok(self.stream.write_all(&self.buffers.output()[..amount])?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
