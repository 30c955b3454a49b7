"""Orchestration: configuration, console, clock and run folders."""
