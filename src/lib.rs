//! hookstile: a reverse proxy that forwards only verified webhooks.
//!
//! These are the modules, in the order of their dependencies. A module imports only from the lines
//! above its own; ARCHITECTURE.md has the exact list, and a test checks it.
//!
//! ```text
//! clock secret outcome cause      shared by all other modules
//! diagnostic                      pure: a problem of a configuration, as JSON and as a line
//! backoff                         pure: when a failed delivery is retried
//! problems                        pure: what is wrong with the gateway and its routes, worst first
//! client_network                  pure: the client that limits count for
//! limits                          pure: what requests may hold in memory, displacement, shares
//! metrics activity                Prometheus metrics; recent requests of each route, for operators
//! json signature handshake event  pure: parse bytes, verify signatures, extract events
//! explain                         pure: explain why verification failed, and what to change
//! store ledger                    persist events and deliveries; claim event IDs
//! tls                             certificates of listeners, of their clients, and of upstreams
//! proxy_protocol                  pure: parse the PROXY protocol header of a load balancer
//! delivery upstream               build the outbound request; run one delivery attempt
//! route                           one compiled route, with all that its requests need
//! queue                           deliver stored events to their upstreams
//! notifications                   tell an endpoint of the operator's when a problem begins and ends
//! log gateway                     the data plane: handle one request from head to response
//! providers config                compile YAML to routes, and report every problem at once
//! webhooks                        routes made over the API
//! admin                           health, metrics, the APIs and the dashboard, for operators
//! app cli                         start and stop the whole program
//! ```

#![forbid(unsafe_code)]

mod activity;
mod admin;
pub mod app;
mod backoff;
pub mod cause;
pub mod cli;
mod client_network;
pub mod clock;
pub mod config;
mod cores;
#[cfg(test)]
mod corpus;
mod delivery;
pub mod diagnostic;
pub mod event;
pub mod explain;
pub mod gateway;
pub mod handshake;
pub mod json;
pub mod ledger;
mod limits;
pub mod log;
pub mod metrics;
mod notifications;
mod outcome;
mod problems;
pub mod providers;
pub mod proxy_protocol;
mod queue;
mod route;
pub mod secret;
pub mod signature;
pub mod store;
mod tls;
mod upstream;
mod webhooks;
