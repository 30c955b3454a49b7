"""What a distilled set is worth."""
