//! Plan cases as text files, the support page made from them, and properties.

mod cases;
mod fixture;
mod properties;
mod splitter;
