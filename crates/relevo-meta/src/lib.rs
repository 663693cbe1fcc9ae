//! Signed metadata: the verification state machine, authoring, keys, and the policy of a phone.
