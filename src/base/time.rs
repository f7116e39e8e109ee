//! Points in time as plain numbers. There is no `now()` here: the reactor reads
//! the clock once a turn and hands the reading down in [`super::cx::Cx`].

use core::num::NonZeroU64;
use core::time::Duration;

/// Milliseconds since the program started; only moves forward.
///
/// One is added to what is kept, so that `Option<Instant>` needs no more room: contacts
/// have many of those, and there are tens of thousands of contacts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(NonZeroU64);

impl Instant {
    /// The start of the program.
    pub const ZERO: Self = Self::from_millis(0);

    /// The point `millis` milliseconds after the start.
    pub const fn from_millis(millis: u64) -> Self {
        match NonZeroU64::new(millis.saturating_add(1)) {
            Some(kept) => Self(kept),
            None => Self(NonZeroU64::MAX),
        }
    }

    /// Milliseconds since the start.
    pub const fn as_millis(self) -> u64 {
        self.0.get() - 1
    }

    /// The point `by` later; stops at the end of time instead of wrapping.
    pub const fn after(self, by: Duration) -> Self {
        Self::from_millis(self.as_millis().saturating_add(by.as_millis() as u64))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.as_millis().saturating_sub(earlier.as_millis()))
    }
}

impl Default for Instant {
    fn default() -> Self {
        Self::ZERO
    }
}

impl core::fmt::Debug for Instant {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Instant({})", self.as_millis())
    }
}

/// Wall-clock time: milliseconds since 1970-01-01 UTC. May jump either way, so it
/// is written into messages and held against certificates, never used for timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

/// A date and a time of day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Year of the Gregorian calendar.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 60: a leap second may be read, never written.
    pub second: u8,
    /// 0 for Sunday to 6 for Saturday.
    pub weekday: u8,
}

impl Wall {
    /// Seconds since 1970.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The date and time of day in UTC.
    pub fn civil(self) -> Civil {
        let days = self.seconds().div_euclid(86_400);
        let of_day = self.seconds().rem_euclid(86_400);
        // Days to year, month and day in the proleptic Gregorian calendar, with
        // eras of 400 years and years that begin in March.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let of_era = shifted.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Civil {
            year: year as i32,
            month: month as u8,
            day: day as u8,
            hour: (of_day / 3600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
            weekday: (days + 4).rem_euclid(7) as u8,
        }
    }

    /// The point in time of a UTC date. `None` if a field is out of its range.
    pub fn from_civil(year: i32, month: u8, day: u8, hour: u8, minute: u8, second: u8) -> Option<Self> {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let month_days = match month {
            2 => 28 + u8::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        if day == 0 || day > month_days || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let year = i64::from(year) - i64::from(month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let march_month = (i64::from(month) + 9) % 12;
        let of_year = (153 * march_month + 2) / 5 + i64::from(day) - 1;
        let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
        let days = era * 146_097 + of_era - 719_468;
        let seconds = days * 86_400 + i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second.min(59));
        Some(Self(seconds * 1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_dates_come_back_as_they_went_in() {
        for days in (-200_000..200_000).step_by(37) {
            let wall = Wall((days * 86_400 + 3_723) * 1000);
            let c = wall.civil();
            assert_eq!(Wall::from_civil(c.year, c.month, c.day, c.hour, c.minute, c.second), Some(wall));
        }
        let c = Wall(951_782_400_000).civil();
        assert_eq!((c.year, c.month, c.day, c.weekday), (2000, 2, 29, 2));
    }

    #[test]
    fn a_date_that_does_not_exist_is_refused() {
        assert_eq!(Wall::from_civil(2026, 2, 29, 0, 0, 0), None);
        assert_eq!(Wall::from_civil(2026, 13, 1, 0, 0, 0), None);
    }
}
