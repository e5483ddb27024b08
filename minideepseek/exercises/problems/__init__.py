"""One file for each exercise: above the line "not copied" the learner's, below it the checker's."""
