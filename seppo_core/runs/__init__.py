"""What lies on disk of a run: checkpoints, metrics, pictures, who holds it and how it stands."""
