"""Each claim about NGDiff, predicted by its formula and measured on the shipped ngdiff.py."""
