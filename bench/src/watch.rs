//! Somebody at three in the morning wants to know that a run hangs, and where.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Looked at by a thread of its own.
#[derive(Debug, Clone)]
pub struct Watch {
    last: Arc<Mutex<(String, Instant)>>,
}

impl Watch {
    /// Calls `late` with the last news when there were none for `patience`.
    pub fn begin(patience: Duration, late: impl Fn(&str) + Send + 'static) -> Watch {
        let watch = Watch { last: Arc::new(Mutex::new(("start".to_owned(), Instant::now()))) };
        let last = watch.last.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(patience / 20);
                let news = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if news.1.elapsed() > patience {
                    late(&news.0);
                }
            }
        });
        watch
    }

    /// Something got done.
    pub fn news(&self, what: String) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (what, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn silence_is_noticed_with_what_came_last() {
        let (tell, told) = mpsc::channel();
        let watch = Watch::begin(Duration::from_millis(40), move |last| drop(tell.send(last.to_owned())));
        watch.news("worker".to_owned());
        assert_eq!(told.recv().as_deref(), Ok("worker"));
    }
}
