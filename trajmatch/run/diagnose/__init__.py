"""What matching does to the data: one module for each diagnosis."""
