//! Proves the contract from a recorded history.
