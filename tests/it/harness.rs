//! What every claim is driven with: the real binary, fake receivers that record what reached them,
//! and senders that speak raw bytes. No HTTP framework on either side, because the bytes are the claim.

pub mod cluster;
pub mod command;
pub mod cut;
pub mod fleet;
pub mod frames;
pub mod gateway;
pub mod history;
pub mod metrics;
pub mod patience;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod sender;
pub mod strace;
pub mod tls;
pub mod trial;
pub mod upstream;
pub mod wire;

pub use cut::Cut;
pub use fleet::Fleet;
pub use gateway::{Gateway, OLD_SECRET, PATH, Route, SECRET, Setup, Under};
pub use history::{Duplicate, History};
pub use metrics::Metrics;
pub use patience::{eventually, within};
pub use postgres::Postgres;
pub use sender::{Answer, Client, Event, Request, hmac_hex, sign};
pub use strace::Strace;
pub use trial::Trial;
pub use upstream::{Gate, Reply, Upstream};
