//! Faults that users of this field reported in public, tried on the gateway. Each test is one report,
//! with the correct behaviour as its claim. `make cases` runs them against the release binary;
//! CONTRIBUTING.md says how a report becomes a test.

mod addresses; // names and addresses that fail
mod http; // odd but honest HTTP
mod identity; // events whose ID the signature does not cover
mod permanent; // failures that look permanent
mod provider_documents; // the providers' documents, field by field
mod readable; // odd but readable bodies
mod secrets; // secret files, and certificates of upstreams
