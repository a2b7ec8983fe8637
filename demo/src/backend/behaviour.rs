//! What a scripted backend does: an answer, and whom it gets. Everyone else is
//! served.

use std::{str::FromStr, time::Duration};

/// The script in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Behaviour {
    /// What happens to the affected requests.
    pub answer: Answer,
    /// Which requests are affected; the others get 200.
    pub affected: Affected,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// 200, or gRPC status 0.
    Ok,
    /// This status; to a gRPC request the code that stands for it.
    Status {
        /// 200 to 599.
        code: u16,
        /// Whole seconds are sent.
        retry_after: Option<Duration>,
    },
    /// 200 after this long.
    Slow(Duration),
    /// 200 once one of a few workers had the time: a real capacity of `workers` /
    /// `time` requests a second, with a queue in front of it that nobody bounds.
    /// Work for a client that has gone away is done all the same.
    Work {
        /// How many requests are worked on at a time.
        workers: u32,
        /// How long each takes.
        time: Duration,
    },
    /// The request is read and never answered.
    Hang,
    /// The connection is closed without an answer.
    Reset,
    /// The port is closed and every connection is cut, whoever is affected.
    Refuse,
}

/// Which requests an answer is for.
#[derive(Debug, Clone, PartialEq)]
pub enum Affected {
    /// All of them.
    Everyone,
    /// This share of them, 0 to 1, at random.
    Share(f64),
    /// Those whose mark (see [`super::MARK`]) is one of these: a broken path
    /// between some agents and the backend.
    Marked(Vec<String>),
    /// Those above so many in any second: a capacity.
    Beyond(u32),
}

impl Behaviour {
    /// Serve everything.
    pub fn ok() -> Self {
        Self::all(Answer::Ok)
    }

    /// Everyone gets this answer.
    pub fn all(answer: Answer) -> Self {
        Self {
            answer,
            affected: Affected::Everyone,
        }
    }

    /// Everyone gets this status.
    pub fn status(code: u16) -> Self {
        Self::all(Answer::Status {
            code,
            retry_after: None,
        })
    }

    /// This share of the requests fails with 500.
    pub fn flaky(share: f64) -> Self {
        Self {
            affected: Affected::Share(share),
            ..Self::status(500)
        }
    }

    /// Requests above this rate get 503.
    pub fn capacity(per_second: u32) -> Self {
        Self {
            affected: Affected::Beyond(per_second),
            ..Self::status(503)
        }
    }

    /// So many workers, each with one request for this long.
    pub fn workers(workers: u32, time: Duration) -> Self {
        Self::all(Answer::Work { workers, time })
    }

    /// Requests with one of these marks find their connection closed.
    pub fn broken_path<S: Into<String>>(marks: impl IntoIterator<Item = S>) -> Self {
        let marks = marks.into_iter().map(Into::into).collect();
        Self {
            answer: Answer::Reset,
            affected: Affected::Marked(marks),
        }
    }

    /// The port is closed.
    pub fn refuses(&self) -> bool {
        self.answer == Answer::Refuse
    }
}

/// What [`Behaviour`] understands as text.
pub const WORDS: &str = "ok, a status such as 503 or 503:2s (with Retry-After), refuse, hang, reset, \
     slow:500ms, fail:5%, capacity:100 or workers:40x100ms";

impl FromStr for Behaviour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("behaviour {text:?} is not known; allowed: {WORDS}");
        let (word, value) = match text.split_once(':') {
            Some((word, value)) => (word, Some(value)),
            None => (text, None),
        };
        Ok(match (word, value) {
            ("ok", None) => Self::ok(),
            ("refuse", None) => Self::all(Answer::Refuse),
            ("hang", None) => Self::all(Answer::Hang),
            ("reset", None) => Self::all(Answer::Reset),
            ("slow", Some(value)) => Self::all(Answer::Slow(duration(value).ok_or_else(wrong)?)),
            ("fail", Some(value)) => Self::flaky(percent(value).ok_or_else(wrong)?),
            ("capacity", Some(value)) => Self::capacity(value.parse().map_err(|_| wrong())?),
            ("workers", Some(value)) => {
                let (workers, time) = value.split_once('x').ok_or_else(wrong)?;
                let workers = workers.parse().ok().filter(|workers| *workers > 0);
                Self::workers(
                    workers.ok_or_else(wrong)?,
                    duration(time).ok_or_else(wrong)?,
                )
            }
            (code, value) => {
                let code = code.parse().ok().filter(|code| (200..600).contains(code));
                let retry_after = value.map(|v| duration(v).ok_or_else(wrong)).transpose()?;
                Self::all(Answer::Status {
                    code: code.ok_or_else(wrong)?,
                    retry_after,
                })
            }
        })
    }
}

fn duration(text: &str) -> Option<Duration> {
    let ms = |number: &str, unit: f64| {
        let ms = number.parse::<f64>().ok()? * unit;
        (0.0..=3_600_000.0)
            .contains(&ms)
            .then(|| Duration::from_micros((ms * 1000.0) as u64))
    };
    match text.strip_suffix("ms") {
        Some(number) => ms(number, 1.0),
        None => ms(text.strip_suffix('s')?, 1000.0),
    }
}

fn percent(text: &str) -> Option<f64> {
    let share = text.strip_suffix('%')?.parse::<f64>().ok()? / 100.0;
    (0.0..=1.0).contains(&share).then_some(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_they_mean() {
        let retry = |s| Some(Duration::from_secs(s));
        let status = |code, retry_after| Behaviour::all(Answer::Status { code, retry_after });
        let cases = [
            ("ok", Behaviour::ok()),
            ("503", status(503, None)),
            ("503:2s", status(503, retry(2))),
            (
                "slow:500ms",
                Behaviour::all(Answer::Slow(Duration::from_millis(500))),
            ),
            ("fail:5%", Behaviour::flaky(0.05)),
            ("capacity:100", Behaviour::capacity(100)),
            (
                "workers:40x100ms",
                Behaviour::workers(40, Duration::from_millis(100)),
            ),
            ("refuse", Behaviour::all(Answer::Refuse)),
        ];
        for (text, meaning) in cases {
            assert_eq!(text.parse(), Ok(meaning), "{text}");
        }
    }

    #[test]
    fn other_words_are_refused_with_what_is_allowed() {
        for text in [
            "",
            "okay",
            "99",
            "600",
            "slow",
            "slow:5",
            "slow:-1s",
            "fail:101%",
            "capacity:x",
            "workers:0x1s",
            "workers:4",
            "ok:1",
        ] {
            let error = text.parse::<Behaviour>().expect_err(text);
            assert!(error.contains("allowed: ok, a status"), "{error}");
        }
    }
}
