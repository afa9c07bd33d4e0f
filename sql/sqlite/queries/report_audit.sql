UPDATE {meta} SET audit_seq = audit_seq + 1, audit_revision = ?1, audit_checksum = ?2, audit_by = ?3, audit_at = ?4
