"""What is shown: tables, plots and pages. No torch here, and nothing of trajmatch but this folder."""
