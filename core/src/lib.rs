//! Tidegate's heart.
pub mod drain;
pub mod tdi;
mod cause;
pub use cause::{Cause, Deadline};
