//! How a store declares its statements: one file a statement, one name a file.

/// Declares a field for each file of `sql/<store>/queries`, and how it is made of the store's names.
macro_rules! queries {
    ($store:literal, $names:ty: $($name:ident)*) => {
        /// The texts of one store's statements.
        #[derive(Debug)]
        pub(super) struct Queries {
            $(pub(super) $name: String,)*
        }

        impl Queries {
            pub(super) fn new(names: &$names) -> Self {
                Self {
                    $($name: names.render(include_str!(concat!("../../../sql/", $store, "/queries/", stringify!($name), ".sql"))),)*
                }
            }
        }
    };
}

pub(super) use queries;
