//! Servers over TLS.
