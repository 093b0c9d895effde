"""Learning: token ids and tensors. This layer never sees answer formats or dataset columns."""
