//! The harness that drives every test: the real binary, fake upstreams that record every byte that
//! reaches them, and senders that write raw bytes. Neither side uses an HTTP framework, because the
//! claims are about bytes.

pub mod cluster;
pub mod command;
#[allow(dead_code, reason = "the resolver's unit tests use the rest")]
pub mod dns;
pub mod fleet;
pub mod frames;
pub mod gateway;
pub mod history;
pub mod lingering;
pub mod link;
pub mod load_test;
pub mod metrics;
pub mod pooler;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod sender;
pub mod strace;
pub mod tls;
pub mod upstream;
pub mod wait;
pub mod wire;

pub use dns::{Answer, NameServer};
pub use fleet::Fleet;
pub use gateway::{Gateway, Launcher, OLD_SECRET, PATH, Route, SECRET, Setup};
pub use history::{Duplicate, History};
pub use lingering::Lingering;
pub use link::Link;
pub use load_test::LoadTest;
pub use metrics::Metrics;
pub use pooler::Pooler;
pub use postgres::Postgres;
pub use sender::{Client, Event, Request, Response, hmac_hex, sign};
pub use strace::Strace;
pub use upstream::{Gate, Reply, Upstream};
pub use wait::{eventually, within};
