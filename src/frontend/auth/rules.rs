//! Which rule a client comes under, and what one is told that no rule lets in.

use crate::config::{Asking, AuthConfig, AuthMethod, AuthRule, Transport};
use crate::frontend::peer::Peer;
use crate::sqlstate::{Report, SqlState};

/// The first rule that fits.
///
/// # Errors
/// 28000 where none does, or it rejects: src/backend/libpq/auth.c, `ClientAuthentication`.
pub(super) fn rule_for<'a>(auth: &'a AuthConfig, database: &str, user: &str, peer: &Peer) -> Result<&'a AuthRule, Report> {
    let address = peer.address.map(|address| address.ip().to_canonical());
    let transport = match (&peer.tls, address) {
        (Some(_), _) => Transport::Tls,
        (None, Some(_)) => Transport::Clear,
        (None, None) => Transport::Unix,
    };
    let encryption = if transport == Transport::Tls { "SSL encryption" } else { "no encryption" };
    let host = address.map_or_else(|| "[local]".to_owned(), |address| address.to_string());
    let who = format!("for host \"{host}\", user \"{user}\", database \"{database}\", {encryption}");
    let refused = |words: &str| {
        Report::new(SqlState::INVALID_AUTHORIZATION, format!("{words} {who}"))
            .with_hint("It is the proxy that lets nobody in here: see auth.rules in its configuration.")
    };
    match auth.rule_for(&Asking { database, user, address, transport }) {
        None => Err(refused("no pg_hba.conf entry")),
        Some(rule) if rule.method == AuthMethod::Reject => Err(refused("pg_hba.conf rejects connection")),
        Some(rule) => Ok(rule),
    }
}
