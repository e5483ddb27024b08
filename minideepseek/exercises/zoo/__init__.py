"""The bugs: the upper part of each file is the visitor's, what stands below the line is ours."""
