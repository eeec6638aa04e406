"""Scripts around the project: sample models, real models for the zoo run, exports and their inputs."""
