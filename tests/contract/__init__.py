"""The invariants of the contract, one file a group, each against a running pod."""
