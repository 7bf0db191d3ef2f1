"""What STEP 2 asks and shows about the rows, beside where they are."""
