//! hookstile: a reverse proxy that lets only genuine webhooks through.
//!
//! The modules in the order of their dependencies; an import points up this list only, which a test checks:
//!
//! ```text
//! clock secret outcome metrics backoff   what everything else may use
//! json signature handshake event    pure: from bytes to `Verified`, from `Verified` to an event
//! explain                           pure: why a request is not genuine, and what would make it so
//! store ledger                      what was handed over, what is in flight
//! tls                               what listeners show, and whom they let in
//! proxy_protocol                    pure: whose connection a balancer passes on
//! delivery upstream                 what is sent, and one attempt at sending it
//! route                             a route with all that a request needs, compiled
//! queue                             stored events on their way to their upstreams
//! log gateway                       the data plane: one request, one straight line
//! admin                             health, readiness, metrics; deliveries, for operators
//! providers config                  from YAML to routes, with every problem at once
//! app cli                           everything put together, started and stopped
//! ```

#![forbid(unsafe_code)]

pub mod activity;
pub mod admin;
pub mod app;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
#[cfg(test)]
mod corpus;
pub mod delivery;
pub mod event;
pub mod explain;
pub mod gateway;
pub mod handshake;
pub mod json;
pub mod ledger;
pub mod log;
pub mod metrics;
pub mod outcome;
pub mod providers;
pub mod proxy_protocol;
pub mod queue;
pub mod route;
pub mod secret;
pub mod signature;
pub mod store;
pub mod tls;
pub mod upstream;
pub mod webhooks;
