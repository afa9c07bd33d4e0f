//! A store that stands beside another one, in the same database or file.

use super::Settings;
use super::text::MAX_NAME;
use crate::error::{Error, Result};

impl Settings {
    /// Those of the store beside: its table, its channel and its state file carry this store's names with `ending` behind them.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid_input`] where a name leaves no room for the ending; `with` says what needs it.
    pub(crate) fn beside(&self, ending: &str, with: &str) -> Result<Self> {
        let named = |setting: &str, name: &str| {
            let (bytes, most) = (name.len(), MAX_NAME - ending.len() - 1);
            if bytes > most {
                let problem = format!(
                    "has {bytes} bytes; with {with} it may have {most}, because theirs ends with _{ending}"
                );
                return Err(Error::setting(setting, name, problem));
            }
            Ok(format!("{name}_{ending}"))
        };
        let state_file = self.state_file.as_ref().map(|file| {
            let mut file = file.clone().into_os_string();
            file.push(".");
            file.push(ending);
            file.into()
        });
        Ok(Self {
            table_name: named("table_name", &self.table_name)?,
            channel: named("channel", &self.channel)?,
            state_file,
            ..self.clone()
        })
    }
}
