//! The statements, with the store's names in them: one file a statement, one name a file.

use super::identifier::Names;

/// Declares a field for each file of `sql/postgres/queries`, and how it is made.
macro_rules! queries {
    ($($name:ident)*) => {
        /// The texts of one store's statements.
        #[derive(Debug)]
        pub(super) struct Queries {
            $(pub(super) $name: String,)*
        }

        impl Queries {
            pub(super) fn new(names: &Names) -> Self {
                Self {
                    $($name: names.render(include_str!(concat!("../../../sql/postgres/queries/", stringify!($name), ".sql"))),)*
                }
            }
        }
    };
}

queries! { hold head page history altered entries keys fold write put write_group put_group write_in numbered claim report_audit reconcile trim trim_sparing new_epoch consume places advance forget slow }
