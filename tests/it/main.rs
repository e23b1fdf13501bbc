//! Black-box tests of the gateway: each file covers one component or behaviour, each test proves
//! one claim of docs/semantics.md.
//!
//! A test that needs a tool which the machine lacks is skipped with a message; with `CI=true` it
//! fails. Environment variables name the tools: `HOOKSTILE_NODE_MODULES` (a folder with express,
//! the providers' SDKs, playwright-core and axe-core), `HOOKSTILE_PYTHON` (a python3 with flask,
//! the SDKs, schemathesis and kubernetes-validate), `HOOKSTILE_CHROMIUM`, `HOOKSTILE_PROMTOOL`,
//! `HOOKSTILE_PROMETHEUS`, `HOOKSTILE_STRACE`, `HOOKSTILE_SQLITE3`, `HOOKSTILE_FAKETIME`,
//! `HOOKSTILE_SSLSCAN`, `HOOKSTILE_HAPROXY`, `HOOKSTILE_UNSHARE`, `HOOKSTILE_MKFS_EXT4`, `HOOKSTILE_IP`, `HOOKSTILE_JQ`,
//! `HOOKSTILE_PGBOUNCER` and `HOOKSTILE_POSTGRES` (the server, with `initdb`,
//! `psql` and `pg_isready` beside it).
//!
//! Other variables set the amount of work: `HOOKSTILE_SEED` is the seed of schemathesis (1),
//! `HOOKSTILE_HOSTILE` the number of hostile requests (20,000; in CI 100,000),
//! `HOOKSTILE_ATTACK=full` makes the attacks take all that one address may,
//! `HOOKSTILE_POWER_LOSS_ROUNDS` is the number of losses of power in each test of `power_loss`, and
//! `HOOKSTILE_SOAK_SECONDS` is the duration of `soak`.

#![allow(unreachable_pub, reason = "a test binary has no public interface")]
#![allow(
    clippy::too_many_lines,
    reason = "a black-box test tells one story from start to end"
)]

mod harness;

mod access; // the admin listener's tokens, host names and audit log
mod admin_listener; // the admin listener under hostile clients
mod admission; // limits that apply before a body is read
mod attack; // attacks on the whole gateway, beside genuine senders
mod automation; // the admin API for scripts: keys, entity tags, patches, pages
mod bodies; // bodies of every size and framing, and the size limit
mod budget; // every request is answered in time, whatever is slow
mod capture; // rejected requests, explained and captured
mod causes; // why attempts fail, and what the upstream answered
mod clock; // jumps of the wall clock
mod command_line; // names, aliases and hints; output on terminals, on pipes and as JSON
mod crash; // repeated kills under load
mod dashboard; // the dashboard in a real browser
mod database; // connecting to PostgreSQL at the start
mod delivery; // the request at the upstream, and the connections to it
mod demo; // the demo, live and once
mod deploy; // alerts, Grafana dashboard, manifests, supervisor notifications
mod descriptors; // open files: raised, reserved, and run out of
mod docs; // the documentation against the program
mod durable; // completed events outlive the process
mod envelope; // ambiguous events are rejected
mod explain; // `hookstile verify` explains a bad request
mod failover; // a standby takes the place of the gateways' PostgreSQL
mod faults; // a disk that fails or is full
mod graphql; // the GraphQL API and its limits
mod handshake; // endpoint handshakes of providers
mod head; // hostile HTTP/1.1 requests
mod http2; // hostile HTTP/2 frames and floods
mod idle_sender; // warnings about a route without events
mod inspect; // deliveries over the API, on the command line and in the store
mod layering; // the module order in ARCHITECTURE.md
mod ledger; // each event once, and none lost to a failed delivery
mod log; // one line for each request, without secrets
mod metrics; // a fixed set of series, counted correctly
mod move_store; // moving an embedded store to PostgreSQL
mod notifications; // an endpoint hears of problems
mod openapi; // the admin API against its own documents
mod partition; // a stalled or disconnected gateway among several
mod pause; // a paused route in each delivery mode
mod postgres; // the test harness's PostgreSQL and network link
mod power_loss; // losses of power under load
mod problems; // what is wrong, worst first, wherever it is shown
mod proxy_protocol; // client addresses behind a layer-4 load balancer
mod queue; // accepted now, delivered when the upstream is ready
mod queue_front; // what a queue has in memory, whatever happens meanwhile
mod receivers; // the provider's documented receivers as upstreams
mod records; // delivery records, and redelivery of dead letters
mod recovery; // redelivery of many events, and forgetting one
mod redelivery; // redelivery in the background
mod rejections; // the list of rejected requests
mod reload; // a new configuration applies completely or not at all
mod reloaded; // limits, trusted proxies and listeners change without a restart
mod removed; // events of routes that are no longer configured
mod replicas; // several gateways with one ledger and one queue
mod reported; // faults that users of this field reported
mod responses; // the table in docs/answers.md
mod schema_change; // tables of another version than the gateway's
mod schemes; // custom schemes, signatures in the body, several signatures
mod sdk; // the providers' own SDKs sign and verify
mod sessions; // plain requests and others on one connection
mod slow_senders; // thousands of slow senders
mod soak; // all kinds of traffic and faults at once
mod spill; // delivered at once if possible, queued if not
mod start; // configurations that must not start
mod statements; // docs/statements.sql lists all SQL of the shared store
mod stop; // drain, finish, exit 0
mod store_check; // `store check` on PostgreSQL
mod store_files; // checking, backing up and restoring the embedded store
mod tls; // certificates and client authentication
mod tools; // `send`, `catch`, completions and manual pages
mod unenforced; // `enforce: false`
mod unix_sockets; // listeners and upstreams on Unix sockets, and listeners by name
mod upgrade; // replacing the binary without losing requests
mod verify; // unverified requests are neither forwarded nor remembered
mod webhooks; // webhooks created over the API
