-- Rows that can have no revision, and why.
SELECT p.key, p.problem FROM {pending} p WHERE p.problem IS NOT NULL ORDER BY p.key LIMIT 20
