//! What an examination of a store finds.

/// One thing that was looked at.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: &'static str,
    pub(crate) level: Level,
    /// What was found.
    pub(crate) found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Ok,
    /// It works, and somebody should look at it.
    Warn,
    /// Something does not work.
    Fail,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        let (level, advice) = (Level::Ok, None);
        let found = found.into();
        Self {
            check,
            level,
            found,
            advice,
        }
    }

    pub(crate) fn warn(
        check: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::ok(check, found).with(Level::Warn, advice)
    }

    pub(crate) fn fail(
        check: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::ok(check, found).with(Level::Fail, advice)
    }

    fn with(mut self, level: Level, advice: impl Into<String>) -> Self {
        (self.level, self.advice) = (level, Some(advice.into()));
        self
    }
}
