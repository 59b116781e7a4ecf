//! Certificates are replaced while the proxy runs.
