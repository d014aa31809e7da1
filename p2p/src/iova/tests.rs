use super::*;
use proptest::prelude::*;

const MIB2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

fn small(pages: u64) -> Iovas {
    let mut iovas = Iovas::new();
    iovas.narrow(&[0..=pages * PAGE - 1]).unwrap();
    iovas
}

#[test]
fn page_zero_and_the_interrupt_window_are_never_handed_out() {
    let mut iovas = Iovas::new();
    assert_eq!(iovas.allocate(PAGE, 0), Ok(PAGE));
    for (at, len) in [(0, PAGE), (0xfee0_0000, PAGE), (0xfeef_f000, PAGE), (0xfed0_0000, 0x20_0000)] {
        assert_eq!(iovas.reserve(at, len), Err(IovaError::Forbidden { at, len }));
    }
    assert_eq!(iovas.reserve(0xfef0_0000, PAGE), Ok(()));
    // 3 GiB fit below the window only without congruence to its surroundings.
    let long = iovas.allocate(6 * GIB, 0).unwrap();
    assert_eq!(long % GIB, 0);
    assert!(long >= 0x1_0000_0000);
}

#[test]
fn an_area_is_congruent_with_its_target_where_its_length_allows() {
    let mut iovas = Iovas::new();
    for (len, align) in [(PAGE, PAGE), (MIB2 - PAGE, PAGE), (MIB2, MIB2), (GIB - PAGE, MIB2), (GIB, GIB)] {
        let target = 0x12_3456_7000;
        let at = iovas.allocate(len, target).unwrap();
        assert_eq!(at % align, target % align, "{len:#x}");
    }
    // A gap that is too short for the congruence is still used.
    let mut tight = small(513);
    assert_eq!(tight.allocate(MIB2, MIB2 - PAGE), Ok(PAGE));
}

#[test]
fn each_attach_narrows() {
    let mut iovas = Iovas::new();
    iovas.narrow(&[0..=0xffff_ffff]).unwrap();
    iovas.narrow(&[0x10_0000..=0x7fff_ffff, 0x1_0000_0000..=u64::MAX]).unwrap();
    assert_eq!(iovas.allocate(PAGE, 0), Ok(0x10_0000));
    let high = 0x8000_0000;
    assert_eq!(iovas.reserve(high, PAGE), Err(IovaError::Forbidden { at: high, len: PAGE }));
    iovas.exclude(0x10_1000..=0x10_1fff).unwrap();
    assert_eq!(iovas.allocate(PAGE, 0), Ok(0x10_2000));
}

#[test]
fn narrowing_around_an_area_in_use_changes_nothing() {
    let mut iovas = small(16);
    iovas.reserve(4 * PAGE, PAGE).unwrap();
    let conflict = Err(IovaError::Conflict { at: 4 * PAGE, len: PAGE });
    assert_eq!(iovas.narrow(&[8 * PAGE..=u64::MAX]), conflict);
    assert_eq!(iovas.exclude(0..=5 * PAGE), conflict);
    iovas.recovering(4 * PAGE).unwrap();
    assert_eq!(iovas.narrow(&[]), conflict);
    assert_eq!(iovas.allocate(PAGE, 0), Ok(PAGE));
    // One in quarantine is out of use; it does not come back when it is released outside.
    iovas.quarantine(4 * PAGE).unwrap();
    iovas.free(PAGE).unwrap();
    iovas.narrow(&[8 * PAGE..=u64::MAX]).unwrap();
    iovas.release(4 * PAGE).unwrap();
    assert_eq!(iovas.allocate(8 * PAGE, 0), Ok(8 * PAGE));
    assert_eq!(iovas.allocate(PAGE, 0), Err(IovaError::Exhausted { len: PAGE }));
}

#[test]
fn quarantined_and_recovering_areas_are_not_reused() {
    let mut iovas = small(3);
    let (a, b) = (iovas.allocate(PAGE, 0).unwrap(), iovas.allocate(PAGE, 0).unwrap());
    iovas.recovering(a).unwrap();
    iovas.quarantine(b).unwrap();
    assert_eq!(iovas.allocate(PAGE, 0), Err(IovaError::Exhausted { len: PAGE }));
    assert_eq!(iovas.reserve(a, PAGE), Err(IovaError::Occupied { at: a, len: PAGE }));
    assert_eq!(iovas.free(b), Err(IovaError::Held { at: b }));
    assert_eq!(iovas.recovered(b), Err(IovaError::Held { at: b }));
    assert_eq!(iovas.release(a), Err(IovaError::Unknown { at: a }));
    iovas.recovered(a).unwrap();
    assert_eq!(iovas.state(a), Ok(Use::Live));
    iovas.free(a).unwrap();
    assert_eq!(iovas.free(a), Err(IovaError::Unknown { at: a }));
    assert_eq!(iovas.allocate(PAGE, 0), Ok(a));
    iovas.release(b).unwrap();
    assert_eq!(iovas.allocate(PAGE, 0), Ok(b));
}

#[test]
fn what_is_not_pages_is_refused() {
    let mut iovas = Iovas::new();
    for (at, len) in [(0, 0), (0, 1), (1, PAGE)] {
        assert_eq!(iovas.allocate(len, at), Err(IovaError::Misaligned { at, len }));
        assert_eq!(iovas.reserve(at, len), Err(IovaError::Misaligned { at, len }));
    }
    let (at, len) = (u64::MAX - PAGE + 1, 2 * PAGE);
    assert_eq!(iovas.reserve(at, len), Err(IovaError::Forbidden { at, len }));
    assert_eq!(iovas.reserve(at, PAGE), Ok(()), "the last page of all");
}

/// 8 MiB of pages, each with what it is.
const PAGES: u64 = 2048;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Page {
    Forbidden,
    Free,
    /// Of the area that starts at this page.
    Area(u64, Use),
}

#[derive(Debug, Clone)]
enum Step {
    Allocate {
        len: u64,
        target: u64,
    },
    Reserve {
        at: u64,
        len: u64,
    },
    Exclude {
        at: u64,
        len: u64,
    },
    Narrow {
        at: u64,
        len: u64,
    },
    /// On the nth area.
    Free(usize),
    Recovering(usize),
    Recovered(usize),
    Quarantine(usize),
    Release(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![1..16u64, 500..530u64];
    let step = prop_oneof![
        4 => (len.clone(), 0..1024u64).prop_map(|(len, target)| Step::Allocate { len, target }),
        2 => (0..PAGES, len).prop_map(|(at, len)| Step::Reserve { at, len }),
        1 => (0..PAGES, 1..4u64).prop_map(|(at, len)| Step::Exclude { at, len }),
        1 => (0..64u64, PAGES - 128..PAGES).prop_map(|(at, len)| Step::Narrow { at, len }),
        4 => (0..8usize).prop_map(Step::Free),
        1 => (0..8usize).prop_map(Step::Recovering),
        1 => (0..8usize).prop_map(Step::Recovered),
        1 => (0..8usize).prop_map(Step::Quarantine),
        1 => (0..8usize).prop_map(Step::Release),
    ];
    proptest::collection::vec(step, 1..60)
}

/// The space page by page.
struct Model {
    pages: Vec<Page>,
    /// Pages that were excluded while something in quarantine had them.
    lost: Vec<bool>,
}

impl Model {
    fn new() -> Model {
        let mut pages = vec![Page::Free; PAGES as usize];
        pages[0] = Page::Forbidden;
        Model { pages, lost: vec![false; PAGES as usize] }
    }

    fn run(&self, at: u64, len: u64) -> Option<&[Page]> {
        self.pages.get(at as usize..(at + len) as usize)
    }

    fn is_free(&self, at: u64, len: u64) -> bool {
        self.run(at, len).is_some_and(|run| run.iter().all(|page| *page == Page::Free))
    }

    /// The lowest free start with this congruence, in pages.
    fn find(&self, len: u64, align: u64, target: u64) -> Option<u64> {
        (0..PAGES).find(|at| at % align == target % align && self.is_free(*at, len))
    }

    fn occupy(&mut self, at: u64, len: u64) {
        self.pages[at as usize..(at + len) as usize].fill(Page::Area(at, Use::Live));
    }

    fn nth_area(&self, n: usize) -> Option<(u64, Use)> {
        let mut areas: Vec<(u64, Use)> = Vec::new();
        for (at, page) in self.pages.iter().enumerate() {
            match page {
                Page::Area(start, state) if *start == at as u64 => areas.push((*start, *state)),
                _ => {}
            }
        }
        areas.get(n % areas.len().max(1)).copied()
    }

    fn set(&mut self, area: u64, to: Option<Use>) {
        for (page, lost) in self.pages.iter_mut().zip(&self.lost) {
            if matches!(page, Page::Area(start, _) if *start == area) {
                *page = match to {
                    Some(state) => Page::Area(area, state),
                    None if *lost => Page::Forbidden,
                    None => Page::Free,
                };
            }
        }
    }

    /// Forbids the pages for which `out` holds; `false`, and nothing, where one is in use.
    fn forbid(&mut self, out: impl Fn(u64) -> bool) -> bool {
        let in_use = |page: &Page| matches!(page, Page::Area(_, Use::Live | Use::Recovering));
        let hit: Vec<usize> = (0..self.pages.len()).filter(|at| out(*at as u64)).collect();
        if hit.iter().any(|at| in_use(&self.pages[*at])) {
            return false;
        }
        for at in hit {
            self.lost[at] = true;
            if self.pages[at] == Page::Free {
                self.pages[at] = Page::Forbidden;
            }
        }
        true
    }
}

fn check(iovas: &mut Iovas, model: &mut Model, step: &Step) -> Result<(), TestCaseError> {
    let bytes = |at: u64, len: u64| at * PAGE..=(at + len) * PAGE - 1;
    match *step {
        Step::Allocate { len, target } => {
            let best = [512, 1].into_iter().filter(|a| *a <= len).find_map(|a| model.find(len, a, target));
            prop_assert_eq!(iovas.allocate(len * PAGE, target * PAGE).ok(), best.map(|at| at * PAGE));
            best.iter().for_each(|at| model.occupy(*at, len));
        }
        Step::Reserve { at, len } => {
            prop_assert_eq!(iovas.reserve(at * PAGE, len * PAGE).is_ok(), model.is_free(at, len));
            if model.is_free(at, len) {
                model.occupy(at, len);
            }
        }
        Step::Exclude { at, len } => {
            let done = model.forbid(|page| (at..at + len).contains(&page));
            prop_assert_eq!(iovas.exclude(bytes(at, len)).is_ok(), done);
        }
        Step::Narrow { at, len } => {
            let done = model.forbid(|page| !(at..at + len).contains(&page));
            prop_assert_eq!(iovas.narrow(&[bytes(at, len)]).is_ok(), done);
        }
        Step::Free(n) | Step::Recovering(n) | Step::Recovered(n) | Step::Quarantine(n) | Step::Release(n) => {
            let Some((area, state)) = model.nth_area(n) else { return Ok(()) };
            let held = state == Use::Quarantined;
            let at = area * PAGE;
            prop_assert_eq!(iovas.state(at), Ok(state));
            let (answer, allowed, to) = match step {
                Step::Free(_) => (iovas.free(at), !held, None),
                Step::Recovering(_) => (iovas.recovering(at), !held, Some(Use::Recovering)),
                Step::Recovered(_) => (iovas.recovered(at), !held, Some(Use::Live)),
                Step::Quarantine(_) => (iovas.quarantine(at), true, Some(Use::Quarantined)),
                _ => (iovas.release(at), held, None),
            };
            prop_assert_eq!(answer.is_ok(), allowed);
            if allowed {
                model.set(area, to);
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_answer_is_the_page_models(steps in steps()) {
        let (mut iovas, mut model) = (small(PAGES), Model::new());
        for step in &steps {
            check(&mut iovas, &mut model, step)?;
        }
        let free: u64 = model.pages.iter().filter(|page| **page == Page::Free).count() as u64;
        prop_assert_eq!(iovas.free.iter().map(|(s, l)| l - s + 1).sum::<u64>(), free * PAGE);
    }
}
