//! Bringing a backend's settings to the client's.

use super::Conversation;
use super::failure::Failure;
use super::timer::WaitError;
use crate::backend::Connection;
use crate::observe::ErrorKind;
use crate::session::settings::Settings;
use crate::session::wire;
use crate::sqlstate::{Report, SqlState};

/// Resets everything, for a backend whose settings are not known.
const RESET_EVERYTHING: &str = "RESET SESSION AUTHORIZATION;RESET ROLE;RESET ALL;";

impl Conversation {
    /// Makes the backend's settings the client's, in one round trip if they differ.
    ///
    /// # Errors
    /// The server's own error for a setting that it does not take: the statement is not run without it.
    pub(super) async fn sync_settings(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        if connection.settings.as_ref() == Some(&self.settings) {
            return Ok(());
        }
        let sql = match &connection.settings {
            Some(applied) => self.settings.statements_from(applied),
            None => format!("{RESET_EVERYTHING}{}", self.settings.statements_from(&Settings::default())),
        };
        connection.is_clean = false;
        connection.write_query(sql.as_bytes());
        let lost = |error: WaitError| {
            let text = match error {
                WaitError::Lost(lost) => lost.0,
                WaitError::DeadlinePassed | WaitError::ClientLeft => "timed out while replaying settings".to_owned(),
            };
            Failure::statement(Report::new(SqlState::CONNECTION_FAILURE, text), ErrorKind::Connection)
        };
        connection.socket.flush().await.map_err(|error| lost(error.into()))?;
        let mut rejection = None;
        let status = loop {
            let header = self.timer.next_header(connection, Some(&self.client)).await.map_err(lost)?;
            let message = connection.socket.input.split_to(header.len);
            let body = &message[wire::HEADER_LEN..];
            match header.tag {
                b'E' if rejection.is_none() => rejection = Some(crate::backend::server_report(body)),
                b'S' => connection.note_parameter(body),
                b'Z' => break body.first().copied(),
                _ => {}
            }
        };
        // Within a block it is not clean, and its rejection not undone.
        connection.is_clean = status == Some(b'I');
        // The string was one transaction: after an error nothing of it holds.
        match rejection {
            None => {
                connection.settings = Some(self.settings.clone());
                Ok(())
            }
            Some(report) => Err(Failure::statement(report, ErrorKind::Shard)),
        }
    }
}
