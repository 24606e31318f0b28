"""One script an experiment: python -m experiments.compare, .ablate, .audit, .ask, .pictures.

README.md has the commands, what their columns mean, and the results.
"""
import harness       # first: it sets how torch's threads wait
