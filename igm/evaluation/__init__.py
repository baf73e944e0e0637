"""From images to records, scores and tables."""
