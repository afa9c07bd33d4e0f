-- A clock that was put back does not hold the turn for ever.
UPDATE {meta} SET audit_claimed_at = ?1 WHERE audit_claimed_at IS NULL OR audit_claimed_at NOT BETWEEN ?1 - ?2 + 1 AND ?1
