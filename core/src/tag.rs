//! Tags as types: who may see a region's bytes, and which flows compile.

use std::fmt::Debug;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Private {}
    impl Sealed for super::Shared {}
    impl Sealed for super::Declassified {}
}

/// Memory of a trust domain: reached by T=1 requests of its TDIs in RUN only (PCIe TDISP).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Private;
/// Memory anyone may see: ordinary (T=0) requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared;
/// A private *source* that somebody decided to publish, see [`crate::Span::declassify`]. No region is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declassified;

/// [`Private`], [`Shared`] or [`Declassified`].
pub trait Tag: sealed::Sealed + Debug + Copy + Send + Sync + 'static {}
impl Tag for Private {}
impl Tag for Shared {}
impl Tag for Declassified {}

/// A tag a region can have.
pub trait RegionTag: Tag {
    /// `true` for [`Private`].
    const PRIVATE: bool;
}
impl RegionTag for Private {
    const PRIVATE: bool = true;
}
impl RegionTag for Shared {
    const PRIVATE: bool = false;
}

/// Bytes tagged `Self` may be copied to bytes tagged `D`. Private to shared does not: it needs
/// [`crate::Span::declassify`].
#[diagnostic::on_unimplemented(
    message = "bytes tagged `{Self}` must not flow to `{D}`",
    note = "private to shared needs `Span::declassify(reason)`"
)]
pub trait FlowsTo<D: Tag>: Tag {}
impl FlowsTo<Private> for Private {}
// No region is declassified, so nothing can be written there. With one impl alone the compiler would take `Private`
// for the destination's tag and complain of the destination's type instead of the flow.
impl FlowsTo<Declassified> for Private {}
impl FlowsTo<Private> for Shared {}
impl FlowsTo<Shared> for Shared {}
impl FlowsTo<Shared> for Declassified {}
impl FlowsTo<Private> for Declassified {}

/// Why private bytes are published; carried by the operation and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// They are ciphertext under a key that the receiver's domain holds.
    Encrypted,
    /// Their owner makes them public.
    Published,
    /// They leave through a bounce buffer with an authenticated copy.
    Bounced,
}
