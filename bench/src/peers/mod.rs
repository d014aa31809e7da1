//! The peers: C behind shims (each a feature), programs, and what the crates need around them.

pub mod calls;
pub mod dpdk;
pub mod fio;
pub mod kernels;
pub mod memory;
pub mod reclaim;
pub mod urcu;

/// Declares the functions of a shim. Without the feature they are there and must not be called: who has no value of
/// the peer's type can't.
macro_rules! shim {
    ($feature:literal { $(fn $name:ident($($arg:ident: $ty:ty),*) $(-> $answer:ty)?;)* }) => {
        #[cfg(feature = $feature)]
        mod ffi {
            #[allow(unused_imports, reason = "not every shim names types")]
            use super::*;
            unsafe extern "C" { $(pub(super) fn $name($($arg: $ty),*) $(-> $answer)?;)* }
        }
        #[cfg(not(feature = $feature))]
        mod ffi {
            #[allow(unused_imports, reason = "not every shim names types")]
            use super::*;
            $(pub(super) unsafe fn $name($(_: $ty),*) $(-> $answer)? {
                unreachable!("built without the feature {}", $feature)
            })*
        }
    };
}
pub(crate) use shim;
