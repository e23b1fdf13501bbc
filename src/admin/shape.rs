//! The JSON of the API's responses, as types that the command line parses as well.
//!
//! Names and structure are those of the VPN Enterprise API's documentation, with further members.

pub mod deliveries;
pub mod gateway;
pub mod headers;
mod names;
pub mod problem;
pub mod rejections;
pub mod webhooks;

pub use super::webhook_id::{route_of, webhook_id};
pub use deliveries::{Attempt, Deliveries, Delivery, OneDelivery, Redelivered, RefusedCount};
pub use gateway::{Done, Reloaded, Status};
pub use headers::Header;
pub use problem::Problem;
pub use rejections::{Rejected, Rejection, Rejections};
pub use webhooks::{LongStats, OneWebhook, QueueStats, ShortStats, TestResult, Webhook, Webhooks};
