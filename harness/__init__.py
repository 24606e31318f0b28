"""What surrounds a run: flags, stages and files, processes, the report. No method is in here.

Imported before torch, for this one setting: threads that wait for each other sleep instead of
spinning. Alone that costs some per cent. Beside other work, as on a laptop with a browser open,
spinning threads take the cores from those that they wait for (README, "Under load").
"""
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Pictures are drawn into files: no screen, and no backend that a notebook's setting names.
os.environ["MPLBACKEND"] = "agg"
