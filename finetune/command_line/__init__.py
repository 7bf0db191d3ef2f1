"""The command line: its arguments, what each command does, and completion in a shell."""
