"""Multi-token prediction that is trained on text of the model's own: heads, and masks with gated low-rank matrices. Needs
the extra `train` (torch) to train, nothing to read and write its files."""
