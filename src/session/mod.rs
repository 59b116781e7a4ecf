//! What a client's session is: message framing, prepared statements, settings, transaction state. Pure.

pub mod bonds;
pub mod copy_rows;
pub mod depth;
pub mod md5;
pub mod oids;
mod options;
pub mod own_settings;
pub mod pins;
pub mod prepared;
pub mod row_description;
pub mod scram;
pub mod scroll;
pub mod search_path;
pub mod set_config;
pub mod settings;
pub mod shared;
pub mod startup;
pub mod time_setting;
pub mod transaction;
pub mod unpooled;
pub mod wire;
