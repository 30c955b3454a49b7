"""A distilled set in the formats of other programs: one module for each, and `peer` for what theirs hold."""
