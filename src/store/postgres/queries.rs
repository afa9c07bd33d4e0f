//! The statements, with the store's names in them: one file a statement, one name a file.

use super::identifier::Names;
use crate::store::queries::queries;

queries! { "postgres", Names: hold head page history altered entries keys fold write put write_group put_group write_in numbered claim report_audit reconcile trim trim_sparing fork new_epoch consume places advance forget slow }
