"""A model and its engine in a child process, for what may end the process that it runs in: a dead child ends its
generations with an error, and the next one starts it again."""
