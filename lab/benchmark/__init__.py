"""docs/benchmark.md: three trainings of ours, every other method and attack, on frozen prompts of the demo world."""
