//! What every engine must keep, written once and run for each engine that joins.
//!
//! For tests: of this crate, and with the feature `testing` of engines elsewhere (the project's example `ring_dma` is one).
//! What does not hold panics, as tests do.
//!
//! An engine joins from a file of its own folder, `conformance.rs`: it implements [`Subject`] for its driver (how
//! to set it up on the soft fabric, what a length and an address must be a multiple of, how bytes
//! get in and out), and says with [`on_soft!`](crate::on_soft) (engines of this crate also with `in_guest!`) which groups of
//! promises it makes:
//!
//! | group | promise |
//! |---|---|
//! | `moves` | bytes land where they should and nowhere else; each operation completes once; cancel, resume, drop, death |
//! | `fences` | fences alone and in a row complete |
//! | `shelves` | what was stored can be loaded again; a fence between keeps the two in order |
//! | `confirms` | real bytes are confirmed, others never |
//! | `flushes` | a revoke of a window ends clean, with the bytes there, by [`Subject::FLUSH`] |
//!
//! Only the tests of these groups are made, so a test that is there was run. What an engine refuses it lists in
//! [`Subject::refused`].
//!
//! On the soft fabric each test runs under a scheduler with some seeds and once with threads; in the guest it runs against
//! one exporter or all of them (`ci/guest-tests`; by hand `ci/vm run --env TIDEGATE_GUEST=1 -- BINARY conformance::guest
//! --test-threads=1`).

// The tests themselves: public for what the macros expand to.
#[doc(hidden)]
pub mod bytes;
#[doc(hidden)]
pub mod ends;
#[cfg(test)]
pub(super) mod guest;
pub mod medium;
#[doc(hidden)]
pub mod proofs;
pub mod rig;
pub mod soft;
mod subject;

pub use subject::{On, Subject};

/// `on_soft!(Driver: moves fences ..)`: the tests of these groups of [`engine::conformance`](crate::engine::conformance) on
/// the soft fabric, in a module `soft`.
#[macro_export]
macro_rules! on_soft {
    ($subject:ty: $($group:ident)+) => {
        mod soft {
            use super::*;
            $($crate::promises!($group soft $subject);)+
        }
    };
}

/// `in_guest!(Driver: moves fences ..)`: the tests of these groups on the testbed's kernel, in a module `guest`. Behind
/// `=>` tests of one's own that run there too.
#[cfg(test)]
macro_rules! in_guest {
    ($subject:ty: $($group:ident)+ $(=> $($own:item)+)?) => {
        mod guest {
            use super::*;
            $(promises!($group guest $subject);)+
            $($($own)+)?
        }
    };
}

/// The tests of one group in one world.
#[doc(hidden)]
#[macro_export]
macro_rules! promises {
    (moves soft $s:ty) => {
        $crate::promises!(@soft $s: bytes bytes_land_exactly a_full_queue_completes_each_operation_once what_is_not_done_is_denied);
        $crate::promises!(@soft $s: ends a_cancel_ends_everything_once_and_the_queue_resumes
            a_channel_dropped_in_mid_flight_leaves_nothing);
        $crate::promises!(@steps $s: ends a_device_that_is_gone_is_ended_by_a_revoke_alone);
    };
    (moves guest $s:ty) => {
        $crate::promises!(@all $s: bytes bytes_land_exactly);
        $crate::promises!(@one $s: bytes a_full_queue_completes_each_operation_once what_is_not_done_is_denied);
        $crate::promises!(@one $s: ends a_cancel_ends_everything_once_and_the_queue_resumes
            a_channel_dropped_in_mid_flight_leaves_nothing);
    };
    (fences soft $s:ty) => { $crate::promises!(@soft $s: bytes fences_alone_and_in_a_row_complete); };
    (fences guest $s:ty) => { $crate::promises!(@one $s: bytes fences_alone_and_in_a_row_complete); };
    (shelves soft $s:ty) => { $crate::promises!(@soft $s: bytes a_fence_holds_what_follows); };
    (shelves guest $s:ty) => { $crate::promises!(@one $s: bytes a_fence_holds_what_follows); };
    (confirms soft $s:ty) => {
        $crate::promises!(@soft $s: proofs a_live_window_is_confirmed bytes_that_a_dead_window_could_give_prove_nothing
            a_window_that_died_is_never_confirmed a_window_dead_from_the_start_is_never_confirmed
            bytes_written_by_somebody_else_since_prove_nothing windows_are_confirmed_one_by_one
            a_confirm_pushes_what_is_still_on_its_way a_recovered_window_is_confirmed_by_what_is_written_then);
    };
    (confirms guest $s:ty) => {
        $crate::promises!(@all $s: proofs a_live_window_is_confirmed a_window_that_died_is_never_confirmed);
        $crate::promises!(@one $s: proofs bytes_that_a_dead_window_could_give_prove_nothing
            windows_are_confirmed_one_by_one a_recovered_window_is_confirmed_by_what_is_written_then);
    };
    (flushes soft $s:ty) => { $crate::promises!(@soft $s: proofs a_revoke_flushes_the_window); };
    (flushes guest $s:ty) => { $crate::promises!(@one $s: proofs a_revoke_of_a_written_window_ends_clean); };
    (@soft $s:ty: $file:ident $($name:ident)+) => {
        $(#[test] fn $name() { $crate::engine::conformance::soft::each::<$s>($crate::engine::conformance::$file::$name) })+
    };
    (@steps $s:ty: $file:ident $($name:ident)+) => {
        $(#[test] fn $name() { $crate::engine::conformance::soft::steps::<$s>($crate::engine::conformance::$file::$name) })+
    };
    (@one $s:ty: $file:ident $($name:ident)+) => {
        $(#[test] fn $name() { $crate::engine::conformance::guest::one::<$s>($crate::engine::conformance::$file::$name) })+
    };
    (@all $s:ty: $file:ident $($name:ident)+) => {
        $(#[test] fn $name() { $crate::engine::conformance::guest::all::<$s>($crate::engine::conformance::$file::$name) })+
    };
}
