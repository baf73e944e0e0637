"""The paper's baselines, a file each."""
