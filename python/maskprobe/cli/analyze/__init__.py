"""maskprobe-analyze: what a model knows of the tokens after the next one, and where in its layers."""
