//! Black-box tests of the gateway: each file is one group of claims of the contract, each test one claim.
//!
//! What the machine may lack is skipped with a message, and with `CI=true` is a failure: `HOOKSTILE_NODE_MODULES`
//! (a folder with express, the providers' SDKs, playwright-core and axe-core), `HOOKSTILE_PYTHON` (a python3 with flask, the
//! SDKs, schemathesis and kubernetes-validate), `HOOKSTILE_CHROMIUM`, `HOOKSTILE_PROMTOOL`, `HOOKSTILE_PROMETHEUS`,
//! `HOOKSTILE_STRACE`, `HOOKSTILE_SQLITE3`, `HOOKSTILE_FAKETIME`, `HOOKSTILE_SSLSCAN`, `HOOKSTILE_HAPROXY`, `HOOKSTILE_POSTGRES`
//! (the server, with `initdb`, `psql` and `pg_isready` beside it). `HOOKSTILE_SEED` is what schemathesis begins with (1).
//! `HOOKSTILE_HOSTILE` is the number of hostile requests (20,000, in CI 100,000), `HOOKSTILE_SOAK_SECONDS` how long `soak` takes.

mod harness;

mod access; // who may use the admin listener, and what is written down
mod admission; // who is let in, and how many at once
mod answers; // every row of the answers table
mod bodies; // every size and framing arrives byte-identical, and no more than the limit
mod budget; // answered in time, whatever is slow
mod clock; // a wall clock that jumps
mod crash; // killed again and again under load
mod dashboard; // its pages in a real browser
mod database; // what a gateway makes of the PostgreSQL that it starts on
mod deploy; // what is given to whoever runs it: alerts, dashboard, manifests, and what a supervisor is told
mod durable; // what is completed stays so, whatever becomes of the process
mod envelope; // an event that two receivers could read differently is refused
mod explain; // why a captured request is not genuine
mod faults; // a disk that fails, or is full
mod graphql; // the API over GraphQL, and no more of it than may be asked
mod handover; // what the upstream sees, and over which connections
mod handshake; // a provider that only asks whether we are there
mod head; // requests that two parsers could read differently
mod http2; // frames that are malformed, would be another request, or come in floods
mod inspect; // what an operator sees of deliveries, and can do about them
mod layering; // the structure that ARCHITECTURE.md draws
mod ledger; // once, and never lost to a failed delivery
mod log; // one line a request, and nothing in it that should not be read
mod metrics;
mod moving; // every series from the start, and no more
mod openapi; // the admin API against its own documents
mod partition; // several gateways, of which one stands still or is cut off
mod postgres; // the real engine, and the line to it, as tests disturb them
mod proxy_protocol; // whose connection a layer-4 balancer passes on
mod queue; // accepted now, delivered when the upstream takes it
mod receivers; // receivers as the provider documents them
mod records; // every delivery can be looked at, and the dead sent again
mod recovery; // after an outage: many delivered again at a pace, and one forgotten
mod rejections; // what was turned away is seen, and holds nothing that should not be
mod reload; // taken whole and at once, or not at all
mod replicas; // several gateways, one ledger and one queue
mod schemes; // custom schemes, signatures in the body, several candidates
mod sdk; // the providers' own SDKs as senders and judges
mod shadow; // what does not verify may pass where an operator says so, marked
mod silence; // a sender that has stopped is told of
mod slow; // senders that take their time, by the thousand
mod soak; // everything at once, for as long as one likes
mod spill; // passed on at once where that works, kept where it does not
mod start; // what must not start
mod stop; // drain, finish, exit 0
mod tls; // who is shown which certificate, and who is let in
mod tools; // the sender, the receiver, and what is made from --help
mod upgrade; // another program in its place, and nobody notices
mod verify; // nothing unverified moves, nothing unverified is remembered
mod webhooks; // routes made over the API
