"""What surrounds a run: flags, stages and files, processes, the report. No method is in here.

Imported before torch, for this one setting: idle threads of a parallel region sleep instead of
spinning. Alone that costs a few per cent. Beside other work, as on a laptop with a browser open, two
spinning threads on two cores take over ten times as long (README, "Under load").
"""
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
