//! To come.
mod descent;
