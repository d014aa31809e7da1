//! liburcu, memb flavour. See `shims/urcu.c`.
#![expect(unsafe_code, reason = "calls the shim; every run of `pin` and `grace-idle` exercises it")]

use super::shim;
use crate::missing::Missing;
use std::marker::PhantomData;

shim!("liburcu" {
    fn tg_urcu_register();
    fn tg_urcu_unregister();
    fn tg_urcu_lock();
    fn tg_urcu_unlock();
    fn tg_urcu_synchronize();
    fn tg_urcu_sections(n: u64);
});

/// The calling thread, registered as a reader until this is dropped.
#[derive(Debug)]
pub struct Reader {
    not_send: PhantomData<*mut ()>,
}

impl Reader {
    /// Registers.
    ///
    /// # Errors
    /// [`Missing`] without the feature.
    pub fn register() -> Result<Reader, Missing> {
        available()?;
        // SAFETY: 1. undone on this very thread by Drop: `Reader` is not Send.
        unsafe { ffi::tg_urcu_register() };
        Ok(Reader { not_send: PhantomData })
    }

    /// `n` empty sections.
    pub fn sections(&self, n: u64) {
        // SAFETY: 1. this thread is registered.
        unsafe { ffi::tg_urcu_sections(n) };
    }

    /// Runs `body` in a section.
    #[inline]
    pub fn section(&self, body: impl FnOnce()) {
        // SAFETY: 1. this thread is registered; unlocked below.
        unsafe { ffi::tg_urcu_lock() };
        body();
        // SAFETY: 1. locked above.
        unsafe { ffi::tg_urcu_unlock() };
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // SAFETY: 1. registered by `register` on this thread, outside any section.
        unsafe { ffi::tg_urcu_unregister() };
    }
}

/// Is it built in?
///
/// # Errors
/// [`Missing`] without the feature.
pub fn available() -> Result<(), Missing> {
    if cfg!(feature = "liburcu") {
        return Ok(());
    }
    Err(Missing::new("built without liburcu (liburcu-dev, feature `liburcu`)"))
}

/// synchronize_rcu.
///
/// # Errors
/// [`Missing`] without the feature.
pub fn synchronize() -> Result<(), Missing> {
    available()?;
    // SAFETY: 1. callable by any thread that is outside a section: `Reader::section` holds none over a call of ours.
    unsafe { ffi::tg_urcu_synchronize() };
    Ok(())
}
