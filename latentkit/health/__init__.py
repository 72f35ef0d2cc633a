"""Is the encoder healthy? Findings, outliers, conditions, comparison, normalization."""
