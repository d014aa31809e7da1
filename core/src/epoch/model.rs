//! Loom models of the epoch.
