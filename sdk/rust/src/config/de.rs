//! serde's view of the environment: one struct, each field a variable.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::Error;

impl de::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Error {
        Error::Unsupported(message.to_string())
    }

    fn missing_field(field: &'static str) -> Error {
        Error::Missing(field.to_ascii_uppercase())
    }
}

/// All variables.
pub(super) struct Vars<F> {
    pub(super) lookup: F,
}

impl<'de, F: Fn(&str) -> Option<String>> Deserializer<'de> for Vars<F> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::Unsupported(
            "it is loaded into a struct with named fields".to_owned(),
        ))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let found = fields.iter().filter_map(|&field| {
            let name = field.to_ascii_uppercase();
            (self.lookup)(&name).map(|value| (field, Var { name, value }))
        });
        visitor.visit_map(MapDeserializer::new(found))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// One variable.
struct Var {
    name: String,
    value: String,
}

impl Var {
    fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&self) -> Result<T, Error> {
        super::parse(&self.name, &self.value)
    }

    /// Errors that come from inside `visit` do not know the variable yet.
    fn named<T>(name: &str, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| match error {
            Error::Unsupported(reason) => Error::Invalid {
                name: name.to_owned(),
                reason,
            },
            named => named,
        })
    }
}

impl<'de> IntoDeserializer<'de, Error> for Var {
    type Deserializer = Var;

    fn into_deserializer(self) -> Var {
        self
    }
}

macro_rules! parsed {
    ($($method:ident $visit:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let value = self.parse()?;
            Var::named(&self.name, visitor.$visit(value))
        }
    )*};
}

impl<'de> Deserializer<'de> for Var {
    type Error = Error;

    parsed! {
        deserialize_bool visit_bool
        deserialize_i8 visit_i8
        deserialize_i16 visit_i16
        deserialize_i32 visit_i32
        deserialize_i64 visit_i64
        deserialize_i128 visit_i128
        deserialize_u8 visit_u8
        deserialize_u16 visit_u16
        deserialize_u32 visit_u32
        deserialize_u64 visit_u64
        deserialize_u128 visit_u128
        deserialize_f32 visit_f32
        deserialize_f64 visit_f64
        deserialize_char visit_char
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        Var::named(&self.name, visitor.visit_string(self.value))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // Set to nothing is how a shell unsets a variable.
        if self.value.is_empty() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items = self
            .value
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        let items = items.map(|item| Var {
            name: self.name.clone(),
            value: item.to_owned(),
        });
        Var::named(&self.name, visitor.visit_seq(SeqDeserializer::new(items)))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        // serde's own message would repeat the value.
        if !variants.contains(&self.value.as_str()) {
            let reason = format!("it must be one of {}", variants.join(", "));
            return Err(Error::Invalid {
                name: self.name,
                reason,
            });
        }
        let variant: de::value::StringDeserializer<Error> = self.value.into_deserializer();
        Var::named(&self.name, visitor.visit_enum(variant))
    }

    forward_to_deserialize_any! {
        str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}
