"""Interview practice: the cards of each lesson, in English and Korean."""
