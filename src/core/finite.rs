//! Serializing without losing a number: a serializer that refuses NaN and infinities and hands everything else on.
//!
//! serde_json writes them as `null`, which a reader takes for a value of its own. They are refused on their way through,
//! in one pass: a second look at the value could see something else, and a look at the text cannot tell a lost number
//! from an `Option` that is `None`.

use std::fmt::Display;

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// Hands on to `S` what is finite: as a serializer, as a compound of one, and as a value within.
pub(crate) struct Finite<S>(pub(crate) S);

const NOT_FINITE: &str = "a number in it is NaN or infinite; JSON holds finite ones only";

impl<T: Serialize + ?Sized> Serialize for Finite<&T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(Finite(serializer))
    }
}

macro_rules! hand_on {
    ($($method:ident($type:ty))*) => {
        $(fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.0.$method(value)
        })*
    };
}

impl<S: Serializer> Serializer for Finite<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Finite<S::SerializeSeq>;
    type SerializeTuple = Finite<S::SerializeTuple>;
    type SerializeTupleStruct = Finite<S::SerializeTupleStruct>;
    type SerializeTupleVariant = Finite<S::SerializeTupleVariant>;
    type SerializeMap = Finite<S::SerializeMap>;
    type SerializeStruct = Finite<S::SerializeStruct>;
    type SerializeStructVariant = Finite<S::SerializeStructVariant>;

    hand_on! {
        serialize_bool(bool)
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64) serialize_i128(i128)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_u128(u128)
        serialize_char(char) serialize_str(&str) serialize_bytes(&[u8]) serialize_unit_struct(&'static str)
    }

    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        if value.is_finite() {
            self.0.serialize_f32(value)
        } else {
            Err(S::Error::custom(NOT_FINITE))
        }
    }

    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        if value.is_finite() {
            self.0.serialize_f64(value)
        } else {
            Err(S::Error::custom(NOT_FINITE))
        }
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.0.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_some(&Finite(value))
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_struct(name, &Finite(value))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0
            .serialize_newtype_variant(name, index, variant, &Finite(value))
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.0.serialize_seq(length).map(Finite)
    }

    fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.0.serialize_tuple(length).map(Finite)
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.0.serialize_tuple_struct(name, length).map(Finite)
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.0
            .serialize_tuple_variant(name, index, variant, length)
            .map(Finite)
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.0.serialize_map(length).map(Finite)
    }

    fn serialize_struct(
        self,
        name: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStruct, S::Error> {
        self.0.serialize_struct(name, length).map(Finite)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.0
            .serialize_struct_variant(name, index, variant, length)
            .map(Finite)
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// The compounds of elements without names, and those of named fields.
macro_rules! compound {
    ($($trait:ident::$method:ident)*) => {
        $(impl<S: $trait> $trait for Finite<S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
                self.0.$method(&Finite(value))
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.0.end()
            }
        })*
    };
    (named: $($trait:ident)*) => {
        $(impl<S: $trait> $trait for Finite<S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), S::Error> {
                self.0.serialize_field(name, &Finite(value))
            }

            fn skip_field(&mut self, name: &'static str) -> Result<(), S::Error> {
                self.0.skip_field(name)
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.0.end()
            }
        })*
    };
}

compound! {
    SerializeSeq::serialize_element SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field SerializeTupleVariant::serialize_field
}
compound! { named: SerializeStruct SerializeStructVariant }

impl<S: SerializeMap> SerializeMap for Finite<S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.0.serialize_key(&Finite(key))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.0.serialize_value(&Finite(value))
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;

    use crate::core::{Value, ValueError};

    #[derive(Serialize)]
    struct Fields<T> {
        name: &'static str,
        inner: T,
    }

    #[derive(Serialize)]
    struct Newtype<T>(T);

    #[derive(Serialize)]
    struct Pair<T>(u8, T);

    #[derive(Serialize)]
    enum Shape<T> {
        Unit,
        One(T),
        Two(u8, T),
        Named { inner: T },
    }

    fn within<T: Serialize + Clone>(inner: &T) -> Vec<Result<Value, ValueError>> {
        let inner = inner.clone();
        vec![
            Value::encode(&inner),
            Value::encode(&Some(&inner)),
            Value::encode(&vec![&inner]),
            Value::encode(&(1, &inner)),
            Value::encode(&[[&inner]]),
            Value::encode(&BTreeMap::from([("k", &inner)])),
            Value::encode(&Newtype(&inner)),
            Value::encode(&Pair(1, &inner)),
            Value::encode(&Shape::One(&inner)),
            Value::encode(&Shape::Two(1, &inner)),
            Value::encode(&Shape::Named { inner: &inner }),
            Value::encode(&Fields {
                name: "n",
                inner: vec![&inner],
            }),
        ]
    }

    #[test]
    fn no_number_becomes_null_wherever_it_stands() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for refused in within(&number) {
                let error = refused.unwrap_err().to_string();
                assert!(error.contains("NaN or infinite"), "{error}");
            }
        }
        assert!(within(&f32::NAN).into_iter().all(|tried| tried.is_err()));
        assert!(Value::encode(&BTreeMap::from([("k", [1.0, f64::NAN])])).is_err());
    }

    #[test]
    fn everything_else_is_written_as_serde_json_writes_it() {
        fn same<T: Serialize>(value: &T) {
            let encoded = Value::encode(value).unwrap();
            assert_eq!(encoded.as_json(), serde_json::to_string(value).unwrap());
        }
        for encoded in within(&1.5f64) {
            assert!(encoded.unwrap().as_json().contains("1.5"));
        }
        same(&());
        same(&None::<f64>);
        same(&Shape::<u8>::Unit);
        same(&(u64::MAX, i64::MIN, u128::MAX, i128::MIN, 0.1f32, 1e300));
        same(&(b"bytes", 'c', "text \u{1} \" ö", true));
        same(&Fields {
            name: "n",
            inner: BTreeMap::from([(1u64, Some(2.5)), (2, None)]),
        });
        same(&serde_json::json!({"a": [null, 1, {"b": -0.5}], "c": "x"}));
        same(&Value::parse("[1e400, 123456789012345678901234567890, 2.50]").unwrap());
        same(&crate::core::RevisionId::from_u128(7));
    }
}
