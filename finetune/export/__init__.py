"""Files for other programs, made from a finished run and checked against its model before anything is kept."""
