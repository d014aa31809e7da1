//! The control thread: system calls that may sleep, and drains that nobody waits for.

use crate::drain::Running;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the control thread turns the drains it carries.
const PACE: Duration = Duration::from_micros(200);

/// How often it looks at what is watched.
const WATCH: Duration = Duration::from_millis(10);

type Task = Box<dyn FnOnce() + Send>;
type Watch = Box<dyn FnMut() -> bool + Send>;

#[derive(Default)]
struct Queue {
    tasks: VecDeque<(&'static str, Task)>,
    carried: Vec<Arc<Running>>,
    /// Their addresses: there may be as many as regions.
    known: HashSet<usize>,
    /// Called now and then until it says that there is nothing left to look at.
    watch: Option<Watch>,
    stop: bool,
}

struct Inner {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// Runs tasks in order, one at a time. One thread, or (manual) whoever calls `Fabric::turn`.
pub(crate) struct Control {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
    manual: bool,
    /// No handle of the fabric is left.
    alone: AtomicBool,
}

/// A task's result, when there is one.
#[derive(Debug)]
pub(crate) struct Job<T>(Arc<OnceLock<Mutex<Option<T>>>>);

impl<T> Job<T> {
    /// The result, once.
    pub(crate) fn take(&self) -> Option<T> {
        guard(self.0.get()?).take()
    }
}

fn address(running: &Arc<Running>) -> usize {
    Arc::as_ptr(running).addr()
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Control({})", if self.manual { "manual" } else { "thread" })
    }
}

impl Control {
    /// `name`: of the thread; `None`: manual.
    pub(crate) fn new(name: Option<&str>) -> std::io::Result<Control> {
        let inner = Arc::new(Inner { queue: Mutex::new(Queue::default()), wake: Condvar::new() });
        let thread = match name {
            None => None,
            Some(name) => {
                let inner = inner.clone();
                Some(std::thread::Builder::new().name(name.to_owned()).spawn(move || inner.run())?)
            }
        };
        Ok(Control {
            inner,
            manual: name.is_none(),
            alone: AtomicBool::new(false),
            thread: Mutex::new(thread),
        })
    }

    pub(crate) fn is_manual(&self) -> bool {
        self.manual
    }

    /// Is the calling thread the control thread?
    pub(crate) fn is_here(&self) -> bool {
        guard(&self.thread).as_ref().is_some_and(|t| t.thread().id() == std::thread::current().id())
    }

    /// Queues a task; its result comes through the job.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        op: &'static str,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Job<T> {
        let job = Job(Arc::new(OnceLock::new()));
        let result = job.0.clone();
        let task: Task = Box::new(move || {
            let _ = result.set(Mutex::new(Some(task())));
        });
        guard(&self.inner.queue).tasks.push_back((op, task));
        self.attend();
        self.inner.wake.notify_all();
        job
    }

    /// Carries a drain to its end.
    pub(crate) fn carry(&self, running: Arc<Running>) {
        let mut queue = guard(&self.inner.queue);
        if queue.known.insert(address(&running)) {
            queue.carried.push(running);
        }
        drop(queue);
        self.attend();
        self.inner.wake.notify_all();
    }

    /// The last handle of the fabric is gone: nobody can turn a manual one any more.
    pub(crate) fn leave_alone(&self) {
        self.alone.store(true, Ordering::Release);
        let queue = guard(&self.inner.queue);
        let idle = queue.carried.is_empty() && queue.tasks.is_empty() && queue.watch.is_none();
        drop(queue);
        if !idle {
            self.attend();
        }
    }

    /// Starts the thread of a manual fabric that was left alone, once there is something to do. Not in models, nor under
    /// ThreadSanitizer, which does not see the standard library's own orders.
    fn attend(&self) {
        if !self.manual || !self.alone.load(Ordering::Acquire) || cfg!(any(loom, tidegate_tsan)) {
            return;
        }
        let mut thread = guard(&self.thread);
        if thread.is_none() {
            let inner = self.inner.clone();
            match std::thread::Builder::new().name("tidegate".to_owned()).spawn(move || inner.run()) {
                Ok(started) => *thread = Some(started),
                Err(error) => tracing::error!(%error, "what is left of a manual fabric is ended by nobody"),
            }
        }
    }

    /// Calls `watch` every 10 ms until it answers false; it takes the place of an earlier one. Keeps nobody waiting.
    pub(crate) fn watch(&self, watch: impl FnMut() -> bool + Send + 'static) {
        guard(&self.inner.queue).watch = Some(Box::new(watch));
        self.attend();
        self.inner.wake.notify_all();
    }

    /// Runs what is queued and turns what is carried, once. True if something is left.
    pub(crate) fn turn(&self) -> bool {
        self.inner.turn()
    }
}

impl Inner {
    fn turn(&self) -> bool {
        loop {
            let Some((op, task)) = guard(&self.queue).tasks.pop_front() else { break };
            // A mapping that panics must not take the fabric's only control thread with it: its job gives no
            // result, and what it was for goes to quarantine.
            if catch_unwind(AssertUnwindSafe(task)).is_err() {
                tracing::error!(op, "control task panicked");
            }
            tracing::trace!(op, "control task ran");
        }
        let carried = guard(&self.queue).carried.clone();
        for running in carried {
            // One whose engine panicked fails closed at its next turn.
            let _ = catch_unwind(AssertUnwindSafe(|| running.turn()));
        }
        self.look();
        let mut queue = guard(&self.queue);
        let all = std::mem::take(&mut queue.carried);
        let (over, left): (Vec<_>, Vec<_>) = all.into_iter().partition(|running| running.is_done());
        for running in &over {
            queue.known.remove(&address(running));
        }
        queue.carried = left;
        let busy = !queue.carried.is_empty() || !queue.tasks.is_empty();
        drop(queue);
        // Not under the lock: with the last of its drains a fabric may go.
        drop(over);
        busy
    }

    fn look(&self) {
        let Some(mut watch) = guard(&self.queue).watch.take() else { return };
        // One that panicked is asked again, about the others.
        if matches!(catch_unwind(AssertUnwindSafe(&mut watch)), Ok(false)) {
            return;
        }
        let mut queue = guard(&self.queue);
        // Unless a newer one came meanwhile.
        if queue.watch.is_none() {
            queue.watch = Some(watch);
        }
    }

    fn run(&self) {
        loop {
            // What listens to traces may panic: nobody else turns what is carried here.
            let _ = catch_unwind(AssertUnwindSafe(|| self.turn()));
            let queue = guard(&self.queue);
            // Read again under the lock that the wait gives up: what came meanwhile has woken nobody.
            let busy = !queue.carried.is_empty();
            if queue.stop && !busy && queue.tasks.is_empty() {
                return;
            }
            if !queue.tasks.is_empty() {
                continue;
            }
            if busy {
                let _ = self.wake.wait_timeout(queue, PACE);
            } else if queue.watch.is_some() {
                let _ = self.wake.wait_timeout(queue, WATCH);
            } else {
                drop(self.wake.wait(queue));
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        guard(&self.inner.queue).stop = true;
        self.inner.wake.notify_all();
        if let Some(thread) = guard(&self.thread).take() {
            // The last reference may be dropped by a task, on the control thread itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
