//! The list of channels.

use crate::channel::Erased;
use crate::epoch::Lines;
use std::sync::Arc;

/// All channels at one moment.
pub(crate) type Channels = Arc<Vec<Arc<dyn Erased>>>;

/// All channels, and their lines, each as one value that a revoker takes whole: channels come and go seldom, grace
/// periods may be many.
#[derive(Debug, Default)]
pub(super) struct List {
    /// Copied when it changes and somebody has it.
    channels: Channels,
    /// `None`: a channel came or went since.
    lines: Option<Lines>,
}

impl List {
    pub(super) fn all(&self) -> &Channels {
        &self.channels
    }

    pub(super) fn push(&mut self, channel: Arc<dyn Erased>) {
        Arc::make_mut(&mut self.channels).push(channel);
        self.lines = None;
    }

    /// False if it was not in it.
    pub(super) fn remove(&mut self, channel: &Arc<dyn Erased>) -> bool {
        let at = self.channels.iter().position(|c| Arc::ptr_eq(c, channel));
        let Some(at) = at else { return false };
        Arc::make_mut(&mut self.channels).remove(at);
        self.lines = None;
        true
    }

    pub(super) fn lines(&mut self) -> Lines {
        let channels = &self.channels;
        self.lines.get_or_insert_with(|| channels.iter().map(|c| c.line().clone()).collect()).clone()
    }
}
