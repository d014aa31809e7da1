//! The list of channels.

use crate::channel::Erased;
use crate::epoch::Lines;
use std::sync::Arc;

/// All channels, and their lines as one value that a grace period takes whole: channels come and go seldom, grace
/// periods may be many.
#[derive(Debug, Default)]
pub(super) struct List {
    channels: Vec<Arc<dyn Erased>>,
    /// `None`: a channel came or went since.
    lines: Option<Lines>,
}

impl List {
    pub(super) fn all(&self) -> &[Arc<dyn Erased>] {
        &self.channels
    }

    pub(super) fn push(&mut self, channel: Arc<dyn Erased>) {
        self.channels.push(channel);
        self.lines = None;
    }

    pub(super) fn remove(&mut self, channel: &Arc<dyn Erased>) {
        self.channels.retain(|c| !Arc::ptr_eq(c, channel));
        self.lines = None;
    }

    pub(super) fn lines(&mut self) -> Lines {
        let channels = &self.channels;
        self.lines.get_or_insert_with(|| channels.iter().map(|c| c.line().clone()).collect()).clone()
    }
}
