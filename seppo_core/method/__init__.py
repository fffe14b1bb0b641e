"""The paper on one shelf: the loss with its anchor criteria, and the pool of references."""
