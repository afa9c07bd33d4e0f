//! Numbers as PostgreSQL's `numeric` reads and prints them: by their digits, which no `f64` ever holds.

use std::iter::{repeat, repeat_n};

use super::cannot_hold;
use crate::core::ValueError;

/// Digits before the point that `numeric` holds: 32,768 groups of four.
const MOST_WHOLE: usize = 131_072;

/// Digits after the point: 14 bits tell how many are printed.
const MOST_FRACTION: usize = 16_383;

/// The largest exponent, also of a zero. The next one is half of a C `int`, which PostgreSQL refuses up to version 15;
/// later ones refuse the one after that.
const MOST_EXPONENT: u32 = 1_073_741_822;

/// A number of JSON's grammar that `numeric` holds.
#[derive(Clone, Copy)]
pub(super) struct Number<'a> {
    /// A zero has no sign.
    negative: bool,
    /// The digits as they were written, with their point if they have one.
    mantissa: &'a str,
    exponent: i32,
}

/// Where the digits of a number stand.
struct Places {
    /// The first digit that is not 0.
    first: Option<usize>,
    /// The digit before which the point comes to stand. It may stand before or behind all of them.
    point: i64,
    /// Digits before the point, without leading zeros.
    whole: usize,
    /// Digits after the point: as many as were written, less the exponent.
    fraction: usize,
}

impl<'a> Number<'a> {
    /// Reads a number that keeps to JSON's grammar, and refuses one that `numeric` cannot hold.
    pub(super) fn read(token: &'a str) -> Result<Self, ValueError> {
        let (sign, digits) = token.split_at(usize::from(token.starts_with('-')));
        let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()),
            None => (digits, Some(0)),
        };
        let exponent = exponent.filter(|exponent| exponent.unsigned_abs() <= MOST_EXPONENT);
        let mut number = Self {
            negative: false,
            mantissa,
            exponent: exponent.ok_or_else(out_of_range)?,
        };
        let places = number.places();
        if places.whole > MOST_WHOLE || places.fraction > MOST_FRACTION {
            return Err(out_of_range());
        }
        number.negative = !sign.is_empty() && places.first.is_some();
        Ok(number)
    }

    /// How many bytes [`Number::print`] adds.
    pub(super) fn length(&self) -> usize {
        let Places {
            whole, fraction, ..
        } = self.places();
        let point = usize::from(fraction > 0);
        usize::from(self.negative) + whole.max(1) + point + fraction
    }

    pub(super) fn print(&self, out: &mut String) {
        if self.negative {
            out.push('-');
        }
        if self.exponent == 0 {
            out.push_str(self.mantissa);
            return;
        }
        let places = self.places();
        match places.first {
            Some(first) if places.whole > 0 => {
                let digits = self.digits().chain(repeat('0'));
                out.extend(digits.skip(first).take(places.whole));
            }
            _ => out.push('0'),
        }
        if places.fraction > 0 {
            out.push('.');
            out.extend(repeat_n('0', count(-places.point)));
            out.extend(self.digits().skip(count(places.point)));
        }
    }

    fn places(&self) -> Places {
        let written = self.mantissa.find('.');
        let digits = self.mantissa.len() - usize::from(written.is_some());
        let first = self.digits().position(|digit| digit != '0');
        let point = signed(written.unwrap_or(digits)) + i64::from(self.exponent);
        Places {
            first,
            point,
            whole: first.map_or(0, |first| count(point - signed(first))),
            fraction: count(signed(digits) - point),
        }
    }

    fn digits(&self) -> impl Iterator<Item = char> {
        self.mantissa.chars().filter(|digit| *digit != '.')
    }
}

/// So many, or none where it is less than none.
fn count(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

/// A number of bytes of a value, which is far from the end of `i64`.
fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn out_of_range() -> ValueError {
    cannot_hold("a number has more than 131,072 digits before its point or 16,383 after it")
}
