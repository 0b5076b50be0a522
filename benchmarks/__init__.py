"""Measurements that back the README's numbers: rollout speed, the ablation, several seeds."""
