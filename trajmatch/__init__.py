"""Dataset condensation by trajectory matching: a real image dataset in, a tiny synthetic one out."""
