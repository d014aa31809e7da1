//! Loom models of a channel under seizure.
