"""One script an experiment. README.md has the commands, their columns and the results."""
import harness       # first: it sets how torch's threads wait
