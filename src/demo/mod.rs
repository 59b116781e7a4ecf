//! `trunkline demo`.

pub mod postgres;
