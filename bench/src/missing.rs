//! Figures that are not there, and why.

/// Why a figure is not there. It ends in the JSON as `"missing"`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Missing(pub String);

impl Missing {
    /// Because of this.
    pub fn new(why: impl Into<String>) -> Missing {
        Missing(why.into())
    }
}

/// What can go wrong while a shape is set up.
pub type Setup<T> = Result<T, Missing>;

/// Any error as the reason of a missing figure.
pub fn missing(error: impl std::fmt::Display) -> Missing {
    Missing::new(error.to_string())
}
