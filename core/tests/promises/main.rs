//! What the crate promises, one test for each promise, against a scripted device. Nothing here sleeps to
//! synchronise: a manual fabric moves only when it is turned, and deadlines are "at once" or "never".

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod background;
mod batch;
mod bugs;
mod confirm;
mod dead;
mod force;
mod owner;
mod panics;
mod quiesce;
mod revoke;
mod scale;
mod stall;
mod unflushed;
mod windows;
