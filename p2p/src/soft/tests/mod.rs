//! Promises of the whole model, each past the library: raw registers and descriptors.
