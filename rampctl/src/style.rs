//! Colour, where a terminal shows it.

use std::fmt;

/// What a word means to the eye.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// On its way.
    Warn,
    /// Look here first.
    Bad,
    /// Less important.
    Faint,
}

/// Text with a tone. Text from elsewhere (reasons, versions) may hold control
/// characters that would command the terminal: they are replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Word {
    text: String,
    tone: Tone,
}

impl Word {
    pub(crate) fn new(text: impl fmt::Display, tone: Tone) -> Self {
        let text = text.to_string();
        Self {
            text: text
                .chars()
                .map(|c| if c.is_control() { '�' } else { c })
                .collect(),
            tone,
        }
    }

    pub(crate) fn plain(text: impl fmt::Display) -> Self {
        Self::new(text, Tone::Plain)
    }

    /// Columns on a terminal; names are ASCII, and reasons come last.
    pub(crate) fn width(&self) -> usize {
        self.text.chars().count()
    }

    /// Appends it, padded to `width`.
    pub(crate) fn write(&self, out: &mut String, width: usize, colour: bool) {
        let code = match self.tone {
            Tone::Plain => None,
            Tone::Good => Some("32"),
            Tone::Warn => Some("33"),
            Tone::Bad => Some("1;31"),
            Tone::Faint => Some("2"),
        };
        match code.filter(|_| colour && !self.text.is_empty()) {
            Some(code) => *out += &format!("\x1b[{code}m{}\x1b[0m", self.text),
            None => *out += &self.text,
        }
        out.extend(std::iter::repeat_n(' ', width.saturating_sub(self.width())));
    }
}

impl<T: fmt::Display> From<T> for Word {
    fn from(text: T) -> Self {
        Self::plain(text)
    }
}
