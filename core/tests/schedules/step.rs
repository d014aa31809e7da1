//! What a schedule is made of. Numbers are taken modulo what there is.

use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
pub(crate) enum By {
    /// Never cancels.
    Patient,
    /// Cancels at once, never forces.
    Cancel,
    Force,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    Fill,
    Copy,
    Read,
    Write,
    Fence,
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Channel, kind, regions, so many in one section.
    Submit(usize, What, usize, usize, usize),
    /// Channel, regions of the pieces on either side.
    List(usize, Vec<usize>, Vec<usize>),
    Confirm(usize),
    /// Channel, which of those with the device, how: 0 fails.
    Complete(usize, usize, u16),
    /// The device reports one twice.
    Twice(usize, usize),
    Poll(usize, usize),
    /// Falls asleep inside a section.
    Sleep(usize),
    /// A thread that has it for a moment ends inside a section; nobody waits for that.
    Die(usize),
    Park(usize),
    DropChannel(usize),
    /// Device, in order?, confirms?, lists: whole, split, or only copies split.
    Open(usize, bool, bool, u8),
    Register(bool),
    DropRegion(usize),
    Revoke(Vec<usize>, By),
    DropRevoke(usize),
    Turn(usize),
    Control,
    Quiesce(usize, By),
    Restore(usize),
    /// Channel, how it answers a cancel.
    OnCancel(usize, u8),
    /// Releases what is in quarantine of a device, if it is proved stopped.
    Release(usize),
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let n = || 0..64_usize;
    let by = || prop_oneof![Just(By::Patient), Just(By::Cancel), Just(By::Force)];
    let pieces = || prop::collection::vec(n(), 0..5);
    let what = prop_oneof![
        4 => Just(What::Fill),
        2 => Just(What::Copy),
        2 => Just(What::Read),
        1 => Just(What::Write),
        1 => Just(What::Fence),
    ];
    prop_oneof![
        12 => (n(), what, n(), n(), 1..6_usize).prop_map(|(c, w, a, b, k)| Step::Submit(c, w, a, b, k)),
        6 => (n(), pieces(), pieces()).prop_map(|(c, from, to)| Step::List(c, from, to)),
        2 => n().prop_map(Step::Confirm),
        10 => (n(), n(), 0..4_u16).prop_map(|(c, at, how)| Step::Complete(c, at, how)),
        1 => (n(), n()).prop_map(|(c, at)| Step::Twice(c, at)),
        8 => (n(), 0..9_usize).prop_map(|(c, room)| Step::Poll(c, room)),
        2 => n().prop_map(Step::Sleep),
        1 => n().prop_map(Step::Die),
        1 => n().prop_map(Step::Park),
        1 => n().prop_map(Step::DropChannel),
        2 => (n(), any::<bool>(), any::<bool>(), 0..3_u8).prop_map(|(d, o, c, l)| Step::Open(d, o, c, l)),
        3 => any::<bool>().prop_map(Step::Register),
        1 => n().prop_map(Step::DropRegion),
        4 => (prop::collection::vec(n(), 1..4), by()).prop_map(|(r, by)| Step::Revoke(r, by)),
        1 => n().prop_map(Step::DropRevoke),
        8 => n().prop_map(Step::Turn),
        2 => Just(Step::Control),
        1 => (n(), by()).prop_map(|(d, by)| Step::Quiesce(d, by)),
        2 => n().prop_map(Step::Restore),
        2 => (n(), 0..3_u8).prop_map(|(c, how)| Step::OnCancel(c, how)),
        1 => n().prop_map(Step::Release),
    ]
}
