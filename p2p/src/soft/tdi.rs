//! T-bit rules: what a TDI may send, and what it answers (PCIe TDISP, "TDI states" and "MMIO").

use super::record::Refusal;
use std::ops::Range;
use tidegate_core::tdi::{PageTag, TaggedRange, TdiState, TrustDomain};

/// The TDI of one function, as the device itself knows it.
#[derive(Debug, Default)]
pub(super) struct Tdi {
    pub(super) state: TdiState,
    pub(super) domain: Option<TrustDomain>,
    pages: Vec<TaggedRange>,
    /// When it was last stopped, in the order of requests and stops.
    pub(super) stopped_at: u64,
}

/// How a request is marked: its T bit, with the domain whose keys protect it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// T=0.
    Plain,
    /// T=1.
    Protected(Option<TrustDomain>),
}

impl Mark {
    pub(super) fn t(self) -> bool {
        matches!(self, Mark::Protected(_))
    }
}

impl Tdi {
    pub(super) fn set_pages(&mut self, ranges: &[TaggedRange]) {
        self.pages = ranges.to_vec();
    }

    /// The mark of a memory request that this function sends now; `None` where it must send none.
    pub(super) fn request_mark(&self) -> Option<Mark> {
        match self.state {
            TdiState::Unlocked => Some(Mark::Plain),
            TdiState::Run => Some(Mark::Protected(self.domain)),
            TdiState::Locked | TdiState::Error => None,
        }
    }

    /// May a request marked so touch `range` of `bar`? `lenient`: T=1 to IS_NON_TEE_MEM is answered in RUN.
    pub(super) fn answers(
        &self,
        bar: u8,
        range: Range<u64>,
        mark: Mark,
        lenient: bool,
    ) -> Result<(), Refusal> {
        let Mark::Protected(domain) = mark else {
            return if self.state.is_bound() { self.answers_plain(bar, range) } else { Ok(()) };
        };
        if self.state != TdiState::Run {
            return Err(Refusal::TargetNotRunning);
        }
        self.tags(bar, range).try_for_each(|tag| match tag {
            PageTag::Private | PageTag::MsixLocked if domain == self.domain => Ok(()),
            PageTag::Private | PageTag::MsixLocked => Err(Refusal::ForeignDomain),
            PageTag::Shared if lenient => Ok(()),
            PageTag::Shared => Err(Refusal::NotTee),
            PageTag::Inaccessible => Err(Refusal::Inaccessible),
        })
    }

    fn answers_plain(&self, bar: u8, range: Range<u64>) -> Result<(), Refusal> {
        self.tags(bar, range).try_for_each(|tag| match tag {
            PageTag::Shared => Ok(()),
            PageTag::Private | PageTag::MsixLocked => Err(Refusal::Unprotected),
            PageTag::Inaccessible => Err(Refusal::Inaccessible),
        })
    }

    /// Tags of all pages that `range` touches.
    fn tags(&self, bar: u8, range: Range<u64>) -> impl Iterator<Item = PageTag> + '_ {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let (tag, end) = (at < range.end).then(|| tag_at(&self.pages, bar, at))?;
            at = end;
            Some(tag)
        })
    }

    /// Would some of these bytes have another tag with these pages?
    pub(super) fn changes(&self, bar: u8, range: Range<u64>, to: &[TaggedRange]) -> bool {
        let mut at = range.start;
        while at < range.end {
            let ((now, end), (then, other_end)) = (tag_at(&self.pages, bar, at), tag_at(to, bar, at));
            if now != then {
                return true;
            }
            at = end.min(other_end);
        }
        false
    }

    /// Does any rule apply to ordinary register access?
    pub(super) fn guards(&self) -> bool {
        self.state.is_bound() && self.pages.iter().any(|p| p.tag != PageTag::Shared)
    }

    /// Ranges that hold the trust domain's data.
    pub(super) fn private(&self) -> impl Iterator<Item = &TaggedRange> {
        self.pages.iter().filter(|p| p.tag == PageTag::Private)
    }
}

/// Tag of a byte, and where that may end; what no entry covers is shared.
fn tag_at(pages: &[TaggedRange], bar: u8, at: u64) -> (PageTag, u64) {
    let of_bar = || pages.iter().filter(|page| page.bar == bar);
    match of_bar().find(|page| page.range.contains(&at)) {
        Some(page) => (page.tag, page.range.end),
        None => {
            let later = of_bar().map(|page| page.range.start).filter(|start| *start > at).min();
            (PageTag::Shared, later.unwrap_or(u64::MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: TrustDomain = TrustDomain(1);
    const STATES: [TdiState; 4] = [TdiState::Unlocked, TdiState::Locked, TdiState::Run, TdiState::Error];

    fn tdi(state: TdiState) -> Tdi {
        let mut tdi = Tdi { state, domain: Some(HOME), ..Tdi::default() };
        let range = |range, tag| TaggedRange { bar: 0, range, tag };
        tdi.set_pages(&[
            range(0..0x2000, PageTag::Private),
            range(0x4000..0x5000, PageTag::Inaccessible),
            range(0x5000..0x6000, PageTag::MsixLocked),
        ]);
        tdi
    }

    #[test]
    fn requesters_send_t1_in_run_t0_unlocked_and_nothing_else() {
        let marks = STATES.map(|s| tdi(s).request_mark());
        assert_eq!(marks, [Some(Mark::Plain), None, Some(Mark::Protected(Some(HOME))), None]);
    }

    #[test]
    fn completers_follow_the_truth_table() {
        let home = Mark::Protected(Some(HOME));
        let away = Mark::Protected(Some(TrustDomain(2)));
        let (private, shared, hole) = (0x1000..0x1010, 0x3000..0x3010, 0x4000..0x4010);
        for state in STATES {
            let tdi = tdi(state);
            let ask = |range: &Range<u64>, mark| tdi.answers(0, range.clone(), mark, false);
            let (bound, run) = (state.is_bound(), state == TdiState::Run);
            let unless = |ok, why| if ok { Ok(()) } else { Err(why) };
            assert_eq!(ask(&private, Mark::Plain), unless(!bound, Refusal::Unprotected), "{state:?}");
            assert_eq!(ask(&private, home), unless(run, Refusal::TargetNotRunning), "{state:?}");
            let foreign = if run { Refusal::ForeignDomain } else { Refusal::TargetNotRunning };
            assert_eq!(ask(&private, away), Err(foreign), "{state:?}");
            assert_eq!(ask(&shared, Mark::Plain), Ok(()), "{state:?}");
            let non_tee = if run { Refusal::NotTee } else { Refusal::TargetNotRunning };
            assert_eq!(ask(&shared, home), Err(non_tee), "{state:?}");
            assert_eq!(tdi.answers(0, shared.clone(), home, true).is_ok(), run, "{state:?}: lenient");
            assert_eq!(ask(&hole, Mark::Plain), unless(!bound, Refusal::Inaccessible), "{state:?}");
            assert_eq!(
                ask(&(0x5000..0x5010), Mark::Plain),
                unless(!bound, Refusal::Unprotected),
                "{state:?}"
            );
            assert_eq!(tdi.answers(1, private.clone(), Mark::Plain, false), Ok(()), "another BAR, {state:?}");
        }
    }

    #[test]
    fn a_request_across_a_border_is_refused_whole() {
        let tdi = tdi(TdiState::Run);
        assert_eq!(tdi.answers(0, 0x1ff8..0x2008, Mark::Plain, false), Err(Refusal::Unprotected));
        assert_eq!(tdi.answers(0, 0x2ff8..0x5008, Mark::Plain, false), Err(Refusal::Inaccessible));
        assert_eq!(tdi.answers(0, 0x1ff8..0x2008, Mark::Protected(Some(HOME)), false), Err(Refusal::NotTee));
    }
}
