"""Open the lessons: a working copy that never overwrites what a learner did, and JupyterLab as a child process."""
