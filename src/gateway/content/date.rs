//! Dates: that of a SIP Date header (RFC 3261 section 20.17, RFC 1123) and the stamp of
//! XMPP (XEP-0082) and CPIM (RFC 3339), read and written.

use crate::base::time::{Civil, Wall};
use core::fmt;

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A point in time as a Date header has it: `Sat, 13 Nov 2010 23:29:00 GMT`.
#[derive(Clone, Copy, Debug)]
pub struct SipDate(pub Wall);

impl fmt::Display for SipDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, hour, minute, second, weekday } = self.0.civil();
        let weekday = DAYS.get(usize::from(weekday)).unwrap_or(&DAYS[0]);
        let month = MONTHS.get(usize::from(month).saturating_sub(1)).unwrap_or(&MONTHS[0]);
        write!(f, "{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
    }
}

/// A point in time as `<delay/>` and CPIM have it: `2010-11-13T23:29:00Z`.
#[derive(Clone, Copy, Debug)]
pub struct Stamp(pub Wall);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, hour, minute, second, .. } = self.0.civil();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// Reads a Date header. The day of the week is not compared; only GMT is legal.
pub fn parse_sip(text: &str) -> Option<Wall> {
    let (weekday, rest) = text.trim().split_once(',')?;
    if !DAYS.iter().any(|day| day.eq_ignore_ascii_case(weekday)) {
        return None;
    }
    let mut words = rest.split_ascii_whitespace();
    let (day, month, year) = (words.next()?, words.next()?, words.next()?);
    let (time, zone) = (words.next()?, words.next()?);
    if words.next().is_some() || !zone.eq_ignore_ascii_case("GMT") {
        return None;
    }
    let month = MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))?;
    let mut fields = time.split(':');
    let (hour, minute, second) = (number(fields.next()?, 2)?, number(fields.next()?, 2)?, number(fields.next()?, 2)?);
    if fields.next().is_some() || day.len() > 2 {
        return None;
    }
    let day = number(day, day.len())?;
    Wall::from_civil(number(year, 4)?.into(), month as u8 + 1, day as u8, hour as u8, minute as u8, second as u8)
}

/// Reads a stamp: with a fraction of a second, `Z` or an offset, if the sender likes.
pub fn parse_stamp(text: &str) -> Option<Wall> {
    let (date, time) = text.trim().split_once(['T', 't'])?;
    let mut fields = date.split('-');
    let (year, month, day) = (number(fields.next()?, 4)?, number(fields.next()?, 2)?, number(fields.next()?, 2)?);
    if fields.next().is_some() {
        return None;
    }
    let (time, offset_minutes) = match time.find(['Z', 'z', '+', '-']) {
        Some(at) => (time.get(..at)?, offset(time.get(at..)?)?),
        None => return None,
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    if !fraction.bytes().all(|octet| octet.is_ascii_digit()) {
        return None;
    }
    let mut fields = time.split(':');
    let (hour, minute, second) = (number(fields.next()?, 2)?, number(fields.next()?, 2)?, number(fields.next()?, 2)?);
    if fields.next().is_some() {
        return None;
    }
    let wall = Wall::from_civil(year.into(), month as u8, day as u8, hour as u8, minute as u8, second as u8)?;
    Some(Wall(wall.0 - i64::from(offset_minutes) * 60_000))
}

/// Minutes east of Greenwich.
fn offset(text: &str) -> Option<i32> {
    if text.eq_ignore_ascii_case("Z") {
        return Some(0);
    }
    let (sign, rest) = if let Some(rest) = text.strip_prefix('+') { (1, rest) } else { (-1, text.strip_prefix('-')?) };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
    (hours < 24 && minutes < 60).then(|| sign * (i32::from(hours) * 60 + i32::from(minutes)))
}

/// A number of exactly so many digits, at most four.
fn number(text: &str, digits: usize) -> Option<u16> {
    (text.len() == digits && (1..=4).contains(&digits) && text.bytes().all(|octet| octet.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_comes_back_as_it_went_in() {
        let wall = parse_sip("Sat, 13 Nov 2010 23:29:00 GMT").expect("a date");
        assert_eq!(SipDate(wall).to_string(), "Sat, 13 Nov 2010 23:29:00 GMT");
        assert_eq!(Stamp(wall).to_string(), "2010-11-13T23:29:00Z");
        assert_eq!(parse_stamp("2010-11-13T23:29:00Z"), Some(wall));
        assert_eq!(parse_stamp("2010-11-14T01:29:00.125+02:00"), Some(wall));
        assert_eq!(parse_stamp("2010-11-13t18:29:00-05:00"), Some(wall));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "Sat, 13 Nov 2010 23:29:00 EST",
            "13 Nov 2010 23:29:00 GMT",
            "Sat, 31 Feb 2010 23:29:00 GMT",
            "Sat,",
            "",
            "Sat, 13 Nov 10 23:29:00 GMT",
            "Sat, 13 Nov 2010 23:29 GMT",
            "Sat, +3 Nov 2010 23:29:00 GMT",
        ] {
            assert_eq!(parse_sip(text), None, "{text}");
        }
        for text in ["2010-11-13T23:29:00", "2010-11-13 23:29:00Z", "2010-13-13T23:29:00Z", "2010-11-13T23:29:00+99:00"]
        {
            assert_eq!(parse_stamp(text), None, "{text}");
        }
    }
}
