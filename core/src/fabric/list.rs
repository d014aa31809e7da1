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
    /// Closed, while their owners have them: they count for grace periods only.
    closed: Vec<Arc<dyn Erased>>,
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

    pub(super) fn with_closed(&self) -> impl Iterator<Item = &Arc<dyn Erased>> {
        self.channels.iter().chain(&self.closed)
    }

    /// A channel was closed. False if it was not in it, or is known as closed.
    pub(super) fn retire(&mut self, channel: &Arc<dyn Erased>) -> bool {
        let retired = self.remove(channel);
        if retired {
            self.closed.push(channel.clone());
        }
        retired
    }

    /// False if it was not in it, or was known as closed.
    pub(super) fn remove(&mut self, channel: &Arc<dyn Erased>) -> bool {
        if let Some(at) = self.closed.iter().position(|c| Arc::ptr_eq(c, channel)) {
            self.closed.remove(at);
            self.lines = None;
            return false;
        }
        let at = self.channels.iter().position(|c| Arc::ptr_eq(c, channel));
        let Some(at) = at else { return false };
        Arc::make_mut(&mut self.channels).remove(at);
        self.lines = None;
        true
    }

    pub(super) fn lines(&mut self) -> Lines {
        let all = self.channels.iter().chain(&self.closed);
        self.lines.get_or_insert_with(|| all.map(|c| c.line().clone()).collect()).clone()
    }
}
