"""Measuring what a model draws: prompt sets, the judge of composed pictures, scores with their intervals."""
