"""Guarded and unguarded images side by side: jobs, the stage that draws them, methods, detectors, results, tables."""
