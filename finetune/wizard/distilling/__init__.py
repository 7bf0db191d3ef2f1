"""What STEP 1 and STEP 4 ask about teachers and students, beside their names."""
