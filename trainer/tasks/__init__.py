"""One module per task: features, collator, metrics."""
