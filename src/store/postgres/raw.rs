//! Values as the server sends them, where its making a text or a number of them takes longer than reading the row.

use tokio_postgres::types::{FromSql, Type};

type Understood<T> = Result<T, Box<dyn std::error::Error + Sync + Send>>;

/// A uuid's bits.
pub(super) struct Bits(pub(super) u128);

impl<'a> FromSql<'a> for Bits {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Understood<Self> {
        Ok(Self(u128::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }
}

/// Microseconds since 1970 in UTC, of a time with a time zone or without. To let the server compute them takes it longer
/// than to read the row. A time that cannot be shown, before the year 1 or after the year 9999, is 0.
pub(super) struct Moment(pub(super) i64);

const MICROS_1970_TO_2000: i64 = 946_684_800_000_000;
/// PostgreSQL's own count: from the year 2000.
const YEAR_1: i64 = -63_082_281_600_000_000;
const YEAR_10_000: i64 = 252_455_616_000_000_000;

impl<'a> FromSql<'a> for Moment {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Understood<Self> {
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(if (YEAR_1..YEAR_10_000).contains(&micros) {
            Self(micros + MICROS_1970_TO_2000)
        } else {
            Self(0)
        })
    }

    fn from_sql_null(_: &Type) -> Understood<Self> {
        Ok(Self(0))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::TIMESTAMPTZ | Type::TIMESTAMP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_counts_from_1970_and_one_that_cannot_be_shown_is_none() {
        let micros = |raw: i64| {
            let moment = Moment::from_sql(&Type::TIMESTAMPTZ, &raw.to_be_bytes()).unwrap();
            moment.0
        };
        assert_eq!(micros(0), MICROS_1970_TO_2000);
        assert_eq!(micros(-MICROS_1970_TO_2000), 0);
        assert_eq!(micros(YEAR_1), YEAR_1 + MICROS_1970_TO_2000);
        for strange in [i64::MIN, i64::MAX, YEAR_1 - 1, YEAR_10_000] {
            assert_eq!(micros(strange), 0);
        }
        assert_eq!(Moment::from_sql_null(&Type::TIMESTAMP).unwrap().0, 0);
        assert!(Moment::from_sql(&Type::TIMESTAMP, b"short").is_err());
    }

    #[test]
    fn a_uuid_is_its_bits_and_nothing_shorter() {
        let raw = 7_u128.to_be_bytes();
        assert_eq!(Bits::from_sql(&Type::UUID, &raw).unwrap().0, 7);
        assert!(Bits::from_sql(&Type::UUID, raw.get(1..).unwrap()).is_err());
    }
}
