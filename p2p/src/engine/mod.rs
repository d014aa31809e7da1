//! What drives devices: register and descriptor layouts, and the queues built on them.

pub mod edu;
pub mod softnic;
