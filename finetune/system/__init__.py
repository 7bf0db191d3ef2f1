"""The machine's operating system: files written whole, signals, child processes, paths and shells as people use them."""
