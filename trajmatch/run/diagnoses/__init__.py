"""The diagnoses by name; each is a module that computes numbers and draws them."""
