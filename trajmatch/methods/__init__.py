"""Methods: pure steps made of `trajmatch.core`; no files, no printing."""
