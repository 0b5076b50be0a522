"""Training: stages, steps, batches of rollouts, checkpoints, metrics and a run's folder."""
