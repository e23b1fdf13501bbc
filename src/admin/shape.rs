//! The JSON of the API's responses, as types that the command line parses as well.
//!
//! Names and structure are those of the VPN Enterprise API's documentation, with further members.

pub(crate) mod captures;
pub(crate) mod deliveries;
pub(crate) mod gateway;
pub(crate) mod headers;
mod names;
pub(crate) mod problem;
pub(crate) mod problems;
pub(crate) mod rejections;
pub(crate) mod removed;
pub(crate) mod webhooks;

pub(crate) use super::webhook_id::{route_of, webhook_id};
pub(crate) use deliveries::{
    Attempt, Deliveries, Delivery, OneDelivery, OneRedelivery, Redelivered,
};
pub(crate) use gateway::{Done, Reloaded, Status};
pub(crate) use problem::Problem;
pub(crate) use rejections::Rejected;
pub(crate) use webhooks::{LongStats, Webhook, Webhooks};
