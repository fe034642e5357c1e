"""Multi-token prediction that is trained on a model's own text: heads, and masks with gated low-rank matrices. Training
needs the extra `train` (torch), reading and writing their files needs nothing."""
