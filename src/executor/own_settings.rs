//! Settings that the proxy keeps and acts on itself: `trunkline.…`, and how long a client may be idle.
//!
//! Those of `trunkline.…` are settings of the session like any other: servers have them too, so that `current_setting` tells
//! them, and so a transaction or a savepoint that is rolled back takes them back. What they mean is derived each time that one
//! may have changed.

use super::Conversation;
use super::batch::SessionStatement;
use super::conversation::Origin;
use super::failure::Failure;
use super::merge::Description;
use crate::session::own_settings::{OwnBounds, OwnSetting, OwnSettings, PREFIX, argument};
use crate::session::row_description;
use crate::session::set_config::SettingChange;
use crate::session::settings::{SettingValue, quote_literal};
use crate::session::time_setting::{milliseconds, shown};
use crate::session::transaction::Phase;
use crate::session::wire;
use crate::sql::{Classified, Command, SetScope};
use crate::sqlstate::{Report, SqlState};
use crate::topology::ShardId;

/// Servers must not act on it: between two transactions a client has no connection, and a pool's idle ones would be closed.
pub(super) use crate::session::settings::IDLE_SESSION_TIMEOUT;

/// The client's own settings, where they are not as the proxy has them by itself.
#[derive(Debug)]
pub(super) struct Own {
    pub settings: OwnSettings,
    /// That of `trunkline.shard`.
    pub shard: Option<ShardId>,
}

/// One of these statements about a setting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    pub name: &'a str,
    /// The text after TO; `None`: RESET.
    pub value: Option<&'a str>,
    pub scope: SetScope,
}

impl Conversation {
    /// `SET trunkline.…` and `RESET trunkline.…`.
    ///
    /// # Errors
    /// 42704 for a name that is none, 22023 and 42501 for a value that is none.
    pub(super) async fn set_own(&mut self, set: Setting<'_>) -> Result<(), Failure> {
        let setting = OwnSetting::named(set.name).map_err(Failure::client)?;
        let given = match set.value {
            Some(sql) => argument(set.name, sql, self.plan_settings.has_standard_strings).map_err(Failure::client)?,
            None => None,
        };
        let text = given.map(|text| self.checked(setting, &text)).transpose()?;
        match set.scope {
            SetScope::Session => self.set_own_for_session(setting, text).await?,
            SetScope::Transaction => self.set_own_locally(setting, text).await?,
        }
        self.complete(if set.value.is_some() { "SET" } else { "RESET" });
        if !self.transaction.is_open() {
            self.release();
        }
        Ok(())
    }

    async fn set_own_for_session(&mut self, setting: OwnSetting, text: Option<String>) -> Result<(), Failure> {
        let name = setting.name();
        self.settings = match text {
            Some(text) => self.settings.with(name, SettingValue::Text(text)),
            None => self.settings.with_reset(name, &self.startup_settings),
        };
        let sql = match self.settings.value(name) {
            Some(value) => format!("SET {name} TO {}", quote_literal(value.text())),
            None => format!("RESET {name}"),
        };
        if !self.enlisted.is_empty() {
            self.enlist_held().await?;
        }
        for idx in (0..self.enlisted.len()).rev() {
            self.tell(idx, &sql).await.taken()?;
        }
        for enlisted in self.enlisted.iter_mut().filter(|enlisted| enlisted.lease.settings.is_some()) {
            enlisted.lease.settings = Some(self.settings.clone());
        }
        self.note_change(name);
        self.derive_plan_settings();
        Ok(())
    }

    async fn set_own_locally(&mut self, setting: OwnSetting, text: Option<String>) -> Result<(), Failure> {
        let words = Some("SET LOCAL");
        let name = setting.name();
        if !self.transaction.is_open() {
            self.warn_outside(words);
            return Ok(());
        }
        if self.block.origin == Origin::Pipeline && self.transaction.phase == Phase::Implicit {
            self.warn_outside(words);
        }
        let value = text.or_else(|| self.startup_settings.value(name).map(|value| value.text().to_owned()));
        let sql = match &value {
            Some(text) => format!("SET LOCAL {name} TO {}", quote_literal(text)),
            None => format!("SET LOCAL {name} TO DEFAULT"),
        };
        if !self.enlisted.is_empty() {
            self.enlist_held().await?;
        }
        self.tell_transaction(&sql).await?;
        self.transaction.local_sets.push(sql);
        self.transaction.note_change(name, value.map(SettingValue::Text));
        self.derive_plan_settings();
        Ok(())
    }

    /// The value as SHOW prints it.
    fn checked(&self, setting: OwnSetting, value: &str) -> Result<String, Failure> {
        if setting == OwnSetting::Shard && !value.is_empty() && self.view.topology.shard_named(value).is_none() {
            let message = format!("invalid value for parameter \"{}\": \"{value}\"", setting.name());
            let names = self.view.topology.shards.iter().map(|shard| shard.name.as_str()).collect::<Vec<_>>().join(", ");
            let report = Report::new(SqlState::INVALID_PARAMETER_VALUE, message);
            return Err(Failure::client(report.with_hint(format!("Available values: {names}."))));
        }
        setting.canonical(value, &self.own_bounds()).map_err(Failure::client)
    }

    /// Looks at the settings that a client begins with.
    ///
    /// # Errors
    /// Those of SET.
    pub(super) fn check_startup_settings(&self) -> Result<(), Failure> {
        for (name, value) in self.startup_settings.beginning_with(PREFIX) {
            let setting = OwnSetting::named(name).map_err(Failure::client)?;
            self.checked(setting, value.text())?;
        }
        Ok(())
    }

    /// Looks at what a statement is about to set by `set_config`, and has it followed as SHOW prints it.
    ///
    /// # Errors
    /// Those of SET; TL107 for a value that is not known before the statement has run.
    pub(super) fn check_changes(&self, changes: &mut [SettingChange]) -> Result<(), Failure> {
        for change in changes.iter_mut().filter(|change| change.name.starts_with(PREFIX)) {
            let setting = OwnSetting::named(&change.name).map_err(Failure::client)?;
            let Some(value) = &change.value else {
                return Err(Failure::refused(
                    "TL107",
                    format!("set_config of \"{}\" takes a plain value only", change.name),
                    "Give name and value as literals or parameters, and nothing beside the call; or use SET.",
                ));
            };
            change.value = Some(self.checked(setting, value)?);
        }
        Ok(())
    }

    fn own_bounds(&self) -> OwnBounds {
        let query = &self.database.query;
        OwnBounds {
            allow_scatter: query.allow_scatter,
            max_gather_bytes: query.max_gather_bytes,
            may_be_partial: query.allow_partial_results,
        }
    }

    /// Works out what the own settings come to.
    pub(super) fn derive_own(&mut self) {
        let value_of = |name: &'static str| self.transaction.change_of(name).unwrap_or_else(|| self.settings.value(name));
        let own = OwnSettings::of(value_of, &self.own_bounds());
        self.own = own.map(|settings| {
            let shard = settings.shard.as_deref().and_then(|name| self.view.topology.shard_named(name));
            Box::new(Own { settings: *settings, shard })
        });
    }

    /// That of `SET trunkline.shard`.
    pub(super) fn hinted_shard(&self) -> Option<ShardId> {
        self.own.as_ref().and_then(|own| own.shard)
    }

    /// Most bytes that a statement of this client may hold in the proxy, or gather.
    pub(super) fn max_gather_bytes(&self) -> u64 {
        self.own.as_ref().map_or(self.database.query.max_gather_bytes, |own| own.settings.max_gather_bytes)
    }

    /// The row of `SHOW` of a setting that is shown here.
    ///
    /// # Errors
    /// 42704.
    pub(super) fn show_own(&mut self, name: &str, description: Description) -> Result<(), Failure> {
        if name == IDLE_SESSION_TIMEOUT {
            self.show_idle_limit(description);
            return Ok(());
        }
        let setting = OwnSetting::named(name).map_err(Failure::client)?;
        let bounds = self.own_bounds();
        let value = self.transaction.change_of(setting.name()).unwrap_or_else(|| self.settings.value(setting.name()));
        let text = value.and_then(|value| setting.canonical(value.text(), &bounds).ok());
        let text = text.unwrap_or_else(|| setting.preset(&bounds));
        if description == Description::Send {
            row_description::write_text_column(&mut self.client.output, setting.name());
        }
        wire::text_row(&mut self.client.output, &text);
        self.complete("SHOW");
        Ok(())
    }

    /// How long the client's own setting lets it be idle; zero: for ever.
    pub(super) fn own_idle_limit(&self) -> std::time::Duration {
        let value = self.settings.value(IDLE_SESSION_TIMEOUT).and_then(milliseconds);
        std::time::Duration::from_millis(value.unwrap_or(0))
    }

    /// Whether the proxy keeps a setting itself: one of its own, and `idle_session_timeout` where the client has set it.
    pub(super) fn is_shown_here(&self, name: &str) -> bool {
        name.starts_with(PREFIX) || (name == IDLE_SESSION_TIMEOUT && self.settings.value(name).is_some())
    }

    /// The row of `SHOW idle_session_timeout`, of what the client has set.
    fn show_idle_limit(&mut self, description: Description) {
        if description == Description::Send {
            row_description::write_text_column(&mut self.client.output, IDLE_SESSION_TIMEOUT);
        }
        let milliseconds = u64::try_from(self.own_idle_limit().as_millis()).unwrap_or(u64::MAX);
        wire::text_row(&mut self.client.output, &shown(milliseconds));
        self.complete("SHOW");
    }
}

/// Whether it is SHOW of one of these settings.
pub(super) fn is_own_show(statement: &SessionStatement) -> bool {
    matches!(statement.cached.template.class(), Classified::Command(Command::Show { name }) if name.starts_with(PREFIX))
}

/// The body of the RowDescription of `SHOW` of a setting that is shown here.
///
/// # Errors
/// 42704.
pub(super) fn describe_own_setting(name: &str) -> Result<bytes::Bytes, Failure> {
    let name = match name {
        IDLE_SESSION_TIMEOUT => name,
        _ => OwnSetting::named(name).map_err(Failure::client)?.name(),
    };
    let mut message = bytes::BytesMut::new();
    row_description::write_text_column(&mut message, name);
    Ok(message.freeze().slice(wire::HEADER_LEN..))
}
